"""Evidence spoilt on purpose in a test, to see how much a system depends on its evidence being good (MR-RAG spec, R20).

Every draw depends on (seed, query, kind, place) alone. All systems and all shares see the same queries, the same places and the
same new documents, and what is replaced at 25 % is replaced at 50 %, too: the points of a curve are paired.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from torch.utils.data import Dataset

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.batches import Example
from medrag_lightning.data.contradiction import Contradictions
from medrag_lightning.data.corruption import corrupted
from medrag_lightning.data.evidence import EvidencePicker
from medrag_lightning.data.examples import example_of
from medrag_lightning.data.own_scores import own_scores
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.interfaces import CandidateSource, OpenImage
from medrag_lightning.records import Candidate, Document, Noise, NoiseKind, Query, Regime, Retrieved

logger = logging.getLogger(__name__)

OWN = "retrieved"
"""The run's own candidates among the systems; the others go by the names of their rivals."""
KindName = Literal["irrelevant", "contradicting", "duplicated", "blank_image"]
Found = Mapping[str, Mapping[str, Retrieved]]
"""Candidates by system, then by query id."""


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class NoisePlan:
    """What spoilt evidence a test reports beside the ordinary one. Never part of training.

    - ``irrelevant``: a share of the candidates is replaced by random legal documents that no system found, and that a generated
      world does not know to be relevant or misleading.
    - ``contradicting``: ... by documents that speak for another answer: the known poison of a generated world, then documents
      that state another choice of a closed question (as whole words, undenied, and no second one), those first that share the
      rarest words with the question. Queries without enough of them are left out.
    - ``duplicated``: ... by copies of another candidate, which stays citable under its own id.
    - ``blank_image``: the reader sees mid grey in the place of the query's image; what was retrieved stays.

    A successor takes the place and the channel of the candidate that it replaces. Its score decides what the curve says, since
    fusion weights and steering strengths go by scores:

    - ``kept``: the score of what it replaces, so that scores do not tell good evidence from bad: how a reader bears noise that
      retrieval did not notice. Steering by scores cannot tell it apart either.
    - ``own``: the score that the system's source gives it (a copy: that of its original): how reader and scores together bear
      noise that came in some other way. A document that cannot be compared in that channel gets the query's lowest score.

    Args:
        kinds: of noise.
        shares: of the candidates that are replaced, in (0, 1]. Where a share of K is no whole number, each query's is rounded
            up or down by a draw, so that the expected share is exact. Share 0 is the ordinary test.
        blank_shares: of the queries whose image is blank.
        scores: see above.
        systems: ``retrieved`` (the run's own candidates) and names of rivals; null for all of them.
        max_queries: so many queries, drawn once for all systems; null for all.
    """

    kinds: tuple[KindName, ...] = ("irrelevant", "contradicting", "duplicated", "blank_image")
    shares: tuple[float, ...] = (0.125, 0.25, 0.375, 0.5)
    blank_shares: tuple[float, ...] = (1.0,)
    scores: Literal["kept", "own"] = "kept"
    systems: tuple[str, ...] | None = None
    max_queries: int | None = None

    def __post_init__(self) -> None:
        for name in ("kinds", "shares", "blank_shares", "systems"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) != len(values)):
                raise ValueError(f"noise.{name} must name at least one, each once; got {list(values)}")
        if bad := [share for share in (*self.shares, *self.blank_shares) if not 0 < share <= 1]:
            raise ValueError(f"noise shares must lie in (0, 1], got {bad[0]}; share 0 is the ordinary test")
        if self.max_queries is not None and self.max_queries < 1:
            raise ValueError(f"noise.max_queries must be at least 1, got {self.max_queries}")

    def check(self, regimes: Sequence[Regime], rivals: Sequence[str]) -> None:
        """Raises ValueError for a system that this data module does not have, or whose curve would lack its share 0."""
        if unknown := [name for name in self.systems or () if name not in (OWN, *rivals)]:
            raise ValueError(f"noise.systems names {unknown[0]!r}; there are {[OWN, *rivals]}")
        if self.wants(OWN) and Regime.RETRIEVED not in regimes:
            raise ValueError(
                f"noise for {OWN!r} needs the regime retrieved among data.regimes: it is the share 0 of the curve. "
                "Add it, or name other noise.systems"
            )

    def wants(self, system: str) -> bool:
        """Whether a system's evidence is spoilt."""
        return self.systems is None or system in self.systems

    def points(self) -> list[Noise]:
        """Every kind with every share, shares rising."""
        return [
            Noise(kind, share)
            for kind in map(NoiseKind, self.kinds)
            for share in sorted(self.blank_shares if kind is NoiseKind.BLANK_IMAGE else self.shares)
        ]


