"""Candidate tables: round trip, refusals, and a resumed run that does not search again."""

import dataclasses

import pyarrow as pa
import pytest

from medrag_lightning.interfaces import CandidateSource
from medrag_lightning.retrieval.candidates import CachedTable, Remembered, write_candidates
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence

BOTH = {"image_to_image": 2, "text_to_text": 2}


@pytest.fixture
def searched(world, encoder, tmp_path):
    source = LiveSearch(encoder, BOTH)
    source.prepare(world.documents, world.pictures, tmp_path / "store")
    source.load(world.documents, world.pictures, tmp_path / "store")
    return source, source.retrieve(world.queries)


def table(world, path):
    source = CachedTable(str(path))
    source.prepare(world.documents, world.pictures, path.parent)
    source.load(world.documents, world.pictures, path.parent)
    return source


def test_round_trip(world, searched, tmp_path):
    source, found = searched
    write_candidates(tmp_path / "t.arrow", world.queries, found, source.fingerprint(), world.documents)
    cached = table(world, tmp_path / "t.arrow")
    assert isinstance(cached, CandidateSource)
    assert cached.retrieve(world.queries) == found
    assert cached.retrieve(world.queries[3:5][::-1]) == found[3:5][::-1]
    assert cached.retrieve([]) == []
    assert len(cached.fingerprint()) == 64


def test_refusals(world, searched, tmp_path):
    source, found = searched
    path = tmp_path / "t.arrow"
    write_candidates(path, world.queries[1:], found[1:], source.fingerprint(), world.documents)
    cached = table(world, path)
    with pytest.raises(ValueError, match="lacks 1 of 12 queries, such as 'q0'"):
        cached.retrieve(world.queries)
    with pytest.raises(ValueError, match="query 'q1' has changed since"):
        cached.retrieve([dataclasses.replace(world.queries[1], question="What?")])
    with pytest.raises(ValueError, match="was made in another corpus"):
        CachedTable(str(path)).prepare(world.documents[1:], world.pictures, tmp_path)
    with pytest.raises(ValueError, match="there is no such file"):
        CachedTable(str(tmp_path / "none.arrow")).prepare(world.documents, world.pictures, tmp_path)
    with pytest.raises(RuntimeError, match="before load"):
        CachedTable(str(path)).fingerprint()
    (tmp_path / "text.arrow").write_text("id,score")
    with pytest.raises(ValueError, match="is no candidate table"):
        CachedTable(str(tmp_path / "text.arrow")).prepare(world.documents, world.pictures, tmp_path)
    other = pa.table({"a": [1]})
    with pa.ipc.new_file(str(tmp_path / "other.arrow"), other.schema) as sink:
        sink.write_table(other)
    with pytest.raises(ValueError, match="no candidate table of schema 1"):
        CachedTable(str(tmp_path / "other.arrow")).prepare(world.documents, world.pictures, tmp_path)


def test_a_leaking_table_is_refused(world, searched, tmp_path):
    source, found = searched
    patient = found[0].candidates[1].document.patient_id
    queries = [dataclasses.replace(world.queries[0], patient_id=patient), *world.queries[1:]]
    write_candidates(tmp_path / "t.arrow", queries, found, source.fingerprint(), world.documents)
    with pytest.raises(ValueError, match=r"shares its (patient_id|study_id) with query 'q0'"):
        table(world, tmp_path / "t.arrow").retrieve(queries)


def test_remembered_searches_once(world, searched, tmp_path, monkeypatch):
    source, found = searched
    calls = []
    monkeypatch.setattr(LiveSearch, "retrieve", lambda self, queries: calls.append(len(queries)) or found[: len(queries)])
    for _ in range(2):
        remembered = Remembered(source)
        assert isinstance(remembered, CandidateSource)
        remembered.prepare(world.documents, world.pictures, tmp_path / "store")
        remembered.load(world.documents, world.pictures, tmp_path / "store")
        assert remembered.retrieve(world.queries) == found
        assert remembered.fingerprint() == source.fingerprint()
    assert calls == [12]
    remembered.retrieve(world.queries[:5])  # other queries: another search
    assert calls == [12, 5]
    with pytest.raises(RuntimeError, match="before load"):
        Remembered(NoEvidence()).retrieve([])
