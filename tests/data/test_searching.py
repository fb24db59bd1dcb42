"""Searches: the leak rule, and sources that would find the same asked once."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from medrag_lightning.data.searching import Searching
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved

DOCUMENTS = [Document("d1", "one", patient_id="p1"), Document("d2", "two", patient_id="p2")]
QUERIES = [Query("q1", "?", patient_id="p9"), Query("q2", "?", patient_id="p8")]


class _Source:
    def __init__(self, name: str, shown: Document = DOCUMENTS[0], owner: str | None = None) -> None:
        self.name, self.shown, self.owner, self.asked = name, shown, owner, list[str]()

    def prepare(self, documents: object, open_image: object, folder: Path) -> None: ...

    def load(self, documents: object, open_image: object, folder: Path) -> None: ...

    def fingerprint(self) -> str:
        return self.name

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        self.asked += [query.id for query in queries]
        return [Retrieved(self.owner or q.id, (Candidate(self.shown, 1.0, Channel.GIVEN),), "here") for q in queries]


def _searching() -> Searching:
    return Searching(DOCUMENTS, lambda ref: None, Path("nowhere"))  # type: ignore[arg-type,return-value]


def test_a_source_of_the_same_fingerprint_is_not_asked_again() -> None:
    searching, first, twin, other = _searching(), _Source("a"), _Source("a"), _Source("b", DOCUMENTS[1])
    found = searching.find(first, QUERIES)
    assert searching.find(twin, QUERIES[:1]) == {"q1": found["q1"]}
    assert twin.asked == []
    assert first.asked == ["q1", "q2"]
    assert searching.find(other, QUERIES)["q1"].candidates[0].id == "d2"


def test_a_leak_and_a_wrong_order_are_refused() -> None:
    mine = Query("q3", "?", patient_id="p1")
    with pytest.raises(ValueError, match="candidate 'd1' shares its patient_id with query 'q3'"):
        _searching().find(_Source("a"), [mine])
    with pytest.raises(ValueError, match="candidates of query 'q7' in the place of 'q1'"):
        _searching().find(_Source("a", owner="q7"), QUERIES)
