"""Whether what a search found supports the right answer, as an expert judges it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.audit.progress import telling
from medrag_lightning.data.exploration.finding import Search
from medrag_lightning.data.replies import Replies
from medrag_lightning.interfaces import Expert, JudgeTask, OpenImage
from medrag_lightning.records import Document, Query
from medrag_lightning.score_files import query_fingerprint

_TAG = re.compile(r"<[^<>]*>")
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Judged:
    """A search and what became of it.

    Attributes:
        documents: what it found; nothing is judged where that is none.
        reply: the expert's words; None where it was not asked.
        verdict: its last word; None where that is neither yes nor no.
    """

    query_id: str
    corpus: str
    words: str
    documents: tuple[Document, ...]
    reply: str | None
    verdict: bool | None

    @property
    def is_good(self) -> bool:
        """Whether the documents support the answer. Nothing found is no support, nor is a verdict that cannot be read."""
        return self.verdict is True


def read_verdict(reply: str) -> bool | None:
    """The last word of a reply: True for yes, False for no, None for any other; tags, digits and signs are no words."""
    words = _WORD.findall(_TAG.sub(" ", reply).lower())
    return {"yes": True, "no": False}.get(words[-1]) if words else None


def judge(
    expert: Expert,
    replies: Replies,
    queries: Mapping[str, Query],
    found: Mapping[Search, tuple[Document, ...]],
    at_once: int,
    open_image: OpenImage,
) -> list[Judged]:
    """Every search with its verdict, in the order of `found`.

    Args:
        expert: judges, with the right answer before it.
        replies: what it said before.
        queries: by id; each has its right answer.
        found: what each search found.
        at_once: searches of a batch.
        open_image: opens an image.
    """
    keys = {search: _key(queries[search[0]], search, documents) for search, documents in found.items() if documents}

    def ask(batch: Sequence[Search]) -> list[str]:
        images = {name: queries[name].image for name, _, _ in batch}
        opened = {name: None if ref is None else open_image(ref) for name, ref in images.items()}
        return expert.judge(
            [JudgeTask(queries[name], opened[name], corpus, words, found[name, corpus, words]) for name, corpus, words in batch]
        )

    tasks = {key: search for search, key in keys.items()}
    with telling("searches judged") as tell:
        said = replies.ask(tasks, ask, at_once, lambda done: tell(done, len(tasks)))
    return [_judged(search, documents, said.get(keys.get(search, ""))) for search, documents in found.items()]


def _judged(search: Search, documents: tuple[Document, ...], reply: str | None) -> Judged:
    return Judged(*search, documents, reply, None if reply is None else read_verdict(reply))


def _key(query: Query, search: Search, documents: Sequence[Document]) -> str:
    told = [[document.id, document.text] for document in documents]
    return fingerprint(query_fingerprint(query), list(search), told)
