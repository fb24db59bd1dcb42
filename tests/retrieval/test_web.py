"""The web is a source like any other, replayed from a recording; without leave no connection is opened."""

from __future__ import annotations

import ast
import json
import logging
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from medrag_lightning.handoff.bundle.source_checks import check_source
from medrag_lightning.interfaces import BringsDocuments, CandidateSource, PageFilter, WebFetcher, WebPage
from medrag_lightning.records import Channel, Query
from medrag_lightning.retrieval.candidates import Remembered
from medrag_lightning.retrieval.cassette import CassetteFetcher, RecordingFetcher
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.https_fetcher import HttpsFetcher
from medrag_lightning.retrieval.medical_words import AnyPage, MedicalWords
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.web import WebSearch

NOW = "2026-01-02T03:04:05+00:00"
MEDICAL = WebPage("https://a.test/1", "Pleural effusion", "Fluid around the lung; a chest radiograph shows it.", NOW, "CC0")
SHOP = WebPage("https://shop.test/", "Garden chairs", "Cheap chairs and tables for your garden, today only.", NOW)
ANSWERS = WebPage("https://www.huggingface.co/vqa", "Lung data", "patient lung nodule diagnosis: yes", NOW)
BARE = WebPage("https://b.test/", "Lung", "...", NOW)
SECOND = WebPage("https://c.test/", "Fracture", "A bone\u200b breaks; trauma of the rib injures a lung.\x1b[31m", NOW)


class Engine:
    """A search engine in memory that counts what it is asked."""

    def __init__(self, failing: tuple[str, ...] = ()) -> None:
        self.failing, self.asked = failing, []

    def fetch(self, words, count):
        self.asked += words
        pages = [SHOP, ANSWERS, BARE, MEDICAL, SECOND]
        return [None if one in self.failing else pages[:count] for one in words]

    def fingerprint(self):
        return "engine"


@pytest.fixture
def offline(monkeypatch):
    """Whoever opens a connection, or looks up a host, fails the test."""

    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)


def ready(source, world, folder):
    source.prepare(world.documents, world.pictures, folder)
    source.load(world.documents, world.pictures, folder)
    return source


def test_pages_without_medical_content_are_dropped_and_counted(offline, caplog):
    source = WebSearch(Engine(), top=2)
    assert isinstance(source, CandidateSource)
    assert isinstance(source, BringsDocuments)
    assert isinstance(source.fetcher, WebFetcher)
    assert isinstance(source.page_filter, PageFilter)
    with caplog.at_level(logging.INFO):
        (found,) = source.retrieve([Query("q", "Is there an effusion?")])
    first, second = found.candidates
    assert first.document.text == "Pleural effusion: Fluid around the lung; a chest radiograph shows it."
    assert (first.channel, first.score, second.score) == (Channel.WEB, 1.0, 0.5)
    assert (first.document.source, first.corpus, first.document.license) == ("web", "web", "CC0")
    assert first.document.origin == f"https://a.test/1 (fetched {NOW})"
    assert second.document.text == "Fracture: A bone breaks; trauma of the rib injures a lung.[31m"
    assert "1 searches, 5 pages; dropped: of a blocked host 1, without words 1, not medical 1" in caplog.text
    assert source.counts["not medical"] == 1
    every = WebSearch(Engine(), top=5, page_filter=AnyPage(), blocked_hosts=[]).retrieve([Query("q", "?")])
    assert len(every[0].candidates) == 4


def test_a_part_named_web_is_searched_as_the_query_generator_says(world, encoder, tmp_path, offline):
    engine = Engine(failing=("nothing answers",))
    parts = {"reports": LiveSearch(encoder, {"image_to_image": 2}), "web": WebSearch(engine)}
    source = ready(CorpusSearch(parts), replaced_texts(world), tmp_path)
    plain = world.queries[0]
    asks = [plain, *(replace(plain, id=name, searches=told) for name, told in (("a", (("web", "lung cyst"),)), ("b", ())))]
    usual, worded, without = source.retrieve(asks)
    assert [c.corpus for c in usual.candidates] == ["reports", "reports", "web"]
    assert [c.corpus for c in worded.candidates] == ["reports", "reports", "web"]
    assert [c.corpus for c in without.candidates] == ["reports", "reports"]
    assert engine.asked == [plain.question, "lung cyst"]
    failed = replace(plain, searches=(("web", "nothing answers"),))
    assert [c.corpus for c in source.retrieve([failed])[0].candidates] == ["reports", "reports"]
    assert parts["web"].counts["failed"] == 1
    kept = ready(Remembered(CorpusSearch(parts)), world, tmp_path)
    with pytest.raises(ValueError, match="are no documents of the corpus, and a candidate table knows no others"):
        kept.retrieve([plain])
    with pytest.raises(ValueError, match="has corpus: web"):
        CorpusSearch({"internet": WebSearch(engine)})


def replaced_texts(world):
    """The world without its documents that are texts alone: no part would search them."""
    world.documents = [document for document in world.documents if document.image is not None]
    return world


