"""What a reader relies on: its image, each kind of evidence, or what it knew before. Needs questions that were asked again.

Source: HeteroRAG, Metrics (MD, KUD, KID) and HKPT v2; over-reliance as RULE has it. With v the question's image and v* another,
t the question, K the evidence, and a source of evidence k: image-report pairs alone, texts alone, or both (K, as retrieved):

- ``md`` = P(right with v*, t, K | right with v, t, K): answers that do not depend on the image.
- ``md_strict``: the same over questions that v* alone does not solve (wrong with v*, t): the condition of HKPT v2.
- ``kud`` = P(wrong with k | wrong without evidence): knowledge that was there and not used, as the published figure has it.
- ``kud_worded`` = P(right with k | wrong without evidence), as the paper words it: the complement.
- ``kid`` = P(wrong with k | right without evidence): knowledge that misled. Source ``any``: wrong with one or more.
- ``over_reliance`` = P(right without evidence | wrong with K): the share of errors that evidence brought.
- ``copied`` = P(the same answer with v* as with v, both with K), right or wrong: published definitions of a copy-reference rate
  vary and are seldom told; this one is ours.

Every share is of the questions that the condition names (`n`), and without any it has no value: never 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from medrag_lightning.metrics.bootstrap import Bootstrap, Floats, Metric, Statistic, ratio
from medrag_lightning.metrics.compared import Compared, compare
from medrag_lightning.metrics.systems import (
    NO_RETRIEVAL,
    NOT_TOLD,
    RETRIEVED,
    answer_correct,
    by_system,
    item_correct,
    system_of,
)
from medrag_lightning.records import AnswerType, Knowledge, Prediction, Variant

ALL = "all"
ANY = "any"
SOURCES = (Knowledge.REPORTS, Knowledge.DOCUMENTS, Knowledge.BOTH)
WITHOUT = "without evidence"
SOURCE_OF: dict[str, str] = {Variant.WITHOUT_DOCUMENTS: Knowledge.REPORTS, Variant.WITHOUT_REPORTS: Knowledge.DOCUMENTS}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question's answers: whether each was right, by source, `WITHOUT` or variant (only those that were asked)."""

    answer_type: AnswerType
    need: str | None
    right: Mapping[str, bool]
    copied: bool | None


@dataclass(frozen=True, slots=True)
class Share:
    """One of the shares above: `of` tells whether a question is in it, or None for one that the condition does not name."""

    metric: str
    source: str
    condition: str
    of: Callable[[Asked], bool | None]
    lower_is_better: bool = True

    @property
    def without_evidence(self) -> bool:
        """Whether it compares with answers without evidence."""
        return WITHOUT in self.condition


@dataclass(frozen=True, slots=True)
class KnowledgeRate:
    """One share of one system, over all questions or those of one kind (`subset`); `n` of its value counts the condition."""

    metric: str
    source: str
    system: str
    subset: str
    lower_is_better: bool
    rate: Compared

    def as_record(self) -> dict[str, Any]:
        """One flat record; numbers that could not be computed are None."""
        head = {name: getattr(self, name) for name in ("metric", "source", "system", "subset", "lower_is_better")}
        minus = (self.rate.reference_minus or Metric.missing("")).as_json()
        gap = {f"{RETRIEVED}_minus" + (f"_{end}" if end != "value" else ""): minus[end] for end in ("value", "low", "high")}
        return {**head, **self.rate.value.as_json(), **gap}


@dataclass(frozen=True, slots=True)
class KnowledgeUse:
    """All shares of all systems that were asked again, and notes to print below."""

    rates: tuple[KnowledgeRate, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"rates": [rate.as_record() for rate in self.rates], "notes": list(self.notes)}

    def of(self, system: str, subset: str = ALL) -> dict[tuple[str, str], Compared]:
        """One system's shares by metric and source."""
        return {(r.metric, r.source): r.rate for r in self.rates if (r.system, r.subset) == (system, subset)}


def knowledge_use(predictions: Sequence[Prediction], clusters: Mapping[str, str], settings: Bootstrap) -> KnowledgeUse:
    """The shares of every system that was asked again; each rival is compared with the retrieved system in pairs.

    Intervals resample all questions of a system, those outside a condition too: how many it names is itself by chance.

    Args:
        predictions: of a test; ordinary ones, those of variants, any others. Those without a gold answer are left out.
        clusters: cluster of each query id (`cluster_of`).
        settings: how intervals are made.

    Raises:
        ValueError: a system answers one query twice.
    """
    known = [p for p in predictions if p.gold is not None and p.gold.strip()]
    notes: list[str] = []
    items = _asked(known, notes)
    closed = {asked.answer_type for mine in items.values() for asked in mine.values()}
    needs = sorted({asked.need for mine in items.values() for asked in mine.values() if asked.need is not None})
    subsets: dict[str, Callable[[Asked], bool]] = {ALL: lambda asked: True}
    if len(closed) > 1:
        subsets |= {str(kind): partial(_is, "answer_type", kind) for kind in AnswerType}
    subsets |= {f"need {need}": partial(_is, "need", need) for need in needs}
    rates = [
        rate
        for subset, holds in subsets.items()
        for share in SHARES
        for rate in _rates(share, subset, _only(items, holds), clusters, settings)
    ]
    return KnowledgeUse(tuple(rates), tuple(notes))


def _is(name: str, value: Any, asked: Asked) -> bool:
    return bool(getattr(asked, name) == value)


def _only(items: Mapping[str, Mapping[str, Asked]], holds: Callable[[Asked], bool]) -> dict[str, dict[str, Asked]]:
    return {system: {name: asked for name, asked in mine.items() if holds(asked)} for system, mine in items.items()}


