"""Texts without images as evidence: textbooks, articles, guidelines, an encyclopaedia; one JSON object (or CSV row) a text.

| key | | meaning |
|---|---|---|
| `id` | required | unique in the file |
| `text` | required | the text |
| `title` | optional | put before every chunk of the text: ``title: text`` |
| `source` | optional | by default the name of the file without its ending |
| `license` | optional | kept with every chunk |

Other keys are left alone. Long texts are cut into chunks (HeteroRAG, MedAtlas: at most 1000 characters, 200 of them shared with
the chunk before).
"""

from __future__ import annotations

from pathlib import Path

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, parse_rows
from medrag_lightning.data.tables.our_jsonl import check_fields, rename
from medrag_lightning.records import Document, Query

KEYS = ("id", "text", "title", "source", "license")


class TextCorpus:
    """A text corpus (see the module's docstring). It asks nothing, and no document has an image, a patient or a study.

    Args:
        path: the file.
        fields: where the file's keys have other names: our key to the file's key, such as ``title: heading``.
        chunk_chars: longest chunk, in characters, its title aside.
        overlap_chars: characters that a chunk shares with the one before.
        limit: keep the first so many chunks, in file order; null for all.
    """

    def __init__(
        self,
        path: str,
        fields: dict[str, str] | None = None,
        chunk_chars: int = 1000,
        overlap_chars: int = 200,
        limit: int | None = None,
    ) -> None:
        if not 0 <= overlap_chars < chunk_chars:
            raise ValueError(f"overlap_chars must lie in [0, chunk_chars), got {overlap_chars} and chunk_chars {chunk_chars}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}; leave the table out instead")
        self.path, self.fields = Path(path), check_fields(fields, KEYS)
        self.chunk_chars, self.overlap_chars, self.limit = chunk_chars, overlap_chars, limit
        self._documents: list[Document] | None = None

    def queries(self) -> list[Query]:
        """None: a corpus asks nothing."""
        return []

    def documents(self) -> list[Document]:
        """The chunks, in file order; those of a text that has several are called ``id/1``, ``id/2``, ..."""
        if self._documents is None:
            self._documents = parse_rows(read_rows(self.path), self._parse, type(self).__name__)[: self.limit]
        return list(self._documents)

    def roots(self) -> list[Path]:
        """None: there are no images."""
        return []

    def _parse(self, raw: Row) -> list[Document]:
        row = rename(raw, self.fields, KEYS)
        name, title = row.text("id"), row.text_or_none("title")
        source, license_ = row.text_or_none("source") or self.path.stem, row.text_or_none("license") or ""
        parts = chunks(row.text("text"), self.chunk_chars, self.overlap_chars)
        names = [name] if len(parts) == 1 else [f"{name}/{number}" for number in range(1, len(parts) + 1)]
        lead = "" if title is None else f"{title}: "
        return [Document(one, lead + part, source=source, license=license_) for one, part in zip(names, parts, strict=True)]


def chunks(text: str, size: int, overlap: int) -> list[str]:
    """`text` in pieces of at most `size` characters, each beginning `overlap` characters before the end of the last one."""
    starts = range(0, max(len(text) - overlap, 1), size - overlap)
    return [text[start : start + size] for start in starts]
