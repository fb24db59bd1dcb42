"""Stage `fusion_nce`: how much each similarity counts in the choice of evidence is learned from a frozen reader's confidence.

Source: MR-RAG (Li et al., CVPR 2026), MCR. The reader's confidence is read from the score table and the cosines from the
evidence store, once; training touches neither encoder nor reader, and takes seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from medrag_lightning import losses
from medrag_lightning.artifacts import write_json
from medrag_lightning.batches import FusionBatch
from medrag_lightning.interfaces import Feed, LearnedFusion
from medrag_lightning.losses import FusionLoss
from medrag_lightning.records import Channel
from medrag_lightning.stages.base import Schedule, Stage, read_checkpoint
from medrag_lightning.stages.fusion_metrics import baseline_scores, order_metrics, spread
from medrag_lightning.stages.fusion_objective import FusionObjective
from medrag_lightning.stages.fusion_report import as_text, comparison, one_line, readable_weights
from medrag_lightning.stages.totals import Totals

WEIGHTS, COMPARISON = "fusion_weights.json", "fusion_comparison.json"


class FusionNce(Stage):
    """Learns f(q, d) = sum_m w_m cos_m(q, d) so that the documents come first with which the reader is sure of the answer.

    The weights that all queries share are learned in every run, by this loss alone. In another scope than ``global`` the
    queries' own weights are learned beside them by the same loss, so that one run, and one `test`, compares the two.

    Args:
        fusion: what trains: `models.similarity_fusion.WeightedSimilarities`.
        optimizer: made over the trainable parameters only.
        schedule: the learning rate over the run.
        loss: ``hard`` (published): InfoNCE with the candidate of highest confidence as positive, the `negatives` lowest as
            negatives. ``listwise``, ``kl`` and ``marginal`` use the confidence of all candidates; see `losses.FusionLoss`.
        negatives: m; null for 8. For `hard` only.
        t_confidence: divides confidences (listwise) or their logarithms (kl) before the softmax that makes them a target; null
            for 0.1 and 1. For those two only.
        seed: as in every stage; nothing here is drawn.
        init_from: checkpoint of an earlier run of this stage; from one of scope ``global`` the shared weights are taken.

    Validation and test log `loss` and the numbers of `fusion_metrics.order_metrics` for the fusion, and the latter with a
    prefix for what it is compared with: ``global_`` (the shared weights, in other scopes; with its loss), ``uniform_`` (plain
    sum), each similarity's own name, ``random_``; ``oracle_confidence`` is the best that any order could do. ``weight_*`` is
    the mean direction of the weights, ``spread_*`` the standard deviation of each cosine within a pool. At the end the weights
    of the best checkpoint are written beside it as ``fusion_weights.json``; a test prints the comparison and writes it to the
    run folder as ``fusion_comparison.json``.
    """

    stage_name: ClassVar[str] = "fusion_nce"
    loss_unit: ClassVar[str] = "nats a query"  # on plots

    def __init__(
        self,
        fusion: LearnedFusion,
        optimizer: OptimizerCallable,
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        loss: FusionLoss = "hard",
        negatives: int | None = None,
        t_confidence: float | None = None,
        seed: int = 0,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        self.fusion, self.init_from = fusion, init_from
        self.objective = FusionObjective(loss, negatives, t_confidence)
        self.objective.check()
        self._totals = Totals()
        self._prepared = False

    @property
    def feed(self) -> Feed:
        """The similarities of pools of candidates."""
        return "fusion"

    def collator(self, training: bool) -> Callable[[FusionBatch], FusionBatch]:
        """Picks the channels that the fusion weighs."""
        return _Picked(self.fusion.channels)

    def configure_model(self) -> None:
        """Makes what trains, once; starts from `init_from`."""
        if self._prepared:
            return
        self._prepared = True
        queries = self.trainer.datamodule.split_queries("train")  # type: ignore[attr-defined]
        self.fusion.prepare({query.modality for query in queries if query.modality is not None})
        if self.init_from:
            self.load_weights_from(self.init_from)

    def load_weights_from(self, path: str) -> None:
        """Starts from another run's weights."""
        description, weights = read_checkpoint(path, self.stage_name)
        self.fusion.start_from(description["fusion"], _of_fusion(weights), path)

    def describe(self) -> dict[str, Any]:
        """The fusion."""
        return {"fusion": self.fusion.describe()}

    def accept(self, description: dict[str, Any]) -> None:
        """Refuses another fusion."""
        self.fusion.restore(description["fusion"])

    def on_train_batch_start(self, batch: FusionBatch, batch_idx: int) -> None:
        """Seeds nothing: nothing is drawn."""

    def training_step(self, batch: FusionBatch, batch_idx: int) -> Tensor:
        """The loss under the queries' own weights, plus that under the shared ones where they are not the same."""
        comparable_BKM = self.fusion.comparable(batch.similarity_BKM)
        scores = self._scores(batch, comparable_BKM)
        values = [losses.mean_counted(*self._values(score_BK, batch, own)) for score_BK, own in scores]
        self.log("train/loss", values[0].detach(), prog_bar=True, batch_size=len(batch), sync_dist=True)
        return torch.stack(values).sum()

    def validation_step(self, batch: FusionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Numbers of the fusion and of what it is compared with."""
        self._evaluate(batch)

    def test_step(self, batch: FusionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As validation."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs means over the queries of all processes."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Logs means over the queries of all processes."""
        self._finish("test")

    def on_fit_end(self) -> None:
        """Writes the weights of the best checkpoint (without one: the last weights) for people to read."""
        if getattr(self.trainer, "fast_dev_run", False) or not self.trainer.is_global_zero:
            return
        keeper = next((one for one in self.trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)), None)
        best = keeper.best_model_path if keeper is not None else ""
        fusion: Any = copy.deepcopy(self.fusion).cpu()  # type: ignore[attr-defined]
        if best:
            description, weights = read_checkpoint(best, self.stage_name)
            fusion.start_from(description["fusion"], _of_fusion(weights), best)
        loaders = [] if fusion.is_shared else self.trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        told = readable_weights(fusion, (batch for loader in loaders for batch in loader))
        folder = Path(best).parent if best else Path(self.trainer.default_root_dir)
        write_json(folder / WEIGHTS, {"checkpoint": Path(best).name if best else None, **told})
        rank_zero_info(f"fusion weights ({folder / WEIGHTS}): {one_line(told)}")

    def _scores(self, batch: FusionBatch, comparable_BKM: Tensor) -> list[tuple[Tensor, bool]]:
        """f (B, K) under the queries' own weights (True), then under the shared ones (False) unless they are the same."""
        shared_BK = comparable_BKM @ self.fusion.shared_weights()
        if self.fusion.is_shared:
            return [(shared_BK, True)]
        own_BM = self.fusion.query_weights(batch.similarity_BKM, batch.modality)
        return [(torch.einsum("bkm,bm->bk", comparable_BKM, own_BM), True), (shared_BK, False)]

    def _values(self, score_BK: Tensor, batch: FusionBatch, own: bool) -> tuple[Tensor, Tensor]:
        return self.objective.values(score_BK, batch, self.fusion.temperatures()[own])

    @torch.no_grad()
    def _evaluate(self, batch: FusionBatch) -> None:
        comparable_BKM = self.fusion.comparable(batch.similarity_BKM)
        found: dict[str, Tensor] = {}
        for score_BK, own in self._scores(batch, comparable_BKM):
            prefix = "" if own else "global_"
            value_B, counts_B = self._values(score_BK, batch, own)
            found[f"{prefix}loss"] = value_B.masked_fill(~counts_B, torch.nan)
            found |= {f"{prefix}{name}": number_B for name, number_B in order_metrics(score_BK, batch).items()}
        for name, score_BK in baseline_scores(comparable_BKM, self.fusion.channels).items():
            found |= {f"{name}_{metric}": number_B for metric, number_B in order_metrics(score_BK, batch).items()}
        best_BK = batch.log_confidence_BK.masked_fill(~batch.valid, -torch.inf)
        found["oracle_confidence"] = order_metrics(best_BK, batch)["confidence"]
        weight_BM = self.fusion.query_weights(batch.similarity_BKM, batch.modality)
        direction_BM, spread_BM = torch.nn.functional.normalize(weight_BM, dim=-1), spread(batch.similarity_BKM)
        for place, channel in enumerate(self.fusion.channels):
            found[f"weight_{channel}"], found[f"spread_{channel}"] = direction_BM[:, place], spread_BM[:, place]
        self._totals.add({**found, "weight_norm": weight_BM.norm(dim=-1)})

    def _finish(self, phase: str) -> None:
        means = self._totals.means(self.trainer.world_size)
        if phase == "test" and self.trainer.is_global_zero:
            rows = comparison(means, [str(channel) for channel in self.fusion.channels])
            write_json(Path(self.trainer.default_root_dir) / COMPARISON, rows)
            rank_zero_info(as_text(rows))
        for name, value in means.items():
            self.log(f"{phase}/{name}", value, prog_bar=name in ("loss", "confidence"))
        self.log(f"{phase}/tau", float(self.fusion.temperatures()[1]))


class _Picked:
    """Keeps the channels that a fusion weighs; picklable."""

    def __init__(self, channels: tuple[Channel, ...]) -> None:
        self.channels = channels

    def __call__(self, batch: FusionBatch) -> FusionBatch:
        return batch.only(self.channels)


def _of_fusion(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("fusion."): value for name, value in weights.items()}
