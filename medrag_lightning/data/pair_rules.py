"""From what a reader answered under the conditions of one evidence set to preference pairs. Pure.

Let M(x) be the answer under condition x, y the gold answer, and K the evidence set (HeteroRAG Section 3.3, MMed-RAG, RULE):

    rules             kind            made where                                 chosen      rejected
    hkpt_v1           cross_modality  M(v,t,K) and M(v*,t,K) right               (v,t,K), y  (v*,t,K), M(v*,t,K)
    hkpt_v2           cross_modality  ... and M(v*,t) wrong                      (v,t,K), y  (v*,t,K), M(v*,t,K)
    hkpt_v1, hkpt_v2  utilisation     M(v,t,K) right, M(v,t,K less k) wrong      (v,t,K), y  (v,t,K), M(v,t,K less k)
    hkpt_v1, hkpt_v2  robustness      M(v,t,K less k) right, M(v,t,K) wrong      (v,t,K), y  (v,t,K), M(v,t,K)
    rag_pt            cross_modality  M(v,t,K) and M(v*,t,K) right               (v,t,K), y  (v*,t,K), y
    rag_pt            utilisation     M(v,t,K) right, M(v,t) wrong               (v,t,K), y  (v,t,K), M(v,t)
    rag_pt, kb_pt     robustness      M(v,t) right, M(v,t,K) wrong               (v,t,K), y  (v,t,K), M(v,t,K)

k stands in turn for the reports of K, its documents, and both; where K has none of k there is no pair for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medrag_lightning.data.preference_plan import PairRules
from medrag_lightning.records import Condition, Knowledge, PairKind


@dataclass(frozen=True, slots=True)
class Said:
    """What the reader answered under a condition, and whether that is right."""

    condition: Condition
    answer: str
    right: bool


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What it answered under the conditions of one evidence set (`knowledge_conditions.SetConditions`).

    `kinds` are those of which the set holds something. `other` and `other_alone` are None where there is no other image, and
    any condition is that the rules do not ask for (`asked`).
    """

    gold: str
    kinds: frozenset[Knowledge]
    full: Said
    bare: Said
    without_reports: Said | None = None
    without_documents: Said | None = None
    other: Said | None = None
    other_alone: Said | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair before it is named: what each side shows and says."""

    kind: PairKind
    knowledge: Knowledge | None
    chosen: tuple[Condition, str]
    rejected: tuple[Condition, str]


READING = (PairKind.CROSS_MODALITY, PairKind.UTILISATION, PairKind.ROBUSTNESS)
"""The kinds of pairs that teach a reader."""


def asked(rules: PairRules) -> tuple[str, ...]:
    """The conditions that the rules look at, by their names in `Outcomes`: how many times each evidence set is read."""
    parts = ("full", "bare", "without_reports", "without_documents", "other", "other_alone")
    return {"hkpt_v1": parts[:5], "hkpt_v2": parts, "rag_pt": ("full", "bare", "other"), "kb_pt": parts[:2]}[rules]


def kinds_of(rules: PairRules) -> tuple[PairKind, ...]:
    """The kinds of pairs that the rules can make."""
    return (PairKind.ROBUSTNESS,) if rules == "kb_pt" else READING


def pairs_of(rules: PairRules, outcomes: Outcomes) -> list[Pair]:
    """The pairs of one evidence set, repeats included: cross-modality, then utilisation or robustness, k by k."""
    if rules in ("hkpt_v1", "hkpt_v2"):
        return [*_cross_modality(rules, outcomes), *_about_evidence(outcomes, _without_each(outcomes))]
    if rules == "rag_pt":
        return [*_cross_modality(rules, outcomes), *_about_evidence(outcomes, [(Knowledge.BOTH, outcomes.bare)])]
    found = _about_evidence(outcomes, [(Knowledge.BOTH, outcomes.bare)])
    return [pair for pair in found if pair.kind is PairKind.ROBUSTNESS]


def _cross_modality(rules: PairRules, outcomes: Outcomes) -> Iterator[Pair]:
    full, other, alone = outcomes.full, outcomes.other, outcomes.other_alone
    if other is None or not (full.right and other.right):
        return
    if rules == "hkpt_v2" and (alone is None or alone.right):
        return
    rejected = outcomes.gold if rules == "rag_pt" else other.answer
    yield Pair(PairKind.CROSS_MODALITY, None, (full.condition, outcomes.gold), (other.condition, rejected))


def _without_each(outcomes: Outcomes) -> Iterator[tuple[Knowledge, Said]]:
    """What was answered without k, for every k that the evidence set holds."""
    without = {Knowledge.REPORTS: outcomes.without_reports, Knowledge.DOCUMENTS: outcomes.without_documents}
    for kind, said in without.items():
        if kind in outcomes.kinds:
            assert said is not None, f"these rules ask what is answered without {kind}"
            yield kind, said
    if outcomes.kinds:
        yield Knowledge.BOTH, outcomes.bare


def _about_evidence(outcomes: Outcomes, without: Iterable[tuple[Knowledge, Said]]) -> Iterator[Pair]:
    full = outcomes.full
    for knowledge, said in without:
        if full.right is not said.right:
            kind, wrong = (PairKind.UTILISATION, said) if full.right else (PairKind.ROBUSTNESS, full)
            yield Pair(kind, knowledge, (full.condition, outcomes.gold), (full.condition, wrong.answer))
