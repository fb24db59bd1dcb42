"""The web as a source of evidence (MIRA): off unless a configuration names it, and then best replayed from a recording."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import OpenImage, PageFilter, WebFetcher, WebPage
from medrag_lightning.prompts import cut_at_word
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved
from medrag_lightning.retrieval.medical_words import MedicalWords
from medrag_lightning.retrieval.ranking import leak
from medrag_lightning.retrieval.wording import wording

logger = logging.getLogger(__name__)
ANSWERED = ("huggingface.co", "github.com", "githubusercontent.com", "kaggle.com", "paperswithcode.com")
"""Hosts of data sets, whose pages may hold the very questions with their answers."""
LEAST_ID_CHARS = 4  # a shorter id, such as 12, is a number like any other


class WebSearch:
    """Paragraphs of web pages, in the order of the search engine. They are no documents of the corpus.

    Only words leave: what a query generator wrote for `corpus`, or else the question; never an image, a choice, an answer. Put
    nothing of a patient into questions that are searched on the web: words that hold the query's patient or study id are
    refused, but names and dates nobody can know. A document has the source ``web``, the address and the time of fetching as
    its `origin`, and an id that depends on address and text. What a page says is a stranger's text: let prompts mark where
    evidence begins and ends (`delimit_evidence`).

    As a part of `CorpusSearch` it is called ``web``; a query whose searches leave it out is not searched for. Candidates cannot
    be kept in a candidate table or a bundle, which know the corpus alone: record them (`cassette.RecordingFetcher`).

    Args:
        fetcher: finds pages: `cassette.CassetteFetcher`, `cassette.RecordingFetcher`, `https_fetcher.HttpsFetcher`.
        top: pages of a query.
        looked_at: pages that are asked for, before some are dropped.
        max_chars: of a page's text; the rest is cut off after a word.
        page_filter: says which pages are of use; null for `medical_words.MedicalWords`.
        blocked_hosts: pages of these hosts, and of hosts below them, are dropped; null for hosts that offer data sets.
        corpus: the name that `Query.searches` calls the web by.
    """

    brings_documents = True

    def __init__(
        self,
        fetcher: WebFetcher,
        top: int = 1,
        looked_at: int = 5,
        max_chars: int = 1000,
        page_filter: PageFilter | None = None,
        blocked_hosts: list[str] | None = None,
        corpus: str = "web",
    ) -> None:
        if not 1 <= top <= looked_at:
            raise ValueError(f"top must lie in 1..looked_at, got {top} and looked_at {looked_at}")
        if max_chars < 16:
            raise ValueError(f"max_chars must be at least 16, got {max_chars}")
        self.fetcher, self.top, self.looked_at, self.max_chars = fetcher, top, looked_at, max_chars
        self.page_filter = page_filter or MedicalWords()
        self.blocked_hosts = tuple(host.casefold() for host in (ANSWERED if blocked_hosts is None else blocked_hosts))
        self.corpus = corpus
        self.counts: Counter[str] = Counter()

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Does nothing."""

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Does nothing."""

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """At most `top` paragraphs of each query; none where the search failed, or no page was of use, which is counted.

        Raises:
            ValueError: the words of a query hold its patient or study id, or the fetcher may not search.
        """
        asked = [wording(query, self.corpus) for query in queries]
        for query, words in zip(queries, asked, strict=True):
            _refuse_identity(query, words or "")
        different = list(dict.fromkeys(words for words in asked if words is not None))
        found = dict(zip(different, self.fetcher.fetch(different, self.looked_at) if different else [], strict=True))
        counted: Counter[str] = Counter(searches=len(different), failed=sum(pages is None for pages in found.values()))
        kept = {words: self._kept(pages or [], counted) for words, pages in found.items()}
        self._tell(counted)
        provenance = self.fingerprint()
        return [
            Retrieved(query.id, tuple(self._candidates(query, [] if words is None else kept[words])), provenance)
            for query, words in zip(queries, asked, strict=True)
        ]

    def fingerprint(self) -> str:
        """Of fetcher, filter and settings."""
        settings = [self.top, self.looked_at, self.max_chars, list(self.blocked_hosts), self.corpus]
        return fingerprint("web search", self.fetcher.fingerprint(), self.page_filter.fingerprint(), settings)

    def _kept(self, pages: Sequence[WebPage], counted: Counter[str]) -> list[Document]:
        """The pages of use as documents, best first."""
        allowed = [page for page in pages if not self._is_blocked(page.url)]
        written = [page for page in allowed if any(letter.isalpha() for letter in page.text)]
        useful = [page for page, keep in zip(written, self.page_filter.keeps(written), strict=True) if keep]
        counted["pages"] += len(pages)
        counted["of a blocked host"] += len(pages) - len(allowed)
        counted["without words"] += len(allowed) - len(written)
        counted["not medical"] += len(written) - len(useful)
        return [self._document(page) for page in useful]

    def _document(self, page: WebPage) -> Document:
        title = _plain(page.title)
        text = cut_at_word((f"{title}: " if title else "") + _plain(page.text), self.max_chars)
        name = f"web-{fingerprint(page.url, text)[:16]}"
        fetched = f" (fetched {_plain(page.fetched)})" if page.fetched else ""
        return Document(name, text, source="web", license=_plain(page.license), origin=_plain(page.url) + fetched)

    def _candidates(self, query: Query, documents: Sequence[Document]) -> Iterator[Candidate]:
        seen: set[str] = set()
        for document in documents:
            if document.text not in seen and len(seen) < self.top and leak(query, document, None, None) is None:
                seen.add(document.text)
                yield Candidate(document, 1 / len(seen), Channel.WEB)

    def _is_blocked(self, url: str) -> bool:
        try:
            host = (urlsplit(url).hostname or "").casefold()
        except ValueError:  # no address at all
            return True
        return not host or any(host == blocked or host.endswith(f".{blocked}") for blocked in self.blocked_hosts)

    def _tell(self, counted: Counter[str]) -> None:
        self.counts += counted
        dropped = ", ".join(f"{why} {count}" for why, count in counted.items() if count and why not in ("searches", "pages"))
        if dropped:
            logger.info("web: %d searches, %d pages; dropped: %s", counted["searches"], counted["pages"], dropped)


def _refuse_identity(query: Query, words: str) -> None:
    """ValueError where words hold the patient or study id of their query, with or without the data set's name."""
    for what, name in (("patient", query.patient_id), ("study", query.study_id)):
        for told in {name, name.rpartition(":")[2]} if name else ():
            if len(told) >= LEAST_ID_CHARS and re.search(rf"(?<!\w){re.escape(told)}(?!\w)", words, re.IGNORECASE):
                raise ValueError(
                    f"the words that query {query.id!r} would send to the web hold the id of its {what}: nothing was sent. "
                    "Take it out of the question, or leave the part web out"
                )


def _plain(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() or letter.isspace() else "" for letter in text).split())
