"""Predictions as JSON lines in the run folder: what was asked, what was answered, and which documents were cited."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from callbacks.evaluated import answering_stage, run_folder
from medrag_lightning.artifacts import write_jsonl
from medrag_lightning.metrics import item_correct
from medrag_lightning.records import Prediction


class PredictionsWriter(L.Callback):
    """Writes ``val.jsonl`` after every validation (the newest one stays) and ``test.jsonl`` after the test, atomically.

    Each row tells what was answered, the candidates with scores, weights and what the reader says under each alone. Does
    nothing for a stage that answers no queries (retriever training, embedding), so that one base config serves all stages.
    No patient identifiers are written. Process 0 writes; predictions are gathered by the stage.

    Args:
        folder: where to; by default ``predictions`` in the run folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a stage that reads queries and keeps no predictions, before time is spent."""
        answering_stage(pl_module, self)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the validation predictions, those of the sanity check left out."""
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the test predictions."""
        self._write(trainer, pl_module, "test")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the predictions."""
        self._write(trainer, pl_module, "predict")

    def _write(self, trainer: L.Trainer, stage: L.LightningModule, split: str) -> None:
        answering = answering_stage(stage, self)
        if answering is not None and trainer.is_global_zero:
            folder = Path(self.folder) if self.folder else run_folder(trainer) / "predictions"
            write_jsonl(folder / f"{split}.jsonl", map(prediction_row, answering.predictions))


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction as plain JSON. `correct` is null without a gold answer; a log-probability of minus infinity is null."""
    return {
        "query_id": prediction.query_id,
        "regime": str(prediction.regime),
        "system": prediction.system,
        "question": prediction.question,
        "answer_type": str(prediction.answer_type),
        "answer": prediction.answer,
        "raw": prediction.raw,
        "gold": prediction.gold,
        "correct": item_correct(prediction),
        "choices": list(prediction.choices),
        "logp_nats": _finite(prediction.logp_nats),
        "cited": list(prediction.cited),
        "dropped": list(prediction.dropped),
        "weights": _finite(prediction.weights),
        "scores": _finite(prediction.scores),
        "channels": [str(channel) for channel in prediction.channels],
        "candidate_answers": list(prediction.candidate_answers),
        "candidate_logp_nats": [_finite(row) for row in prediction.candidate_logp_nats],
        "gold_logp_nats": None if prediction.gold_logp_nats is None else _finite([prediction.gold_logp_nats])[0],
        "gold_tokens": prediction.gold_tokens,
        "need": prediction.need,
        "variant": prediction.variant,
        "noise": None if prediction.noise is None else {"kind": str(prediction.noise.kind), "share": prediction.noise.share},
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
