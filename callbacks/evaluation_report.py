"""What callbacks have in common that report on an evaluation: when they do, and that they print last."""

from __future__ import annotations

import lightning as L
from rich import get_console
from rich.console import Console, Group

WIDTH = 120  # columns, where the output is no terminal


class EvaluationReport(L.Callback):
    """Reports once after a test, and once after the verb `validate`; a subclass says what in `report`.

    Attributes:
        to_print: what is printed after everything that the trainer prints; None for nothing.
    """

    to_print: Group | None = None

    def report(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        """Computes and writes the report on a split (``test`` or ``val``), and sets `to_print`; called in every process."""
        raise NotImplementedError

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reports on the test."""
        self.report(trainer, pl_module, "test")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same for the verb `validate`; not for the validations of a fit."""
        if trainer.state.fn == "validate":
            self.report(trainer, pl_module, "val")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prints, after everything that the trainer prints."""
        if self.to_print is not None:
            console = get_console()  # the one that a live progress bar draws on
            (console if console.is_terminal else Console(width=WIDTH)).print(self.to_print)
            self.to_print = None
