"""What each question is shown with to find out what its reader relies on: sets of evidence K, whole and in parts, with the
question's own image and with another (HeteroRAG, HKPT). The score table and the pairs built from it ask the same object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.data.counter_images import CounterImages
from medrag_lightning.data.evidence import without_repeats
from medrag_lightning.data.feeds import World
from medrag_lightning.data.knowledge import KnowledgePlan, without
from medrag_lightning.records import Condition, Document, Knowledge, Query, knowledge_of

Evidence = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetConditions:
    """One evidence set K of a query and the conditions around it; some are equal where K lacks a kind.

    Attributes:
        evidence: ids of K, in the order shown.
        kinds: those of which K holds something: reports, documents.
        full: (v, t, K).
        bare: (v, t).
        without_reports, without_documents: (v, t, K without that kind).
        other: (v*, t, K); None where there is no other image.
        other_alone: (v*, t).
    """

    evidence: Evidence
    kinds: frozenset[Knowledge]
    full: Condition
    bare: Condition
    without_reports: Condition
    without_documents: Condition
    other: Condition | None
    other_alone: Condition | None

    def conditions(self) -> list[Condition]:
        """All of them, each once."""
        every = (self.full, self.other, self.bare, self.other_alone, self.without_reports, self.without_documents)
        return list(dict.fromkeys(condition for condition in every if condition is not None))


class EvidenceSets:
    """The sets K of a query, as `KnowledgePlan` says, by draws that depend on (seed, query, number of the draw) alone.

    Args:
        world: corpus and candidates.
        plan: the settings.
    """

    def __init__(self, world: World, plan: KnowledgePlan) -> None:
        self.world, self.plan, self.picker = world, plan, world.picker()
        self._of_kind: dict[Knowledge, list[Document]] = {Knowledge.REPORTS: [], Knowledge.DOCUMENTS: []}
        for document in world.documents:
            self._of_kind[knowledge_of(document)].append(document)

    def of(self, query: Query) -> list[Evidence]:
        """The different sets; the same documents in another order are another set. One may be empty."""
        retrieved = dict.fromkeys(candidate.document for candidate in self.world.retrieved[query.id].candidates)
        ranked = {kind: [d for d in retrieved if knowledge_of(d) is kind] for kind in self._of_kind}
        return list(dict.fromkeys(self._draw(query, ranked, draw) for draw in range(self.plan.draws)))

    def _draw(self, query: Query, ranked: dict[Knowledge, list[Document]], draw: int) -> Evidence:
        limits = {Knowledge.REPORTS: self.plan.max_reports, Knowledge.DOCUMENTS: self.plan.max_documents}
        sizes = counter_rng(self.world.seed, "evidence set", query.id, draw)
        counts = {kind: int(sizes.integers(most + 1)) if self.plan.sample else most for kind, most in limits.items()}
        chosen = [document for kind, count in counts.items() for document in ranked[kind][:count]]
        ids = [document.id for document in self._with_distractors(query, chosen, ranked, draw)]
        if self.plan.shuffle:
            order = counter_rng(self.world.seed, "evidence order", query.id, draw).permutation(len(ids))
            ids = [ids[place] for place in order.tolist()]
        return tuple(ids)

    def _with_distractors(
        self, query: Query, chosen: list[Document], ranked: dict[Knowledge, list[Document]], draw: int
    ) -> list[Document]:
        """Some of `chosen`, each with the plan's probability, exchanged for legal documents of the same kind that were not
        retrieved, and that a generated world does not know to answer or to mislead.
        """
        rng = counter_rng(self.world.seed, "distractors", query.id, draw)
        exchanged = rng.random(len(chosen)) < self.plan.distractor_share
        excluded = {document.id for mine in ranked.values() for document in mine} | {*query.relevant_ids, *query.poison_ids}
        made = list(chosen)
        for kind, every in self._of_kind.items():
            places = [n for n, document in enumerate(chosen) if exchanged[n] and knowledge_of(document) is kind]
            drawn = without_repeats(counter_rng(self.world.seed, "distractor", str(kind), query.id, draw), len(every))
            found = self.picker.legal_documents(query, (every[n] for n in drawn), len(places), excluded)
            for place, document in zip(places, found, strict=False):  # a small corpus may not have so many
                made[place] = document
        return made


class KnowledgeConditions:
    """The evidence sets of every query, each with its conditions.

    Args:
        world: queries, corpus, candidates, and the plan (`world.knowledge`).
        queries: those that `of` will be asked about.

    Raises:
        ValueError: there is no plan, no query has a candidate, or the counter-images cannot be told.
    """

    def __init__(self, world: World, queries: Sequence[Query]) -> None:
        if world.knowledge is None:
            raise ValueError("evidence sets are asked for, and data.knowledge is not set: say there which, such as draws: 1")
        if queries and not any(world.retrieved[query.id].candidates for query in queries):
            raise ValueError(f"data.knowledge: none of {len(queries)} queries has a candidate; set a data.source that searches")
        self.documents = {document.id: document for document in world.documents}
        self.sets, self.images = EvidenceSets(world, world.knowledge), CounterImages(world, queries)

    def of(self, query: Query) -> list[SetConditions]:
        """One for each evidence set."""
        other = self.images.of(query)
        return [self._around(evidence, other) for evidence in self.sets.of(query)]

    def _around(self, evidence: Evidence, other: Condition | None) -> SetConditions:
        return SetConditions(
            evidence=evidence,
            kinds=frozenset(knowledge_of(self.documents[name]) for name in evidence),
            full=Condition(evidence),
            bare=Condition(),
            without_reports=Condition(without(evidence, self.documents, Knowledge.REPORTS)),
            without_documents=Condition(without(evidence, self.documents, Knowledge.DOCUMENTS)),
            other=None if other is None else replace(other, evidence_ids=evidence),
            other_alone=other,
        )
