"""The terms of an ontology as evidence: a document a term, with its names, definitions and one-hop relations.

The file of terms has one JSON object (or CSV, TSV row) a term:

| key | | meaning |
|---|---|---|
| `id` | required | unique in the file |
| `title` | required | the preferred name |
| `synonyms` | optional | list of other names; in CSV and TSV a text with ``|`` between them |
| `definition` | optional | a text, or an object: vocabulary to text (``{"MSH": "...", "NCI": "..."}``) |
| `is_a` | optional | list of parents: names, or objects with a `name` |
| `license` | optional | kept with the document |

The file of `triples`, a row each with `head`, `relation` and `tail`, adds relations to the terms whose id or preferred name is
the head; the relation ``has_synonym`` adds a name. Other keys of either file are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, as_text, parse_rows, shorten
from medrag_lightning.data.tables.our_jsonl import check_fields, rename
from medrag_lightning.records import Document, Query
from medrag_lightning.records.terms import Relation, Term, plain_name, plain_text, term_text

KEYS = ("id", "title", "synonyms", "definition", "is_a", "license")
TRIPLE_KEYS = ("head", "relation", "tail")
SYNONYM, IS_A = "has_synonym", "is_a"
One = TypeVar("One")


class Ontology:
    """The terms of an ontology (see the module's docstring), for `retrieval.graph.GraphSearch`. It asks nothing.

    A document's text is what `records.terms.term_text` makes of the term; it holds all relations, of which a search shows the
    ones that matter to its question.

    Args:
        path: the file of terms.
        triples: the file of relations; null where `is_a` is all there is.
        fields: where a file's keys have other names: our key to the file's key, such as ``title: label`` or ``head: subject``.
        inverse: whether a term also has the relations that lead to it, such as all kinds of cancer for cancer.
        leave_out: names of relations that are not wanted.
        name: of the corpus, which every document has as its source; by default the name of the file without its ending.
    """

    def __init__(
        self,
        path: str,
        triples: str | None = None,
        fields: dict[str, str] | None = None,
        inverse: bool = False,
        leave_out: list[str] | None = None,
        name: str | None = None,
    ) -> None:
        self.path, self.triples, self.inverse = Path(path), None if triples is None else Path(triples), inverse
        told = check_fields(fields, (*KEYS, *TRIPLE_KEYS))
        if self.triples is None and (idle := [key for key in told if key in TRIPLE_KEYS]):
            raise ValueError(f"fields: {idle[0]!r} is a key of triples, but no file of triples is named")
        self.fields = {key: theirs for key, theirs in told.items() if key in KEYS}
        self.triple_fields = {key: theirs for key, theirs in told.items() if key in TRIPLE_KEYS}
        self.leave_out = {plain_name(one).casefold() for one in leave_out or ()}
        self.name = name or self.path.stem
        self._documents: list[Document] | None = None

    def queries(self) -> list[Query]:
        """None: an ontology asks nothing."""
        return []

    def documents(self) -> list[Document]:
        """The terms, in file order. ValueError lists every bad row of both files with file and line."""
        if self._documents is None:
            self._documents = self._read()
        return list(self._documents)

    def roots(self) -> list[Path]:
        """None: there are no images."""
        return []

    def _read(self) -> list[Document]:
        drafts: dict[str, _Draft] = {}
        made = parse_rows(read_rows(self.path), lambda row: [self._term(row, drafts)], type(self).__name__)
        if self.triples is not None:
            by_head = {draft.names[0].casefold(): draft for draft in reversed(drafts.values())} | drafts
            parse_rows(read_rows(self.triples), lambda row: self._triple(row, by_head), type(self).__name__)
        if self.inverse:
            _add_inverse(drafts.values())
        return [
            Document(one.id, term_text(drafts[one.id].term(one.id, self.leave_out)), source=self.name, license=one.license)
            for one in made
        ]

    def _term(self, raw: Row, drafts: dict[str, _Draft]) -> Document:
        row = rename(raw, self.fields, KEYS)
        name, license_ = row.text("id"), row.text_or_none("license") or ""
        draft = _Draft([_name("title", row.text("title")), *(_name("synonyms", one) for one in _listed(row, "synonyms"))])
        draft.definitions = _definitions(row.values.get("definition"))
        draft.relations = [(draft.names[0], IS_A, _name(IS_A, one)) for one in _listed(row, IS_A)]
        drafts.setdefault(name, draft)  # a repeated id is refused by who called
        return Document(name, draft.names[0], license=license_)

    def _triple(self, raw: Row, by_head: dict[str, _Draft]) -> list[Document]:
        row = rename(raw, self.triple_fields, TRIPLE_KEYS)
        head, relation, tail = (_name(key, row.text(key)) for key in TRIPLE_KEYS)
        draft = by_head.get(head) or by_head.get(head.casefold())
        if draft is None:
            raise ValueError(f"head {shorten(head)} is neither id nor title of a term in {self.path.name}; add it there")
        if relation == SYNONYM:
            draft.names.append(tail)
        else:
            draft.relations.append((draft.names[0], relation, tail))
        return []


class _Draft:
    """A term while its parts are collected."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.definitions: tuple[tuple[str, str], ...] = ()
        self.relations: list[Relation] = []

    def term(self, name: str, leave_out: set[str]) -> Term:
        """What was collected, each name and relation once, whatever its case."""
        relations = _once(self.relations, lambda relation: tuple(end.casefold() for end in relation))
        kept = tuple(relation for relation in relations if relation[1].casefold() not in leave_out)
        return Term(name, _once(self.names, str.casefold), self.definitions, kept)


def _once(items: Iterable[One], key: Callable[[One], Any]) -> tuple[One, ...]:
    """The first item of each key."""
    found: dict[Any, One] = {}
    for item in items:
        found.setdefault(key(item), item)
    return tuple(found.values())


def _add_inverse(drafts: Iterable[_Draft]) -> None:
    every = list(drafts)
    by_name = {draft.names[0].casefold(): draft for draft in reversed(every)}
    for owner, relation in [(draft, relation) for draft in every for relation in draft.relations]:
        other = by_name.get(relation[2].casefold())
        if other is not None and other is not owner:
            other.relations.append(relation)


def _name(key: str, text: str) -> str:
    name = plain_name(text)
    if not name:
        raise ValueError(f"key {key!r} holds {shorten(text)}, in which nothing can be read; expected a name")
    return name


def _listed(row: Row, key: str) -> list[str]:
    """The texts of a list, or of a text with bars; of an object its name."""
    value = row.values.get(key)
    if value is None:
        return []
    if isinstance(value, str):
        value = value.split("|")
    if not isinstance(value, list | tuple):
        raise ValueError(f"key {key!r} holds {shorten(value)}; expected a list of names")
    texts = [as_text(key, one.get("name", "") if isinstance(one, dict) else one) for one in value]
    return [text for text in texts if text]


def _definitions(value: Any) -> tuple[tuple[str, str], ...]:
    """(vocabulary, text) of a definition, or of several under their vocabularies."""
    told = value if isinstance(value, dict) else {"": value}
    texts = {plain_name(str(name)): "" if text is None else as_text("definition", text) for name, text in told.items()}
    found = [(name, plain_text(text)) for name, text in texts.items()]
    if bad := [name for name, _ in found if "(" in name or ")" in name]:
        raise ValueError(f"key 'definition' has a vocabulary {shorten(bad[0])}; give it a name without brackets")
    return tuple((name, text) for name, text in found if text)
