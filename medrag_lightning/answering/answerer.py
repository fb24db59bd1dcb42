"""The answerer: retrieve, assemble, read, fuse, cite, for one question. A research tool, not a medical device: its answers are
for studying retrieval and reading, and no one may be diagnosed or treated by them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from medrag_lightning.answering.answer import Answer
from medrag_lightning.answering.calibrated import calibrated_answer, check_calibration
from medrag_lightning.answering.dialogue import Dialogues, check_asked, checked_history
from medrag_lightning.answering.traced import check_tracer, read_traced, with_trace
from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import Example, ReaderBatch, Steering, pixel_sha256
from medrag_lightning.calibration import Calibration
from medrag_lightning.data.examples import example_of
from medrag_lightning.data.images import ImageStore
from medrag_lightning.interfaces import CandidateSource, CandidateWeigher, OpenImage, Reader, Rewriter
from medrag_lightning.mixture import Fusion
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.batch_reader import BatchReader, ClosedReading
from medrag_lightning.reading.raft_collator import EvidenceLayout, RaftCollator
from medrag_lightning.reading.search_writer import SearchWriter
from medrag_lightning.reading.steered_systems import steered_systems
from medrag_lightning.reading.trace_writer import TraceWriter
from medrag_lightning.records import (
    AnswerType,
    Candidate,
    Document,
    ImageRef,
    Query,
    Regime,
    Split,
    WrittenSearches,
    shares_identity,
)


class Answerer:
    """Answers single questions exactly as the verb `test` would: the same prompts byte for byte, the same numbers.

    Everything below the surface is what `test` uses; only the batch is smaller, so numbers agree to rounding, and exactly
    with those of a test whose eval_batch_size is 1.

    Args:
        source: finds candidates; its evidence store must be there (`prepare`).
        reader: reads; its weights must be there. It is put to evaluation, on the device where its weights are.
        documents: the evidence corpus, in the order of the store.
        open_image: opens the images of the corpus.
        folder: of the evidence store.
        template, fusion, evidence, max_new_tokens, closed_answers: as of the stage `reader_raft`.
        steering: that of the run's own source, if it is steered; needs evidence ``all_in_one_prompt``.
        low_margin: a closed answer less than this much likelier than the next one is given with a warning.
        abstain_below: a closed answer of a smaller probability is abstained from; None never abstains for that. Choose it on
            validation questions (the verb `report` suggests one), never on those of the test.
        generator: writes what to ask each corpus before the source is asked (stage `query_generator`), as it did for the
            questions of a test with `data.searches.table`; None asks every corpus with the question.
        calibration: how many candidates are read, when none are searched for, and when it abstains (verb `calibrate`), in
            place of `abstain_below`. It must have been made with this source, reader, prompt, corpus and evidence.
        rewriter: makes a question with a history stand alone before anything is searched (`data.searches.rewriter`); None
            searches with the question as it is. The reader gets the question itself.
        tracer: writes a trace for each question, with this reader (stage `reader_trace`): it keeps some of the evidence,
            answers, rethinks, and answers for good. None answers at once.
        candidate_reranker: weighs candidates that are read one a prompt, in place of `fusion`, as of the stage `reader_raft`.
    """

    def __init__(
        self,
        source: CandidateSource,
        reader: Reader,
        documents: Sequence[Document],
        open_image: OpenImage,
        folder: Path,
        template: PromptTemplate = PromptTemplate(),  # noqa: B008  (frozen)
        fusion: Fusion = Fusion(),  # noqa: B008  (frozen)
        evidence: EvidenceLayout = "one_per_prompt",
        max_new_tokens: int = 16,
        closed_answers: ClosedReading = "scored",
        low_margin: float = 0.1,
        steering: Steering | None = None,
        abstain_below: float | None = None,
        generator: SearchWriter | None = None,
        calibration: Calibration | None = None,
        rewriter: Rewriter | None = None,
        tracer: TraceWriter | None = None,
        candidate_reranker: CandidateWeigher | None = None,
    ) -> None:
        if not 0 <= low_margin <= 1:
            raise ValueError(f"low_margin must be in [0, 1], got {low_margin}")
        self._calibration: Calibration | None = None
        self.abstain_below = abstain_below
        self.source, self.reader, self.open_image, self.low_margin = source, reader, open_image, low_margin
        self.batch_reader = BatchReader(reader, max_new_tokens, fusion, closed_answers, candidate_reranker)
        one_per_prompt = evidence == "one_per_prompt"
        if candidate_reranker is not None and not one_per_prompt:
            raise ValueError("candidate_reranker would be ignored: all evidence stands in one prompt; leave it out")
        steered = steered_systems(None if steering is None else {"": steering}, None, one_per_prompt, template.order)
        self.collate = RaftCollator(reader.processor, template, one_per_prompt, training=False, steering=steered)
        self._asked: dict[ImageRef, Image] = {}
        self.generator, self.tracer, self.dialogues = generator, tracer, Dialogues(rewriter)
        if tracer is not None:
            check_tracer(tracer, reader, {"evidence": one_per_prompt and evidence, "steering": steering})
        _evaluate(*[reader] if generator is None else [reader, generator.reader])
        source.load(documents, self._open, folder)
        self.template, self.evidence, self.fusion, self.documents = template, evidence, fusion, documents
        self.calibration = calibration

    @property
    def calibration(self) -> Calibration | None:
        """What says how many candidates are read, and when it abstains; None for all, and `abstain_below`.

        Raises:
            ValueError: when it is set to one of another system, or beside `abstain_below`.
        """
        return self._calibration

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        """Sets it."""
        if calibration is not None:
            check_calibration(self, calibration)
        self._calibration = calibration

    @property
    def abstain_below(self) -> float | None:
        """The probability under which a closed answer is abstained from; ValueError when it is set to no probability, or beside
        a calibration.
        """
        return self._abstain_below

    @abstain_below.setter
    def abstain_below(self, probability: float | None) -> None:
        """Sets it."""
        if probability is not None and not 0 <= probability <= 1:
            raise ValueError(f"abstain_below must be a probability in [0, 1] or None, got {probability}")
        if probability is not None and self._calibration is not None:
            raise ValueError("a calibration says itself when to abstain: leave abstain_below out, or set calibration to None")
        self._abstain_below = probability

    @classmethod
    def from_run(
        cls,
        config: str | Path,
        checkpoint: str | Path,
        fusion: Fusion | None = None,
        generator: tuple[str | Path, str | Path] | None = None,
        without_generator: bool = False,
    ) -> Answerer:
        """The answerer of a run of stage `reader_raft`, from its ``config.yaml`` and a checkpoint; see `run_answerer`."""
        from medrag_lightning.answering.run import run_answerer

        return run_answerer(config, checkpoint, fusion, generator, without_generator)

    def ask(
        self,
        question: str,
        image: str | Path | Image | None = None,
        choices: Sequence[str] = (),
        patient_id: str | None = None,
        study_id: str | None = None,
        modality: str | None = None,
        history: Sequence[Sequence[str]] = (),
    ) -> Answer:
        """Answers a question about an image.

        Args:
            question: the question.
            image: a file (or one item of an array, ``file.npz#array/index``) or an open image; None for a question without.
            choices: the closed answers that are allowed; none for free text.
            patient_id, study_id: where known, evidence of that patient or study is left out. Copies of the image always are.
            modality: of the image, such as ``CT``, as the corpus calls it; for searches that go by a given modality.
            history: (question, answer) of the turns before this question in its dialogue, first turn first.

        Raises:
            ValueError: the question is blank or too long, the image cannot be opened, the choices are one, many, blank or
                repeated, or the history is no list of pairs.
        """
        check_asked(question, choices)
        ref = None if image is None else self._remember(image)
        kind = AnswerType.CLOSED if choices else AnswerType.OPEN
        turns = checked_history(history)
        name = "asked-" + fingerprint(question, str(ref), list(choices), *turns)[:12]
        identity: dict[str, Any] = {"patient_id": patient_id, "study_id": study_id, "modality": modality, "history": turns}
        try:
            return self.answer(Query(name, question, ref, None, tuple(choices), kind, Split.TEST, **identity))
        finally:
            self._asked.clear()

    def answer(self, query: Query) -> Answer:
        """Answers a query whose image, if it has one, `open_image` opens."""
        if self.calibration is not None:
            return calibrated_answer(self.calibration, lambda k, below: self._answered(query, k, below))
        return self._answered(query, None, self.abstain_below)

    def _answered(self, query: Query, k: int | None, abstain_below: float | None) -> Answer:
        """The answer with the first k candidates, or with all that there are."""
        begin = time.perf_counter()
        query = query if k == 0 else self.dialogues.rewritten(query)
        start = time.perf_counter()
        written = None if k == 0 else self._written(query)
        if written is not None:
            query = replace(query, searches=written.first())
        wrote = time.perf_counter()
        example = self._found(query, k)
        seconds = {} if query.rewritten is None else {"rewrite": start - begin}
        seconds |= {} if written is None else {"write": wrote - start}
        seconds["retrieve"] = time.perf_counter() - wrote
        answer = self._read(example, abstain_below, seconds, written)
        return self.dialogues.told(answer, query, k != 0, self.collate.template.history == "full")

    def _read(
        self, example: Example, abstain_below: float | None, seconds: dict[str, float], written: WrittenSearches | None
    ) -> Answer:
        """What the reader says, at once or by a trace; `seconds` of the steps before."""
        told = (example.query.searches, written)
        if self.tracer is not None:
            by = read_traced(self.tracer, example, self.batch_reader.closed)
            kept, all_seconds = by.traced.kept, {**seconds, **by.seconds}
            answer = Answer.of(by.reading.prediction, kept, self.low_margin, abstain_below, all_seconds, *told)
            return with_trace(answer, by.traced)
        start = time.perf_counter()
        batch = self.encode(example).to(self._device())
        encoded = time.perf_counter()
        (reading,) = self.batch_reader.read(batch)
        seconds |= {"encode": encoded - start, "read": time.perf_counter() - encoded}
        return Answer.of(reading.prediction, batch.examples[0].candidates, self.low_margin, abstain_below, seconds, *told)

    def example(self, query: Query, k: int | None = None) -> Example:
        """The query with its candidates, the first k where k is given, and all images opened; with a generator, the query has
        what it wrote, and with a rewriter what that wrote. Nothing is searched for k = 0.

        Raises:
            ValueError: a candidate shares an identity with the query.
        """
        query = query if k == 0 else self.dialogues.rewritten(query)
        written = None if k == 0 else self._written(query)
        return self._found(query if written is None else replace(query, searches=written.first()), k)

    def _written(self, query: Query) -> WrittenSearches | None:
        """What the generator writes for a query; None without a generator."""
        if self.generator is None:
            return None
        (written,) = self.generator.write([query], [None if query.image is None else self._open(query.image)])
        return written

    def _found(self, query: Query, k: int | None) -> Example:
        """The query with the candidates of its searches, the first k where k is given."""
        if k == 0:
            return example_of(query, Regime.NONE, (), self._open)
        (found,) = self.source.retrieve([query])
        for candidate in found.candidates:
            _refuse_leak(query, candidate)
        return example_of(query, Regime.RETRIEVED, found.candidates[:k], self._open)

    def encode(self, example: Example) -> ReaderBatch:
        """The prompts that the reader gets to see, encoded."""
        return self.collate([example])

    def _remember(self, image: str | Path | Image) -> ImageRef:
        """Opens an asked image as training images are opened, and keeps it until the question is answered.

        It is named by its pixels: a file may hold another image when it is asked about again, and sources may remember names.
        """
        if isinstance(image, Image):
            opened = image.convert("RGB")
        else:
            place = ImageRef.parse(str(image))
            opened = ImageStore([Path(place.path).parent])(place)
        ref = ImageRef(f"asked:{pixel_sha256(opened)}")
        self._asked[ref] = opened
        return ref

    def _open(self, ref: ImageRef) -> Image:
        return self._asked[ref] if ref in self._asked else self.open_image(ref)

    def _device(self) -> torch.device:
        if isinstance(self.reader, torch.nn.Module):
            return next((p.device for p in self.reader.parameters()), torch.device("cpu"))
        return torch.device("cpu")


def _refuse_leak(query: Query, candidate: Candidate) -> None:
    if reason := shares_identity(query, candidate.document):
        raise ValueError(f"candidate {candidate.id!r} shares its {reason} with query {query.id!r}; it must not be evidence")


def _evaluate(*readers: Reader) -> None:
    for one in readers:
        if isinstance(one, torch.nn.Module):
            one.eval()
