"""Terms of a knowledge graph as evidence: names, a definition and the relations that matter (HeteroRAG, corpus `graph`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import OpenImage, Reranker
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved
from medrag_lightning.records.terms import BAR, Relation, Term, term_text
from medrag_lightning.retrieval.graph_lookup import TermHit, TermLookup
from medrag_lightning.retrieval.graph_store import GraphStore, build_graph, check_graph, graph_exists, graph_fingerprint
from medrag_lightning.retrieval.ranking import leak
from medrag_lightning.retrieval.relation_ranking import WordOverlap
from medrag_lightning.retrieval.wording import wording

PRIORITY = ("MSH", "NCI", "ICF", "CSP", "HPO")
"""Vocabularies whose definition is preferred, in this order (UMLS names; HeteroRAG's predecessor)."""


class GraphSearch:
    """The terms that a question is about, each as one block: names, a definition, and at most ten relations, best first.

    The corpus is made by tables of class `Ontology`; `prepare` builds one SQLite file of it. A query's words for this corpus
    (`Query.searches`) are ``term , relation``; without them the question is searched for terms. An unknown term has no block:
    the query then gets no candidate. A block keeps id, source and licence of its document; its text is the document's, cut to
    one definition and to the relations that matter to the query.

    Args:
        top: terms of a query.
        relations: of a block; 0 for none.
        priority: vocabularies whose definition is taken, in this order, then any other; null for MSH, NCI, ICF, CSP, HPO.
        reranker: says which relations matter; null for the words in common. It is asked with the words for the relation, or
            where there are none with the question.
        blocks: ``asked`` cuts blocks to what matters to the query; ``whole`` gives documents as they are, so that an id
            stands for one text in every file that names documents by id (score tables, preference pairs).
        corpus: the name that `Query.searches` calls this graph by. Where it is the name of a table, documents of other tables
            are left out. Empty: every document is a term, and the question is what is searched for.
    """

    def __init__(
        self,
        top: int = 1,
        relations: int = 10,
        priority: list[str] | None = None,
        reranker: Reranker | None = None,
        blocks: Literal["asked", "whole"] = "asked",
        corpus: str = "",
    ) -> None:
        if top < 1 or relations < 0:
            raise ValueError(f"top must be at least 1 and relations at least 0, got top={top}, relations={relations}")
        if blocks not in ("asked", "whole"):
            raise ValueError(f"blocks must be asked or whole, got {blocks!r}")
        if blocks == "whole" and (relations != 10 or priority is not None or reranker is not None):
            raise ValueError("relations, priority and reranker would be ignored by blocks: whole; leave them out")
        self.top, self.limit, self.blocks, self.corpus = top, relations, blocks, corpus
        self.priority = list(PRIORITY if priority is None else priority)
        self.reranker = reranker or WordOverlap()
        self._documents: list[Document] = []
        self._lookup: TermLookup | None = None
        self._graph = ""

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Builds the graph under `folder`, or checks every byte of the one that is there."""
        mine = self._mine(documents)
        if not graph_exists(folder):
            build_graph(folder, mine)
        check_graph(folder, mine, whole=True)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Opens the graph; ValueError where it belongs to another corpus."""
        self._documents = self._mine(documents)
        manifest = check_graph(folder, self._documents, whole=False)
        if self._lookup is not None:
            self._lookup.store.close()
        self._lookup, self._graph = TermLookup(GraphStore(folder)), graph_fingerprint(manifest["corpus"])

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """At most `top` blocks of each query, best first; none for a query that names no term of the graph."""
        provenance = self.fingerprint()
        return [Retrieved(query.id, tuple(self._candidates(query)), provenance) for query in queries]

    def fingerprint(self) -> str:
        """Graph, settings and what ranks relations; RuntimeError before `load`."""
        self._opened()
        settings = [self.top, self.limit, self.priority, self.blocks, self.corpus]
        return fingerprint("graph search", self._graph, settings, self.reranker.fingerprint())

    def _opened(self) -> TermLookup:
        if self._lookup is None:
            raise RuntimeError("GraphSearch knows no terms before load()")
        return self._lookup

    def _mine(self, documents: Sequence[Document]) -> list[Document]:
        """The documents of its own corpus; all where none is called so: a `CorpusSearch` may call it otherwise (`of`)."""
        named = [document for document in documents if document.corpus == self.corpus]
        return named if self.corpus and named else list(documents)

    def _candidates(self, query: Query) -> Iterator[Candidate]:
        seen: set[int] = set()
        for hit in self._hits(query):
            document = self._documents[hit.row]
            if hit.row in seen or leak(query, document, None, None) is not None:
                continue
            seen.add(hit.row)
            yield Candidate(self._block(document, hit, query.searched), hit.score, Channel.TEXT_TO_TEXT)
            if len(seen) == self.top:
                return

    def _hits(self, query: Query) -> Iterator[TermHit]:
        text, lookup = wording(query, self.corpus), self._opened()
        if text is None:
            return iter(())
        return lookup.wording(text) if self.corpus and query.searches is not None else lookup.question(text)

    def _block(self, document: Document, hit: TermHit, question: str) -> Document:
        if self.blocks == "whole":
            return document
        whole = self._opened().store.term(hit.row)
        relations = self._ranked(hit.about if hit.about.strip() else question, whole.relations)
        term = Term(whole.id, whole.names, self._definition(whole), relations)
        return dataclasses.replace(document, text=term_text(term))

    def _definition(self, term: Term) -> tuple[tuple[str, str], ...]:
        """The definition of the first vocabulary in `priority` that has one, else the first."""
        place = {name: at for at, name in enumerate(self.priority)}
        return tuple(sorted(term.definitions, key=lambda told: place.get(told[0], len(place)))[:1])

    def _ranked(self, about: str, relations: Sequence[Relation]) -> tuple[Relation, ...]:
        """The relations that matter most, each once whatever its case."""
        once: dict[Any, Relation] = {}
        for relation in relations:
            once.setdefault(tuple(end.casefold() for end in relation), relation)
        distinct = list(once.values())
        if not distinct or not self.limit:
            return ()
        scores = self.reranker.relevance([(about, BAR.join(relation)) for relation in distinct])
        order = sorted(range(len(distinct)), key=lambda at: -float(scores[at]))
        return tuple(distinct[at] for at in order[: self.limit])
