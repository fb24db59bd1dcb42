"""Texts without images as evidence: textbooks, articles, guidelines, an encyclopaedia; one JSON object (or CSV row) a text.

| key | | meaning |
|---|---|---|
| `id` | required | unique in the file |
| `text` | required | the text |
| `title` | optional | put before every chunk of the text: ``title: text`` |
| `license` | optional | kept with every chunk |

Other keys are left alone. Long texts are cut into chunks (HeteroRAG, MedAtlas: at most 1000 characters, 200 of them shared with
the chunk before).
"""

from __future__ import annotations

import re
from pathlib import Path

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, parse_rows
from medrag_lightning.data.tables.our_jsonl import check_fields, rename
from medrag_lightning.records import Document, Query

KEYS = ("id", "text", "title", "license")


class TextCorpus:
    """A text corpus (see the module's docstring). It asks nothing, and no document has an image, a patient or a study.

    Args:
        path: the file.
        fields: where the file's keys have other names: our key to the file's key, such as ``title: heading``.
        chunk_chars: longest chunk, in characters, its title aside.
        overlap_chars: characters that a chunk shares with the one before.
        titles: whether chunks begin with the title of their text; false where titles are mere numbers.
        mentions: keep the chunks that say one of these words or beginnings of words, in any case; null for all chunks.
        limit: of those, keep the first so many, in file order; null for all.
        name: of the corpus, which every chunk has as its source; by default the name of the file without its ending.
    """

    def __init__(
        self,
        path: str,
        fields: dict[str, str] | None = None,
        chunk_chars: int = 1000,
        overlap_chars: int = 200,
        titles: bool = True,
        mentions: list[str] | None = None,
        limit: int | None = None,
        name: str | None = None,
    ) -> None:
        if not 0 <= overlap_chars < chunk_chars:
            raise ValueError(f"overlap_chars must lie in [0, chunk_chars), got {overlap_chars} and chunk_chars {chunk_chars}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}; leave the table out instead")
        if mentions is not None and not (mentions and all(word.strip() for word in mentions)):
            raise ValueError(f"mentions must name at least one word, and no empty one; got {mentions}")
        self.path, self.fields, self.titles = Path(path), check_fields(fields, KEYS), titles
        self.name = name or self.path.stem
        words = "|".join(re.escape(word.strip()) for word in mentions or ())
        self._mentioned = re.compile(rf"\b(?:{words})", re.IGNORECASE) if words else None
        self.chunk_chars, self.overlap_chars, self.limit = chunk_chars, overlap_chars, limit
        self._documents: list[Document] | None = None

    def queries(self) -> list[Query]:
        """None: a corpus asks nothing."""
        return []

    def documents(self) -> list[Document]:
        """The chunks, in file order; those of a text that has several are called ``id/1``, ``id/2``, ..."""
        if self._documents is None:
            found = parse_rows(read_rows(self.path), self._parse, type(self).__name__)
            if not found:
                raise ValueError(f"{self.path}: no text mentions any of the words of mentions; name others, or leave it out")
            self._documents = found[: self.limit]
        return list(self._documents)

    def roots(self) -> list[Path]:
        """None: there are no images."""
        return []

    def _parse(self, raw: Row) -> list[Document]:
        row = rename(raw, self.fields, KEYS)
        name, title = row.text("id"), row.text_or_none("title") if self.titles else None
        lead, license_ = "" if title is None else f"{title}: ", row.text_or_none("license") or ""
        parts = chunks(row.text("text"), self.chunk_chars, self.overlap_chars)
        names = [name] if len(parts) == 1 else [f"{name}/{number}" for number in range(1, len(parts) + 1)]
        made = [Document(one, lead + part, source=self.name, license=license_) for one, part in zip(names, parts, strict=True)]
        return [document for document in made if self._mentioned is None or self._mentioned.search(document.text)]


def chunks(text: str, size: int, overlap: int) -> list[str]:
    """`text` in pieces of at most `size` characters, each beginning `overlap` characters before the end of the last one."""
    starts = range(0, max(len(text) - overlap, 1), size - overlap)
    return [text[start : start + size] for start in starts]
