"""The picture of MD, KUD and KID: a group a metric, a bar a source of evidence, a panel a system."""

from __future__ import annotations

import io
from textwrap import wrap
from typing import Any

from medrag_lightning.metrics import KnowledgeUse, Metric

GREY = "#8a8a8a"
BOTH, STRICT = "both", "strict"
BARS = {
    "reports": ("reports alone", "#0072b2", ""),
    "documents": ("documents alone", "#e69f00", ""),
    BOTH: ("both, as retrieved", "#009e73", ""),
    STRICT: ("both, where the other image alone is wrong", "#8fd3bf", "////"),
    "any": ("any of them", "#cc79a7", ""),
}
"""Words, colour and hatching; `strict` is the second definition of MD."""
GROUPS = {
    "MD": ("right with another\nimage, too", [("md", BOTH, BOTH), ("md_strict", BOTH, STRICT)]),
    "KUD": ("wrong without evidence,\nstill wrong with it", [("kud", name, name) for name in ("reports", "documents", BOTH)]),
    "KID": ("right without evidence,\nwrong with it", [("kid", name, name) for name in ("reports", "documents", BOTH, "any")]),
    "over-reliance": ("wrong with evidence,\nright without", [("over_reliance", BOTH, BOTH)]),
    "same answer": ("with another image,\nright or wrong", [("copied", BOTH, BOTH)]),
}
GAP, NARROWEST = 0.8, 2  # between groups; the width of a group of one, in bars


def draw_knowledge(use: KnowledgeUse, counter_image: str = "", synthetic: bool = False) -> bytes:
    """Bars in percent with intervals and the number of questions behind each; PNG bytes."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    systems = list(dict.fromkeys(rate.system for rate in use.rates)) or [""]
    figure = Figure(figsize=(9.8, 1.5 + 3.1 * len(systems)), dpi=130, layout="constrained")
    grid = figure.subplots(len(systems), 1, squeeze=False, sharey=True)
    for (axes,), system in zip(grid, systems, strict=True):
        _panel(axes, use, system)
        if len(systems) > 1:
            axes.set_title(system, fontsize=10, loc="left", fontweight="bold")
    handles = {label: handle for (axes,) in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [words for words, _, _ in BARS.values() if words in handles]
    figure.legend([handles[n] for n in order], order, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    title = "What the reader relies on: lower is better" + (" (SYNTHETIC DATA)" if synthetic else "")
    told = "below each bar: the number of questions that its condition names"
    told = f"another image: {counter_image.replace('_', ' ')}; {told}" if counter_image else told
    figure.suptitle("\n".join([title, *wrap(told, 110)]), fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _panel(axes: Any, use: KnowledgeUse, system: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8, axis="y")
    axes.set_axisbelow(True)
    found, place, ticks = use.of(system), 0.0, []
    for bars in (bars for _, bars in GROUPS.values()):
        width = max(len(bars), NARROWEST)
        ticks.append(place + (width - 1) / 2)
        for number, (metric, source, style) in enumerate(bars):
            if (metric, source) in found:
                _bar(axes, place + number + (width - len(bars)) / 2, found[metric, source].value, style)
        place += width + GAP
    axes.set_xticks(ticks, [f"{name}\n{words}" for name, (words, _) in GROUPS.items()], fontsize=8.5)
    axes.tick_params(axis="x", length=0, pad=14)
    axes.set_xlim(-0.8, place - GAP - 0.1)
    axes.set(ylim=(0, 105), ylabel="% of questions")
    axes.set_yticks(range(0, 101, 20))


def _bar(axes: Any, place: float, metric: Metric, style: str) -> None:
    words, colour, hatch = BARS[style]
    axes.bar([place], [0], color=colour, hatch=hatch, edgecolor="white", label=words)  # for the legend, value or not
    told = {"ha": "center", "va": "top", "fontsize": 7.5, "color": GREY, "textcoords": "offset points"}
    axes.annotate(str(metric.n), (place, 0), (0, -3), annotation_clip=False, **told)
    if not metric.n:
        axes.annotate("none", (place, 0), (0, 12), **told)
        return
    value = 100 * metric.value
    ends = [[max(0.0, value - 100 * metric.low)], [max(0.0, 100 * metric.high - value)]] if metric.low == metric.low else None
    axes.bar(
        [place], [value], width=0.86, color=colour, hatch=hatch, edgecolor="white", yerr=ends,
        error_kw={"elinewidth": 1.1, "capsize": 2.5, "ecolor": "#333333"},
    )  # fmt: skip
    above = value if ends is None else value + ends[1][0]
    axes.annotate(f"{value:.0f}", (place, above), (0, 2), **{**told, "va": "bottom", "color": "#333333", "fontsize": 8})
