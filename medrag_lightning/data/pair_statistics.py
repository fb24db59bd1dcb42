"""How preference pairs came about, as numbers, and proof that none of them leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medrag_lightning.data.knowledge_conditions import SetConditions
from medrag_lightning.data.pair_rules import Outcomes, Pair, Said
from medrag_lightning.records import Document, Knowledge, PairKind, Preference, Query, shares_identity

IDENTITY = ("id", "study_id", "patient_id", "image")


@dataclass
class Tally:
    """Counts of one split, one evidence set after the other.

    Attributes:
        parts: the conditions that the rules look at, in the order in which patterns are written: ``1`` right, ``0`` wrong,
            ``-`` not there.
        questions: how many there are, how many were judged, and why others were not.
    """

    parts: tuple[str, ...]
    questions: Counter[str] = field(default_factory=Counter)
    sets: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    patterns: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    met_by: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    passes: int = 0
    rows: set[tuple[str, Any]] = field(default_factory=set)

    def add(self, query: Query, around: SetConditions, outcomes: Outcomes, documents: Mapping[str, Document]) -> None:
        """Counts one evidence set and what was answered under its conditions."""
        reports = sum(1 for name in around.evidence if documents[name].image is not None)
        self.sizes[f"{reports} reports, {len(around.evidence) - reports} documents"] += 1
        self.sets["all"] += 1
        self.sets["empty"] += not around.evidence
        self.sets["without_another_image"] += around.other is None
        said: list[Said | None] = [getattr(outcomes, part) for part in self.parts]
        self.patterns["".join("-" if one is None else str(int(one.right)) for one in said)] += 1
        there = [one.condition for one in said if one is not None]
        self.passes += len(there)
        self.rows.update((query.id, condition) for condition in there)

    def meet(self, query: Query, found: Iterable[Pair]) -> None:
        """Counts the conditions of pairs that one evidence set meets, before repeats are looked at."""
        for pair in found:
            name = named(pair.kind, pair.knowledge)
            self.met[name] += 1
            self.met_by[name].add(query.id)

    def as_json(self) -> dict[str, Any]:
        """All counts as plain JSON."""
        right = {}
        for place, part in enumerate(self.parts):
            letters = Counter[str]()
            for pattern, count in self.patterns.items():
                letters[pattern[place]] += count
            right[part] = {"right": letters["1"], "of": letters["0"] + letters["1"]}
        met = {name: {"sets": self.met[name], "questions": len(self.met_by[name])} for name in sorted(self.met)}
        return {
            "questions": dict(self.questions),
            "evidence_sets": {**self.sets, "by_size": dict(sorted(self.sizes.items()))},
            "right_under": right,
            "patterns": {"order": list(self.parts), "counts": dict(sorted(self.patterns.items()))},
            "conditions_met": met,
            "reader_passes": {"a_set": len(self.parts), "in_all": self.passes, "different": len(self.rows)},
        }


def named(kind: PairKind, knowledge: Knowledge | None) -> str:
    """A kind of pair with the evidence it is about, such as ``knowledge_robustness of reports``."""
    return str(kind) if knowledge is None else f"{kind} of {knowledge}"


def counted(pairs: Sequence[Preference]) -> dict[str, Any]:
    """Pairs, their weight, and their questions, by kind and evidence."""
    groups: dict[str, list[Preference]] = defaultdict(list)
    for pair in pairs:
        groups[named(pair.kind, pair.knowledge)].append(pair)
    rows = {name: groups[name] for name in sorted(groups)} | {"all": list(pairs)}
    return {
        name: {"pairs": len(mine), "weight": sum(p.weight for p in mine), "questions": len({p.query_id for p in mine})}
        for name, mine in rows.items()
    }


class LeakCheck:
    """Whether pairs show what they must not, and how near their questions are to the corpus and to the test.

    Args:
        queries: all questions.
        documents: the corpus.
        held_out: the questions that these pairs must not be about: of validation and test for training pairs, of the test for
            those of validation.
    """

    def __init__(self, queries: Iterable[Query], documents: Sequence[Document], held_out: Iterable[Query]) -> None:
        self.queries, self.documents = {q.id: q for q in queries}, {d.id: d for d in documents}
        self.held_out = {query.id: query for query in held_out}
        self._corpus, self._test = _identities(documents), _identities(self.held_out.values())

    def check(self, pairs: Sequence[Preference]) -> None:
        """ValueError for a pair about a held-out question or with its image, and for evidence, or another image, that is of the
        question's own case, or not in the corpus.
        """
        for pair in pairs:
            query = self.queries[pair.query_id]
            shown = {query.id, pair.chosen.condition.image_of, pair.rejected.condition.image_of}
            if held := sorted(name for name in shown if name is not None and name in self.held_out):
                raise ValueError(f"pair {pair.id!r}: {held[0]!r} is a question held out for validation or test: a leak")
            for side in (pair.chosen, pair.rejected):
                for name in side.condition.evidence_ids:
                    self._refuse(pair, query, name, self.documents.get(name))
                if (owner := side.condition.image_of) is not None:
                    self._refuse(pair, query, owner, self.documents.get(owner) or _as_document(self.queries.get(owner)))

    def nearness(self, pairs: Sequence[Preference]) -> dict[str, int]:
        """Pairs (of the same case means: that share id, study, patient or image)."""
        cases = [_identity(self.queries[pair.query_id]) for pair in pairs]
        return {
            "pairs_whose_own_documents_others_may_retrieve": sum(not case.isdisjoint(self._corpus) for case in cases),
            "pairs_of_the_same_case_as_a_held_out_question": sum(not case.isdisjoint(self._test) for case in cases),
        }

    def _refuse(self, pair: Preference, query: Query, name: str, document: Document | None) -> None:
        if document is None:
            raise ValueError(f"pair {pair.id!r} of query {query.id!r} shows {name!r}, which is not in data.corpus")
        if reason := shares_identity(query, document):
            raise ValueError(f"pair {pair.id!r} of query {query.id!r} shows {name!r}, which shares its {reason}: a leak")


def _identity(item: Query | Document) -> set[tuple[str, Any]]:
    return {(name, value) for name in IDENTITY if (value := getattr(item, name)) is not None}


def _identities(items: Iterable[Query] | Iterable[Document]) -> set[tuple[str, Any]]:
    return {part for item in items for part in _identity(item)}


def _as_document(query: Query | None) -> Document | None:
    """What the leak rule compares in a query whose image is shown in another's place."""
    if query is None or query.image is None:
        return None
    return Document(query.id, "", query.image, query.patient_id, query.study_id)
