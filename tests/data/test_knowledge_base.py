"""Three texts of pages, two images and a paragraph of the web for each question, from raw files to what a reader is shown."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.minihospital_texts import is_text
from medrag_lightning.data.module import MedragData
from medrag_lightning.data.tables import Pages
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Document, Split
from medrag_lightning.retrieval.cassette import CassetteFetcher
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.web import WebSearch

PARAGRAPH = "A disease of the lung: diagnosis by radiograph, treatment by surgery."


class Reports(MiniHospital):
    """A mini-hospital whose library lies on disk as pages, and not in the table."""

    def documents(self) -> list[Document]:
        return [document for document in super().documents() if not is_text(document.id)]


def page_at(folder: Path, document: Document) -> None:
    """A text of the library as a page with a menu, a heading and markup."""
    menu = "<nav><a href='/'>All pages</a></nav><script>var answer = 'yes';</script>"
    words = f"<h1>Entry</h1><p><b>{document.text}</b></p><h2>References</h2>"
    (folder / f"{document.id}.html").write_text(f"<link rel='license' href='{document.license}'>{menu}{words}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MedragData:
    """No socket is opened from the raw files to the candidates."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "pages").mkdir()
    hospital = Reports(1, 48, str(folder / "hospital"), texts=True)
    for document in MiniHospital.documents(hospital):
        if is_text(document.id):
            page_at(folder / "pages", document)
    asked = sorted({query.question for query in hospital.queries()})
    pages = [{"url": "https://wiki.test/", "title": "", "text": PARAGRAPH}, {"url": "https://b.test/", "text": "Garden chairs"}]
    tape = "".join(json.dumps({"words": words, "count": 5, "pages": pages}) + "\n" for words in asked)
    (folder / "web.jsonl").write_text(tape)
    parts = {
        "pages": LiveSearch(TinyDualEncoder(dim=64), {"text_to_text": 3}, corpus="pages"),
        "reports": LiveSearch(TinyDualEncoder(dim=64), {"image_to_image": 2}),
        "web": WebSearch(CassetteFetcher(str(folder / "web.jsonl"))),
    }
    corpus = [hospital, Pages(str(folder / "pages"), titles=False)]
    made = MedragData([hospital], corpus, CorpusSearch(parts), cache_folder=str(folder / "evidence"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a host was looked up"))
        made.prepare_data()
        made.setup("fit")
    return made


def test_three_texts_two_images_and_a_paragraph(data: MedragData) -> None:
    found = data.world().retrieved
    kinds = {tuple(candidate.corpus for candidate in one.candidates) for one in found.values()}
    assert kinds == {("pages", "pages", "pages", "reports", "reports", "web")}
    (last,) = {one.candidates[-1].document.text for one in found.values()}
    assert last == PARAGRAPH, "the page about chairs was dropped"
    texts = [candidate.document for one in found.values() for candidate in one.candidates[:3]]
    assert {document.license for document in texts} == {"synthetic"}
    assert not any("answer" in document.text or "All pages" in document.text for document in texts)


def test_the_page_that_answers_is_found(data: MedragData) -> None:
    """Pages hold what the tables of the same world hold: a question that needs a text finds the one that tells it."""
    found = data.world().retrieved
    asked = [query for split in Split for query in data.split_queries(split) if query.need == "document"]
    assert len(asked) > 10
    wanted = [{f"pages-{name}.html#1" for name in query.relevant_ids} for query in asked]
    hits = [bool(right & {c.id for c in found[query.id].candidates}) for query, right in zip(asked, wanted, strict=True)]
    documents = sum(document.source == "pages" for document in data.documents())
    assert sum(hits) / len(hits) > 0.9 > 10 * 3 / documents, "far more often than by chance"
