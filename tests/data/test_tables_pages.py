"""Pages become sections and chunks whose ids, rows and vectors belong together, whatever a page holds."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from page_files import pages_at

from medrag_lightning.data.pages.html_page import html_page
from medrag_lightning.data.pages.markdown_page import markdown_page
from medrag_lightning.data.rows import noting_rows
from medrag_lightning.data.tables import Pages
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.retrieval.building import build_store
from medrag_lightning.retrieval.index import IndexConfig, VectorIndex, open_index

WIKI = "https://wiki.test/"


def test_pages_become_sections_with_their_headings_licence_and_origin(tmp_path: Path) -> None:
    table = Pages(str(pages_at(tmp_path / "wiki")))
    told = {d.id: (d.text, d.license, d.origin) for d in table.documents()}
    sharealike = "https://creativecommons.org/licenses/by-sa/4.0/"
    lung = "wiki-lungs/pneumothorax.html"
    causes = "Gout, Causes: - beer, 5 * 3 glasses - p < 0.05 and x_1_y > 3 food | risk meat | high"
    assert told == {
        "wiki-asthma.txt#1": (
            "Asthma: Asthma narrows the airways. It is treated with inhaled steroids.",
            "CC BY 4.0",
            WIKI + "asthma (fetched 2026-01-02)",
        ),
        "wiki-gout.md#1": ("Gout: Uric acid in joints, see here .", "CC0", WIKI + "gout"),
        "wiki-gout.md#2": (causes, "CC0", WIKI + "gout"),
        "wiki-gout.md#4": ("Gout, Treatment: colchicine", "CC0", WIKI + "gout"),
        f"{lung}#1": ("Pneumothorax: Air in the pleural space & a collapsed lung.", sharealike, WIKI + "pneumothorax"),
        f"{lung}#2": ("Pneumothorax, Causes: - Smoking - Trauma", sharealike, WIKI + "pneumothorax"),
        f"{lung}#6": (
            "Pneumothorax, Signs, Numbers: | side | share | left | 0.4",
            sharealike,
            WIKI + "pneumothorax",
        ),
        f"{lung}#7": (
            "Pneumothorax, Treatment: A chest drain, if it is large: H2O seal.",
            sharealike,
            WIKI + "pneumothorax",
        ),
    }
    assert all(document.source == "wiki" and document.image is None for document in table.documents())
    assert table.queries() == []
    assert table.roots() == []


def test_what_says_nothing_is_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Trap 5: an empty summary read back as NaN stopped the builder. Trap 4: markup was dropped after retrieval."""
    folder = pages_at(tmp_path / "wiki")
    (folder / "scan.pdf").write_bytes(b"%PDF")
    (folder / "free.txt").write_text("A page without a licence.", encoding="utf-8")
    table = Pages(str(folder))
    with caplog.at_level(logging.WARNING):
        documents = table.documents()
    assert table.left_out == {"empty": 2, "no value": 1, "no words": 1}
    assert "empty 2, no value 1, no words 1" in caplog.text
    assert ".pdf 1" in caplog.text
    assert "1 of 4 pages name no licence, the first free.txt" in caplog.text
    joined = " ".join(document.text for document in documents)
    for never in ("NaN", "**", "](", "```", "[1]", "Menu", "alert", "color", "Ignore the question"):
        assert never not in joined
    assert all(document.text.strip() for document in documents)
    assert {d.license for d in Pages(str(folder), license="CC0").documents() if d.id == "wiki-free.txt#1"} == {"CC0"}


def test_an_id_means_one_place_whatever_else_is_there(tmp_path: Path) -> None:
    folder = pages_at(tmp_path / "wiki")
    before = {document.id: document.text for document in Pages(str(folder)).documents()}
    (folder / "gout.md").unlink()
    (folder / "aaa.txt").write_text("A new page.", encoding="utf-8")
    after = {document.id: document.text for document in Pages(str(folder)).documents()}
    assert all(after[name] == text for name, text in before.items() if "gout" not in name)
    filled = (folder / "lungs" / "pneumothorax.html").read_text().replace("NaN", "Good.")
    (folder / "lungs" / "pneumothorax.html").write_text(filled)
    assert Pages(str(folder)).documents()[-1].id == "wiki-lungs/pneumothorax.html#7"


