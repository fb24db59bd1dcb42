"""Stage `retriever_kl`: the reader's preference among candidates is distilled into the retriever (JOMED, stage 2).

Source: JOMED (arXiv 2508.17394, Section 3): KL from the reader's posterior over candidates to the retriever's distribution;
with a table of scores instead of a reader that runs in every step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from medrag_lightning.batches import DistillExample
from medrag_lightning.interfaces import Feed, QueryTowers, Reader
from medrag_lightning.losses import Gold, Prior, Reduction
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.stages.base import Schedule, Stage, read_checkpoint
from medrag_lightning.stages.distill_collator import DistillBatch, DistillCollator
from medrag_lightning.stages.distill_metrics import oracle, pool_metrics
from medrag_lightning.stages.distill_objective import Objective
from medrag_lightning.stages.live_reading import LiveReading
from medrag_lightning.stages.totals import Totals

logger = logging.getLogger(__name__)
T_SCORES = (0.01, 0.05, 0.1, 1.0)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class RetrieverKl(Stage):
    """Distils a frozen reader's scores of candidates into the query side of a retriever (or both sides).

    For each trained side p_R = softmax(e(q).z_k / t_score) over the pool; the loss is KL(reader's posterior over it || p_R).

    Args:
        heads: what trains: `models.heads.QueryHeads` (passages stay), or `models.both_sides.BothSides` (passages train, too).
        optimizer: made over the trainable parameters only.
        schedule: the learning rate over the run.
        gold: how the reader scores a candidate; see `losses.Gold`.
        prior: what the teacher multiplies the reader's likelihood with: ``current`` retriever, ``frozen`` one, or ``none``.
        t_gold: divides the logarithm of the teacher's product before its softmax.
        t_score: divides retrieval scores before the softmax over candidates; ``auto`` or a list: the one of these (auto: .01,
            .05, .1, 1) under which the *frozen* retriever gives the validation questions' gold answers the highest likelihood.
        reduction: of the loss; see `losses.Reduction`.
        scale: factor of the loss (JOMED: 1000).
        length_normalised: compare answers by their mean log-probability a token, not by the sum.
        skip_agreeing: weight 0 for queries whose candidates all lead the reader to one answer.
        prior_by_t_score: whether t_score divides in the prior as in p_R (JOMED's code: not).
        candidates: learn from the so many candidates of a pool that the present head puts first, searched anew at every step
            (JOMED: 50, by a copy of the head that is renewed every 10 steps); null for all of them.
        top: candidates of each side in `fused_accuracy`.
        choose_share: after each validation, choose how much of the head asks: 0, 1/4, 1/2, 3/4 or all of query_mix, by
            `val/loss`, and keep that in the checkpoint. So heads are not worse on validation than the retriever they began as
            (share 0: nothing that holds there was learnt). Training goes on with all of query_mix. Query heads only.
        reader: reads candidates live, in every step, instead of from a table; null for the table. Frozen.
        reader_from: checkpoint of stage `reader_raft` or `reader_preference` for `reader`.
        reader_chunk: prompts that `reader` gets at a time; it changes no number.
        template: how `reader`'s prompts are built.
        seed: of dropout.
        init_from: checkpoint of an earlier run of this stage, or of `joint`; heads that do not train here are carried along
            (JOMED: the image head's run starts from the text head's).

    Validation logs, for these heads and with the prefix ``frozen_`` for the retriever before training, the numbers of
    `distill_metrics.pool_metrics`; `val/loss` is what the best weights are chosen by. `val/objective` is the training loss:
    with prior ``current`` its teacher moves, so it tells little.
    """

    stage_name: ClassVar[str] = "retriever_kl"
    reads: ClassVar[tuple[str, ...]] = ("joint",)
    loss_unit: ClassVar[str] = "train: distillation loss; validation: gold NLL (nats)"  # on plots

    def __init__(
        self,
        heads: QueryTowers,
        optimizer: OptimizerCallable,
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        gold: Gold = "class_posterior",
        prior: Prior = "current",
        t_gold: float = 1.0,
        t_score: float | Literal["auto"] | list[float] = "auto",
        reduction: Reduction = "batchmean",
        scale: float = 1.0,
        length_normalised: bool = False,
        skip_agreeing: bool = False,
        prior_by_t_score: bool = True,
        candidates: int | None = None,
        top: int = 2,
        choose_share: bool = True,
        reader: Reader | None = None,
        reader_from: str | None = None,
        reader_chunk: int = 32,
        template: PromptTemplate = PromptTemplate(),  # noqa: B008  (frozen)
        seed: int = 0,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        self.heads, self.init_from, self.candidates, self.top = heads, init_from, candidates, top
        terms = length_normalised, skip_agreeing, prior_by_t_score
        self.objective = Objective(gold, prior, t_gold, reduction, scale, *terms)
        self._check_settings(reader, reader_from, template)
        self.t_scores = _temperatures(t_score)
        self.t_score = self.t_scores[0] if len(self.t_scores) == 1 else math.nan
        self.shares = SHARES if choose_share and not heads.trains_passages else (1.0,)
        self.live = None if reader is None else LiveReading(reader, reader_from, template, reader_chunk)
        self._totals = Totals()
        self._prepared = False

    @property
    def feed(self) -> Feed:
        """Queries with pools of candidates."""
        return "distillation"

    def collator(self, training: bool) -> Callable[[Sequence[DistillExample]], DistillBatch]:
        """Examples to tensors; with a live reader also to its prompts."""
        encoder, live = self.heads.encoder, self.live
        return DistillCollator(
            encoder.image_inputs,
            encoder.text_inputs,
            self.heads.sides,
            self.heads.trains_passages,
            reading=None if live is None else live.collator(),
            count_tokens=None if live is None else live.count_tokens,
            reader_chunk=1 if live is None else live.chunk,
        )

    def configure_model(self) -> None:
        """Loads the encoder and makes the heads, once; starts from `init_from`."""
        if self._prepared:
            return
        self._prepared = True
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        texts = datamodule.training_texts()
        self.heads.prepare(texts)
        searching = getattr(datamodule.source, "encoder", None)
        if searching is not None and searching.fingerprint() != self.heads.encoder.fingerprint():
            raise ValueError("data.source searches with another encoder than the heads are built around; give both the same")
        if self.live is not None:
            self.live.prepare(texts)
        if self.init_from:
            self.load_weights_from(self.init_from)

    def load_weights_from(self, path: str) -> None:
        """Starts from another run's heads; those of sides that do not train here are carried along, frozen."""
        description, state = read_checkpoint(path, (self.stage_name, *self.reads), self.stage_name)
        weights = {name.removeprefix("heads."): value for name, value in state.items()}
        self.heads.start_from(description["heads"], weights, path)

    def describe(self) -> dict[str, Any]:
        """The heads, and the temperature of the scores."""
        return {"heads": self.heads.describe(), "t_score": None if math.isnan(self.t_score) else self.t_score}

    def accept(self, description: dict[str, Any]) -> None:
        """Refuses other heads; takes over the temperature that was chosen."""
        self.heads.restore(description["heads"])
        if math.isnan(self.t_score) and description["t_score"] is not None:
            self.t_score = description["t_score"]

    def training_step(self, batch: DistillBatch, batch_idx: int) -> Tensor:
        """Sum over the trained sides of the distillation loss, times `scale`."""
        batch = self._read(batch)
        losses = [self._loss(batch, side, score_BK, frozen_BK) for side, score_BK, frozen_BK in self._trained_scores(batch)]
        loss = torch.stack(losses).sum()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss * self.objective.scale

    def validation_step(self, batch: DistillBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Numbers of the heads and of the frozen retriever."""
        self._evaluate(batch, self.shares)

    def test_step(self, batch: DistillBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As validation, with the share that it chose."""
        self._evaluate(batch, [self.heads.share])

    def on_train_start(self) -> None:
        """Chooses t_score where it is to be chosen."""
        self._settle_t_score()

    def on_validation_start(self) -> None:
        """As for training, in the verb `validate`."""
        self._settle_t_score()

    def on_test_start(self) -> None:
        """As for training."""
        self._settle_t_score()

    def on_validation_epoch_end(self) -> None:
        """Logs means over the queries of all processes."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Logs means over the queries of all processes."""
        self._finish("test")

    def _check_settings(self, reader: Reader | None, reader_from: str | None, template: PromptTemplate) -> None:
        self.objective.check()
        if reader is None and (reader_from is not None or template != PromptTemplate()):
            raise ValueError("reader_from and template would be ignored: there is no live reader; leave them out")
        if self.candidates is not None and self.candidates < 2:
            raise ValueError(f"candidates must be at least 2, got {self.candidates}: one alone teaches nothing")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if self.heads.trains_passages and self.objective.prior == "frozen":
            raise ValueError("prior frozen needs passages that stay as they were; with BothSides set prior to current or none")

    def _loss(self, batch: DistillBatch, side: str, score_BK: Tensor, frozen_BK: Tensor) -> Tensor:
        pool = batch.pools[side]
        parts = [score_BK, frozen_BK, pool.logp_BKC, pool.valid_BK]
        if self.candidates is not None and self.training and self.candidates < score_BK.shape[1]:
            first_BT = score_BK.detach().masked_fill(~pool.valid_BK, -torch.inf).topk(self.candidates, dim=1).indices
            rows = torch.arange(len(first_BT), device=first_BT.device)[:, None]
            parts = [part[rows, first_BT] for part in parts]
        return self.objective.loss(parts[0], parts[1], parts[2], parts[3], batch.answers, self.t_score)

    def _trained_scores(self, batch: DistillBatch) -> list[tuple[str, Tensor, Tensor]]:
        frozen_BD = self.heads.frozen_vectors(batch.inputs)
        return [(side, *self._scores(batch, side, frozen_BD)) for side in self.heads.sides]

    def _scores(self, batch: DistillBatch, side: str, frozen_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the pool of a side by these heads and by the frozen retriever: e(q).z_k, (B, K) each."""
        pool = batch.pools[side]
        query_BD, passage_BKD = self.heads.query_vectors(side, batch.inputs, frozen_BD), pool.passage_BKD
        frozen_BK = torch.einsum("bd,bkd->bk", frozen_BD, passage_BKD)
        if self.heads.trains_passages and pool.passages:
            passage_BKD = passage_BKD.masked_scatter(
                pool.valid_BK[..., None], self.heads.passage_vectors(side, pool.passages).to(passage_BKD.dtype)
            )
        return torch.einsum("bd,bkd->bk", query_BD, passage_BKD), frozen_BK

    def _read(self, batch: DistillBatch) -> DistillBatch:
        return batch if self.live is None else self.live.read(batch)

    @torch.no_grad()
    def _evaluate(self, batch: DistillBatch, shares: Sequence[float]) -> None:
        """Adds this batch's numbers to the totals, those of the heads once for each share of them."""
        batch = self._read(batch)
        frozen_BD = self.heads.frozen_vectors(batch.inputs)
        scores = {side: self._scores(batch, side, frozen_BD) for side in batch.pools}
        arguments = batch.pools, batch.answers, self.heads.sides, self.t_score, self.top
        found: dict[str, Tensor] = {}
        for share in shares:  # a score is linear in the query vector, and that in the share
            shared = {s: old + share * (new - old) if s in self.heads.sides else new for s, (new, old) in scores.items()}
            found |= {f"{name}@{share}": value_B for name, value_B in pool_metrics(shared, *arguments).items()}
        if not self.heads.trains_passages:  # else the stored vectors change with every refresh
            before = pool_metrics({side: pair[1] for side, pair in scores.items()}, *arguments)
            found |= {f"frozen_{name}": value_B for name, value_B in before.items()}
        objective = torch.stack([self._loss(batch, side, *scores[side]) for side in self.heads.sides]).sum()
        found |= {"oracle": oracle(batch.pools, batch.answers), "objective": objective.expand(len(batch))}
        self._totals.add(found)

    def _finish(self, phase: str) -> None:
        means = self._totals.means(self.trainer.world_size)
        if phase == "val" and len(self.shares) > 1:
            self.heads.share = min(self.shares, key=lambda share: means.get(f"loss@{share}", math.nan))
        for name, value in means.items():
            plain, _, share = name.partition("@")
            if share in ("", str(self.heads.share)):
                self.log(f"{phase}/{plain}", value, prog_bar=plain in ("loss", "fused_accuracy"))
        self.log(f"{phase}/t_score", self.t_score)
        self.log(f"{phase}/head_share", self.heads.share)

    @torch.no_grad()
    def _settle_t_score(self) -> None:
        """Takes the temperature under which the frozen retriever's mixture gives gold answers the highest likelihood."""
        if not math.isnan(self.t_score):
            return
        totals = Totals()
        for loader in self.trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
            for loaded in loader:
                batch = self._read(loaded.to(self.device))
                frozen_BD = self.heads.frozen_vectors(batch.inputs)
                score = {side: torch.einsum("bd,bkd->bk", frozen_BD, pool.passage_BKD) for side, pool in batch.pools.items()}
                known = batch.pools, batch.answers, self.heads.sides
                totals.add({str(t): pool_metrics(score, *known, t, self.top)["loss"] for t in self.t_scores})
        nll = totals.means(self.trainer.world_size)
        self.t_score = float(min(nll, key=lambda t: nll[t]))
        told = ", ".join(f"{t}: {value:.4f}" for t, value in nll.items())
        logger.info("t_score %s chosen: the frozen retriever's gold NLL in nats on validation by value: %s", self.t_score, told)


def _temperatures(t_score: float | str | list[float]) -> list[float]:
    chosen = list(T_SCORES) if t_score == "auto" else t_score if isinstance(t_score, list) else [float(t_score)]
    if not chosen or min(chosen) <= 0:
        raise ValueError(f"t_score must be positive, a list of such, or auto; got {t_score!r}")
    return chosen
