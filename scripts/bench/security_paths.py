"""Image names that lead where they must not: other folders, the network, pipes and devices. Drills of `security.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from security_bombs import Drill  # type: ignore[import-not-found]

from medrag_lightning.artifacts import guard_path
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.tables.our_jsonl import JsonlQueries
from medrag_lightning.records import ImageRef


def hostile_paths(folder: Path) -> list[Drill]:
    """Each hostile name in each place where a name can be given: an image reference, and a row of a table."""
    root = folder / "images"
    root.mkdir(parents=True)
    Image.new("L", (32, 32)).save(folder / "secret.png")
    (root / "link.png").symlink_to(folder / "secret.png")
    (root / "folder_link").symlink_to(folder)
    (root / "folder.png").mkdir()
    (root / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.png")
    names = {
        "traversal": "../secret.png",
        "deep traversal": "a/b/../../../secret.png",
        "absolute": str(folder / "secret.png"),
        "password file": "/etc/passwd",
        "symbolic link": "link.png",
        "link to a folder": "folder_link/secret.png",
        "URL": "https://example.org/a.png",
        "file URL": "file:///etc/passwd",
        "data URL": "data:image/png;base64,AAAA",
        "UNC": r"\\server\share\a.png",
        "UNC with slashes": "//server/share/a.png",
        "NUL": "a\0.png",
        "line break": "a\n.png",
        "device": "zero.png",
        "device by name": "/dev/zero",
        "named pipe": "pipe.png",
        "folder": "folder.png",
        "array elsewhere": "../secret.npz#images/0",
    }
    made = []
    for name, path in names.items():
        made.append(Drill("image name", name, _opened(root, path)))
        made.append(Drill("table row", name, _of_table(folder, root, name, path)))
    os.mkfifo(folder / "rows.jsonl")
    made.append(Drill("table file", "named pipe", lambda: list(read_rows(folder / "rows.jsonl"))))
    made.append(Drill("table file", "device", lambda: list(read_rows("/dev/zero"))))
    made.append(Drill("root guard", "NUL", lambda: guard_path("a\0b", [root])))
    return made


def _opened(root: Path, path: str) -> Callable[[], object]:
    whole = path if path.startswith(("/", "\\")) or ":" in path else str(root / path)
    return lambda: ImageStore([root])(ImageRef.parse(whole))


def _of_table(folder: Path, root: Path, name: str, path: str) -> Callable[[], object]:
    rows = folder / f"{name.replace(' ', '_')}.jsonl"
    rows.write_text(json.dumps({"id": "q", "question": "?", "image": path, "split": "test"}) + "\n")

    def read() -> None:
        table = JsonlQueries(str(rows), str(root), check_images=False)
        (query,) = table.queries()
        assert query.image is not None
        ImageStore(table.roots())(query.image)

    return read
