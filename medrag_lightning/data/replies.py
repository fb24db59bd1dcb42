"""An expert's or a teacher's replies on disk, by what was asked: nothing is asked twice, and an interruption loses one batch.

identity.json   whose replies these are; written first
DIGEST.arrow    some replies, as they came; named after a digest of its own bytes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from medrag_lightning.artifacts import read_manifest, write_bytes, write_manifest

SCHEMA = 1
IDENTITY = "identity.json"
ROWS = pa.schema([("asked", pa.string()), ("reply", pa.string())])
NOTE = "somebody's own words about questions; keep them where the questions lie"
Task = TypeVar("Task")
Reply = TypeVar("Reply", str, str | None)


class Replies:
    """Replies of one expert in a folder.

    Args:
        folder: where they lie.
        expert: fingerprint of who gives them.
        role: what the expert is called.
        plan: the settings of the data module that name the folder.

    Attributes:
        asked: how often the expert was asked by this object.

    Raises:
        ValueError: on opening, where the folder holds replies of another expert, or damaged ones.
    """

    def __init__(self, folder: Path, expert: str, role: str = "expert", plan: str = "exploration") -> None:
        self.folder, self.role, self.asked = folder, role, 0
        path = folder / IDENTITY
        if path.is_file():
            told = read_manifest(path, f"nobody knows any more whose replies these are: delete {folder}")
            if told.get(role) != expert or told.get("schema") != SCHEMA:
                raise ValueError(
                    f"{folder} holds replies of another {role}, other prompts or other settings of it "
                    f"({str(told.get(role))[:12]} there, {expert[:12]} here): they are not mixed. Give another folder "
                    f"(--data.init_args.{plan}.folder), or the {role}'s settings of then. Nothing was changed"
                )
        else:
            write_manifest(path, {"schema": SCHEMA, role: expert, "note": NOTE})
        self._files = sorted(folder.glob("*.arrow"))
        self._known = {asked: reply for path in self._files for asked, reply in _read(path)}

    def __len__(self) -> int:
        return len(self._known)

    def ask(
        self,
        tasks: Mapping[str, Task],
        expert: Callable[[Sequence[Task]], list[Reply]],
        at_once: int,
        tell: Callable[[int], None],
    ) -> dict[str, Reply]:
        """The reply to each task by its key; the expert is asked only what is not known, and each batch is kept at once.

        Args:
            tasks: what is asked, by a key that holds all of it.
            expert: gives one text a task; None, if it may, for a call that failed. That is not kept, so it is asked again.
            at_once: tasks of a batch.
            tell: is called with the number of tasks that have their reply so far.
        """
        missing = [key for key in tasks if key not in self._known]
        fresh: dict[str, Reply] = {}
        for start in range(0, len(missing), at_once):
            tell(len(tasks) - len(missing) + start)
            keys = missing[start : start + at_once]
            said = expert([tasks[key] for key in keys])
            if len(said) != len(keys):
                raise ValueError(
                    f"the {self.role} gave {len(said)} replies to {len(keys)} tasks; it must give one each, in order"
                )
            self.asked += len(keys)
            fresh |= zip(keys, said, strict=True)
            self._keep({key: one.encode("utf-8", "replace").decode() for key in keys if (one := fresh[key]) is not None})
        tell(len(tasks))
        return {key: self._known[key] if key in self._known else fresh[key] for key in tasks}

    def pack(self) -> None:
        """One file for all; a process that is killed meanwhile leaves some replies twice, which does no harm."""
        if len(self._files) > 1:
            old = self._files
            self._files = [self._write(self._known)]
            for path in set(old) - set(self._files):
                path.unlink(missing_ok=True)

    def _keep(self, replies: Mapping[str, str]) -> None:
        if replies:
            self._files.append(self._write(replies))
            self._known.update(replies)

    def _write(self, replies: Mapping[str, str]) -> Path:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, ROWS) as stream:
            stream.write_table(pa.table([list(replies), list(replies.values())], schema=ROWS))
        content: bytes = sink.getvalue().to_pybytes()
        path = self.folder / f"{_digest(content)}.arrow"
        write_bytes(path, content)
        return path


def _read(path: Path) -> list[tuple[str, str]]:
    content = path.read_bytes()
    if _digest(content) != path.stem:
        raise ValueError(f"{path} is damaged: not what was written; delete this file, and what it held is asked again")
    rows = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    return list(zip(rows["asked"].to_pylist(), rows["reply"].to_pylist(), strict=True))


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:32]
