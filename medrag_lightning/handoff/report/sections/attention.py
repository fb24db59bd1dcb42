"""Where the question looks, by segment and layer, and in which layers evidence reaches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medrag_lightning.handoff.report.cells import NOTHING, not_a_number
from medrag_lightning.handoff.report.chart import Axis, Plot, legend, panels, share_axis
from medrag_lightning.handoff.report.markup import Html, joined, table, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.section import TEST, Section, missing, note

WRITER = f"{TEST} --trainer.callbacks+=callbacks.attention_mass.AttentionMassWriter"
CALIBRATE = "python -m medrag_lightning run mrrag (step calibrate), or predict -c stages/critical_layers"
MOST_PANELS = 12


def attention_section(material: Material) -> Section:
    """Attention mass of each system, and the curves of the knockout."""
    parts: list[Html | None] = []
    for run in material.found.named("attention_mass.json", "attention_mass_val.json")[:1]:
        parts += _mass(run.json("attention_mass.json") or run.json("attention_mass_val.json") or {})
    if not parts:
        parts.append(missing("attention was not looked at", WRITER))
    parts.append(tag("h3", "Critical layers"))
    runs = material.found.named("critical_layers.json")
    parts += (
        _critical(runs[0].json("critical_layers.json") or {}) if runs else [missing("no step has measured them", CALIBRATE)]
    )
    return Section("attention", "Attention", joined(parts), is_open=bool(runs) or len(parts) > 3)


def _mass(told: Mapping[str, Any]) -> list[Html | None]:
    segments: Sequence[str] = told.get("segments", ())
    plain = [system for system in told.get("systems", []) if system["noise"] is None]
    top = max((v for s in plain for name in segments for v in s["segments"][name]["mean"]), default=1.0)
    plots = [_panel(system, segments, told["layers"], top) for system in plain[:MOST_PANELS]]
    left = f" {len(plain) - MOST_PANELS} more systems are in attention_mass.json." if len(plain) > MOST_PANELS else ""
    how = note(
        "Share of the attention of the question's tokens in each decoder layer (from 0), with its standard error over "
        f"questions, robust to patients; of {plain[0]['questions'] if plain else 0} questions.{left}"
    )
    names = [name.replace("_", " ") for name in segments]
    return [tag("h3", "Attention by segment"), panels(*plots), legend(names), how, _documents(plain)]


def _panel(system: Mapping[str, Any], segments: Sequence[str], layers: int, top: float) -> Html:
    steering = "" if system["steering"] is None else ", steered"
    title = f"{system['name']}{steering}"
    ticks = [(float(k), str(k)) for k in range(0, layers, max(1, layers // 8))]
    axis = share_axis("attention (%)") if top > 0.5 else Axis("attention", 0.0, 1.05 * top)
    plot = Plot(title, Axis("layer", -0.2, layers - 0.8, ticks), axis, width=320, height=220)
    for place, name in enumerate(segments):
        curve = system["segments"][name]
        mean, error = curve["mean"], [not_a_number(e) for e in curve["standard_error"]]
        plot.band([(k, m - e, m + e) for k, (m, e) in enumerate(zip(mean, error, strict=True))], place)
        plot.line(list(enumerate(mean)), place, words=name)
        for k, m in enumerate(mean):
            plot.dot(k, m, place, f"{name}, layer {k}: {100 * m:.1f} %", radius=2.0)
    return plot.svg()


def _documents(systems: Sequence[Mapping[str, Any]]) -> Html | None:
    """The mean over layers of the attention on each document."""
    count = max((len(system["documents"]) for system in systems), default=0)
    if not count:
        return None

    def cell(system: Mapping[str, Any], number: int) -> str:
        mine = next((d for d in system["documents"] if d["number"] == number), None)
        return NOTHING if mine is None else f"{100 * sum(mine['mean']) / len(mine['mean']):.1f}"

    body = [[system["name"], *(cell(system, k + 1) for k in range(count))] for system in systems if system["documents"]]
    return table(
        ["system", *(f"document {k + 1}" for k in range(count))], body, "attention on each document, mean over layers (%)"
    )


def _critical(told: Mapping[str, Any]) -> list[Html]:
    layers, why = told.get("layers", {}), told.get("none_because", {})
    curves: Mapping[str, Any] = told.get("curves", {})
    names = list(curves)
    ends = ("value", "low", "high")
    values = [not_a_number(p["choice"][end]) for curve in curves.values() for p in curve for end in ends if p.get("choice")]
    plot = Plot(
        "knockout: change of the right answer's probability",
        Axis("centre of the window (layer)", -0.3, told["layer_count"] - 0.7),
        Axis.around("change of probability", [0.0, *values]), width=520,
    )  # fmt: skip
    for place, name in enumerate(names):
        points = [(p["centre"], *(not_a_number(p["choice"][end]) for end in ends)) for p in curves[name] if p.get("choice")]
        plot.band([(x, low, high) for x, _, low, high in points], place)
        plot.line([(x, value) for x, value, _, _ in points], place, words=name)
    rows = [[_arrow(n), ", ".join(map(str, layers.get(n, []))) or f"none: {why.get(n, 'not told')}"] for n in names]
    told_by = f"{told.get('samples')} questions of {told.get('patients')} patients, windows of {told.get('window')} layers"
    return [
        plot.svg(),
        legend([_arrow(n) for n in names]),
        table(["direction", "critical layers"], rows, class_="words"),
        note(told_by),
    ]


def _arrow(name: str) -> str:
    return name.replace("_to_", " → ").replace("_", " ")