def test_each_row_of_the_store_is_the_vector_of_its_document(tmp_path: Path) -> None:
    """Trap 5: a filter between rows and vectors would shift one against the other."""
    documents = Pages(str(pages_at(tmp_path / "wiki")), chunk_chars=40, overlap_chars=10).documents()
    assert any(document.id.endswith("#1/2") for document in documents)
    assert len({document.id for document in documents}) == len(documents)
    encoder = TinyDualEncoder(dim=64)
    store = build_store(tmp_path / "store", documents, lambda ref: pytest.fail("no images"), encoder, "float32", 3)
    np.testing.assert_array_equal(store.rows["text"], np.arange(len(documents)))
    np.testing.assert_array_equal(store.vectors["text"], encoder.embed_texts([document.text for document in documents]))
    _, best = open_index(store, "text", IndexConfig()).search(encoder.embed_texts([d.text for d in documents]), 1)
    assert [documents[int(row)].text for row in best[:, 0]] == [document.text for document in documents]
    assert store.documents() == documents, "origin and licence are kept beside the vectors"


def test_known_neighbours_and_the_index_equals_numpy(tmp_path: Path) -> None:
    documents = Pages(str(pages_at(tmp_path / "wiki"))).documents()
    encoder = TinyDualEncoder(dim=64)
    vectors = encoder.embed_texts([document.text for document in documents])
    asked = encoder.embed_texts(["Treatment of pneumothorax by a chest drain", "Gout: uric acid in joints"])
    _, rows = VectorIndex(vectors, IndexConfig()).search(asked, 3)
    np.testing.assert_array_equal(rows, np.argsort(-(asked @ vectors.T), axis=1, kind="stable")[:, :3])
    assert [documents[int(row)].id for row in rows[:, 0]] == ["wiki-lungs/pneumothorax.html#7", "wiki-gout.md#1"]


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("a.html", b"<h1>Open <p>text", "heading <h1> of line 1 is never closed"),
        ("a.html", b"<p>one\n<nav>two<p>three", "<nav> of line 2 is left out and never closed"),
        ("a.md", b"---\ntitle: a\nno end", "front matter"),
        ("a.txt", b"caf\xe9", "not utf-8 (byte 0xe9 in line 1)"),
        ("a.html", b'<meta charset="koi8-r">x', "declares the encoding 'koi8-r'"),
        ("pages.jsonl", b'{"file": "gone.html"}\n', "'gone.html' is no page of this folder"),
        ("pages.jsonl", b'{"file": "../x.html"}\n', "lies outside"),
        ("pages.jsonl", b'{"file": "gout.md", "licence": "CC0"}\n', "did you mean 'license'"),
        ("pages.jsonl", b"not json\n", "not valid JSON"),
    ],
)
def test_bad_pages_are_errors_with_their_file(tmp_path: Path, file: str, content: bytes, told: str) -> None:
    folder = pages_at(tmp_path / "wiki")
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"1 bad row") as error:
        Pages(str(folder)).documents()
    assert f"{file}:1: " in str(error.value)
    assert told in str(error.value)
    with noting_rows() as notes:  # the verb check lists it, and goes on with the others
        assert len(Pages(str(folder)).documents()) > 2
    assert len(notes.faults) == 1


def test_links_out_of_the_folder_and_settings_that_cannot_be(tmp_path: Path) -> None:
    folder = pages_at(tmp_path / "wiki")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match=r"link.txt:1: .*lies outside the declared roots"):
        Pages(str(folder)).documents()
    with pytest.raises(ValueError, match="no such folder"):
        Pages(str(tmp_path / "gone")).documents()
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="there are no pages in it"):
        Pages(str(tmp_path / "bare")).documents()
    (tmp_path / "bare" / "a.txt").write_text("NaN")
    with pytest.raises(ValueError, match=r"no page has a section that says anything \(1 no value\)"):
        Pages(str(tmp_path / "bare")).documents()
    with pytest.raises(ValueError, match="overlap_chars must lie"):
        Pages(str(folder), chunk_chars=10, overlap_chars=10)


def test_encodings_and_odd_markup() -> None:
    assert html_page("<p>a<br>b<p>c<img alt=x>d").sections[0].text == "a b cd"
    assert html_page("<div hidden/>seen").sections[0].text == "seen"
    assert html_page("<p aria-hidden=true>x<p>y</p>z</p>w").sections[0].text == "w"
    assert html_page("soft\u00adhyphen\u200b &lt;b&gt;").sections[0].text == "softhyphen <b>"
    assert markdown_page("a\n\n> quoted\n> on\n\n1. one\n\n<!-- no\n# no -->yes").sections[0].text == "a quoted on 1. one yes"
    assert [one.headings for one in markdown_page("# A\n### B\n## C\nx").sections] == [("A",), ("A", "B"), ("A", "C")]
    assert [one.line for one in markdown_page("x\n# A\ny\n\nB\n===\nz").sections] == [1, 2, 5]


def test_latin_pages_are_read_as_they_declare(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "a.html").write_bytes('<meta charset="iso-8859-1"><p>Sjögren'.encode("latin-1"))
    assert Pages(str(folder)).documents()[0].text == "Sjögren"
