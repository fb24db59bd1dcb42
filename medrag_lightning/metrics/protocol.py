"""What a benchmark's own weaknesses would hide: constant answers, the positive class, duplicated test items, shared patients.

Source: MR-RAG spec, "Benchmark-weakness protocol" and R18. On one published set always answering "yes" beats the paper's
system; on another nearly half of the test images have a report that stands in the retrieval pool word for word.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medrag_lightning.metrics import vqa
from medrag_lightning.metrics.bootstrap import Bootstrap, Metric, weighted_mean
from medrag_lightning.metrics.consistency import SCORES
from medrag_lightning.metrics.controls import MAJORITY, QUESTION_ONLY
from medrag_lightning.metrics.parsing import label_of
from medrag_lightning.metrics.systems import by_system
from medrag_lightning.records import AnswerType, Prediction, Query, Regime

YES_NO = frozenset({"yes", "no"})
POSITIVE = "yes"
FEWEST = 10  # questions with the same choices, below which a constant answer says nothing
ALWAYS = "always answering"
NO_YES_NO = "no yes/no questions"


@dataclass(frozen=True, slots=True)
class Constant:
    """The best that one constant answer gets on the closed test questions with the same choices, and the systems it beats.

    `answer` is the most frequent gold answer of these questions themselves, so no training set decides it. A system that
    answered only some of them (`oracle`, `poisoned`) is held against what the answer gets on just those: `fewer` tells the
    answer's share of right ones there, and how many they are.
    """

    choices: tuple[str, ...]
    answer: str
    accuracy: Metric
    beaten: Mapping[str, float]
    matched: Mapping[str, float]
    fewer: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    def note(self) -> str:
        """In words, where it beats or matches a system; empty where it does not."""
        parts = [
            f"{how} {', '.join(f'{name} ({self._share(name, value)})' for name, value in systems.items())}"
            for how, systems in (("more than", self.beaten), ("as much as", self.matched))
            if systems
        ]
        asked = f"the {self.accuracy.n} closed questions with choices {'/'.join(self.choices)}"
        told = f'{ALWAYS} "{self.answer}" gets {100 * self.accuracy.value:.0f} % of {asked} right'
        return f"{told}: {', and '.join(parts)}" if parts else ""

    def _share(self, system: str, value: float) -> str:
        own = f"{100 * value:.0f} %"
        if system not in self.fewer:
            return own
        alike, count = self.fewer[system]
        return f"{own} of the {count} that it answered, this answer {100 * alike:.0f} %"


@dataclass(frozen=True, slots=True)
class Protocol:
    """What stands beside every results table.

    Attributes:
        yes_no: by system, and for ``always "yes"`` and ``always "no"``, on the yes/no questions alone: `accuracy`, `macro_f1`,
            and `precision`, `recall`, `f1` of the positive class (yes).
        constants: for every set of choices of at least `FEWEST` questions.
        without_duplicates: by system, the metrics of `SCORES` over the queries that are no duplicates.
        duplicated: number of queries that are, of those that could be judged, of all.
        notes: what must be said in words, constant answers first.
    """

    yes_no: Mapping[str, Mapping[str, Metric]]
    constants: tuple[Constant, ...]
    without_duplicates: Mapping[str, Mapping[str, Metric]]
    duplicated: tuple[int, int, int]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        constants = [
            {"choices": list(c.choices), "answer": c.answer, "accuracy": c.accuracy.as_json(), "beats": list(c.beaten),
             "matches": list(c.matched)}
            for c in self.constants
        ]  # fmt: skip
        return {
            "positive_class": POSITIVE,
            "yes_no_questions": _plain(self.yes_no),
            "constant_answers": constants,
            "duplicated": dict(zip(("queries", "judged", "all"), self.duplicated, strict=True)),
            "without_duplicates": _plain(self.without_duplicates),
        }


def protocol(
    predictions: Sequence[Prediction],
    clusters: Mapping[str, str],
    settings: Bootstrap,
    duplicated: Mapping[str, bool] | None = None,
) -> Protocol:
    """The protocol's numbers for the predictions of one test, controls included.

    Args:
        predictions: as `summarise` takes them.
        clusters: cluster of each query id (`cluster_of`).
        settings: how intervals are made.
        duplicated: whether each query is a duplicate, by id; a query that is not in here could not be judged, and None says
            that none could.
    """
    systems = by_system([p for p in predictions if p.gold is not None])
    constants = _constants(systems, clusters, settings)
    asked = {p.query_id for mine in systems.values() for p in mine}
    judged = {name: copy for name, copy in (duplicated or {}).items() if name in asked}
    counts = (sum(judged.values()), len(judged), len(asked))
    rest = {name: _unique_rows(mine, judged, clusters, settings) for name, mine in systems.items()} if counts[0] else {}
    notes = [note for constant in constants if (note := constant.note())]
    notes += [] if duplicated is None else [_duplicate_note(*counts)]
    return Protocol(_yes_no(systems, clusters, settings), constants, rest, counts, tuple(notes))


def patient_notes(train: Sequence[Query], test: Sequence[Query], corpus_patients: Sequence[str | None] | None) -> list[str]:
    """Whether the split is patient-disjoint: how many test patients occur in training questions and in the corpus.

    Args:
        train, test: the queries.
        corpus_patients: the patient of each document; None where the corpus is not known.
    """
    known = {query.patient_id for query in test} - {None}
    if not known:
        return ["patient-disjoint: not known, the test questions name no patients"] if test else []
    told = f"of {len(known)} test patients"
    in_train = len(known & {query.patient_id for query in train})
    first = f"{in_train} {told} occur in training questions" + (": NOT patient-disjoint" if in_train else "")
    second = "the corpus is not known"
    if corpus_patients is not None:
        in_corpus = len(known & set(corpus_patients))
        second = f"{in_corpus} have documents in the corpus" + (", never shown to their own questions" if in_corpus else "")
    unknown = sum(query.patient_id is None for query in test)
    third = f"; {unknown} of {len(test)} test questions name no patient" if unknown else ""
    return [f"patient-disjoint: {first}; {second}{third}"]


def _constants(
    systems: Mapping[str, Sequence[Prediction]], clusters: Mapping[str, str], settings: Bootstrap
) -> tuple[Constant, ...]:
    groups: dict[frozenset[str], dict[str, Prediction]] = defaultdict(dict)
    for mine in systems.values():
        for p in mine:
            if p.answer_type is AnswerType.CLOSED:
                groups[_labels(p)].setdefault(p.query_id, p)
    found = []
    for labels, asked in sorted(groups.items(), key=lambda item: (-len(item[1]), sorted(item[0]))):
        if len(asked) >= FEWEST:
            found.append(_constant(labels, list(asked.values()), systems, clusters, settings))
    return tuple(found)


def _constant(
    labels: frozenset[str],
    asked: Sequence[Prediction],
    systems: Mapping[str, Sequence[Prediction]],
    clusters: Mapping[str, str],
    settings: Bootstrap,
) -> Constant:
    count = Counter(label_of(p.gold or "") for p in asked)
    best = min(count, key=lambda label: (-count[label], label))
    choices = next(p.choices for p in asked)
    answer = next(choice for choice in choices if label_of(choice) == best)
    right = {p.query_id: float(label_of(p.gold or "") == best) for p in asked}
    accuracy = settings.metric(weighted_mean(list(right.values())), [clusters[name] for name in right])
    beaten, matched, fewer = {}, {}, {}
    for system, mine in systems.items():
        here = [p for p in mine if p.answer_type is AnswerType.CLOSED and _labels(p) == labels]
        if not here or system in (MAJORITY, QUESTION_ONLY):
            continue
        own = float(vqa.correct([p.gold or "" for p in here], [p.answer for p in here]).mean())
        alike = sum(right[p.query_id] for p in here) / len(here)  # on the questions that this system answered
        if len(here) < len(asked):
            fewer[system] = (alike, len(here))
        if own < alike:
            beaten[system] = own
        elif own == alike:
            matched[system] = own
    return Constant(choices, answer, accuracy, beaten, matched, fewer)


def _yes_no(
    systems: Mapping[str, Sequence[Prediction]], clusters: Mapping[str, str], settings: Bootstrap
) -> dict[str, dict[str, Metric]]:
    asked: dict[str, Prediction] = {}
    rows: dict[str, list[Prediction]] = {}
    for system, mine in systems.items():
        rows[system] = [p for p in mine if p.answer_type is AnswerType.CLOSED and _labels(p) == YES_NO]
        for p in rows[system]:
            asked.setdefault(p.query_id, p)
    for label in (POSITIVE, *sorted(YES_NO - {POSITIVE})):
        rows[f'always "{label}"'] = [replace(p, answer=label, regime=Regime.NONE) for p in asked.values()]
    return {name: _class_row(mine, clusters, settings) for name, mine in rows.items()} if asked else {}


def _class_row(mine: Sequence[Prediction], clusters: Mapping[str, str], settings: Bootstrap) -> dict[str, Metric]:
    gold, answers, groups = [p.gold or "" for p in mine], [p.answer for p in mine], [clusters[p.query_id] for p in mine]
    if not mine:
        return {name: Metric.missing(NO_YES_NO) for name in ("accuracy", "macro_f1", "precision", "recall", "f1")}
    statistics = {"accuracy": vqa.accuracy(gold, answers), "macro_f1": vqa.macro_f1(gold, answers)}
    statistics |= vqa.class_scores(gold, answers, POSITIVE)
    return {name: settings.metric(statistic, groups) for name, statistic in statistics.items()}


def _unique_rows(
    mine: Sequence[Prediction], judged: Mapping[str, bool], clusters: Mapping[str, str], settings: Bootstrap
) -> dict[str, Metric]:
    """The metrics over the queries that were judged and are no duplicates."""
    rows = {}
    for metric, (kind, scorer) in SCORES.items():
        kept = [p for p in mine if p.answer_type is kind and not judged.get(p.query_id, True)]
        missing = Metric.missing(f"no {kind} question that is no duplicate")
        rows[metric] = settings.metric(scorer(kept), [clusters[p.query_id] for p in kept]) if kept else missing
    return rows


def _duplicate_note(copies: int, judged: int, asked: int) -> str:
    left_out = f" ({asked - judged} more could not be judged)" if judged < asked else ""
    if not judged:
        return f"duplicates: not computed: of no query are the own report or image known{left_out}"
    return (
        f"duplicates: {copies} of {judged} test questions{left_out} have a twin in the corpus: another patient's document says "
        "what the question's own report says, or, where that is not known, shows the same pixels"
    )


def _labels(prediction: Prediction) -> frozenset[str]:
    return frozenset(label_of(choice) for choice in prediction.choices)


def _plain(rows: Mapping[str, Mapping[str, Metric]]) -> dict[str, dict[str, Any]]:
    return {system: {name: metric.as_json() for name, metric in row.items()} for system, row in rows.items()}