class Spoiler:
    """Spoils the evidence of queries.

    Args:
        plan: what is wanted.
        queries: of the split.
        found: the ordinary candidates of every system that takes part.
        picker: knows the corpus and which documents are legal; its seed is the seed of all draws.
        sources: of the systems, for scores of their own.

    Attributes:
        queries: by kind, those that are spoilt: the same ones for all systems and shares.
    """

    def __init__(
        self,
        plan: NoisePlan,
        queries: Sequence[Query],
        found: Found,
        picker: EvidencePicker,
        sources: Mapping[str, CandidateSource] | None = None,
    ) -> None:
        self.plan, self.found, self.picker, self.seed = plan, found, picker, picker.seed
        self._own: dict[tuple[str, NoiseKind, str], list[float]] = {}
        self._contradicting: dict[str, list[Document]] = {}
        asked = self._drawn(queries)
        self.queries = {kind: self._suited(kind, asked) for kind in map(NoiseKind, plan.kinds)}
        for kind, mine in self.queries.items():
            if lacking := len(asked) - len(mine):
                logger.warning("noise %s: %d of %d queries are left out: %s", kind, lacking, len(asked), WHY[kind])
        if plan.scores == "own":
            for system in found:
                for kind in set(self.queries) & {NoiseKind.IRRELEVANT, NoiseKind.CONTRADICTING}:
                    self._score(kind, system, (sources or {})[system])

    def candidates(self, query: Query, system: str, noise: Noise) -> tuple[Candidate, ...]:
        """The candidates of `query` under `noise`, each in the place and channel of the one that it replaces."""
        old = self.found[system][query.id].candidates
        if noise.kind is NoiseKind.BLANK_IMAGE:
            return old
        places, kept = self.replaced(query, noise, len(old))
        own = self.plan.scores == "own"
        if noise.kind is NoiseKind.DUPLICATED:
            copy = old[kept]
            new = [copy if own else replace(old[place], document=copy.document) for place in places]
        else:
            documents = self._new(query, noise.kind, len(places))
            scores = self._own[system, noise.kind, query.id] if own else [old[place].score for place in places]
            rows = zip(places, documents, scores[: len(places)], strict=True)
            new = [Candidate(document, score, old[place].channel) for place, document, score in rows]
        successor = dict(zip(places, new, strict=True))
        return tuple(successor.get(place, candidate) for place, candidate in enumerate(old))

    def replaced(self, query: Query, noise: Noise, size: int) -> tuple[list[int], int]:
        """The places among `size` that are replaced, and one that never is (copies are made of it)."""
        rng = counter_rng(self.seed, "noise", str(noise.kind), query.id)
        rounding, order = rng.random(), rng.permutation(size).tolist()
        count = min(int(size * noise.share + rounding), size - (noise.kind is NoiseKind.DUPLICATED))
        return order[:count], order[-1]

    def blank(self, query: Query, noise: Noise) -> bool:
        """Whether this query's image is blank."""
        return noise.kind is NoiseKind.BLANK_IMAGE and self._rounding(noise.kind, query) < noise.share

    def _rounding(self, kind: NoiseKind, query: Query) -> float:
        return float(counter_rng(self.seed, "noise", str(kind), query.id).random())

    def _drawn(self, queries: Sequence[Query]) -> list[Query]:
        order = sorted(queries, key=lambda q: float(counter_rng(self.seed, "noise queries", q.id).random()))
        chosen = {query.id for query in order[: self.plan.max_queries]}
        return [query for query in queries if query.id in chosen]

    def _suited(self, kind: NoiseKind, queries: Sequence[Query]) -> list[Query]:
        if kind is NoiseKind.BLANK_IMAGE:
            return [query for query in queries if query.image is not None]
        fewest = 2 if kind is NoiseKind.DUPLICATED else 1
        mine = [q for q in queries if all(len(found[q.id].candidates) >= fewest for found in self.found.values())]
        if kind is NoiseKind.CONTRADICTING:
            self._contradicting = self._contradictions(mine)
            mine = [query for query in mine if query.id in self._contradicting]
        return mine

    def _contradictions(self, queries: Sequence[Query]) -> dict[str, list[Document]]:
        """For each query that has so many: the contradicting documents that its largest share takes."""
        pool, most = Contradictions(self.picker.documents), Noise(NoiseKind.CONTRADICTING, max(self.plan.shares))
        documents: dict[str, list[Document]] = {}
        for query in queries:
            sizes = [len(found[query.id].candidates) for found in self.found.values()]
            count = max(len(self.replaced(query, most, size)[0]) for size in sizes)
            shown = self._shown(query) | set(query.relevant_ids)
            mine = self.picker.legal_documents(query, pool.of(query, self.seed), max(count, 1), shown)
            if len(mine) >= max(count, 1):
                documents[query.id] = mine
        return documents

    def _score(self, kind: NoiseKind, system: str, source: CandidateSource) -> None:
        """Keeps the source's own score of every document that the largest share puts in, in the order of its places."""
        most, mine = Noise(kind, max(self.plan.shares)), self.queries[kind]
        old = [self.found[system][query.id].candidates for query in mine]
        places = [self.replaced(query, most, len(row))[0] for query, row in zip(mine, old, strict=True)]
        ids = [[d.id for d in self._new(query, kind, len(at))] for query, at in zip(mine, places, strict=True)]
        channels = [[row[place].channel for place in at] for row, at in zip(old, places, strict=True)]
        scores = own_scores(source, system, mine, ids, channels)
        for query, row, told in zip(mine, old, scores, strict=True):
            lowest = min(score for score in (*told, *(c.score for c in row)) if score == score)
            self._own[system, kind, query.id] = [score if score == score else lowest for score in told]

    def _new(self, query: Query, kind: NoiseKind, count: int) -> list[Document]:
        """The first so many documents that are put in."""
        if kind is NoiseKind.CONTRADICTING:
            return self._contradicting[query.id][:count]
        draw = int(counter_rng(self.seed, "irrelevant evidence", query.id).integers(2**31))
        excluded = self._shown(query) | set(query.relevant_ids) | set(query.poison_ids)
        new = [candidate.document for candidate in self.picker.random_documents(query, count, draw, excluded)]
        if len(new) < count:
            raise ValueError(
                f"query {query.id!r}: the corpus has only {len(new)} documents that are irrelevant to it, {count} are needed; "
                "lower noise.shares or give a larger corpus"
            )
        return new

    def _shown(self, query: Query) -> set[str]:
        return {candidate.id for found in self.found.values() for candidate in found[query.id].candidates}


