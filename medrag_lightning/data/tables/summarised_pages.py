"""Pages whose sections are summarised before they are cut into chunks (MIRA: one summary a section, by a language model)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.audit.progress import telling
from medrag_lightning.data.pages.section import one_line
from medrag_lightning.data.tables.pages import Pages, PageSection
from medrag_lightning.records import Document, Query

if TYPE_CHECKING:  # the seams need torch, and reading tables does not
    from medrag_lightning.interfaces import Summariser

log = logging.getLogger(__name__)


class SummarisedPages:
    """The documents of `pages`, each section in the words of a summariser.

    A section keeps its own text, and is counted (`kept`), where its summary is empty, no shorter than the section, looks like
    markup or has no letter: nothing is lost by a bad summary, and nothing is read back as NaN. Ids are those of `pages`; a
    document whose text is a summary says so in its `origin`. Summaries are kept in `folder` by what was asked, batch by
    batch, so that an interruption loses one batch and a second run asks nothing.

    Args:
        pages: the pages.
        summariser: writes the summaries, such as `models.lm_summariser.LmSummariser`.
        folder: where summaries are kept.
        batch_size: sections that are asked for at once.
        shortest_chars: sections shorter than this are left as they are.
    """

    def __init__(
        self,
        pages: Pages,
        summariser: Summariser,
        folder: str = "runs/summaries",
        batch_size: int = 16,
        shortest_chars: int = 400,
    ) -> None:
        if batch_size < 1 or shortest_chars < 0:
            raise ValueError(
                f"batch_size must be at least 1 and shortest_chars at least 0, got {batch_size} and {shortest_chars}"
            )
        self.pages, self.summariser, self.folder = pages, summariser, Path(folder)
        self.batch_size, self.shortest_chars = batch_size, shortest_chars
        self.kept: Counter[str] = Counter()
        self.summarised = 0
        self._documents: list[Document] | None = None

    def queries(self) -> list[Query]:
        """None: pages ask nothing."""
        return []

    def documents(self) -> list[Document]:
        """The chunks of the summaries; the first time, what is missing is written, which may take long and is told."""
        if self._documents is None:
            sections = self.pages.sections()
            said = self._summaries([one for one in sections if len(one.section.text) >= self.shortest_chars])
            self._documents = self.pages.documents_of([self._told(one, said) for one in sections])
            kept = ", ".join(f"{why} {count}" for why, count in sorted(self.kept.items())) or "none"
            log.info("%s: %d sections summarised; with their own text: %s", self.pages.folder, self.summarised, kept)
        return list(self._documents)

    def roots(self) -> list[Path]:
        """None: there are no images."""
        return []

    def _summaries(self, sections: Sequence[PageSection]) -> dict[str, str]:
        """What the summariser says of each section, by what it is asked."""
        from medrag_lightning.data.replies import Replies  # it needs pyarrow, which reading pages does not
        from medrag_lightning.interfaces import SummaryTask

        told = self.summariser.fingerprint()
        replies = Replies(self.folder / told[:16], told)
        tasks = {_asked(one): SummaryTask(one.title, one.section.headings, one.section.text) for one in sections}
        with telling("sections summarised") as tell:
            said = replies.ask(tasks, self.summariser.summarise, self.batch_size, lambda done: tell(done, len(tasks)))
        replies.pack()
        return said

    def _told(self, one: PageSection, said: dict[str, str]) -> PageSection:
        """The section with its summary, or as it is."""
        if len(one.section.text) < self.shortest_chars:
            self.kept["short"] += 1
            return one
        summary = one_line(said[_asked(one)])
        summarised = one.section.saying(summary, f"summary by {type(self.summariser).__name__}")
        fault = summarised.fault() or _fault(summary, one.section.text)
        if fault is not None:
            self.kept[fault] += 1
            return one
        self.summarised += 1
        return replace(one, section=summarised)


def _asked(one: PageSection) -> str:
    return fingerprint([one.title, list(one.section.headings), one.section.text])


def _fault(summary: str, text: str) -> str | None:
    """Why a summary is not taken."""
    if len(summary) >= len(text):
        return "not shorter"
    return "markup" if summary.startswith(("#", "```", "<")) or "**" in summary or "](" in summary else None
