"""Stage `candidate_reranker`: weights of candidates are learned from all that is known of them after the reader read each.

The score table says how likely the frozen reader finds the gold answer with each candidate alone; -log sum_k w_k p(a | z_k, q)
needs nothing else, so training runs no reader and takes seconds. JOMED (arXiv 2508.17394) leaves the gap between its mixture
and its best single candidate open; adaptive fusion of two kinds of evidence is MIRA's (arXiv 2507.07902).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from medrag_lightning import losses
from medrag_lightning.artifacts import write_json
from medrag_lightning.batches import CandidateBatch
from medrag_lightning.interfaces import Feed, LearnedWeigher
from medrag_lightning.stages.base import Schedule, Stage
from medrag_lightning.stages.candidate_metrics import candidates_right, compared, weighing_metrics
from medrag_lightning.stages.totals import Totals

COMPARISON = "candidate_comparison.json"
SYSTEMS = ("re-ranked", "uniform", "first", "chance", "oracle")


class CandidateRerankerStage(Stage):
    """Learns w_K so that the mixture sum_k w_k p(a | z_k, q) finds the gold answer likely.

    Args:
        reranker: what trains: `models.candidate_reranker.CandidateReranker`.
        optimizer: made over the trainable parameters only.
        schedule: the learning rate over the run.
        listwise: how much the second loss counts beside the likelihood: the cross-entropy between w and equal shares of the
            candidates that are right alone (closed questions of which some are right and some are wrong). 0 leaves it out.
        seed: of dropout.
        init_from: checkpoint of an earlier run of this stage; weights only.

    Validation and test log ``loss`` (negative log-likelihood, nats a question) and ``accuracy`` (closed questions), the same
    for equal weights (``uniform_``) and the first candidate alone (``first_``), and ``oracle_`` and ``chance_accuracy``. A test
    writes them to the run folder as ``candidate_comparison.json``.
    """

    stage_name: ClassVar[str] = "candidate_reranker"
    loss_unit: ClassVar[str] = "nats a question"  # on plots

    def __init__(
        self,
        reranker: LearnedWeigher,
        optimizer: OptimizerCallable,
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        listwise: float = 0.0,
        seed: int = 0,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        if listwise < 0:
            raise ValueError(f"listwise must be 0 or more, got {listwise}")
        self.reranker, self.listwise, self.init_from = reranker, listwise, init_from
        self._totals, self._prepared = Totals(), False

    @property
    def feed(self) -> Feed:
        """Scored candidates."""
        return "candidates"

    def collator(self, training: bool) -> Callable[[CandidateBatch], CandidateBatch]:
        """A batch is one already."""
        return _as_it_is

    def configure_model(self) -> None:
        """Takes the scale of the features, once; starts from `init_from`."""
        if self._prepared:
            return
        self._prepared = True
        if self.init_from:
            self.load_weights_from(self.init_from)
        elif self.trainer.state.fn == "fit":
            self.reranker.prepare(self.trainer.datamodule.train_dataloader().dataset.everything)  # type: ignore[attr-defined]

    def describe(self) -> dict[str, Any]:
        """The network."""
        return {"reranker": self.reranker.describe()}

    def accept(self, description: dict[str, Any]) -> None:
        """Takes the scales; refuses another network."""
        self.reranker.restore(description["reranker"])
        self._prepared = True

    def training_step(self, batch: CandidateBatch, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of the gold answers, plus `listwise` times the second loss, in nats."""
        logw_BK = self.reranker.log_weights(batch)
        loss = losses.marginal_nll(logw_BK, batch.gold_logp_BK, batch.valid_BK)
        if self.listwise:
            right = losses.right_candidates(logw_BK, candidates_right(batch), batch.valid_BK)
            loss = loss + self.listwise * losses.mean_counted(*right)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Numbers of the weights and of what they are compared with."""
        self._evaluate(batch)

    def test_step(self, batch: CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As validation."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs means over the questions of all processes."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Logs means over the questions of all processes, and writes the comparison."""
        self._finish("test")

    def _evaluate(self, batch: CandidateBatch) -> None:
        mine = weighing_metrics(self.reranker.log_weights(batch), batch)
        share_B = self.reranker.image_share(batch)
        gate = {} if share_B is None else {"image_share": share_B}
        self._totals.add({"loss": mine["nll"], "accuracy": mine["accuracy"], **gate, **compared(batch)})

    def _finish(self, phase: str) -> None:
        means = self._totals.means(self.trainer.world_size)
        if phase == "test" and self.trainer.is_global_zero:
            rows = {name: _row(means, name) for name in SYSTEMS}
            write_json(Path(self.trainer.default_root_dir) / COMPARISON, rows)
            rank_zero_info("\n".join(f"{name}: " + _told(row) for name, row in rows.items()))
        for name, value in means.items():
            self.log(f"{phase}/{name}", value, prog_bar=name in ("loss", "accuracy"))


def _row(means: dict[str, float], name: str) -> dict[str, float]:
    """Accuracy and NLL of a system, where it has them."""
    places = {"accuracy": "accuracy", "nll": "loss"} if name == "re-ranked" else {m: f"{name}_{m}" for m in ("accuracy", "nll")}
    return {metric: means[place] for metric, place in places.items() if place in means}


def _told(row: dict[str, float]) -> str:
    return ", ".join(f"{metric} {value:.3f}" for metric, value in row.items())


def _as_it_is(batch: CandidateBatch) -> CandidateBatch:
    return batch
