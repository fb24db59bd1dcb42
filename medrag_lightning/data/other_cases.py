"""Questions about other patients, for a query that is to be shown what is not its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.data.evidence import without_repeats
from medrag_lightning.records import Query


class OtherCases:
    """Queries that share no id, study, patient or image with a query, in an order drawn for it.

    Args:
        queries: among which others are drawn.
        seed: of the draws.
    """

    def __init__(self, queries: Sequence[Query], seed: int) -> None:
        self.queries, self.seed = list(queries), seed
        self._by_question: dict[str, list[Query]] = {}
        for query in self.queries:
            self._by_question.setdefault(_words(query), []).append(query)

    def of(self, query: Query, purpose: str) -> Iterator[Query]:
        """All others; `purpose` names the draw."""
        yield from self._drawn(query, self.queries, purpose)

    def with_an_image(self, query: Query) -> Iterator[Query]:
        """Others that have an image: those with the same question first, then all; some come twice."""
        for group in (self._by_question.get(_words(query), []), self.queries):
            yield from (other for other in self._drawn(query, group, "other image") if other.image is not None)

    def _drawn(self, query: Query, group: Sequence[Query], purpose: str) -> Iterator[Query]:
        for place in without_repeats(counter_rng(self.seed, purpose, query.id), len(group)):
            if not _same_case(query, group[place]):
                yield group[place]


def _words(query: Query) -> str:
    said = [part for turn in query.history for part in turn]
    return " ".join(" ".join([*said, query.question]).casefold().split())


def _same_case(query: Query, other: Query) -> bool:
    """Whether two queries share id, study, patient or image; unknown fields are not equal to anything."""
    pairs = [(getattr(query, name), getattr(other, name)) for name in ("study_id", "patient_id", "image")]
    return query.id == other.id or any(mine is not None and mine == theirs for mine, theirs in pairs)