def test_a_recording_is_replayed_and_nothing_is_asked_twice(tmp_path, offline):
    file = tmp_path / "tapes" / "web.jsonl"
    engine = Engine(failing=("c",))
    recorder = RecordingFetcher(engine, str(file))
    assert recorder.fetch(["a b", "A  B", "c"], 2) == [[SHOP, ANSWERS], [SHOP, ANSWERS], None]
    assert engine.asked == ["a b", "c"]
    again = Engine()
    assert RecordingFetcher(again, str(file)).fetch(["a b", "c"], 2)[0] == [SHOP, ANSWERS]
    assert again.asked == ["c"], "what failed is tried again, what is recorded is not"
    assert RecordingFetcher(again, str(file)).fetch(["a b"], 4)[0] == [SHOP, ANSWERS, BARE, MEDICAL], "more pages are asked for"
    tape = CassetteFetcher(str(file))
    assert tape.fetch(["a b"], 1) == [[SHOP]]
    assert tape.fingerprint() == CassetteFetcher(str(file)).fingerprint()
    with pytest.raises(ValueError, match=r"no recording of 1 of 2 searches for 2 pages, the first 'new'"):
        tape.fetch(["a b", "new"], 2)
    with pytest.raises(ValueError, match="no recording of 1"):
        tape.fetch(["c"], 5)
    assert CassetteFetcher(str(file), unknown="nothing").fetch(["a b", "new"], 4)[1] == []
    assert [path.name for path in file.parent.iterdir()] == ["web.jsonl"]


def test_an_interrupted_recording_keeps_what_was_found(tmp_path):
    class Dies(Engine):
        def fetch(self, words, count):
            if self.asked:
                raise KeyboardInterrupt
            return super().fetch(words, count)

    with pytest.raises(KeyboardInterrupt):
        RecordingFetcher(Dies(), str(tmp_path / "t.jsonl")).fetch([f"words {n}" for n in range(30)], 1)
    engine = Engine()
    RecordingFetcher(engine, str(tmp_path / "t.jsonl")).fetch([f"words {n}" for n in range(30)], 1)
    assert len(engine.asked) == 10


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nonsense", "no recorded search"),
        ('{"words": "", "pages": []}', "a search is"),
        ('{"words": "a", "pages": [{"title": "x"}]}', "and a url at least"),
        ('{"words": "a", "pages": [{"url": 3}]}', "all texts"),
        ('{"words": "a", "count": 0, "pages": [{"url": "https://x"}]}', "count must be"),
        ('{"words": " OK ", "pages": []}', "already recorded"),
    ],
)
def test_a_damaged_cassette_is_told_with_its_line(tmp_path, line, told):
    (tmp_path / "t.jsonl").write_text('{"words": "ok", "pages": []}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"t\.jsonl:2: .*" + told):
        CassetteFetcher(str(tmp_path / "t.jsonl")).fetch(["ok"], 0)
    with pytest.raises(ValueError, match="no such cassette"):
        CassetteFetcher(str(tmp_path / "gone.jsonl")).fetch(["ok"], 0)


def test_nothing_of_a_patient_leaves(offline):
    engine = Engine()
    source = WebSearch(engine)
    for query in (
        Query("q", "What does p-1234 have?", patient_id="ward:p-1234"),
        Query("q", "Is WARD:S77 normal?", study_id="ward:s77"),
        Query("q", "?", patient_id="12345", searches=(("web", "effusion 12345"),)),
    ):
        with pytest.raises(ValueError, match="nothing was sent") as error:
            source.retrieve([Query("first", "effusion"), query])
        assert "1234" not in str(error.value)
        assert "77" not in str(error.value)
    assert engine.asked == []
    source.retrieve([Query("q", "Is there a nodule of 12 mm?", patient_id="ward:12", answer="yes", choices=())])
    assert engine.asked == ["Is there a nodule of 12 mm?"], "a short id is a number like any other, and only the words are sent"


def test_no_connection_without_leave(offline, tmp_path):
    source = WebSearch(HttpsFetcher("https://search.test/?q={words}"))
    source.load([], None, tmp_path)
    assert source.retrieve([]) == []
    assert source.fingerprint()
    with pytest.raises(ValueError, match=r"allow_network is false: nothing was sent\. Set it .* the words to search"):
        source.retrieve([Query("q", "effusion")])
    (tmp_path / "t.jsonl").write_text(json.dumps({"words": "effusion", "count": 5, "pages": []}) + "\n")
    recorded = WebSearch(RecordingFetcher(source.fetcher, str(tmp_path / "t.jsonl")))
    assert recorded.retrieve([Query("q", "effusion")])[0].candidates == (), "what is recorded needs no leave"


def test_one_file_alone_may_open_connections():
    root = Path(__file__).resolve().parents[2]
    opening = {"socket", "ssl", "http", "urllib.request", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib"}
    found = set()
    for path in [*(root / "medrag_lightning").rglob("*.py"), *(root / "callbacks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name in opening or name.split(".")[0] in opening for name in named):
                found.add(path.name)
    assert found == {"guarded_https.py"}


def test_bundles_refuse_the_web(encoder):
    parts = {"reports": LiveSearch(encoder, {"image_to_image": 2}), "web": WebSearch(CassetteFetcher("tape.jsonl"))}
    with pytest.raises(ValueError, match=r"the part 'web' of CorpusSearch is a WebSearch.*opens no connection"):
        check_source(CorpusSearch(parts))


def test_settings_that_cannot_be():
    for settings, told in (({"top": 0}, "top must lie"), ({"top": 6}, "top must lie"), ({"max_chars": 3}, "max_chars")):
        with pytest.raises(ValueError, match=told):
            WebSearch(Engine(), **settings)
    with pytest.raises(ValueError, match="least must be"):
        MedicalWords(0)
    with pytest.raises(ValueError, match="beginnings must name"):
        MedicalWords(beginnings=[])
    assert MedicalWords(1, ["Naev"]).keeps([WebPage("u", "", "naevi", ""), WebPage("u", "", "x naev-", "")]) == [True, True]
    assert MedicalWords(2, ["naev"]).keeps([WebPage("u", "", "naevus naevi", "")]) == [False]
