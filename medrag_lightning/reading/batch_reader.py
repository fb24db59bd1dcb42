"""What a frozen reader makes of a batch: closed answers scored exactly, open ones generated, both mixed over candidates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medrag_lightning import metrics
from medrag_lightning.batches import Example, ReaderBatch, ReaderPart
from medrag_lightning.interfaces import CandidateWeigher, Reader
from medrag_lightning.mixture import Fusion, log_softmax, vote_open
from medrag_lightning.records import AnswerType, Prediction

Floats = NDArray[np.float64]


ClosedReading = Literal["scored", "generated"]
"""`scored`: the most likely choice, exactly. `generated`: free words, strictly parsed; what fits no choice is invalid."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A prediction and the NLL of its gold answer in nats (a token for open questions); NaN without a gold answer."""

    prediction: Prediction
    gold_nll_nats: float


@dataclass(slots=True)
class _OfQuery:
    """What was read for one query, a row a prompt."""

    candidates: list[int]
    logps: list[list[float]]
    words: list[str]
    lengths: list[int]

    def reordered(self, order: Sequence[int]) -> _OfQuery:
        """The same rows in another order."""
        return _OfQuery(
            [self.candidates[i] for i in order],
            [self.logps[i] for i in order],
            [self.words[i] for i in order],
            [self.lengths[i] for i in order],
        )


class BatchReader:
    """Reads batches into predictions.

    Args:
        reader: the reader; put to evaluation by the caller (Lightning does).
        max_new_tokens: longest generated answer.
        fusion: how candidates that are read one a prompt become one answer.
        closed: how closed questions are answered.
        weigher: weighs candidates by what they say, in place of `fusion`, which then mixes alone; None for `fusion`.
    """

    def __init__(
        self,
        reader: Reader,
        max_new_tokens: int,
        fusion: Fusion,
        closed: ClosedReading,
        weigher: CandidateWeigher | None = None,
    ) -> None:
        if weigher is not None:
            check_weigher(fusion, closed)
        self.reader, self.max_new_tokens, self.fusion, self.closed = reader, max_new_tokens, fusion, closed
        self.weigher = weigher

    @torch.no_grad()
    def read(self, batch: ReaderBatch) -> list[Reading]:
        """One reading for each example of the batch, in order."""
        found = [_OfQuery([], [], [], []) for _ in batch.examples]
        for part in batch.parts:
            self._read_part(part, batch.examples, found)
        return [self._mixed(example, of) for example, of in zip(batch.examples, found, strict=True)]

    def _read_part(self, part: ReaderPart, examples: Sequence[Example], found: list[_OfQuery]) -> None:
        scores: dict[int, list[float]] = defaultdict(list)
        lengths: dict[int, int] = {}
        if part.rows is not None:
            total_R = self.reader.token_logp(part.prompts, part.rows).double().sum(dim=1).tolist()
            count_R = part.rows.mask_RL.sum(dim=1).tolist()
            for prompt, total, count in zip(part.rows.prompt_of_row_R.tolist(), total_R, count_R, strict=True):
                scores[prompt].append(total)
                lengths[prompt] = count
        kinds = {examples[place].query.answer_type for place in part.query_of_prompt}
        generate = AnswerType.OPEN in kinds or self.closed == "generated"
        spoken = self.reader.generate(part.prompts, self.max_new_tokens) if generate else []
        for prompt, place in enumerate(part.query_of_prompt):
            of = found[place]
            of.candidates.append(part.candidate_of_prompt[prompt])
            of.logps.append(scores[prompt])
            of.lengths.append(lengths.get(prompt, 1))
            of.words.append(self.reader.processor.decode(spoken[prompt]) if spoken else "")

    def _mixed(self, example: Example, of: _OfQuery) -> Reading:
        """The reading of one query; the rows of `of` are put in the candidates' order first."""
        order = np.argsort(of.candidates, kind="stable")
        of = of.reordered(order.tolist())
        weight_K = np.ones(1)
        if len(order) > 1:
            weight_K = self._weights(example, of)
        if example.query.answer_type is AnswerType.CLOSED:
            return self._closed(example, of, weight_K)
        return self._open(example, of, weight_K)

    def _weights(self, example: Example, of: _OfQuery) -> Floats:
        chosen = [example.candidates[place] for place in of.candidates]
        if self.weigher is None:
            return self.fusion.weights([c.score for c in chosen], [str(c.channel) for c in chosen])
        closed = example.query.answer_type is AnswerType.CLOSED
        return self.weigher.weights(example.query, chosen, log_softmax(np.array(of.logps), axis=1) if closed else None)

    def _closed(self, example: Example, of: _OfQuery, weight_K: Floats) -> Reading:
        query = example.query
        logp_KC = log_softmax(np.array(of.logps), axis=1)
        logp_C = self.fusion.closed(logp_KC, weight_K)
        if self.closed == "scored":
            raw = query.choices[int(logp_C.argmax())]
            answer: str | None = raw
            alone: list[str | None] = [query.choices[best] for best in logp_KC.argmax(axis=1)]
        else:
            raw = vote_open(of.words, weight_K)
            answer = metrics.parse_closed(raw, query.choices)
            alone = [metrics.parse_closed(words, query.choices) for words in of.words]
        gold = query.gold_index
        known = float(logp_C[gold]) if gold >= 0 else None
        said = prediction_of(example, answer, raw, known)
        mixed = _candidates(of, weight_K, [tuple(row) for row in logp_KC.tolist()], alone)
        return Reading(replace(said, logp_nats=tuple(logp_C.tolist()), **mixed), math.nan if known is None else -known)

    def _open(self, example: Example, of: _OfQuery, weight_K: Floats) -> Reading:
        raw = vote_open(of.words, weight_K)
        known, tokens = None, 0
        rows: list[tuple[float, ...]] = [()] * len(of.words)
        if example.query.answer is not None:
            tokens, gold_K = of.lengths[0], np.array([row[0] for row in of.logps])
            known = self.fusion.sequence(gold_K, weight_K) / tokens
            rows = [(logp / tokens,) for logp in gold_K.tolist()]
        said = prediction_of(example, raw or None, raw, known)
        mixed = _candidates(of, weight_K, rows, [words or None for words in of.words])
        return Reading(replace(said, gold_tokens=tokens, **mixed), math.nan if known is None else -known)


