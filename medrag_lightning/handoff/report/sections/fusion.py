"""What weighs in retrieval: the fusion of candidates in answering, and learned weights of similarities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from medrag_lightning.handoff.report.cells import NOTHING, number, percent
from medrag_lightning.handoff.report.markup import Html, joined, table, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.section import Section, missing, note

LEARN = "python -m medrag_lightning run mrrag (step fusion), or fit -c stages/fusion_nce"
METRICS = {"confidence": "reader's confidence in the first", "mrr": "MRR", "recall@1": "recall@1"}


def fusion_section(material: Material) -> Section:
    """Settings of answering, the weight that each channel really had, and weights that `fusion_nce` has learned."""
    parts = [*_answering(material), *_learned(material)]
    if not parts:
        return Section.absent("fusion", "Fusion weights", "neither config.yaml nor a learned fusion is there", LEARN)
    return Section("fusion", "Fusion weights", joined(parts))


def _answering(material: Material) -> list[Html]:
    weighed = [p for p in material.main if p.weights]
    heading = tag("h3", "How candidates are mixed")
    if not weighed:
        return (
            [heading, missing("all evidence stood in one prompt, or there is none: nothing is mixed")] if material.main else []
        )
    found: dict[str, list[float]] = defaultdict(list)
    for p in weighed:
        for channel in set(p.channels):
            found[str(channel)].append(sum(w for w, mine in zip(p.weights, p.channels, strict=True) if mine is channel))
    rows = [[name, f"{100 * sum(shares) / len(weighed):.1f}", len(shares)] for name, shares in sorted(found.items())]
    told = table(["channel", "mean weight (%)", "questions with it"], rows, f"over {len(weighed)} questions")
    settings = [] if material.fusion is None else [note(_line(asdict(material.fusion)))]
    return [heading, *settings, told]


def _learned(material: Material) -> list[Html]:
    parts = [tag("h3", "Learned weights of similarities")]
    for run in (material.run, *material.found.steps):
        weights = run.json("checkpoints/fusion_weights.json") or run.json("fusion_weights.json")
        compared = run.json("fusion_comparison.json")
        if weights:
            parts += [tag("h4", run.name), _weights(weights), note(str(weights.get("note", "")))]
        if compared:
            parts.append(_comparison(compared, run.name))
    return parts if len(parts) > 1 else [*parts, missing("no step of this run learned any", LEARN)]


def _weights(told: Mapping[str, Any]) -> Html:
    rows = [("shared", told["shared"], "")] if "shared" in told else []
    rows += [(name, one, "") for name, one in (told.get("by_modality") or {}).items()]
    rows += [(name, one, one.get("queries", "")) for name, one in (told.get("over_queries") or {}).items()]
    channels = list(dict.fromkeys(channel for _, one, _ in rows for channel in one["direction"]))

    def cell(one: Mapping[str, Any], channel: str) -> str:
        spread = (one.get("standard_deviation") or {}).get(channel)
        return f"{one['direction'].get(channel, 0.0):+.2f}" + (f" ± {spread:.2f}" if spread is not None else "")

    head = ["of", *(channel.replace("_", " ") for channel in channels), "norm", "tau", "questions"]
    body = [
        [name, *(cell(one, c) for c in channels), number(one.get("norm")), number(one.get("tau")), n] for name, one, n in rows
    ]
    return table(head, body, "direction of the weights; mean and standard deviation where each question has its own")


def _comparison(told: Mapping[str, Any], name: str) -> Html:
    names = [metric for metric in METRICS if any(metric in row for row in told.values())]
    body = [
        [system.replace("_", " "), *(percent({"value": row[m]}) if m in row else NOTHING for m in names)]
        for system, row in told.items()
    ]
    return table(["order of the pool by", *(METRICS[m] for m in names)], body, f"{name}: test questions (%)")


def _line(settings: Mapping[str, Any]) -> str:
    named = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items() if value is not None)
    return f"Settings: {named}."
