"""What questions and documents are called in a file that is handed on: short keyed hashes, unless their ids may be shown."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from medrag_lightning.records import Document, Query

KEY_FILE = ".report_key"
HIDDEN = "[hidden]"
MIN_HIDDEN_CHARS = 4  # shorter ids are words and numbers that mean something else in a text


class Names:
    """Names of questions (``q-1a2b3c4d``) and documents (``d-...``), and texts without the identifiers of their patients.

    Without the key no one can find out an id by hashing guesses; with `show_ids` the ids stand beside the hashes.

    Args:
        key: of the hashes.
        show_ids: whether ids are shown, too.
    """

    def __init__(self, key: bytes, show_ids: bool = False) -> None:
        self.key, self.show_ids = key, show_ids

    def query(self, query_id: str) -> str:
        """The name of a question."""
        return self._name("q", query_id)

    def document(self, document_id: str) -> str:
        """The name of a document."""
        return self._name("d", document_id)

    def without_ids(self, words: str, item: Query | Document | None, limit: int) -> str:
        """A text without the patient, study and (unless shown) own id of what it belongs to, cut after `limit` characters."""
        known = [] if item is None else [item.patient_id, item.study_id, None if self.show_ids else item.id]
        told = {part for one in known if one is not None for part in (one, one.split(":", 1)[-1])}  # tables write dataset:id
        small = words.lower()
        for one in sorted(told, key=len, reverse=True):
            if len(one) >= MIN_HIDDEN_CHARS and one.lower() in small:
                words = re.sub(rf"(?<!\w){re.escape(one)}(?!\w)", HIDDEN, words, flags=re.IGNORECASE)
        return words if len(words) <= limit else f"{words[:limit].rstrip()} …"

    def _name(self, kind: str, name: str) -> str:
        short = f"{kind}-{hmac.new(self.key, f'{kind}:{name}'.encode(), hashlib.sha256).hexdigest()[:8]}"
        return f"{short} = {name}" if self.show_ids else short


def key_of(folder: Path) -> bytes:
    """The run's own key, made once, kept in the run folder for its owner alone; one for this time where it cannot be kept."""
    path = folder / KEY_FILE
    if path.is_file():
        key = path.read_text(encoding="ascii").strip()
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise ValueError(f"{path}: not a key (64 hexadecimal digits); remove the file, and names change")
        return bytes.fromhex(key)
    key = secrets.token_hex(32)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return key_of(folder)
    except OSError:  # a folder that may only be read
        return bytes.fromhex(key)
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(f"{key}\n")
    return bytes.fromhex(key)
