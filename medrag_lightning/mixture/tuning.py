"""Temperature and head weights by the likelihood of validation answers. Never to be shown test answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medrag_lightning.mixture.answers import Floats, log_softmax
from medrag_lightning.mixture.fusion import Fusion
from medrag_lightning.records import AnswerType, Prediction, Regime

TEMPERATURES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
ROUNDS = 200  # of expectation-maximisation


@dataclass(frozen=True, slots=True)
class TunedFusion:
    """What was chosen, and the mean NLL of the gold answer in nats (open: a token) with it and with the settings before."""

    fusion: Fusion
    nll_nats: float
    before_nats: float
    queries: int


def tune_fusion(
    predictions: Sequence[Prediction], start: Fusion, temperatures: Sequence[float] = TEMPERATURES
) -> TunedFusion | None:
    """The temperature and head weights under which the gold answers of validation queries are most likely.

    Every temperature of the grid is tried with the head weights of `start`; for a probability mixture of softmaxes also with
    those that maximise the likelihood at that temperature: that is concave, and expectation-maximisation finds it.

    Args:
        predictions: of a validation split. Those with known gold answer and two or more candidates of the own system with
            retrieved evidence count; others are passed over.
        start: the settings to be improved on; kept where nothing is better.
        temperatures: the grid.

    Returns:
        The choice, or None where no prediction counts.
    """
    mine = [p for p in predictions if _counts(p)]
    if not mine:
        return None
    before = fusion_nll(mine, start)
    best, least = start, before
    for temperature in temperatures:
        plain = replace(start, temperature=temperature)
        for fusion in (plain, replace(plain, head_weights=_head_weights(mine, plain))):
            value = fusion_nll(mine, fusion)
            if value < least - 1e-9:
                best, least = fusion, value
    return TunedFusion(best, least, before, len(mine))


def fusion_nll(predictions: Sequence[Prediction], fusion: Fusion) -> float:
    """Mean NLL in nats of the gold answers (open: a token) when the candidates of `predictions` are fused by `fusion`."""
    return float(np.mean([_nll(p, fusion) for p in predictions]))


def _counts(p: Prediction) -> bool:
    known = p.gold is not None and (p.answer_type is AnswerType.OPEN or p.gold in p.choices)
    return p.regime is Regime.RETRIEVED and not p.system and known and len(p.candidate_logp_nats) > 1


def _nll(p: Prediction, fusion: Fusion) -> float:
    weight_K = fusion.weights(p.scores, [str(channel) for channel in p.channels])
    if p.answer_type is AnswerType.CLOSED:
        assert p.gold is not None
        return float(-fusion.closed(np.array(p.candidate_logp_nats), weight_K)[p.choices.index(p.gold)])
    return -fusion.sequence(_gold_logp(p), weight_K) / p.gold_tokens


def _gold_logp(p: Prediction) -> Floats:
    """Log-probability of the whole gold answer under each candidate."""
    if p.answer_type is AnswerType.OPEN:
        return np.array(p.candidate_logp_nats)[:, 0] * p.gold_tokens
    assert p.gold is not None
    column: Floats = np.array(p.candidate_logp_nats)[:, p.choices.index(p.gold)]
    return column


def _head_weights(predictions: Sequence[Prediction], fusion: Fusion) -> dict[str, float] | None:
    """Head weights of the greatest likelihood at the temperature of `fusion`; its own where they cannot be chosen.

    Maximises sum_q (1/n_q) log sum_h w_h p_h(gold|q) over the queries for which every head found something, n_q the tokens of
    an open answer, p_h the mixture within head h.
    """
    heads = sorted({str(channel) for p in predictions for channel in p.channels})
    full = [p for p in predictions if {str(channel) for channel in p.channels} == set(heads)]
    if len(heads) < 2 or not full or (fusion.mode, fusion.normalisation) != ("probability_mixture", "per_head_softmax"):
        return fusion.head_weights
    logp_NH = np.array([[_within(p, head, fusion.temperature) for head in heads] for p in full])
    count_N1 = np.array([[p.gold_tokens if p.answer_type is AnswerType.OPEN else 1] for p in full])
    weight_H = np.full(len(heads), 1 / len(heads))
    for _ in range(ROUNDS):
        with np.errstate(divide="ignore"):
            responsible_NH = np.exp(log_softmax(logp_NH + np.log(weight_H), axis=1)) / count_N1
        weight_H = responsible_NH.sum(axis=0) / responsible_NH.sum()
    return {head: round(float(weight), 4) for head, weight in zip(heads, weight_H, strict=True)}


def _within(p: Prediction, head: str, temperature: float) -> float:
    places = [k for k, channel in enumerate(p.channels) if str(channel) == head]
    alone = Fusion(temperature=temperature)
    weight_K = alone.weights([p.scores[k] for k in places], [head] * len(places))
    return alone.sequence(_gold_logp(p)[places], weight_K)
