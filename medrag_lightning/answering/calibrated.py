"""Answering as a calibration says: without searching where that is sure enough, with k candidates, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from medrag_lightning.answering.answer import NO_EVIDENCE, Answer
from medrag_lightning.calibration import Calibration

ABSTAINS_FROM_ALL = (
    "no choice of this system was shown to keep the risk that it was calibrated for: it abstains from everything"
)
WITHOUT_SEARCH = "no evidence was searched for, as calibrated: the answer rests on the question and its image alone"

Ask = Callable[[int, float | None], Answer]
"""The answer with the first k candidates, abstaining below a probability."""


def calibrated_answer(calibration: Calibration, ask: Ask) -> Answer:
    """The answer under the calibration's policy, with what is known of its risk."""
    policy = calibration.policy
    if policy is None:
        bare = ask(0, None)
        return replace(bare, abstained=True, reason=ABSTAINS_FROM_ALL, guarantee=calibration.sentence)
    if policy.without_from is not None:
        bare = ask(0, None)
        if bare.probability is not None and bare.probability >= policy.without_from:
            return _told(bare, calibration, searched=False)
        answer = ask(policy.k, policy.threshold or None)
        seconds = {**answer.seconds, "read_without_evidence": sum(bare.seconds.values())}
        return _told(replace(answer, seconds=seconds), calibration, searched=True)
    return _told(ask(policy.k, policy.threshold or None), calibration, searched=policy.k > 0)


def _told(answer: Answer, calibration: Calibration, searched: bool) -> Answer:
    warnings = answer.warnings if searched else tuple(WITHOUT_SEARCH if w == NO_EVIDENCE else w for w in answer.warnings)
    return replace(answer, warnings=warnings, guarantee=calibration.sentence)
