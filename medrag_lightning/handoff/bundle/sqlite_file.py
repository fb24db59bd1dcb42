"""Whether a file of SQLite holds tables and nothing that acts: no views, no triggers, no modules but full-text search."""

from __future__ import annotations

import re
import sqlite3
import struct
from pathlib import Path
from urllib.parse import quote

MAGIC, HEAD_BYTES = b"SQLite format 3\0", 100
_FTS5 = re.compile(r"create\s+virtual\s+table\s+\S+\s+using\s+fts5\s*\(", re.IGNORECASE)


def check_sqlite(path: Path) -> None:
    """ValueError unless its size is what its header tells, and it has only tables and indexes, virtual ones of FTS5."""
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES or not head.startswith(MAGIC):
        raise ValueError(f"{path}: no file of SQLite")
    (page,), (pages,) = struct.unpack(">H", head[16:18]), struct.unpack(">I", head[28:32])
    size = (65536 if page == 1 else page) * pages
    if size != path.stat().st_size:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are not the {size} that its header tells")
    try:
        database = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            found = database.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema").fetchall()
        finally:
            database.close()
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path}: a file of SQLite that cannot be read: {error}") from error
    for kind, name, statement in found:
        virtual = re.match(r"create\s+virtual", str(statement), re.IGNORECASE)
        if kind not in ("table", "index") or (virtual and not _FTS5.match(str(statement))):
            raise ValueError(
                f"{path}: holds the {kind} {str(name)[:60]!r}; bundles hold plain tables and full-text indexes only"
            )
