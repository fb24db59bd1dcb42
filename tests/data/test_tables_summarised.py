"""Summaries stand in for sections where they are of use; a bad one loses nothing, an interruption one batch."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from page_files import pages_at

from medrag_lightning.data.lead_summariser import LeadSentences
from medrag_lightning.data.tables import Pages, SummarisedPages
from medrag_lightning.interfaces import Summariser, SummaryTask

LONG = "Gout is a disease of joints. Uric acid forms crystals. They hurt at night. " * 4


class Scripted:
    """Says what it is told to say of each text, and counts."""

    def __init__(self, told: dict[str, str] | None = None, dies_at: int | None = None) -> None:
        self.told, self.dies_at = told or {}, dies_at
        self.tasks: list[SummaryTask] = []

    def summarise(self, tasks: list[SummaryTask]) -> list[str]:
        if self.dies_at is not None and len(self.tasks) >= self.dies_at:
            raise KeyboardInterrupt
        self.tasks += tasks
        return [self.told.get(task.text, task.text[:20]) for task in tasks]

    def fingerprint(self) -> str:
        return "scripted" * 8


def folder_of(tmp_path: Path, texts: list[str]) -> str:
    (tmp_path / "wiki").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "wiki" / f"p{number}.txt").write_text(text, encoding="utf-8")
    return str(tmp_path / "wiki")


def test_summaries_stand_in_for_sections_and_say_so(tmp_path: Path) -> None:
    folder = str(pages_at(tmp_path / "wiki"))
    (tmp_path / "wiki" / "long.md").write_text(f"# Gout\n{LONG}\n## Tophi\nShort.")
    summariser = LeadSentences(2)
    assert isinstance(summariser, Summariser)
    table = SummarisedPages(Pages(folder), summariser, str(tmp_path / "summaries"), shortest_chars=100)
    plain = {document.id: document for document in Pages(folder).documents()}
    told = {document.id: document for document in table.documents()}
    assert list(told) == list(plain)
    changed = [name for name in told if told[name] != plain[name]]
    assert changed == ["wiki-long.md#1"]
    assert told["wiki-long.md#1"].text == "Gout: Gout is a disease of joints. Uric acid forms crystals."
    assert told["wiki-long.md#1"].origin == "long.md; summary by LeadSentences"
    assert (table.summarised, dict(table.kept)) == (1, {"short": len(told) - 1})


def test_a_bad_summary_leaves_the_section_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"Text {number} of a page, long enough to be summarised." for number in range(7)]
    bad = ["", "NaN", texts[2], texts[3] + " and more", "## Summary", "--", "A good one."]
    summariser = Scripted(dict(zip(texts, bad, strict=True)))
    table = SummarisedPages(Pages(folder_of(tmp_path, texts)), summariser, str(tmp_path / "s"), shortest_chars=0)
    with caplog.at_level(logging.INFO):
        found = [document.text for document in table.documents()]
    assert found == [*texts[:6], "A good one."]
    assert dict(table.kept) == {"empty": 1, "no value": 2, "not shorter": 2, "markup": 1}
    assert "1 sections summarised; with their own text: empty 1, markup 1, no value 2, not shorter 2" in caplog.text


def test_nothing_is_asked_twice_and_an_interruption_loses_one_batch(tmp_path: Path) -> None:
    texts = [f"Text {number} of a page, long enough to be summarised." for number in range(10)]
    folder, kept = folder_of(tmp_path, texts), str(tmp_path / "s")
    first = Scripted(dies_at=6)
    with pytest.raises(KeyboardInterrupt):
        SummarisedPages(Pages(folder), first, kept, batch_size=2, shortest_chars=0).documents()
    second = Scripted()
    found = SummarisedPages(Pages(folder), second, kept, batch_size=2, shortest_chars=0).documents()
    assert (len(first.tasks), len(second.tasks)) == (6, 4)
    third = Scripted()
    assert SummarisedPages(Pages(folder), third, kept, batch_size=2, shortest_chars=0).documents() == found
    assert third.tasks == []
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        SummarisedPages(Pages(folder), third, kept, batch_size=0)
    with pytest.raises(ValueError, match="sentences must be at least 1"):
        LeadSentences(0)
