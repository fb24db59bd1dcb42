"""Small files in the layouts that the parsers read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def image_at(path: Path) -> Path:
    """Writes a small image, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), 100).save(path)
    return path


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes one object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def json_list(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes a JSON list with one object a line, the first on line 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    return path
