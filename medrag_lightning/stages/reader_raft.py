"""Stage `reader_raft`: the reader learns to answer from retrieved evidence (JOMED stage 1; RAFT's mixture of evidence).

One candidate a prompt and K samples a query (JOMED, Section 3), or all candidates in one prompt (RAFT, arXiv 2403.10131).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from medrag_lightning.batches import Example, ReaderBatch, Steering
from medrag_lightning.interfaces import CandidateWeigher, Feed, Reader
from medrag_lightning.metrics import layers_of
from medrag_lightning.mixture import Fusion, TunedFusion, tune_fusion
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.batch_reader import BatchReader, ClosedReading, Reading, place_of, summary
from medrag_lightning.reading.raft_collator import EvidenceLayout, RaftCollator
from medrag_lightning.reading.steered_systems import check_names, numbered, steered_systems
from medrag_lightning.records import Prediction
from medrag_lightning.stages.answer_objective import global_answer_nll, mean_over_processes
from medrag_lightning.stages.base import Schedule, Stage
from medrag_lightning.stages.learning_rates import LearningRates, groups_of, train_parts


class ReaderRaft(Stage):
    """Supervised fine-tuning of a reader with evidence in its prompt; the loss covers answer tokens alone.

    Args:
        reader: the vision-language model.
        template: how a prompt is built; its order is kept in the checkpoint, and another order is refused.
        optimizer: made over the trainable parameters only.
        schedule: the learning rate over the run.
        evidence: one candidate a prompt, or all in one.
        fusion: how candidates that are read one a prompt become one answer; the verb `validate` says what settings would suit.
        max_new_tokens: longest free-text answer.
        closed_answers: score every choice exactly, or generate and parse strictly (with an `invalid` bucket).
        seed: of dropout.
        init_from: checkpoint of an earlier run of this stage, `reader_preference` or `joint`, to start from; weights only.
        allow_order_change: lets a checkpoint trained with one prompt order be used with the other.
        steering: how attention is steered, by system: ``retrieved`` (or ``""``) for `data.source`, under every regime, or a
            name of `data.rivals`. Prompts without evidence are never steered. That of ``retrieved`` holds in `fit`, too, so
            that policy `learned` can learn; leave it out where a reader is to be steered in the test alone (MR-RAG).
        learning_rates: which parts of the reader are trained, each at its own rate (MIRA's first phase: the projector alone, on
            captions); null trains all that the reader lets train, at the optimizer's rate.
        critical_layers: the layers that ``layers: critical`` stands for, or the file of stage `critical_layers` that tells
            them; it must have been made with the very reader that is steered.
        candidate_reranker: weighs candidates by what they say (`models.candidate_reranker.TrainedCandidateReranker`) in place
            of `fusion`; for evidence ``one_per_prompt``. It has no part in training, nor in what a checkpoint is.
    """

    stage_name: ClassVar[str] = "reader_raft"
    reads: ClassVar[tuple[str, ...]] = ("reader_preference", "joint")

    def __init__(
        self,
        reader: Reader,
        optimizer: OptimizerCallable,
        template: PromptTemplate = PromptTemplate(),  # noqa: B008  (frozen)
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        evidence: EvidenceLayout = "one_per_prompt",
        fusion: Fusion = Fusion(),  # noqa: B008  (frozen)
        max_new_tokens: int = 16,
        closed_answers: ClosedReading = "scored",
        seed: int = 0,
        init_from: str | None = None,
        allow_order_change: bool = False,
        steering: dict[str, Steering] | None = None,
        critical_layers: list[int] | str | None = None,
        learning_rates: LearningRates | None = None,
        candidate_reranker: CandidateWeigher | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        train_parts(reader, learning_rates)
        self.learning_rates = learning_rates
        if candidate_reranker is not None and evidence != "one_per_prompt":
            raise ValueError("candidate_reranker would be ignored: all evidence stands in one prompt; leave it out")
        if fusion != Fusion() and evidence != "one_per_prompt":
            raise ValueError(f"fusion={fusion} would be ignored: all evidence stands in one prompt; leave it out")
        self.steering = steered_systems(steering, critical_layers, evidence == "one_per_prompt", template.order)
        self.critical_layers = critical_layers
        self.mark_roles = False  # a callback that looks at attention sets it before evaluation batches are made
        self.reader, self.template, self.evidence, self.fusion = reader, template, evidence, fusion
        self.batch_reader = BatchReader(reader, max_new_tokens, fusion, closed_answers, candidate_reranker)
        self.init_from, self.allow_order_change = init_from, allow_order_change
        self.predictions: list[Prediction] = []
        self.tuned_fusion: TunedFusion | None = None
        self._readings: list[Reading] = []
        self._prepared = False

    @property
    def feed(self) -> Feed:
        """Examples to read."""
        return "reading"

    @property
    def one_candidate_per_prompt(self) -> bool:
        """Whether a training prompt shows one candidate; the data module asks."""
        return self.evidence == "one_per_prompt"

    def collator(self, training: bool) -> Callable[[Sequence[Example]], ReaderBatch]:
        """Examples to encoded parts, with the gold answer (training) or every answer to be scored (evaluation)."""
        one, roles = self.one_candidate_per_prompt, self.mark_roles and not training
        return RaftCollator(self.reader.processor, self.template, one, training, roles, self.numbered_steering())

    def numbered_steering(self) -> dict[str, Steering]:
        """The steering of each system by `Example.system`, layers by number; the reader's weights must be there."""
        if isinstance(self.critical_layers, str):
            self.critical_layers = layers_of(self.critical_layers, self.reader.fingerprint())
        return numbered(self.steering, self.critical_layers or [])

    def setup(self, stage: str) -> None:
        """Refuses steering of a system that is not there."""
        if self.steering:
            check_names(self.steering, getattr(self.trainer.datamodule, "rivals", ()))  # type: ignore[attr-defined]

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
        """A group a part of the reader where parts have rates of their own."""
        return groups_of(self.reader, self.learning_rates, trainable)

    def training_step(self, batch: ReaderBatch, batch_idx: int) -> Tensor:
        """Mean answer NLL over the answer tokens of the global batch, in nats."""
        loss = global_answer_nll(self.reader, batch, self.trainer.world_size, self.device)
        whole = mean_over_processes(loss.detach(), self.trainer.world_size)
        self.log("train/loss", whole, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: ReaderBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores closed answers, generates open ones."""
        self._readings += self._read(batch)

    def test_step(self, batch: ReaderBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As validation, for the evidence regime of this loader."""
        self._readings += self._read(batch)

    def predict_step(self, batch: ReaderBatch, batch_idx: int) -> None:
        """As test, for queries that may have no answers: predictions, no metrics."""
        self._readings += self._read(batch)

    def on_predict_epoch_start(self) -> None:
        """Forgets the readings of the pass before."""
        self._readings = []

    def on_predict_epoch_end(self) -> None:
        """Gathers the predictions of all processes."""
        self._gather()

    def on_validation_epoch_start(self) -> None:
        """Forgets the readings of the pass before."""
        self._readings = []

    def on_test_epoch_start(self) -> None:
        """Forgets the readings of the pass before."""
        self._readings = []

    def on_validation_epoch_end(self) -> None:
        """Gathers the predictions of all processes and logs their metrics; `validate` tunes the fusion on them."""
        self._finish("val")
        if self.trainer.state.fn == "validate" and self.batch_reader.weigher is None:
            self.tuned_fusion = tune_fusion([p for p in self.predictions if p.is_ordinary], self.fusion)

    def on_test_epoch_end(self) -> None:
        """Gathers the predictions of all processes and logs their metrics, one set a regime."""
        self._finish("test")

    def describe(self) -> dict[str, Any]:
        """The reader, the prompt order and the layout."""
        return {
            "reader": self.reader.describe(),
            "prompt_order": self.template.order,
            "template": self.template.fingerprint(),
            "evidence": self.evidence,
        }

    def accept(self, description: dict[str, Any]) -> None:
        """Restores the reader; refuses another prompt order or layout."""
        trained, mine = description["prompt_order"], self.template.order
        if trained != mine and not self.allow_order_change:
            raise ValueError(
                f"the reader was trained with prompt order {trained!r}, this run uses {mine!r}. Set "
                f"--model.init_args.template.order {trained}, or --model.init_args.allow_order_change true."
            )
        if description["evidence"] != self.evidence:
            raise ValueError(
                f"the reader was trained with evidence {description['evidence']!r}, this run uses {self.evidence!r}. "
                f"Set --model.init_args.evidence {description['evidence']}."
            )
        self.reader.restore(description["reader"])
        self._prepared = True

    def _read(self, batch: ReaderBatch) -> list[Reading]:
        return self.batch_reader.read(batch)

    def _gather(self) -> list[Reading]:
        """The readings of all processes, each query once a regime, rival and noise; sets `predictions`."""
        gathered: list[list[Reading]] = [self._readings]
        if self.trainer.world_size > 1:
            gathered = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self._readings)
        readings = sorted((r for part in gathered for r in part), key=lambda r: place_of(r.prediction))
        self._readings = []
        self.predictions = [reading.prediction for reading in readings]
        return readings

    def _finish(self, phase: str) -> None:
        for name, value in summary(self._gather()).items():
            metric = f"{phase}/{name}" if phase == "test" else f"{phase}/{name.removeprefix('retrieved/')}"
            self.log(metric, value, prog_bar=phase == "val" and name.endswith(("loss", "accuracy")), sync_dist=True)
