"""The results table: every system beside its controls, with intervals, and what may honestly be said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from medrag_lightning.handoff.report.cells import NOTHING, percent, words
from medrag_lightning.handoff.report.markup import Html, folded, joined, table, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.rows import interval_of, interval_rows
from medrag_lightning.handoff.report.section import TEST, Section, note

CLOSED = ("closed_accuracy", "closed_balanced_accuracy", "closed_macro_f1", "closed_ece", "closed_invalid")
OPEN = ("open_token_recall", "open_token_f1", "open_exact_match", "open_invalid")
HEADLINES = ("closed_accuracy", "open_token_recall")
_FILE = re.compile(r"\S*/(\S+\.(?:yaml|json|jsonl|csv|ckpt|png))")


def metrics_section(material: Material) -> Section:
    """Systems with intervals, by need, paired differences, yes/no questions, notes."""
    results = material.run.results
    if results is None:
        return Section.absent("metrics", "Metrics", "the run has no results.json", TEST)
    rows: Sequence[Mapping[str, Any]] = results.get("rows", [])
    whole = [row for row in rows if row["need"] is None]
    parts: list[Html | None] = [note(without_paths(str(results.get("intervals", ""))), ". All numbers in %.")]
    for headline, names in zip(HEADLINES, (CLOSED, OPEN), strict=True):
        there = [row for row in whole if row["metrics"][headline]["n"]]
        if there:
            parts += [_drawn(headline, there, material.main_system), _table(names, there, material.main_system)]
    parts += [_needs(rows), _differences(results.get("differences", [])), _yes_no(results.get("protocol", {}))]
    notes = [tag("li", without_paths(str(line))) for line in results.get("notes", [])]
    if notes:
        parts.append(joined([tag("h3", "What may and may not be said"), tag("ul", *notes)]))
    return Section("metrics", "Metrics", joined(parts))


def headline_of(results: Mapping[str, Any], system: str, metric: str) -> Mapping[str, Any] | None:
    """A metric of a system over all questions; None where there is none."""
    for row in results.get("rows", []):
        if row["system"] == system and row["need"] is None and row["metrics"].get(metric, {}).get("n"):
            return row["metrics"][metric]  # type: ignore[no-any-return]
    return None


def without_paths(line: str) -> str:
    """A line in which files are told by their names alone: folders may be named after people."""
    return _FILE.sub(r"\1", line)


def _drawn(metric: str, rows: Sequence[Mapping[str, Any]], strong: str) -> Html:
    shown = [interval_of(row["system"], row["metrics"][metric], strong=row["system"] == strong) for row in rows]
    return interval_rows(f"{words(metric)} (%), with interval", shown)


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]], strong: str) -> Html:
    head = ["system", *(words(name.split("_", 1)[1] if name not in ("closed_ece",) else name) for name in names), "n"]
    body = []
    for row in rows:
        name = tag("b", row["system"]) if row["system"] == strong else row["system"]
        body.append([name, *(percent(row["metrics"].get(one)) for one in names), row["metrics"][names[0]]["n"]])
    return table(head, body, f"{names[0].split('_')[0]} questions")


def _needs(rows: Sequence[Mapping[str, Any]]) -> Html | None:
    parts = []
    for metric in HEADLINES:
        mine = [row for row in rows if row["need"] is not None and row["metrics"][metric]["n"]]
        needs = sorted({row["need"] for row in mine})
        if not needs:
            continue
        at = {(row["system"], row["need"]): row["metrics"][metric] for row in mine}
        systems = dict.fromkeys(row["system"] for row in mine)
        body = [[system, *(percent(at.get((system, need))) for need in needs)] for system in systems]
        parts.append(table(["system", *needs], body, f"{words(metric)} by the evidence that a question needs"))
    return folded("By the evidence that a question needs", *parts) if parts else None


def _differences(differences: Sequence[Mapping[str, Any]]) -> Html | None:
    if not differences:
        return None
    metrics = list(dict.fromkeys(d["metric"] for d in differences))
    at = {(d["baseline"], d["metric"]): percent(d, signed=True) + (" *" if d["excludes_zero"] else "") for d in differences}
    body = [
        [name, *(at.get((name, m), NOTHING) for m in metrics)] for name in dict.fromkeys(d["baseline"] for d in differences)
    ]
    head = [f"{differences[0]['system']} minus", *map(words, metrics)]
    told = table(head, body, "paired differences on the same questions; * the interval excludes 0")
    return folded("Paired differences", told)


def _yes_no(protocol: Mapping[str, Any]) -> Html | None:
    systems: Mapping[str, Any] = protocol.get("yes_no_questions") or {}
    if not systems:
        return None
    names = ["accuracy", "macro_f1", "precision", "recall", "f1"]
    body = [[system, *(percent(told.get(name)) for name in names)] for system, told in systems.items()]
    positive = protocol.get("positive_class", "yes")
    head = ["system", "accuracy", "macro-F1", *(f'{name} of "{positive}"' for name in ("precision", "recall", "F1"))]
    return folded("Yes/no questions", table(head, body))