WHY = {
    NoiseKind.IRRELEVANT: "nothing was retrieved for them",
    NoiseKind.CONTRADICTING: "too few documents are known to speak for another answer, or nothing was retrieved",
    NoiseKind.DUPLICATED: "fewer than two candidates were retrieved",
    NoiseKind.BLANK_IMAGE: "they have no image",
}


class NoisyExamples(Dataset[list[Example]]):
    """The queries of a split with one system's evidence under every noise, query by query, so that a batch shares images."""

    def __init__(self, spoiler: Spoiler, system: str, open_image: OpenImage) -> None:
        self.spoiler, self.system, self.open_image = spoiler, system, open_image
        points = spoiler.plan.points()
        suited = {kind: {query.id for query in mine} for kind, mine in spoiler.queries.items()}
        every = {query.id: query for mine in spoiler.queries.values() for query in mine}
        self.items = [(query, noise) for query in every.values() for noise in points if query.id in suited[noise.kind]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Example]:
        once = cache(self.open_image)  # the images of a query come again with every share
        return [self._one(*self.items[key.place], once) for key in keys]

    def _one(self, query: Query, noise: Noise, open_image: OpenImage) -> Example:
        found = self.spoiler.candidates(query, self.system, noise)
        name = "" if self.system == OWN else self.system
        example = replace(example_of(query, Regime.RETRIEVED, found, open_image, name), noise=noise)
        if example.query_image is not None and self.spoiler.blank(query, noise):
            return replace(example, query_image=corrupted(example.query_image, "blank", query.id))
        return example


def noisy_sets(
    plan: NoisePlan,
    queries: Sequence[Query],
    found: Found,
    picker: EvidencePicker,
    open_image: OpenImage,
    sources: Mapping[str, CandidateSource] | None = None,
) -> list[NoisyExamples]:
    """A data set for each of the systems in `found` that the plan wants; all are spoilt alike."""
    mine = {system: retrieved for system, retrieved in found.items() if plan.wants(system)}
    if not mine or not queries:
        return []
    spoiler = Spoiler(plan, queries, mine, picker, sources)
    sets = [NoisyExamples(spoiler, system, open_image) for system in mine]
    return [examples for examples in sets if len(examples)]
