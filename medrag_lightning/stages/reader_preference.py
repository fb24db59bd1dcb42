"""Stage `reader_preference`: a reader that can answer learns what to rely on, from pairs of answers (direct preference tuning).

HeteroRAG's HKPT, MMed-RAG's RAG-PT and RULE's KB-PT differ in their pairs alone (`data.preference.rules`). The two sides of a
pair are read after their own input, which may differ in image, evidence and answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.distributed
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from medrag_lightning import losses
from medrag_lightning.batches import PreferenceBatch, PreferenceExample
from medrag_lightning.interfaces import Feed, TunableReader
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.stages.base import Schedule, Stage
from medrag_lightning.stages.preference_checks import BlindnessWatch, PairSamples, refuse_other_reference, refuse_same_sides
from medrag_lightning.stages.preference_collator import PreferenceCollator
from medrag_lightning.stages.preference_log import means_over_processes, pair_numbers
from medrag_lightning.stages.preference_objective import PreferenceLoss
from medrag_lightning.stages.totals import Totals

ReferenceSource = Literal["checked", "stored", "adapter_off"]
"""`stored`: the log-probabilities kept with the pairs. `checked`: the same, after some were compared with the live reader.
`adapter_off`: the live reader without its adapter, at every step. What is not stored always comes from the live reader."""
LAYOUT = "all_in_one_prompt"
TOLERANCE, TOLERANCE_HALF = 0.01, 0.5  # nats an answer


class ReaderPreference(Stage):
    """Tunes a reader's adapter on preference pairs. The reference is the reader without that adapter: what it was before.

    So the reader to tune stands in the backbone (`models.trained_backbone.TrainedBackbone` with its checkpoint), under a fresh
    adapter. For tuning in two stages (MMed-RAG), give the first stage's checkpoint to another `TrainedBackbone` around the
    first: then the reference of the second stage is the reader that the first one made, as it should be. `init_from` is for
    going on with the same reference: the adapter starts with that run's weights, and the reference stays what it was there.

    Args:
        reader: the vision-language model, with an adapter.
        optimizer: made over the trainable parameters only.
        template: how a prompt is built; that of the reader's own training and of the score table.
        schedule: the learning rate over the run.
        loss: the loss and its settings.
        reference: where the reference's log-probabilities come from.
        check_pairs: so many pairs of each kind are looked at before the first step: a kind whose sides are the same for the
            reader is refused, and (`checked`) so is a stored reference that is not the live one.
        check_tolerance: allowed difference between stored and live reference, in nats an answer; null for 0.01, and for 0.5 in
            half precision, whose rounding depends on what is computed together.
        blind_after: optimizer steps after which a reader that does not see the query's image is told.
        refuse_blind: whether that ends the run with an error; else it is a warning.
        seed: of dropout.
        init_from: checkpoint of an earlier run of this stage to go on from; weights only.

    Logs ``loss``, ``margin`` and ``accuracy``, and what `preference_log.pair_numbers` tells by kind of pairs, in training
    (means over the pairs of a step) and validation. The loss is a weighted mean over the pairs of a global batch; with
    `accumulate_grad_batches` every batch counts alike.
    """

    stage_name: ClassVar[str] = "reader_preference"
    loss_unit: ClassVar[str] = "preference loss"  # on plots

    def __init__(
        self,
        reader: TunableReader,
        optimizer: OptimizerCallable,
        template: PromptTemplate = PromptTemplate(),  # noqa: B008  (frozen)
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        loss: PreferenceLoss = PreferenceLoss(),  # noqa: B008  (frozen)
        reference: ReferenceSource = "checked",
        check_pairs: int = 8,
        check_tolerance: float | None = None,
        blind_after: int = 20,
        refuse_blind: bool = False,
        seed: int = 0,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        if check_pairs < 1 or blind_after < 1 or (check_tolerance or 0) < 0:
            got = f"{check_pairs}, {blind_after} and {check_tolerance}"
            raise ValueError(f"check_pairs and blind_after must be at least 1 and check_tolerance not negative, got {got}")
        self.reader, self.template, self.loss, self.reference = reader, template, loss, reference
        self.check_pairs, self.check_tolerance = check_pairs, check_tolerance
        self.blind_after, self.refuse_blind, self.init_from = blind_after, refuse_blind, init_from
        self._blindness: BlindnessWatch | None = BlindnessWatch()
        self._totals = Totals()
        self._prepared = False

    @property
    def feed(self) -> Feed:
        """Preference pairs."""
        return "preference"

    def collator(self, training: bool) -> Callable[[Sequence[PreferenceExample]], PreferenceBatch]:
        """Pairs to distinct prompts and answer rows."""
        return PreferenceCollator(self.reader.processor, self.template)

    def configure_model(self) -> None:
        """Builds or loads the reader, once, and goes on from `init_from`; ValueError for a reader without a reference."""
        if self._prepared:
            return
        self.reader.prepare(self.trainer.datamodule.training_texts())  # type: ignore[attr-defined]
        self._prepared = True
        try:
            with self.reader.reference():
                pass
        except ValueError as fault:
            raise ValueError(
                f"stage {self.stage_name} needs the reader before tuning as its reference: {fault} "
                "(--model.init_args.reader.init_args.adapter), over a backbone that holds the reader to tune "
                "(models.trained_backbone.TrainedBackbone)"
            ) from fault
        if self.init_from:
            self.load_weights_from(self.init_from)
            rank_zero_info(
                f"going on from {self.init_from}: the reference stays the reader without its adapter, which is not what that "
                "run made of it. To tune that one further, give the checkpoint to the backbone (TrainedBackbone)"
            )
        self.shard_reader(self.reader)

    def on_train_start(self) -> None:
        """Looks at a few pairs of each kind: are their sides different for the reader, is the stored reference its own?"""
        items = self.trainer.train_dataloader.dataset  # type: ignore[union-attr]
        if not isinstance(items, PairSamples):
            raise ValueError(f"stage {self.stage_name} is served preference pairs, got {type(items).__name__}")
        batch = self.collator(training=False)(items.of_each_kind(self.check_pairs)).to(self.device)
        refuse_same_sides(batch)
        if self.reference == "checked" and not bool(batch.reference_B2.isnan().all()):
            with self.trainer.precision_plugin.forward_context():  # the precision of training, which is not on in this hook
                live_B2 = self._live_reference(batch)
            worst = refuse_other_reference(batch, live_B2, self._tolerance())
            rank_zero_info(f"the stored reference of {len(batch)} pairs is the live one within {worst:.1e} nats")

    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> Tensor:
        """The loss over the pairs of the global batch: as one process with all of them would have it."""
        tokens_B2 = _tokens(batch)
        weight, chosen_tokens, lacking = self._summed(
            batch.weight_B.sum(), (batch.weight_B * tokens_B2[:, 0]).sum(), batch.reference_B2.isnan().sum()
        )
        reference_B2 = self._reference(batch, lacking > 0)
        policy_B2 = self._policy(batch)
        loss_B = self.loss.values(policy_B2, reference_B2, tokens_B2)
        loss = losses.weighted_mean(loss_B, batch.weight_B, weight / self.trainer.world_size)
        if self.loss.nll_weight:
            part = chosen_tokens / self.trainer.world_size
            loss = loss + self.loss.nll_weight * losses.chosen_nll(policy_B2[:, 0], tokens_B2[:, 0], batch.weight_B, part)
        self._log_step(batch, loss.detach(), policy_B2, reference_B2)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: PreferenceBatch, batch_idx: int) -> None:
        """Tells, once, of a reader that does not see the image; ValueError where that is to end the run."""
        if self._blindness is None or self.trainer.global_step < self.blind_after:
            return
        verdict = self._blindness.verdict(self.trainer.world_size, self.device)
        self._blindness = None
        if verdict is not None and self.refuse_blind:
            raise ValueError(verdict)
        if verdict is not None:
            rank_zero_warn(verdict)

    def validation_step(self, batch: PreferenceBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same numbers, by pair."""
        tokens_B2, policy_B2 = _tokens(batch), self._policy(batch)
        reference_B2 = self._reference(batch, bool(batch.reference_B2.isnan().any()))
        weight_B = batch.weight_B
        self._totals.add(
            {
                **pair_numbers(batch.pairs, policy_B2, reference_B2),
                "_loss": weight_B * self.loss.values(policy_B2, reference_B2, tokens_B2),
                "_weight": weight_B,
                "_nll": -weight_B * policy_B2[:, 0],
                "_tokens": weight_B * tokens_B2[:, 0],
            }
        )

    def on_validation_epoch_end(self) -> None:
        """Logs means over the pairs of all processes."""
        means = self._totals.means(self.trainer.world_size)
        if not means:
            return
        loss, nll = means.pop("_loss") / means.pop("_weight"), means.pop("_nll") / means.pop("_tokens")
        means["loss"], means["chosen_nll"] = loss + self.loss.nll_weight * nll, nll
        for name, value in means.items():
            self.log(f"val/{name}", value, prog_bar=name in ("loss", "accuracy"))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing is tested here; the feed says what to do instead."""
        raise ValueError("test the tuned reader with stage reader_raft")

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing is predicted here; the feed says what to do instead."""
        raise ValueError("predict with the tuned reader and stage reader_raft")

    def describe(self) -> dict[str, Any]:
        """What stage `reader_raft` keeps of its reader, so that it can read with this one."""
        return {
            "reader": self.reader.describe(),
            "prompt_order": self.template.order,
            "template": self.template.fingerprint(),
            "evidence": LAYOUT,
        }

    def accept(self, description: dict[str, Any]) -> None:
        """Restores the reader; refuses another prompt order."""
        if description["prompt_order"] != self.template.order:
            raise ValueError(
                f"the reader was tuned with prompt order {description['prompt_order']!r}, this run uses "
                f"{self.template.order!r}. Set --model.init_args.template.order {description['prompt_order']}."
            )
        self.reader.restore(description["reader"])
        self._prepared = True

    def _policy(self, batch: PreferenceBatch) -> Tensor:
        """(B, 2) log-probability of the chosen and the rejected answer, in nats, summed over tokens."""
        logp_R = self.reader.token_logp(batch.prompts, batch.rows).sum(1)
        return torch.stack([logp_R[batch.chosen_B], logp_R[batch.rejected_B]], 1)

    def _tolerance(self) -> float:
        if self.check_tolerance is not None:
            return self.check_tolerance
        half = any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in self.parameters())
        return TOLERANCE_HALF if half or "16" in str(self.trainer.precision) else TOLERANCE

    def _live_reference(self, batch: PreferenceBatch) -> Tensor:
        with self.reader.reference():
            return self._policy(batch)

    def _reference(self, batch: PreferenceBatch, lacking: bool) -> Tensor:
        """(B, 2) as `_policy`, of the reference. `lacking`: whether any process has a pair without a stored one."""
        if self.reference == "adapter_off":
            return self._live_reference(batch)
        if not lacking:
            return batch.reference_B2
        return torch.where(batch.reference_B2.isnan(), self._live_reference(batch), batch.reference_B2)

    def _summed(self, *values: Tensor) -> list[float]:
        """Sums over all processes. DDP averages gradients: a process divides by the sum over the number of processes."""
        total = torch.stack([value.double() for value in values])
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        return total.tolist()

    def _log_step(self, batch: PreferenceBatch, loss: Tensor, policy_B2: Tensor, reference_B2: Tensor) -> None:
        if self._blindness is not None:
            self._blindness.observe(batch.pairs, policy_B2)
        (summed,) = self._summed(loss)
        means = means_over_processes(pair_numbers(batch.pairs, policy_B2, reference_B2), self.trainer.world_size)
        self.log("train/loss", summed / self.trainer.world_size, prog_bar=True, batch_size=len(batch))
        for name, value in means.items():
            self.log(f"train/{name}", value, batch_size=len(batch))


def _tokens(batch: PreferenceBatch) -> Tensor:
    """(B, 2) tokens of both answers."""
    count_R = batch.rows.mask_RL.sum(1)
    return torch.stack([count_R[batch.chosen_B], count_R[batch.rejected_B]], 1)
