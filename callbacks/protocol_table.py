"""A benchmark's weaknesses as two small tables: yes/no questions beside constant answers, scores without duplicates."""

from __future__ import annotations

from rich.table import Table

from callbacks.table_cells import new_table, percent_cell
from medrag_lightning.metrics import RETRIEVED, Protocol

YES_NO = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "precision": "precision (yes)",
    "recall": "recall (yes)",
    "f1": "F1 (yes)",
}
UNIQUE = {"closed_accuracy": "closed accuracy", "closed_macro_f1": "closed macro-F1", "open_token_recall": "token recall"}


def protocol_tables(found: Protocol) -> list[Table]:
    """What there is to show; a set without yes/no questions or without duplicates has no such table."""
    tables = []
    if found.yes_no:
        table = new_table("yes/no questions %", [*YES_NO.values(), "n"])
        for system, row in found.yes_no.items():
            cells = [percent_cell(row[name]) for name in YES_NO]
            table.add_row(system, *cells, str(row["accuracy"].n), style=_style(system))
        tables.append(table)
    shown = [name for name in UNIQUE if any(row[name].n for row in found.without_duplicates.values())]
    if shown:
        table = new_table("without duplicates %", [part for name in shown for part in (UNIQUE[name], "n")])
        for system, row in found.without_duplicates.items():
            cells = [part for name in shown for part in (percent_cell(row[name]), str(row[name].n))]
            table.add_row(system, *cells, style=_style(system))
        tables.append(table)
    return tables


def _style(system: str) -> str:
    return "bold" if system == RETRIEVED or system.startswith("always ") else ""
