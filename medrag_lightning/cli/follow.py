"""Several ranks, one decision: under srun every rank runs the recipe, rank 0 says by files which command comes next."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.cli.launch import POLL_SECONDS, Ranks

EXCHANGE = ".ranks"


class Exchange:
    """The files by which the ranks of one ``srun`` agree, on the file system that they share.

    Rank 0 writes ``0.json``, ``1.json``, ... with a command each, and at the end one with an exit code. A rank whose command
    fails says so in ``failed.RANK``; rank 0 then ends its own, so that nobody waits in a collective for one that has left.
    """

    def __init__(self, root: Path, ranks: Ranks) -> None:
        self.folder, self.ranks, self._count = root / EXCHANGE / ranks.key, ranks, 0

    def say(self, message: dict[str, Any]) -> None:
        """(rank 0) The next message to all others."""
        if self.ranks.size > 1:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".{self._count}.tmp"
            temporary.write_text(json.dumps(message), encoding="utf-8")
            temporary.replace(self.folder / f"{self._count}.json")
            self._count += 1

    def end(self, code: int) -> None:
        """(rank 0) Nothing follows. Exchanges of earlier jobs are removed."""
        self.say({"exit": code})
        if self.ranks.size > 1:
            for old in self.folder.parent.iterdir():
                if old != self.folder:
                    shutil.rmtree(old, ignore_errors=True)

    def somebody_failed(self) -> bool:
        """(rank 0) Whether another rank's command has failed."""
        return self.ranks.size > 1 and any(self.folder.glob("failed.*"))

    def follow(self, run: Callable[[Sequence[str], Callable[[], bool]], int]) -> int:
        """(other ranks) Runs each command of rank 0 as it comes; gives the exit code that all end with.

        Args:
            run: gets a command, and a function that says whether rank 0 has ended; gives the command's exit code.
        """
        while True:
            while (message := self._message(self._count)) is None:
                time.sleep(POLL_SECONDS)
            if "exit" in message:
                return int(message["exit"])
            self._count += 1
            code = run(message["command"], self._ended_badly)
            if self._ended_badly():
                continue
            if code:
                (self.folder / f"failed.{self.ranks.rank}").write_text(str(code), encoding="utf-8")
                return code

    def _ended_badly(self) -> bool:
        message = self._message(self._count)
        return message is not None and message.get("exit", 0) != 0

    def _message(self, number: int) -> dict[str, Any] | None:
        path = self.folder / f"{number}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
