"""What a frozen reader makes of a batch: closed answers scored exactly, open ones generated, both mixed over candidates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medrag_lightning import metrics
from medrag_lightning.batches import Example, ReaderBatch, ReaderPart
from medrag_lightning.interfaces import Reader
from medrag_lightning.mixture import candidate_weights, mix_closed, vote_open
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


class BatchReader:
    """Reads batches into predictions.

    Args:
        reader: the reader; put to evaluation by the caller (Lightning does).
        max_new_tokens: longest generated answer.
        temperature: divides retrieval scores before the softmax over candidates.
        closed: how closed questions are answered.
    """

    def __init__(self, reader: Reader, max_new_tokens: int, temperature: float, closed: ClosedReading) -> None:
        self.reader, self.max_new_tokens, self.temperature, self.closed = reader, max_new_tokens, temperature, closed

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
        order = np.argsort(of.candidates, kind="stable")
        chosen = [example.candidates[of.candidates[i]] for i in order if of.candidates[i] >= 0]
        weight_K = np.ones(1)
        if len(order) > 1:
            weight_K = candidate_weights([c.score for c in chosen], [str(c.channel) for c in chosen], self.temperature)
        if example.query.answer_type is AnswerType.CLOSED:
            return self._closed(example, of, order, weight_K)
        return self._open(example, of, order, weight_K)

    def _closed(self, example: Example, of: _OfQuery, order: NDArray[np.intp], weight_K: Floats) -> Reading:
        query = example.query
        logp_C = mix_closed(np.array([of.logps[i] for i in order]), weight_K)
        if self.closed == "scored":
            raw = query.choices[int(logp_C.argmax())]
            answer: str | None = raw
        else:
            raw = vote_open([of.words[i] for i in order], weight_K)
            answer = metrics.parse_closed(raw, query.choices)
        gold = query.gold_index
        nll = float(-logp_C[gold]) if gold >= 0 else math.nan
        return Reading(_prediction(example, answer, raw, tuple(logp_C.tolist()), weight_K), nll)

    def _open(self, example: Example, of: _OfQuery, order: NDArray[np.intp], weight_K: Floats) -> Reading:
        raw = vote_open([of.words[i] for i in order], weight_K)
        nll = math.nan
        if example.query.answer is not None:
            gold_K = np.array([of.logps[i][0] for i in order])
            with np.errstate(divide="ignore"):
                nll = -float(np.logaddexp.reduce(gold_K + np.log(weight_K))) / of.lengths[int(order[0])]
        return Reading(_prediction(example, raw or None, raw, (), weight_K), nll)


def _prediction(example: Example, answer: str | None, raw: str, logp: tuple[float, ...], weight_K: Floats) -> Prediction:
    query = example.query
    return Prediction(
        query_id=query.id,
        regime=example.regime,
        answer=answer,
        raw=raw,
        gold=query.answer,
        answer_type=query.answer_type,
        choices=query.choices,
        logp_nats=logp,
        cited=tuple(candidate.id for candidate in example.candidates),
        weights=tuple(weight_K.tolist()) if len(weight_K) > 1 else (),
        need=query.need,
        question=query.question,
    )


def summary(readings: Sequence[Reading]) -> dict[str, float]:
    """Metrics by ``regime/name``, over the readings that have a gold answer; what cannot be computed is left out."""
    numbers: dict[str, float] = {}
    for regime in sorted({reading.prediction.regime for reading in readings}):
        known = [r for r in readings if r.prediction.regime is regime and r.prediction.gold is not None]
        values = {"loss": float(np.mean([r.gold_nll_nats for r in known])) if known else math.nan}
        for kind in AnswerType:
            of_kind = [r.prediction for r in known if r.prediction.answer_type is kind]
            if of_kind:
                values |= _of_kind(kind, [p.gold or "" for p in of_kind], of_kind)
        numbers |= {f"{regime}/{name}": value for name, value in values.items() if math.isfinite(value)}
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
