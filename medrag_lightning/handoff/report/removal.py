"""What each candidate did to an answer: its log-probability with all of them, minus that without this one.

For candidates that were read one a prompt this needs no reader: their rows are in the prediction, and the rest is mixed again
with weights that are normalised anew, exactly as answering without that candidate would. Leave-one-out, not Shapley values:
two documents that say the same each seem to matter little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medrag_lightning.mixture import Fusion
from medrag_lightning.records import AnswerType, Prediction

TOLERANCE_NATS = 1e-4
NOT_ALONE = "candidates were not read one by one (all evidence stood in one prompt)"
OTHER_FUSION = "the answers on file were not mixed by the fusion settings of config.yaml"


@dataclass(frozen=True, slots=True)
class Removal:
    """What leaving a candidate out does. Changes are in nats, minus where the candidate had helped; for an open question of the
    gold answer alone, a token. `answer` is the most likely choice then; None for an open question or where nothing is known.
    """

    answer_change_nats: float | None
    gold_change_nats: float | None
    answer: str | None = None


def fusion_of(settings: Mapping[str, Any] | None) -> Fusion | None:
    """The fusion that a config tells of; None where it tells of none. ValueError where it is none of ours."""
    if settings is None:
        return None
    try:
        return Fusion(**settings)
    except TypeError as error:
        raise ValueError(f"config.yaml: model.fusion {dict(settings)}: {error}") from error


def fused_again(prediction: Prediction, fusion: Fusion) -> Prediction:
    """A closed prediction whose candidates were read one by one, mixed by other settings; any other one as it is."""
    if prediction.answer_type is not AnswerType.CLOSED or len(prediction.candidate_logp_nats) < 2:
        return prediction
    logp = _closed(prediction, fusion, range(len(prediction.cited)))
    best = prediction.choices[int(logp.argmax())]
    answer = best if prediction.answer is not None and prediction.raw in prediction.choices else prediction.answer
    return replace(prediction, logp_nats=tuple(logp.tolist()), answer=answer)


def remove_each(prediction: Prediction, fusion: Fusion) -> tuple[Removal, ...]:
    """The effect of leaving out each candidate in turn; empty with fewer than two.

    Raises:
        ValueError: candidates were not read one by one, or were mixed otherwise; the message is fit for the report.
    """
    count = len(prediction.cited)
    if count < 2:
        return ()
    if len(prediction.candidate_logp_nats) != count:
        raise ValueError(NOT_ALONE)
    closed = prediction.answer_type is AnswerType.CLOSED
    return tuple(
        (_closed_removal if closed else _open_removal)(prediction, fusion, [j for j in range(count) if j != k])
        for k in range(count)
    )


def _closed_removal(p: Prediction, fusion: Fusion, kept: Sequence[int]) -> Removal:
    with_all = _closed(p, fusion, range(len(p.cited)))
    if not np.allclose(np.exp(with_all), np.exp(p.logp_nats), atol=TOLERANCE_NATS):
        raise ValueError(OTHER_FUSION)
    without = _closed(p, fusion, kept)
    return Removal(
        _change(p.choices, p.answer, without, with_all),
        _change(p.choices, p.gold, without, with_all),
        p.choices[int(without.argmax())],
    )


def _open_removal(p: Prediction, fusion: Fusion, kept: Sequence[int]) -> Removal:
    if p.gold is None or not p.gold_tokens or p.gold_logp_nats is None or not all(p.candidate_logp_nats):
        return Removal(None, None)
    with_all = _sequence(p, fusion, range(len(p.cited)))
    if abs(with_all - p.gold_logp_nats) > max(TOLERANCE_NATS, 1e-4 * abs(with_all)):
        raise ValueError(OTHER_FUSION)
    return Removal(None, _sequence(p, fusion, kept) - with_all)


def _closed(p: Prediction, fusion: Fusion, kept: Sequence[int]) -> Any:
    weight_K = fusion.weights([p.scores[k] for k in kept], [str(p.channels[k]) for k in kept])
    return fusion.closed(np.array([p.candidate_logp_nats[k] for k in kept]), weight_K)


def _sequence(p: Prediction, fusion: Fusion, kept: Sequence[int]) -> float:
    """Log-probability of the gold answer, a token."""
    weight_K = fusion.weights([p.scores[k] for k in kept], [str(p.channels[k]) for k in kept])
    logp_K = np.array([p.candidate_logp_nats[k][0] * p.gold_tokens for k in kept])
    return fusion.sequence(logp_K, weight_K) / p.gold_tokens


def _change(choices: Sequence[str], answer: str | None, without: Any, with_all: Any) -> float | None:
    if answer not in choices:
        return None
    place = choices.index(answer)
    change = float(without[place] - with_all[place])
    return change if math.isfinite(change) else None
