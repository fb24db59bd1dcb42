"""Text corpora: chunks that are bounded, overlap and can be put together again, with their title, licence and corpus."""

import itertools
import random

import pytest
from table_files import jsonl

from medrag_lightning.data.tables import TextCorpus
from medrag_lightning.data.tables.text_corpus import chunks
from medrag_lightning.interfaces import Table

ROWS = [
    {"id": "a", "title": "Skin", "text": "Naevi are moles.", "license": "CC0", "chapter": 3},
    {"id": "b", "title": "Lung", "text": "0123456789" * 3, "license": "CC0"},
    {"id": "c", "text": "A skin lesion: MELANOMA."},
]


def test_a_corpus(tmp_path):
    table = TextCorpus(str(jsonl(tmp_path / "book.jsonl", ROWS)), chunk_chars=20, overlap_chars=5)
    assert isinstance(table, Table)
    assert (table.queries(), table.roots()) == ([], [])
    found = table.documents()
    assert [document.id for document in found] == ["a", "b/1", "b/2", "c/1", "c/2"]
    assert found[0].text == "Skin: Naevi are moles."
    assert found[1].text == "Lung: 01234567890123456789"
    assert found[2].text == "Lung: 567890123456789"
    assert {(document.source, document.image, document.patient_id) for document in found} == {("book", None, None)}
    assert [document.license for document in found] == ["CC0", "CC0", "CC0", "", ""]


def test_what_is_kept(tmp_path):
    path = str(jsonl(tmp_path / "book.jsonl", ROWS))
    assert [d.id for d in TextCorpus(path, limit=2).documents()] == ["a", "b"]
    assert [d.id for d in TextCorpus(path, mentions=["melanom", "SKIN"]).documents()] == ["a", "c"]
    assert [d.id for d in TextCorpus(path, mentions=["skin"], titles=False).documents()] == ["c"]
    assert [d.id for d in TextCorpus(path, mentions=["skin"], limit=1).documents()] == ["a"]
    named = TextCorpus(path, titles=False, name="guidelines").documents()
    assert (named[0].text, named[0].source) == ("Naevi are moles.", "guidelines")
    renamed = jsonl(tmp_path / "other.jsonl", [{"id": "a", "heading": "Skin", "text": "Naevi."}])
    assert TextCorpus(str(renamed), fields={"title": "heading"}).documents()[0].text == "Skin: Naevi."
    with pytest.raises(ValueError, match=r"book.jsonl: no text mentions any of the words"):
        TextCorpus(path, mentions=["elanoma"]).documents()


@pytest.mark.parametrize("seed", range(20))
def test_chunks_are_bounded_overlap_exactly_and_give_the_text_back(seed):
    rng = random.Random(seed)
    size = rng.randint(1, 30)
    overlap = rng.randrange(size)
    text = "".join(rng.choice("abc ") for _ in range(rng.randint(1, 200)))
    parts = chunks(text, size, overlap)
    assert all(0 < len(part) <= size for part in parts)
    assert all(len(part) == size for part in parts[:-1])
    assert all(one[size - overlap :] == other[:overlap] for one, other in itertools.pairwise(parts))
    assert parts[0] + "".join(part[overlap:] for part in parts[1:]) == text
    assert all(len(part) > overlap for part in parts[1:])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"overlap_chars": 1000}, r"overlap_chars must lie in \[0, chunk_chars\), got 1000"),
        ({"chunk_chars": 0, "overlap_chars": 0}, "chunk_chars 0"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"mentions": []}, "mentions must name at least one word"),
        ({"mentions": ["skin", " "]}, "no empty one"),
        ({"fields": {"words": "text"}}, "unknown key 'words'; ours are id, text, title, license"),
    ],
)
def test_bad_settings(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        TextCorpus(str(tmp_path / "book.jsonl"), **settings)


def test_bad_rows_are_named(tmp_path):
    path = jsonl(tmp_path / "book.jsonl", [*ROWS, {"id": "a", "text": "again"}, {"id": "d", "text": ""}])
    with pytest.raises(ValueError, match=r"(?s)book.jsonl:4: id 'a'.*book.jsonl:5: key 'text' is empty"):
        TextCorpus(str(path)).documents()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("radiology_captions", {"titles": False, "limit": 1500}, 1500),
        ("pubmed", {"chunk_chars": 3000}, 1000),
        ("disease_ontology", {"titles": False, "chunk_chars": 2000}, 7556),
        ("medquad", {"mentions": ["melanom"], "chunk_chars": 30000}, None),
    ],
)
def test_the_public_corpora(medrag_data, name, settings, count):
    found = TextCorpus(str(medrag_data / "text" / f"{name}.jsonl"), **settings).documents()
    assert len(found) == count or (count is None and found)
    assert {(document.source, document.image) for document in found} == {(name, None)}
    assert all(document.license for document in found)
