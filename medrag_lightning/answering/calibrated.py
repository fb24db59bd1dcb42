"""Answering as a calibration says: without searching where that is sure enough, with k candidates, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from medrag_lightning.answering.answer import NO_EVIDENCE, Answer
from medrag_lightning.calibration import Calibration
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.score_files import documents_fingerprint
from medrag_lightning.selection import OF_THE_WHOLE_LIST

ABSTAINS_FROM_ALL = (
    "no choice of this system was shown to keep the risk that it was calibrated for: it abstains from everything"
)
WITHOUT_SEARCH = "no evidence was searched for, as calibrated: the answer rests on the question and its image alone"

if TYPE_CHECKING:
    from medrag_lightning.answering.answerer import Answerer

Ask = Callable[[int, float | None], Answer]
"""The answer with the first k candidates, abstaining below a probability."""


def answer_by(answerer: Answerer, calibration: Calibration) -> None:
    """Has an answerer answer as a calibration says.

    A source that takes the first k by itself, as a run has it that was tested with the calibrated number, becomes its pool:
    what the calibration was made with, and it says k.

    Raises:
        ValueError: the calibration is of another system.
    """
    if isinstance(answerer.source, SelectedSearch) and answerer.source.rule.rule in OF_THE_WHOLE_LIST:
        answerer.source = answerer.source.pool
    answerer.calibration = calibration


def check_calibration(answerer: Answerer, calibration: Calibration) -> None:
    """ValueError where an answerer's calibration would be ignored, or is of another system."""
    if answerer.tracer is not None:
        raise ValueError("a calibration is of answers that are given at once, and this system writes traces")
    if answerer.abstain_below is not None or answerer.batch_reader.closed != "scored":
        raise ValueError("a calibration says itself when to abstain, by scored answers: leave abstain_below out")
    if answerer.batch_reader.weigher is not None:
        raise ValueError("a calibration knows fusion by retrieval scores alone: leave the re-ranker or it out")
    calibration.check(**{name: told() for name, told in described(answerer).items() if name in calibration.of})


def described(answerer: Answerer) -> dict[str, Callable[[], Any]]:
    """What a calibration is of, by the names of `Calibration.of`; each is computed when it is called for."""
    return {
        "reader": answerer.reader.fingerprint,
        "template": answerer.template.fingerprint,
        "source": answerer.source.fingerprint,
        "corpus": lambda: documents_fingerprint(answerer.documents),
        "evidence": lambda: answerer.evidence,
        "fusion": lambda: asdict(answerer.fusion) if answerer.evidence == "one_per_prompt" else None,
    }


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
