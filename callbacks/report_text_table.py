"""Scores of generated reports as a small table."""

from __future__ import annotations

from rich.table import Table

from callbacks.table_cells import cell, new_table
from medrag_lightning.metrics import REPORT_SCORES, RETRIEVED, ReportText


def report_text_tables(found: ReportText) -> list[Table]:
    """One table, a row a system; none where nothing is a report, and no column for what is unavailable (the notes say why)."""
    if not found.rows:
        return []
    told = [
        name for name in REPORT_SCORES if any(name in row and row[name].value == row[name].value for row in found.rows.values())
    ]
    table = new_table("reports", [*(REPORT_SCORES[name] for name in told), "n"])
    for system, row in found.rows.items():
        count = max(metric.n for metric in row.values())
        table.add_row(system, *(cell(row[name]) for name in told), str(count), style="bold" if system == RETRIEVED else "")
    return [table]