def check_weigher(fusion: Fusion, closed: ClosedReading) -> None:
    """ValueError where a setting would be ignored beside a weigher, or where it would not see what it learned from."""
    if replace(fusion, mode=Fusion().mode) != Fusion():
        raise ValueError(
            f"fusion={fusion}: its temperature, normalisation and head weights would be ignored, a re-ranker weighs the "
            "candidates; leave them out"
        )
    if fusion.mode != "probability_mixture":
        raise ValueError("a re-ranker has learned weights of a probability mixture; leave out fusion.mode logit_mixture")
    if closed != "scored":
        raise ValueError("a re-ranker looks at scored answers; leave out closed_answers generated")


def _candidates(
    of: _OfQuery, weight_K: Floats, rows: list[tuple[float, ...]], alone: Sequence[str | None]
) -> dict[str, Any]:
    """The fields of a prediction that tell of each candidate read alone; none where all stood in one prompt."""
    if of.candidates[0] < 0:
        return {}
    return {"weights": tuple(weight_K.tolist()), "candidate_logp_nats": tuple(rows), "candidate_answers": tuple(alone)}


def prediction_of(example: Example, answer: str | None, raw: str, gold_logp_nats: float | None) -> Prediction:
    """The prediction of an answer to an example, which cites all candidates that were shown."""
    query = example.query
    return Prediction(
        query_id=query.id,
        regime=example.regime,
        answer=answer,
        raw=raw,
        gold=query.answer,
        answer_type=query.answer_type,
        choices=query.choices,
        cited=tuple(candidate.id for candidate in example.candidates),
        need=query.need,
        question=query.question,
        scores=tuple(candidate.score for candidate in example.candidates),
        channels=tuple(candidate.channel for candidate in example.candidates),
        system=example.system,
        gold_logp_nats=gold_logp_nats,
        noise=example.noise,
        variant=example.variant,
        dropped=example.dropped,
    )


def place_of(prediction: Prediction) -> tuple[str, str, str, float, str, str]:
    """Where a prediction stands among all of an evaluation, in an order that no number of processes changes."""
    kind, share = ("", 0.0) if prediction.noise is None else (str(prediction.noise.kind), prediction.noise.share)
    return prediction.regime, prediction.system, kind, share, prediction.variant or "", prediction.query_id


def summary(readings: Sequence[Reading]) -> dict[str, float]:
    """Metrics by ``regime/name``, over the readings that have a gold answer; what cannot be computed is left out.

    A rival retriever's answers stand under its own name in the regime's place; answers to spoilt evidence are not in here.
    """
    numbers: dict[str, float] = {}
    systems: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        if not reading.prediction.is_ordinary:
            continue
        systems[reading.prediction.system or str(reading.prediction.regime)].append(reading)
    for system, mine in sorted(systems.items()):
        known = [r for r in mine if r.prediction.gold is not None]
        values = {"loss": float(np.mean([r.gold_nll_nats for r in known])) if known else math.nan}
        for kind in AnswerType:
            of_kind = [r.prediction for r in known if r.prediction.answer_type is kind]
            if of_kind:
                values |= _of_kind(kind, [p.gold or "" for p in of_kind], of_kind)
        numbers |= {f"{system}/{name}": value for name, value in values.items() if math.isfinite(value)}
    return numbers


def _of_kind(kind: AnswerType, gold: list[str], predictions: Sequence[Prediction]) -> dict[str, float]:
    answers = [prediction.answer for prediction in predictions]
    if kind is AnswerType.OPEN:
        return {
            "open_token_recall": float(metrics.token_recall(gold, answers).mean()),
            "open_exact_match": float(metrics.exact_match(gold, answers).mean()),
        }
    once = np.ones((1, len(gold)))
    return {
        "closed_accuracy": float(metrics.accuracy(gold, answers)(once)[0]),
        "closed_balanced_accuracy": float(metrics.balanced_accuracy(gold, answers)(once)[0]),
        "closed_macro_f1": float(metrics.macro_f1(gold, answers)(once)[0]),
        "closed_invalid": float(metrics.invalid(answers)(once)[0]),
        "closed_ece": float(metrics.expected_calibration_error(*metrics.closed_calibration(predictions))(once)[0]),
    }
