"""Values in rows: a point with its interval each, or a bar that is made of parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medrag_lightning.handoff.report.cells import not_a_number
from medrag_lightning.handoff.report.chart import COLOURS
from medrag_lightning.handoff.report.markup import Html, joined, tag

ROW_PX, TOP_PX, NAMES_PX, WIDTH_PX = 22, 22, 150, 560


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its interval; NaN where there are none."""

    name: str
    value: float
    low: float
    high: float
    strong: bool = False


def interval_of(name: str, metric: Mapping[str, Any], strong: bool = False) -> Interval:
    """The interval that a metric's JSON tells."""
    value, low, high = (not_a_number(metric[end]) for end in ("value", "low", "high"))
    return Interval(name, value, low, high, strong)


def interval_rows(title: str, rows: Sequence[Interval], low: float = 0.0, high: float = 1.0, percent: bool = True) -> Html:
    """One row a value, on a common axis from `low` to `high`, told in percent or as it is."""
    height = TOP_PX + ROW_PX * len(rows) + 18

    def place(value: float) -> float:
        return NAMES_PX + (value - low) / ((high - low) or 1) * (WIDTH_PX - NAMES_PX - 60)

    parts = [tag("text", title, x=0, y=13, class_="title")]
    for k in range(5):
        value = low + k * (high - low) / 4
        at = f"{place(value):.1f}"
        parts.append(tag("line", x1=at, x2=at, y1=TOP_PX, y2=height - 16, class_="grid"))
        parts.append(tag("text", _number(value, percent).removesuffix(".0"), x=at, y=height - 3, text_anchor="middle"))
    for k, row in enumerate(rows):
        y = TOP_PX + ROW_PX * k + ROW_PX / 2
        kind = "strong" if row.strong else None
        parts.append(
            tag("text", _short(row.name), tag("title", row.name), x=NAMES_PX - 8, y=y + 4, text_anchor="end", class_=kind)
        )
        if math.isfinite(row.low) and math.isfinite(row.high):
            ends = {"x1": f"{place(max(low, row.low)):.1f}", "x2": f"{place(min(high, row.high)):.1f}"}
            parts.append(tag("line", **ends, y1=y, y2=y, class_=f"line s{0 if row.strong else 7}"))
        if math.isfinite(row.value):
            dot = {"cx": f"{place(min(high, max(low, row.value))):.1f}", "cy": y, "r": 4}
            parts.append(tag("circle", **dot, class_=f"dot s{0 if row.strong else 7}"))
        parts.append(tag("text", _number(row.value, percent), x=WIDTH_PX, y=y + 4, text_anchor="end", class_=kind))
    return _drawn(title, parts, height)


def stacked_rows(title: str, parts_of: Mapping[str, Sequence[int]], names: Sequence[str], colours: Sequence[int]) -> Html:
    """One bar a row, all of one length, divided by counts."""
    height = TOP_PX + ROW_PX * len(parts_of) + 4
    made = [tag("text", title, x=0, y=13, class_="title")]
    length = WIDTH_PX - NAMES_PX
    for k, (row, counts) in enumerate(parts_of.items()):
        y, x = TOP_PX + ROW_PX * k, float(NAMES_PX)
        made.append(tag("text", _short(row), tag("title", row), x=NAMES_PX - 8, y=y + 15, text_anchor="end"))
        total = sum(counts) or 1
        for name, count, colour in zip(names, counts, colours, strict=True):
            width = length * count / total
            told = tag("title", f"{name}: {count} of {total}")
            size = {"x": f"{x:.1f}", "y": y + 3, "width": f"{width:.1f}", "height": ROW_PX - 6}
            made.append(tag("rect", told, **size, class_=f"bar s{colour % COLOURS}"))
            if width > 22:
                made.append(tag("text", str(count), x=f"{x + width / 2:.1f}", y=y + 15, text_anchor="middle", class_="inside"))
            x += width
    swatches = [tag("span", tag("span", class_=f"swatch s{c}"), name) for name, c in zip(names, colours, strict=True)]
    return joined([_drawn(title, made, height), tag("p", *swatches, class_="legend")])


def _drawn(title: str, parts: Sequence[Html], height: float) -> Html:
    size = f"0 0 {WIDTH_PX + 4} {height:g}"
    return tag("div", tag("svg", *parts, viewBox=size, class_="plot rows", role="img", aria_label=title), class_="scroll")


def _number(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" if percent else f"{value:.3g}"


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
