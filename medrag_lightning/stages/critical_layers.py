"""Stage `critical_layers`: in which layers the evidence reaches the question, by attention knockout; `predict` only (MR-RAG).

MR-RAG steers attention in its critical layers, those in which blocked attention costs the right answer most, and picks them
by hand. Here they are measured: `metrics.critical_layers` has the procedure and the rule, `callbacks.critical_layers` keeps
what was found, and `layers: critical` of a steering uses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning as L
import torch

from medrag_lightning.batches import Direction, Example, ReaderBatch
from medrag_lightning.interfaces import AttentionReader, Feed, Reader
from medrag_lightning.metrics import (
    Bootstrap,
    CriticalLayers,
    Knockout,
    LayerRule,
    Unit,
    cluster_of,
    default_window,
    item_correct,
    layer_curve,
    windows,
)
from medrag_lightning.mixture import Fusion
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.batch_reader import BatchReader
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.records import Prediction
from medrag_lightning.stages.frozen_reader import load_reader
from medrag_lightning.stages.knockout import measure


class CalibrateLayers(L.LightningModule):
    """Finds the critical layers of a frozen reader. It trains nothing; other verbs are refused.

    The questions are those of the validation split, never of the test. Of those that the reader answers rightly with all its
    evidence in one prompt, each is read again for every direction and window: four times as often as the reader has layers.

    Args:
        reader: the vision-language model; it must obey steering (`interfaces.AttentionReader`).
        template: how a prompt is built; evidence must stand before the question, or it cannot be read into it.
        window: layers that are blocked at a time, an odd number; null for a quarter of the reader's layers, 9 at most
            (9 of 32 as published, 1 of 3).
        directions: from which tokens to which attention is blocked.
        max_samples: questions measured at most, shared out over the processes; null for all that are answered rightly.
        split: whose questions. `train` only where there is no validation split: a reader knows those by heart.
        keep_share: a layer is critical if its window loses at least this share of what the worst window loses.
        least_drop: a curve that nowhere drops by so much (relative) is flat, and no layer is chosen.
        resamples: of the intervals and of the test for chance.
        confidence: of both.
        max_new_tokens: longest answer to an open question, which is right if it equals the known answer.
        init_from: checkpoint of stage `reader_raft` or `reader_preference`; null takes the reader as it is.
        allow_prompt_change: accepts a checkpoint that was trained with another template.
        seed: of the resamples.
    """

    stage_name = "critical_layers"

    def __init__(
        self,
        reader: Reader,
        template: PromptTemplate = PromptTemplate(),  # noqa: B008  (frozen)
        window: int | None = None,
        directions: list[Direction] = [  # noqa: B006  (never changed)
            "evidence_to_question",
            "image_to_question",
            "evidence_to_last",
            "question_to_last",
        ],
        max_samples: int | None = 200,
        split: Literal["val", "train"] = "val",
        keep_share: float = 0.5,
        least_drop: float = 0.01,
        resamples: int = 1000,
        confidence: float = 0.95,
        max_new_tokens: int = 16,
        init_from: str | None = None,
        allow_prompt_change: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if template.order == "query_first":
            raise ValueError(f"template.order {template.order!r}: a question reads only what stands before it; evidence_first")
        if not directions or len(set(directions)) != len(directions):
            raise ValueError(f"directions must name at least one direction, each once, got {directions}")
        if max_new_tokens < 1 or (max_samples is not None and max_samples < 1):
            raise ValueError(f"max_samples and max_new_tokens must be at least 1, got {max_samples} and {max_new_tokens}")
        self.reader, self.template, self.window, self.directions = reader, template, window, list(directions)
        self.max_samples, self.split = max_samples, split
        self.rule = LayerRule(keep_share, least_drop, Bootstrap(resamples, confidence, seed))
        self.batch_reader = BatchReader(reader, max_new_tokens, Fusion(), "scored")
        self.init_from, self.allow_prompt_change = init_from, allow_prompt_change
        self.predictions: list[Prediction] = []
        self.found: CriticalLayers | None = None
        self.layer_windows: list[list[int]] = []
        self._samples: list[Knockout] = []
        self._prepared = False

    @property
    def feed(self) -> Feed:
        """Examples to read."""
        return "reading"

    @property
    def predicts_split(self) -> Literal["train", "val"]:
        """The split that `predict` goes through; the data module asks."""
        return self.split

    def collator(self, training: bool) -> Callable[[Sequence[Example]], ReaderBatch]:
        """Examples to encoded prompts that tell which token is what, with every answer to be scored."""
        return RaftCollator(self.reader.processor, self.template, one_candidate_per_prompt=False, training=False, roles=True)

    def setup(self, stage: str) -> None:
        """Refuses other verbs."""
        if stage != "predict":
            raise ValueError(f"the stage critical_layers only predicts; `{stage}` was asked of it")

    def configure_model(self) -> None:
        """Builds or loads the reader, once, with the weights of `init_from`; lays out the windows."""
        if self._prepared:
            return
        self._prepared = True
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        questions = len(datamodule.split_queries(self.split))
        if questions < self.trainer.world_size:  # Lightning would pass over an empty loader without a word
            raise ValueError(
                f"split {self.split!r} has {questions} questions for {self.trainer.world_size} processes, and critical layers "
                "need some that are not the test's; there is --model.init_args.split train, which the reader knows by heart"
            )
        if self.init_from is None:
            self.reader.prepare(datamodule.training_texts())
        else:
            told = load_reader(self, self.reader, self.init_from, None if self.allow_prompt_change else self.template)
            if told["evidence"] != "all_in_one_prompt":
                raise ValueError(
                    f"{self.init_from}: this reader learnt with evidence {told['evidence']!r}, and attention is steered among "
                    "all evidence in one prompt: train it with --model.init_args.evidence all_in_one_prompt"
                )
        if not isinstance(self.reader, AttentionReader):
            raise ValueError(f"attention of a {type(self.reader).__name__} cannot be blocked: it has no layer_count")
        count = self.reader.layer_count
        self.layer_windows = windows(count, default_window(count) if self.window is None else self.window)

    def on_predict_epoch_start(self) -> None:
        """Forgets what was measured before."""
        self._samples, self.predictions, self.found = [], [], None

    def predict_step(self, batch: ReaderBatch, batch_idx: int, dataloader_idx: int = 0) -> list[Knockout]:
        """Answers the batch; measures those of its questions that were answered rightly, as long as samples are wanted."""
        before = len(self._samples)
        left = None if self.max_samples is None else self._share(self.max_samples) - before
        if left is not None and left <= 0:
            return []
        said = [reading.prediction for reading in self.batch_reader.read(batch)]
        self.predictions += said
        pairs = enumerate(zip(said, batch.examples, strict=True))
        right = [place for place, (answer, example) in pairs if example.candidates and item_correct(answer)]
        cluster = cluster_of([example.query for example in batch.examples], Unit.PATIENT)
        for part in batch.parts:
            losses = measure(self.reader, part, batch.examples, right[:left], self.directions, self.layer_windows)
            for place, of in losses.items():
                name = batch.examples[place].query.id
                self._samples.append(Knockout(name, cluster[name], of.first_token, of.choice))
        return self._samples[before:]

    def on_predict_epoch_end(self) -> None:
        """Gathers what all processes measured, draws the curves and chooses layers."""
        gathered = [(self.predictions, self._samples)]
        if self.trainer.world_size > 1:
            gathered = [([], [])] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, (self.predictions, self._samples))
        self.predictions = sorted((p for said, _ in gathered for p in said), key=lambda p: p.query_id)
        samples = sorted((s for _, some in gathered for s in some), key=lambda s: s.query_id)[: self.max_samples]
        if not samples:
            raise ValueError(self._nothing())
        curves = [layer_curve(direction, samples, self.rule) for direction in self.directions]
        patients = len({sample.cluster for sample in samples})
        asked = len(self.predictions)
        self.found = CriticalLayers(self._identity(), self.layer_windows, curves, len(samples), patients, asked, self.rule)

    def _share(self, samples: int) -> int:
        """How many of the samples this process measures at most."""
        return math.ceil(samples / self.trainer.world_size)

    def _identity(self) -> dict[str, Any]:
        return {
            "reader": self.reader.fingerprint(),
            "template": self.template.fingerprint(),
            "layer_count": len(self.layer_windows),
            "window": max(map(len, self.layer_windows)),
            "split": self.split,
            "precision": str(self.trainer.precision),
        }

    def _nothing(self) -> str:
        return (
            f"the reader answers none of {len(self.predictions)} questions of split {self.split!r} rightly with evidence in "
            "its prompt, so there is no right answer to lose; train it further (init_from), or check its template and the data"
        )