def _rates(
    share: Share,
    subset: str,
    items: Mapping[str, Mapping[str, Asked]],
    clusters: Mapping[str, str],
    settings: Bootstrap,
) -> Iterator[KnowledgeRate]:
    for system, found in compare(items, partial(_statistic, share), clusters, settings).items():
        mine = items[system].values()
        count = sum(share.of(asked) is not None for asked in mine)
        value = replace(found.value, n=count)
        if not count:
            told = share.without_evidence and all(WITHOUT not in asked.right for asked in mine)
            value = Metric.missing(NOT_TOLD if told else f"cannot be computed: no question {share.condition}")
        rate = Compared(value, found.reference_minus)
        yield KnowledgeRate(share.metric, share.source, system, subset, share.lower_is_better, rate)


def _statistic(share: Share, mine: Sequence[Asked]) -> Statistic:
    told = [share.of(asked) for asked in mine]
    inside_N = np.array([float(bool(one)) for one in told])
    named_N = np.array([float(one is not None) for one in told])

    def statistic(weights_FN: Floats) -> Floats:
        return ratio(weights_FN @ inside_N, weights_FN @ named_N)

    return statistic


def _asked(known: Sequence[Prediction], notes: list[str]) -> dict[str, dict[str, Asked]]:
    """By system and query id, all questions that the system answered with evidence."""
    ordinary = {name: {p.query_id: p for p in mine} for name, mine in by_system(known).items()}
    again: dict[str, dict[str, dict[str, Prediction]]] = defaultdict(lambda: defaultdict(dict))
    for p in known:
        if p.variant is not None and p.noise is None:
            mine = again[system_of(p)][p.variant]
            if p.query_id in mine:
                raise ValueError(f"system {system_of(p)!r} answers query {p.query_id!r} more than once as {p.variant}")
            mine[p.query_id] = p
    without, alone = ordinary.get(NO_RETRIEVAL, {}), again.pop(NO_RETRIEVAL, {}).get(Variant.OTHER_IMAGE_ALONE, {})
    lacking = [name for name in again if name not in ordinary]
    notes += [f"{name}: nothing can be told, because its ordinary predictions are not there" for name in lacking]
    found = {}
    for system in (name for name in ordinary if name in again):
        of = {WITHOUT: without, str(Variant.OTHER_IMAGE_ALONE): alone, **again[system]}
        found[system] = {p.query_id: _outcome(p, of) for p in ordinary[system].values() if p.cited}
        notes.append(_coverage(system, ordinary[system], found[system]))
    return found


def _outcome(own: Prediction, of: Mapping[str, Mapping[str, Prediction]]) -> Asked:
    answers = {name: mine[own.query_id] for name, mine in of.items() if own.query_id in mine}
    right = {str(SOURCE_OF.get(name, name)): bool(item_correct(p)) for name, p in answers.items()}
    other = answers.get(Variant.OTHER_IMAGE)
    copied = None if other is None or own.answer is None else answer_correct(replace(own, gold=own.answer), other.answer)
    return Asked(own.answer_type, own.need, {**right, Knowledge.BOTH: bool(item_correct(own))}, copied)


def _coverage(system: str, answered: Mapping[str, Prediction], mine: Mapping[str, Asked]) -> str:
    told = {Variant.OTHER_IMAGE: "another image", Knowledge.REPORTS: "reports alone", Knowledge.DOCUMENTS: "documents alone"}
    counts = [f"{sum(key in asked.right for asked in mine.values())} with {words}" for key, words in told.items()]
    return f"{system}: {len(mine)} of {len(answered)} questions have evidence; asked again: {', '.join(counts)}"


def _right_given(event: str, wanted: bool, conditions: Mapping[str, bool], asked: Asked) -> bool | None:
    """Whether `event` is right (or wrong) for a question whose `conditions` are right or wrong as told; None for others."""
    if event not in asked.right or any(asked.right.get(name) is not value for name, value in conditions.items()):
        return None
    return asked.right[event] is wanted


def _misled_by_any(asked: Asked) -> bool | None:
    told = [asked.right[source] for source in SOURCES if source in asked.right]
    return not all(told) if asked.right.get(WITHOUT) and told else None


def _of_source(source: Knowledge) -> Iterator[Share]:
    has = "has evidence" if source is Knowledge.BOTH else f"has {source}"
    wrong, right = f"that {has} is wrong {WITHOUT}", f"that {has} is right {WITHOUT}"
    yield Share("kud", source, wrong, partial(_right_given, source, False, {WITHOUT: False}))
    yield Share("kud_worded", source, wrong, partial(_right_given, source, True, {WITHOUT: False}), lower_is_better=False)
    yield Share("kid", source, right, partial(_right_given, source, False, {WITHOUT: True}))


def _shares() -> Iterator[Share]:
    both, other = Knowledge.BOTH, str(Variant.OTHER_IMAGE)
    unsolved = {both: True, str(Variant.OTHER_IMAGE_ALONE): False}
    image = "that was asked again with another image is right with its own"
    yield Share("md", both, image, partial(_right_given, other, True, {both: True}))
    yield Share("md_strict", both, f"{image} and wrong with the other alone", partial(_right_given, other, True, unsolved))
    per_source = [share for source in SOURCES for share in _of_source(source)]
    yield from (share for metric in ("kud", "kud_worded", "kid") for share in per_source if share.metric == metric)
    yield Share("kid", ANY, f"that has evidence is right {WITHOUT}", _misled_by_any)
    errors = f"that is wrong with evidence was asked {WITHOUT}"
    yield Share("over_reliance", both, errors, partial(_right_given, WITHOUT, True, {both: False}))
    yield Share("copied", both, "with an answer was asked again with another image", lambda asked: asked.copied)


SHARES = tuple(_shares())
