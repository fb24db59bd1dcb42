"""What spoilt evidence costs, and what the reader relies on: noise curves, MD, KUD and KID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medrag_lightning.handoff.report.cells import not_a_number, percent, words
from medrag_lightning.handoff.report.chart import Axis, Plot, legend, panels
from medrag_lightning.handoff.report.markup import Html, joined, table
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.section import TEST, Section, note

NOISE = f"{TEST} --data.init_args.noise '{{kinds: [irrelevant, contradicting], shares: [0.25, 0.5]}}'"
KNOWLEDGE = f"{TEST} with data.init_args.knowledge set; see the recipe hkpt"
PLOTTED = ("closed_accuracy", "open_token_recall")
MOST_SYSTEMS = 8
ALL = "all"


def noise_section(material: Material) -> Section:
    """A panel a kind of noise and metric, a line a system, with intervals."""
    told = material.run.json("noise.json") or material.run.json("noise_val.json")
    if not told or not told.get("points"):
        return Section.absent("noise", "Spoilt evidence", "no evidence was spoilt in this run", NOISE)
    points = told["points"]
    systems = list(dict.fromkeys(point["system"] for point in points))[:MOST_SYSTEMS]
    plots = [
        _panel(mine, told.get("references", []), systems, kind, metric)
        for metric in PLOTTED
        for kind in dict.fromkeys(point["kind"] for point in points)
        if (mine := [p for p in points if p["kind"] == kind and p["metric"] == metric])
    ]
    notes = [note(str(line)) for line in (told.get("how", ""), *told.get("notes", [])) if line]
    return Section("noise", "Spoilt evidence", joined([panels(*plots), legend(systems), *notes]))


def knowledge_section(material: Material) -> Section:
    """What the reader relies on, as shares of the questions that each condition names."""
    told = material.run.json("knowledge.json") or material.run.json("knowledge_val.json")
    rates: Sequence[Mapping[str, Any]] = (told or {}).get("rates", [])
    if told is None or not rates:
        return Section.absent("knowledge", "What the reader relies on", "the run has no knowledge.json", KNOWLEDGE)
    whole = [rate for rate in rates if rate["subset"] == ALL and rate["n"]]
    systems = list(dict.fromkeys(rate["system"] for rate in whole))
    at = {(r["metric"], r["source"], r["system"]): f"{percent(r)} / {r['n']}" for r in whole}
    rows = dict.fromkeys((rate["metric"], rate["source"]) for rate in whole)
    body = [[f"{metric.upper() if len(metric) <= 3 else words(metric)} ({source})",
             *(at.get((metric, source, system), "–") for system in systems)] for metric, source in rows]  # fmt: skip
    parts = [note(str(told.get("what", ""))), table(["share (what was taken)", *systems], body, "% with interval / questions")]
    return Section("knowledge", "What the reader relies on", joined([*parts, note(str(told.get("how", "")))]))


def _panel(
    points: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], systems: Sequence[str], kind: str, metric: str
) -> Html:
    ends = ("value", "low", "high")
    lines = [r for r in references if r["kind"] == kind and r["metric"] == metric and r["system"] == "no retrieval"]
    values = [100 * not_a_number(point[end]) for point in (*points, *lines[:1]) for end in ends]
    shares = sorted({100 * point["share"] for point in points})
    axis = Axis("% replaced", shares[0] - 4, shares[-1] + 4, [(share, f"{share:g}") for share in shares])
    plot = Plot(f"{kind.replace('_', ' ')}: {words(metric)} (%)", axis, Axis.around("", values), width=340)
    for reference in lines[:1]:
        level = 100 * not_a_number(reference["value"])
        plot.line([(axis.low, level), (axis.high, level)], 7, dashed=True, words="no retrieval")
    for place, system in enumerate(systems):
        mine = sorted((p for p in points if p["system"] == system), key=lambda p: p["share"])
        shifted = [100 * p["share"] + 0.6 * (place - (len(systems) - 1) / 2) for p in mine]
        plot.line([(x, 100 * not_a_number(p["value"])) for x, p in zip(shifted, mine, strict=True)], place, words=system)
        for x, p in zip(shifted, mine, strict=True):
            plot.whisker(x, 100 * not_a_number(p["low"]), 100 * not_a_number(p["high"]), place)
            plot.dot(x, 100 * not_a_number(p["value"]), place, f"{system}, {p['share']:.0%}: {percent(p)} (n = {p['n']})")
    return plot.svg()
