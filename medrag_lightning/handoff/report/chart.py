"""Pictures as inline SVG, coloured by the page's own style, so that they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from medrag_lightning.handoff.report.markup import Html, joined, tag

COLOURS = 8  # of lines; the page's style names them s0, s1, ...
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 52, 12, 24, 40


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, with its label; `ticks` are (value, words), chosen where they are not given."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]] = ()

    @classmethod
    def around(cls, label: str, values: Sequence[float], least_span: float = 1e-9) -> Axis:
        """An axis that holds all finite values, with a little room."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        room = max(0.05 * (high - low), (least_span - (high - low)) / 2, 1e-12)
        return cls(label, low - room, high + room)

    def marks(self) -> Sequence[tuple[float, str]]:
        """The ticks."""
        return self.ticks or [(value, f"{value:.10g}") for value in _round_values(self.low, self.high)]


@dataclass
class Plot:
    """A panel with two axes that lines, bands, points and bars are drawn into; later ones lie on top."""

    title: str
    x: Axis
    y: Axis
    width: int = 420
    height: int = 260
    parts: list[Html] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], colour: int, dashed: bool = False, words: str = "") -> None:
        """A line through the points; those that are not finite break it."""
        for piece in _pieces(points):
            path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in piece)
            kind = f"line s{colour % COLOURS}" + (" dashed" if dashed else "")
            self.parts.append(tag("polyline", _title(words), points=path, class_=kind))

    def band(self, points: Sequence[tuple[float, float, float]], colour: int) -> None:
        """The area between the low and the high of each (x, low, high)."""
        there = [point for point in points if all(map(math.isfinite, point))]
        edge = [(x, high) for x, _, high in there] + [(x, low) for x, low, _ in reversed(there)]
        path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in edge)
        self.parts.append(tag("polygon", points=path, class_=f"band s{colour % COLOURS}"))

    def dot(self, x: float, y: float, colour: int, words: str = "", radius: float = 3.5) -> None:
        """A point, with words that are shown where the pointer rests."""
        if math.isfinite(x) and math.isfinite(y):
            place = {"cx": f"{self._x(x):.1f}", "cy": f"{self._y(y):.1f}", "r": f"{radius:.1f}"}
            self.parts.append(tag("circle", _title(words), **place, class_=f"dot s{colour % COLOURS}"))

    def whisker(self, x: float, low: float, high: float, colour: int) -> None:
        """An upright interval."""
        if math.isfinite(low) and math.isfinite(high):
            at = f"{self._x(x):.1f}"
            ends = {"x1": at, "x2": at, "y1": f"{self._y(low):.1f}", "y2": f"{self._y(high):.1f}"}
            self.parts.append(tag("line", **ends, class_=f"line thin s{colour % COLOURS}"))

    def bar(self, left: float, right: float, low: float, high: float, colour: int, words: str = "") -> None:
        """A filled rectangle."""
        x, y = self._x(left), self._y(high)
        size = {"width": f"{max(0.0, self._x(right) - x):.1f}", "height": f"{max(0.0, self._y(low) - y):.1f}"}
        kind = f"bar s{colour % COLOURS}"
        self.parts.append(tag("rect", _title(words), x=f"{x:.1f}", y=f"{y:.1f}", **size, class_=kind))

    def upright(self, x: float, words: str) -> None:
        """A dashed line from bottom to top, with words beside it."""
        at = self._x(x)
        ends = {"x1": f"{at:.1f}", "x2": f"{at:.1f}", "y1": MARGIN_TOP, "y2": self.height - MARGIN_BOTTOM}
        right = at > self.width * 0.6
        place = {"x": f"{at + (-4 if right else 4):.1f}", "y": MARGIN_TOP + 11, "text_anchor": "end" if right else "start"}
        self.parts += [tag("line", **ends, class_="mark"), tag("text", words, **place)]

    def svg(self) -> Html:
        """The picture."""
        return tag(
            "svg", self._frame(), *self.parts,
            viewBox=f"0 0 {self.width} {self.height}", class_="plot", role="img", aria_label=self.title,
        )  # fmt: skip

    def _frame(self) -> Html:
        left, right, bottom = MARGIN_LEFT, self.width - MARGIN_RIGHT, self.height - MARGIN_BOTTOM
        made = [tag("text", self.title, x=left, y=14, class_="title")]
        for value, words in self.y.marks():
            at = f"{self._y(value):.1f}"
            made.append(tag("line", x1=left, x2=right, y1=at, y2=at, class_="grid"))
            made.append(tag("text", words, x=left - 5, y=f"{self._y(value) + 3.5:.1f}", text_anchor="end"))
        for value, words in self.x.marks():
            made.append(tag("text", words, x=f"{self._x(value):.1f}", y=bottom + 15, text_anchor="middle"))
        made.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
        made.append(tag("text", self.x.label, x=(left + right) / 2, y=bottom + 32, text_anchor="middle", class_="label"))
        middle = (MARGIN_TOP + bottom) / 2
        turned = f"rotate(-90 12 {middle:g})"
        made.append(tag("text", self.y.label, x=12, y=middle, transform=turned, text_anchor="middle", class_="label"))
        return joined(made)

    def _x(self, value: float) -> float:
        share = (value - self.x.low) / ((self.x.high - self.x.low) or 1.0)
        return MARGIN_LEFT + share * (self.width - MARGIN_LEFT - MARGIN_RIGHT)

    def _y(self, value: float) -> float:
        share = (value - self.y.low) / ((self.y.high - self.y.low) or 1.0)
        return self.height - MARGIN_BOTTOM - share * (self.height - MARGIN_TOP - MARGIN_BOTTOM)


def share_axis(label: str, step: float = 0.25) -> Axis:
    """From 0 to 1, told in percent."""
    count = round(1 / step)
    return Axis(label, 0.0, 1.0, [(k / count, f"{100 * k / count:.0f}") for k in range(count + 1)])


def legend(names: Sequence[str], dashed: Sequence[str] = ()) -> Html:
    """What the colours of lines mean, in their order."""
    items = []
    for place, name in enumerate(names):
        kind = f"swatch s{place % COLOURS}" + (" dashed" if name in dashed else "")
        items.append(tag("span", tag("span", class_=kind), name))
    return tag("p", *items, class_="legend")


def panels(*plots: Html) -> Html:
    """Pictures side by side, as many as there is room for."""
    return tag("div", *plots, class_="panels")


def _title(words: str) -> Html | None:
    return tag("title", words) if words else None


def _pieces(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _round_values(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high, about so many."""
    span = (high - low) or 1.0
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
