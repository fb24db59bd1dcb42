"""The last word of a query generator's test: gold documents found with its searches, beside those found with the question."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import lightning as L
from rich import get_console
from rich.console import Console

from callbacks.evaluated import run_folder
from callbacks.evaluation_report import WIDTH
from callbacks.table_cells import cell, new_table
from medrag_lightning.artifacts import write_json
from medrag_lightning.metrics import Bootstrap, SearchOutcome, SearchResults, search_results


@runtime_checkable
class SearchingStage(Protocol):
    """A stage that writes searches: after a test it holds what became of each question."""

    search_outcomes: list[SearchOutcome]
    corpora: tuple[str, ...]
    hits_at: int


class SearchResultsTable(L.Callback):
    """After a test of stage query_generator: writes ``searches.json`` to the run folder and prints the table.

    A row for all questions and for each need that a generated world knows. `question`: share of questions whose gold document
    is found when every corpus is asked with the question itself; `searches`: with what was written; `gain`: the difference,
    paired. Questions that need no document of these corpora count among the texts and the empty tags alone.

    Args:
        resamples: of the bootstrap over patients (studies, images where patients are not known).
        confidence: of the intervals.
        seed: of the bootstrap.
        folder: where to; by default the run folder.
    """

    def __init__(self, resamples: int = 1000, confidence: float = 0.95, seed: int = 0, folder: str | None = None) -> None:
        self.bootstrap, self.folder = Bootstrap(resamples, confidence, seed), folder

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes and prints; ValueError for a stage that writes no searches."""
        if not isinstance(pl_module, SearchingStage):
            raise ValueError(
                f"SearchResultsTable reports on stage query_generator, and {type(pl_module).__name__} writes no searches; "
                "remove the callback from trainer.callbacks"
            )
        if trainer.is_global_zero:
            results = search_results(pl_module.search_outcomes, pl_module.corpora, pl_module.hits_at, self.bootstrap)
            write_json((Path(self.folder) if self.folder else run_folder(trainer)) / "searches.json", results.as_json())
            console = get_console()
            show(results, console if console.is_terminal else Console(width=WIDTH))


def show(results: SearchResults, console: Console) -> None:
    """Prints the table, how often each corpus is asked, and the notes."""
    k = results.k
    columns = ["n", f"question hit@{k}", f"searches hit@{k}", "gain", "empty tags", "sound texts"]
    grid = new_table("questions that need", columns)
    for row in results.rows:
        names = ("raw_hit", "hit", "gain", "empty_tags", "read_whole")
        told = [cell(row.metrics[name], signed=name == "gain") for name in names]
        grid.add_row(row.need, str(row.questions), *told)
    console.print(grid)
    console.print()
    asked = ", ".join(f"{name} {100 * share:.0f} %" for name, share in results.asked.items())
    console.print(
        f"share of questions that ask each corpus: {asked}; {results.milliseconds:.1f} ms a question", highlight=False
    )
    for note in results.notes:
        console.print(f"note: {note}", highlight=False)
