"""The last word of a retriever's test: recall and mean reciprocal rank both ways, beside no training and chance."""

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
from medrag_lightning.metrics import Bootstrap, PairRanks, RankingTable, ranking_table

DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}
SHOWN = {"recall@1": "recall@1", "recall@5": "recall@5", "recall@10": "recall@10", "mrr": "MRR"}


@runtime_checkable
class RankingStage(Protocol):
    """A stage that ranks image-text pairs: after an evaluation it holds the ranks by system, its own first."""

    rankings: dict[str, PairRanks]
    factual_rankings: dict[str, PairRanks]
    """The same where pairs that state nearly the same are right answers, too; empty where nobody looked for facts."""


class RetrievalTable(L.Callback):
    """After a test of a stage that trains a retriever: writes ``retrieval.json`` to the run folder and prints the table.

    Process 0 writes; ranks are gathered by the stage.

    Args:
        resamples: of the bootstrap over patients (studies, images where patients are not known).
        confidence: of the intervals.
        seed: of the bootstrap.
        folder: where to; by default the run folder.
    """

    def __init__(self, resamples: int = 1000, confidence: float = 0.95, seed: int = 0, folder: str | None = None) -> None:
        self.bootstrap, self.folder = Bootstrap(resamples, confidence, seed), folder

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes and prints; ValueError for a stage that ranks nothing."""
        if not isinstance(pl_module, RankingStage):
            raise ValueError(
                f"RetrievalTable reports on a stage that ranks image-text pairs, and {type(pl_module).__name__} keeps no "
                "`rankings`; remove the callback from trainer.callbacks"
            )
        if trainer.is_global_zero:
            table = ranking_table(pl_module.rankings, self.bootstrap)
            folder = Path(self.folder) if self.folder else run_folder(trainer)
            told = table.as_json()
            factual = ranking_table(pl_module.factual_rankings, self.bootstrap) if pl_module.factual_rankings else None
            write_json(folder / "retrieval.json", told if factual is None else told | {"factual": factual.as_json()})
            console = get_console()
            console = console if console.is_terminal else Console(width=WIDTH)
            show(table, console)
            if factual is not None:
                console.print("\nwhere a pair that states nearly the same is right, too (pairs.factual)", highlight=False)
                show(factual, console)


def show(table: RankingTable, console: Console) -> None:
    """Prints one block a direction, then the notes."""
    for direction, words in DIRECTIONS.items():
        grid = new_table(words, [*SHOWN.values()])
        for row in table.rows:
            grid.add_row(row.system, *(cell(row.metrics[f"{direction}_{name}"]) for name in SHOWN))
        for row in table.differences:
            grid.add_row(row.system, *(cell(row.metrics[f"{direction}_{name}"], signed=True) for name in SHOWN))
        console.print(grid)
        console.print()
    console.print(
        f"{table.pairs} held-out pairs; intervals by bootstrap over patients, else studies, else images", highlight=False
    )
    for note in table.notes:
        console.print(f"note: {note}", highlight=False)
