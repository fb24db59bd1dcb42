"""Where on this machine something came from is no business of a bundle."""

from __future__ import annotations

import re
from pathlib import Path

from medrag_lightning.artifacts import read_json, write_json

_PLACES = re.compile(r"^_?name_or_path$|^base_model_name_or_path$")


def forget_places(folder: Path) -> None:
    """Takes out of the JSON files of a folder where on this machine something came from."""
    for path in sorted(folder.glob("*.json")):
        told = read_json(path)
        if isinstance(told, dict) and (names := [name for name in told if _PLACES.match(name)]):
            write_json(path, {name: value for name, value in told.items() if name not in names})
