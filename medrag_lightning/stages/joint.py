"""Stage `joint`: reader and retriever trained together by the likelihood of the answer, evidence being a latent variable.

Sources: RAG (arXiv 2005.11401, Section 2) and EMDR2 (arXiv 2106.05346) for the loss; JOMED (arXiv 2508.17394) for the heads.
JOMED trains the reader first and then, with the reader frozen, the retriever; both at once is its open end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from medrag_lightning.batches import DistillExample
from medrag_lightning.interfaces import Feed, QueryTowers, Reader
from medrag_lightning.losses import Likelihood, answer_logp, joint_nll, mixture_logp
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.stages.answer_objective import mean_over_processes
from medrag_lightning.stages.base import Schedule, Stage, read_checkpoint
from medrag_lightning.stages.distill_collator import DistillBatch, DistillCollator
from medrag_lightning.stages.distill_metrics import oracle, pool_metrics
from medrag_lightning.stages.joint_reading import JointReading
from medrag_lightning.stages.totals import Totals


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class JointRates:
    """The learning rates; one that is null leaves that part as it is (it is in the checkpoint all the same).

    Args:
        reader: of the reader's trainable weights.
        retriever: of the query heads, or of the whole encoder with `BothSides`.
    """

    reader: float | None = 1.0e-4
    retriever: float | None = 1.0e-3

    def __post_init__(self) -> None:
        if self.reader is None and self.retriever is None:
            raise ValueError("learning_rates: reader and retriever are both null, so nothing would train; give one a rate")
        for name in ("reader", "retriever"):
            rate = getattr(self, name)
            if rate is not None and rate <= 0:
                raise ValueError(f"learning_rates.{name} must be positive, or null to leave it as it is; got {rate}")


class Joint(Stage):
    """Minimises ``-log sum_k p_R(z_k|q) p(a|z_k,q)``, with gradients into the reader and into the retriever.

    ``p_R = softmax(e(q).z_k / t_score)`` over each side's candidates, sides alike; the reader reads each candidate alone, live.
    Documents keep their stored vectors with `models.heads.QueryHeads`; with `models.both_sides.BothSides` they train, too, and
    `callbacks.IndexRefresh` embeds and searches anew. Needs `data.distillation.table` null, and learns from closed questions.

    A checkpoint gives a reader (to `reader_raft` as ``--ckpt_path`` or `init_from`, to `score`, to `TrainedBackbone`) and a
    retriever (to `HeadedEncoder`, or `DistilledEncoder` with `BothSides`; to `retriever_kl` as `init_from`).

    Args:
        reader: reads; trains as its adapter and freeze settings say.
        heads: the retriever's side: `models.heads.QueryHeads` or `models.both_sides.BothSides`.
        optimizer: made over both parts; its own learning rate is replaced by `learning_rates`.
        learning_rates: of each part.
        template: how prompts are built; kept in the checkpoint.
        schedule: the learning rates over the run, relative to their peaks.
        likelihood: what p(a|z_k,q) is; see `losses.Likelihood`. `sequence` reads one answer a prompt instead of all.
        t_score: divides scores before the softmax over candidates.
        reader_chunk: prompts whose activations exist at a time; it changes no number.
        top: candidates of each side in `fused_accuracy`.
        reader_from: checkpoint of stage `reader_raft`, `reader_preference` or `joint`, whose reader is the start.
        heads_from: checkpoint of stage `retriever_kl` or `joint`, whose heads are the start.
        seed: of dropout.

    Validation logs `val/loss`, the marginal NLL in nats with the closed likelihood (the best weights are chosen by it),
    `val/even_loss`, the same with all candidates weighing alike, and `distill_metrics.pool_metrics` of these heads and, with
    the prefix ``frozen_``, of the retriever before training with the present reader.
    """

    stage_name: ClassVar[str] = "joint"
    loss_unit: ClassVar[str] = "marginal gold NLL (nats)"  # on plots

    def __init__(
        self,
        reader: Reader,
        heads: QueryTowers,
        optimizer: OptimizerCallable,
        learning_rates: JointRates = JointRates(),
        template: PromptTemplate = PromptTemplate(),  # noqa: B008  (frozen)
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        likelihood: Likelihood = "closed",
        t_score: float = 0.05,
        reader_chunk: int = 16,
        top: int = 2,
        reader_from: str | None = None,
        heads_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        if t_score <= 0 or top < 1:
            raise ValueError(f"t_score must be positive and top at least 1, got {t_score} and {top}")
        self.reader, self.heads, self.learning_rates, self.likelihood = reader, heads, learning_rates, likelihood
        self.t_score, self.top, self.reader_from, self.heads_from = t_score, top, reader_from, heads_from
        self.template, self.reading = template, JointReading(reader, template, reader_chunk)
        self._totals, self._prepared = Totals(), False
        self._left: set[str] = set()

    @property
    def feed(self) -> Feed:
        """Queries with pools of candidates."""
        return "distillation"

    def collator(self, training: bool) -> Callable[[Sequence[DistillExample]], DistillBatch]:
        """Examples to tensors and prompts."""
        return DistillCollator(
            self.heads.encoder.image_inputs,
            self.heads.encoder.text_inputs,
            self.heads.sides,
            self.heads.trains_passages,
            reading=self.reading.collator(only_gold=training and self.likelihood == "sequence"),
            count_tokens=self.reading.count_tokens,
            reader_chunk=self.reading.chunk,
        )

    def configure_model(self) -> None:
        """Loads reader and encoder, once, and starts from `reader_from` and `heads_from`."""
        if self._prepared:
            return
        self._prepared = True
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            raise ValueError("stage joint does not shard its reader: use strategy ddp, and an adapter for a large reader")
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        texts = datamodule.training_texts()
        self.heads.prepare(texts)
        searching = getattr(datamodule.source, "encoder", None)
        if searching is not None and searching.fingerprint() != self.heads.encoder.fingerprint():
            raise ValueError("data.source searches with another encoder than the heads are built around; give both the same")
        if self.reader_from is None:
            self.reader.prepare(texts)
        else:
            self.reading.load(self.reader_from)
        if self.heads_from is not None:
            description, state = read_checkpoint(self.heads_from, ("retriever_kl", self.stage_name), "retriever_kl")
            weights = {name.removeprefix("heads."): value for name, value in state.items()}
            self.heads.start_from(description["heads"], weights, self.heads_from)
        self._freeze()

    def trainable_names(self) -> set[str]:
        """Names of the weights that a checkpoint holds: also those of a part that is left as it is, so that it is handed on."""
        return super().trainable_names() | self._left

    def train(self, mode: bool = True) -> Joint:
        """A reader that is left as it is stays in evaluation mode."""
        super().train(mode)
        if self.learning_rates.reader is None:
            _module(self.reader).eval()
        return self

    def parameter_groups(self, trainable: list[nn.Parameter]) -> Any:
        """A group for each part that has a learning rate."""
        groups = []
        for name, part in (("reader", self.reader), ("retriever", self.heads)):
            rate = getattr(self.learning_rates, name)
            if rate is None:
                continue
            mine = [parameter for parameter in _module(part).parameters() if parameter.requires_grad]
            if not mine:
                raise ValueError(f"learning_rates.{name} would be ignored: nothing in it is trainable; set it to null")
            groups.append({"params": mine, "lr": rate, "name": name})
        return groups

    def describe(self) -> dict[str, Any]:
        """Reader, prompt and heads, under the names that stages of either alone read."""
        return {
            "reader": self.reader.describe(),
            "prompt_order": self.template.order,
            "template": self.template.fingerprint(),
            "evidence": "one_per_prompt",
            "heads": self.heads.describe(),
            "t_score": self.t_score,
        }

    def accept(self, description: dict[str, Any]) -> None:
        """Refuses another template, reader or other heads."""
        if description["template"] != self.template.fingerprint():
            raise ValueError("the checkpoint was trained with another template than this run's; give model.init_args.template")
        self.reader.restore(description["reader"])
        self.heads.restore(description["heads"])

    def training_step(self, batch: DistillBatch, batch_idx: int) -> Tensor:
        """Mean over the global batch of ``-log sum_k p_R(z_k|q) p(a|z_k,q)``, in nats."""
        loss = self.objective(batch)
        whole = mean_over_processes(loss.detach(), self.trainer.world_size)
        self.log("train/loss", whole, prog_bar=True, batch_size=len(batch))
        return loss

    def objective(self, batch: DistillBatch) -> Tensor:
        """This process's part of the mean over the queries of the global batch that have a candidate; differentiable."""
        with torch.set_grad_enabled(self.learning_rates.reader is not None):
            batch = self.reading.read(batch)
        with torch.set_grad_enabled(self.learning_rates.retriever is not None):
            scores = {side: pair[0] for side, pair in self._scores(batch).items()}
        nll_B, present_B = self._nll(batch, scores, self.likelihood)
        world_size = self.trainer.world_size
        count = mean_over_processes(present_B.sum().float(), world_size).clamp(min=1 / world_size)
        return nll_B.sum() / count

    def validation_step(self, batch: DistillBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Numbers of the present retriever and reader, and of the retriever before training."""
        self._evaluate(batch)

    def test_step(self, batch: DistillBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As validation."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs means over the queries of all processes."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Logs means over the queries of all processes."""
        self._finish("test")

    def _freeze(self) -> None:
        """Takes the gradients from the part whose learning rate is null, and remembers its weights."""
        for name, part in (("reader", self.reader), ("heads", self.heads)):
            if getattr(self.learning_rates, "reader" if name == "reader" else "retriever") is None:
                self._left |= {f"{name}.{at}" for at, p in _module(part).named_parameters() if p.requires_grad}
                _module(part).requires_grad_(False)

    def _nll(self, batch: DistillBatch, score: dict[str, Tensor], kind: Likelihood) -> tuple[Tensor, Tensor]:
        """The loss of each query, (B,), and whether it has a candidate."""
        answers, sides = batch.answers, list(batch.pools)
        logp_BK, valid_BK = mixture_logp([score[s] for s in sides], [batch.pools[s].valid_BK for s in sides], self.t_score)
        told = [answer_logp(kind, batch.pools[s].logp_BKC, answers.gold_BC, answers.valid_BC) for s in sides]
        return joint_nll(logp_BK, torch.cat(told, dim=1), valid_BK), valid_BK.any(1)

    def _scores(self, batch: DistillBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Scores of each side's pool by these heads and by the frozen retriever: e(q).z_k, (B, K) each."""
        frozen_BD = self.heads.frozen_vectors(batch.inputs)
        found = {}
        for side, pool in batch.pools.items():
            query_BD, passage_BKD = self.heads.query_vectors(side, batch.inputs, frozen_BD), pool.passage_BKD
            frozen_BK = torch.einsum("bd,bkd->bk", frozen_BD, passage_BKD)
            if self.heads.trains_passages and pool.passages:
                fresh = self.heads.passage_vectors(side, pool.passages).to(passage_BKD.dtype)
                passage_BKD = passage_BKD.masked_scatter(pool.valid_BK[..., None], fresh)
            found[side] = torch.einsum("bd,bkd->bk", query_BD, passage_BKD), frozen_BK
        return found

    @torch.no_grad()
    def _evaluate(self, batch: DistillBatch) -> None:
        batch = self.reading.read(batch)
        scores = self._scores(batch)
        known = batch.answers, self.heads.sides, self.t_score, self.top
        now, before = ({side: pair[n] for side, pair in scores.items()} for n in (0, 1))
        found = pool_metrics(now, batch.pools, *known)
        even = {side: torch.zeros_like(score_BK) for side, score_BK in now.items()}
        found |= {"loss": self._nll(batch, now, "closed")[0], "even_loss": self._nll(batch, even, "closed")[0]}
        if not self.heads.trains_passages:  # else the stored vectors change with every refresh
            earlier = pool_metrics(before, batch.pools, *known) | {"loss": self._nll(batch, before, "closed")[0]}
            found |= {f"frozen_{name}": value_B for name, value_B in earlier.items()}
        self._totals.add(found | {"oracle": oracle(batch.pools, batch.answers)})

    def _finish(self, phase: str) -> None:
        for name, value in self._totals.means(self.trainer.world_size).items():
            self.log(f"{phase}/{name}", value, prog_bar=name in ("loss", "fused_accuracy"))


def _module(part: Reader | QueryTowers) -> nn.Module:
    assert isinstance(part, nn.Module)
    return part
