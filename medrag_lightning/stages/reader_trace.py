"""Stage `reader_trace`: a reader learns to rearrange its evidence, to answer, to rethink, and to answer for good (MIRA, RTRA).

Supervised fine-tuning on the traces that a teacher wrote, in two phases by `learning_rates`: the projector alone, then with the
language tower (Section 3.3). All evidence stands in one prompt, numbered; the reader writes the four steps in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from medrag_lightning.batches import Example, ReaderBatch
from medrag_lightning.interfaces import Feed, PartedReader, Reader, ReaderPartName
from medrag_lightning.metrics import trace_numbers
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.batch_reader import ClosedReading, Reading, place_of, summary
from medrag_lightning.reading.trace_collator import TraceCollator
from medrag_lightning.reading.trace_writer import TraceWriter
from medrag_lightning.records import Prediction
from medrag_lightning.stages.answer_objective import global_answer_nll, mean_over_processes
from medrag_lightning.stages.base import Schedule, Stage, read_checkpoint
from medrag_lightning.stages.learning_rates import LearningRates, groups_of, train_parts
from medrag_lightning.stages.totals import Totals
from medrag_lightning.stages.trace_trial import Ablation, Trial, trial_of

LAYOUT = "all_in_one_prompt"
NUMBERED = PromptTemplate(evidence_prefix="[{number}] ")


class ReaderTrace(Stage):
    """Supervised fine-tuning of a reader on traces; the loss covers the text of the traces alone.

    Args:
        reader: the vision-language model.
        optimizer: made over the trainable parameters only.
        learning_rates: what trains, and how fast; null trains all that the reader lets train, at the optimizer's rate.
        template: how a prompt is built; it numbers the evidence. `instruction` tells an instruction-tuned reader what to write.
        schedule: the learning rate over the run.
        max_new_tokens: longest trace; one that is cut off lacks its last steps.
        closed_answers: score every choice exactly, given the trace before it, or take the words that were written.
        ablations: further rows of a test, of the same reader: `initial` answers before it rethinks, `no rearrange` is made to
            keep all evidence as it was found.
        seed: of dropout.
        init_from: checkpoint of an earlier run of this stage to start from, such as one that trained the projector alone;
            weights only.

    Logs ``loss`` (nats a token), what `metrics.trace_numbers` tells of the traces that it writes in validation and test, and
    accuracies as stage `reader_raft` does; those of the last answers stand under the evidence regime.
    """

    stage_name: ClassVar[str] = "reader_trace"

    def __init__(
        self,
        reader: Reader,
        optimizer: OptimizerCallable,
        learning_rates: LearningRates | None = None,
        template: PromptTemplate = NUMBERED,
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        max_new_tokens: int = 512,
        closed_answers: ClosedReading = "scored",
        ablations: tuple[Ablation, ...] = ("initial",),
        seed: int = 0,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        train_parts(reader, learning_rates)
        self.reader, self.learning_rates, self.template, self.init_from = reader, learning_rates, template, init_from
        self.writer = TraceWriter(reader, template, max_new_tokens)
        self.closed_answers, self.ablations = closed_answers, ablations
        self.predictions: list[Prediction] = []
        self._trials: list[Trial] = []
        self._totals = Totals()
        self._prepared = False

    @property
    def feed(self) -> Feed:
        """Examples with traces to learn, and examples to write traces for."""
        return "traces"

    def collator(self, training: bool) -> Callable[[Sequence[Example]], ReaderBatch]:
        """Examples to prompts, with the text of the trace to learn where there is one."""
        return TraceCollator(self.reader.processor, self.template, training)

    def configure_model(self) -> None:
        """Builds or loads the reader, once, and starts from `init_from`."""
        if self._prepared:
            return
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        self.reader.prepare(datamodule.training_texts())
        self._prepared = True
        if self.init_from:
            self.load_weights_from(self.init_from)
        self.shard_reader(self.reader)

    def parameter_groups(self, trainable: list[nn.Parameter]) -> Any:
        """A group a part of the reader, at its own rate."""
        return groups_of(self.reader, self.learning_rates, trainable)

    def training_step(self, batch: ReaderBatch, batch_idx: int) -> Tensor:
        """Mean NLL over the tokens of the traces in the global batch, in nats."""
        loss = global_answer_nll(self.reader, batch, self.trainer.world_size, self.device)
        whole = mean_over_processes(loss.detach(), self.trainer.world_size)
        self.log("train/loss", whole, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: ReaderBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The NLL of the traces to learn (first loader), and traces of its own (second loader)."""
        if dataloader_idx:
            self._write(batch, ())
            return
        for part in batch.parts:
            if part.rows is not None:
                nll_R = -self.reader.token_logp(part.prompts, part.rows).double().sum(1)
                self._totals.add({"nll": nll_R, "tokens": part.rows.mask_RL.sum(1).double()})

    def test_step(self, batch: ReaderBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Traces of its own, for the evidence regime of this loader, and the ablations."""
        self._write(batch, self.ablations)

    def predict_step(self, batch: ReaderBatch, batch_idx: int) -> None:
        """As test, for queries that may have no answers: predictions, no metrics."""
        self._write(batch, ())

    def on_validation_epoch_start(self) -> None:
        """Forgets the traces of the pass before."""
        self._trials = []

    def on_test_epoch_start(self) -> None:
        """Forgets the traces of the pass before."""
        self._trials = []

    def on_predict_epoch_start(self) -> None:
        """Forgets the traces of the pass before."""
        self._trials = []

    def on_validation_epoch_end(self) -> None:
        """Logs the loss, and what the traces came to."""
        means = self._totals.means(self.trainer.world_size)
        if means:
            self.log("val/loss", means["nll"] / means["tokens"], prog_bar=True)
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Logs what the traces came to, and the accuracies of all systems."""
        self._finish("test")

    def on_predict_epoch_end(self) -> None:
        """Gathers the predictions of all processes."""
        self._gather()

    def describe(self) -> dict[str, Any]:
        """The reader, with the parts of it that are trained, and its prompt."""
        return {
            "reader": self.reader.describe(),
            "prompt_order": self.template.order,
            "template": self.template.fingerprint(),
            "evidence": LAYOUT,
        }

    def accept(self, description: dict[str, Any]) -> None:
        """Restores the reader; refuses another prompt."""
        if description["template"] != self.template.fingerprint():
            raise ValueError(
                "the checkpoint's reader learnt its traces with another prompt template than this run's: give its template "
                "(model.init_args.template of its config.yaml)"
            )
        self.reader.restore(description["reader"])
        self._prepared = True

    def load_weights_from(self, path: str) -> None:
        """Starts from another run of this stage, which may have trained fewer parts of the reader, and never more."""
        description, weights = read_checkpoint(path, self.stage_name)
        self.accept(description)
        if lost := set(weights) - self.trainable_names():
            raise ValueError(
                f"{path} trained {len(lost)} weights that this run freezes, the first {min(lost)!r}: its own checkpoints would "
                "lack them. Train those parts, too (learning_rates), or put that checkpoint into the reader's backbone "
                "(models.trained_backbone.TrainedBackbone)"
            )
        trained = description["reader"].get("parts")
        self._check_names([*weights, *(self.trainable_names() - self._names_of(trained))] if trained else weights)
        self.load_state_dict(weights, strict=False)

    def _names_of(self, parts: Sequence[ReaderPartName]) -> set[str]:
        """Names of the weights of these parts that this run trains."""
        assert isinstance(self.reader, PartedReader), "its description tells parts"
        mine = {id(parameter) for part in parts for parameter in self.reader.trained_parts().get(part, ())}
        return {name for name, parameter in self.named_parameters() if id(parameter) in mine}

    def _write(self, batch: ReaderBatch, ablations: tuple[Ablation, ...]) -> None:
        self._trials.append(trial_of(self.writer, batch, self.closed_answers, ablations))

    def _gather(self) -> Trial:
        """The trials of all processes as one, in an order that does not depend on them; sets `predictions`."""
        gathered: list[list[Trial]] = [self._trials]
        if self.trainer.world_size > 1:
            gathered = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self._trials)
        self._trials = []
        trials = [trial for part in gathered for trial in part]
        readings: list[Reading] = [reading for trial in trials for reading in trial.readings]
        outcomes = sorted((one for trial in trials for one in trial.outcomes), key=lambda one: one.query_id)
        whole = Trial(sorted(readings, key=lambda reading: place_of(reading.prediction)), outcomes)
        self.predictions = [reading.prediction for reading in whole.readings]
        return whole

    def _finish(self, phase: str) -> None:
        trial = self._gather()
        told = trace_numbers(trial.outcomes)
        for name, value in summary(trial.readings).items():
            told[name if phase == "test" else name.removeprefix("retrieved/")] = value
        told.pop("loss", None)  # of the answers; that of the traces goes by the name in validation
        for name, value in told.items():
            self.log(f"{phase}/{name}", value, prog_bar=name.endswith("accuracy") and phase == "val", sync_dist=True)
