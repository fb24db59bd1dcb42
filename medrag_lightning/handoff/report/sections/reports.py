"""Generated reports beside their references: scores of words and, where they are installed, of medical models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medrag_lightning.handoff.report.cells import NOTHING, not_a_number
from medrag_lightning.handoff.report.markup import Html, joined, table, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.rows import interval_of, interval_rows
from medrag_lightning.handoff.report.section import Section, note
from medrag_lightning.handoff.report.sections.metrics import without_paths
from medrag_lightning.metrics import REPORT_SCORES

DRAWN = ("rouge_l", "bleu_4")


def reports_section(material: Material) -> Section | None:
    """A row a system, a column a score that could be computed; which could not, and why. None where nothing is a report."""
    told: Mapping[str, Any] = (material.run.results or {}).get("reports") or {}
    rows: Mapping[str, Mapping[str, Any]] = told.get("rows") or {}
    if not rows:
        return None
    there = [name for name in REPORT_SCORES if any(_has(row, name) for row in rows.values())]
    lacking = {REPORT_SCORES[name]: row[name].get("reason") or "no value" for row in rows.values() for name in row
               if name in REPORT_SCORES and name not in there}  # fmt: skip
    parts: list[Html | None] = [note(without_paths(str(line))) for line in told.get("notes", [])[:1]]
    if drawn := next((name for name in DRAWN if name in there), None):
        shown = [
            interval_of(name, row[drawn], strong=name == material.main_system) for name, row in rows.items() if drawn in row
        ]
        highest = max((one.high for one in shown if math.isfinite(one.high)), default=1.0)
        parts.append(interval_rows(f"{REPORT_SCORES[drawn]} (%), with interval", shown, high=min(1.0, 1.1 * highest) or 1.0))
    body = []
    for system, row in rows.items():
        name = tag("b", system) if system == material.main_system else system
        count = max(int(metric.get("n") or 0) for metric in row.values())
        body.append([name, *(_cell(row.get(score)) for score in there), count])
    parts.append(table(["system", *(REPORT_SCORES[name] for name in there), "n"], body, "reports"))
    if lacking:
        parts.append(tag("h3", "Not computed"))
        parts.append(tag("ul", *(tag("li", f"{name}: {without_paths(str(why))}") for name, why in lacking.items())))
    return Section("reports", "Generated reports", joined(parts))


def _has(row: Mapping[str, Any], name: str) -> bool:
    return row.get(name, {}).get("value") is not None


def _cell(metric: Mapping[str, Any] | None) -> str:
    """``0.213 [0.190, 0.240]``: CIDEr-D is no share, so none is told in percent."""
    value, low, high = (not_a_number((metric or {}).get(end)) for end in ("value", "low", "high"))
    if not math.isfinite(value):
        return NOTHING
    return f"{value:.3f}" if not math.isfinite(low + high) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
