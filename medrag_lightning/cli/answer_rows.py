"""A file of questions to a file of answers: a row for every row, in order, resumable, and one bad row is one row of error.

While it runs, answers stand in ``OUT.partial`` as they come; the finished file is written at the end, in one step. A second
call takes from either what was asked of the same system in the same words, and asks the rest.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from medrag_lightning.artifacts import file_fault, fingerprint, write_jsonl
from medrag_lightning.cli.outcome import INTERRUPTED, tell
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, misspelt_key

if TYPE_CHECKING:
    from medrag_lightning.answering import Answerer

KEYS = ("id", "question", "image", "choices", "patient_id", "study_id", "modality")
HISTORY = "history"
SUFFIXES = (".jsonl", ".ndjson", ".gz")
TELL_EVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RowFiles:
    """The file of questions, the file of answers, and the folder that image names are relative to."""

    questions: Path
    output: Path
    images: Path

    @classmethod
    def of(cls, questions: Path, output: Path, images: Path | None) -> RowFiles:
        """ValueError, before anything heavy is loaded, for files that cannot be used."""
        if fault := file_fault(questions):
            raise ValueError(f"answer: --jsonl {questions} {fault}")
        if questions.suffix not in SUFFIXES:
            raise ValueError(f"answer: --jsonl {questions}: expected JSON lines, a file that ends with .jsonl")
        if output.exists() and (output.is_dir() or output.samefile(questions)):
            raise ValueError(f"answer: --output {output} is a folder or the file of questions itself; name another file")
        folder = questions.parent if images is None else images
        if not folder.is_dir():
            raise ValueError(f"answer: --images {folder} is not a folder")
        return cls(questions, output, folder)

    @property
    def partial(self) -> Path:
        """Where answers stand until all are there."""
        return self.output.with_name(self.output.name + ".partial")


def answer_rows(answerer: Answerer, files: RowFiles, system: str) -> str:
    """Answers every row and writes the output; says how many of which outcome.

    Args:
        answerer: the system.
        files: where the rows lie and go.
        system: fingerprint of the system and its threshold; earlier answers of another one are not taken over.
    """
    rows = list(read_rows(files.questions))
    if not rows:
        raise ValueError(f"{files.questions}: there are no rows to answer")
    done = {str(row["asked"]): row for row in _earlier(files) if "error" not in row and "asked" in row}
    first_seen: dict[str, int] = {}
    made: list[dict[str, Any]] = []
    pace = _Pace(len(rows))
    files.partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.partial.open("a", encoding="utf-8") as stream:
            for row in rows:
                asked = fingerprint(system, row.line, _told(row), row.problem)[:24]
                known = done.get(asked)
                answered = _checked(answerer, row, files.images, first_seen, asked) if known is None else known
                if known is None:
                    _append(stream, answered)
                elif (name := row.values.get("id")) is not None:
                    first_seen.setdefault(str(name), row.line)
                made.append(answered)
                pace.one(taken=known is not None)
    except KeyboardInterrupt:
        tell(f"stopped after {len(made)} of {len(rows)} rows; the same command goes on", sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    write_jsonl(files.output, made)
    files.partial.unlink(missing_ok=True)
    counts = Counter("errors" if "error" in row else "abstained" if row["abstained"] else "answered" for row in made)
    told = ", ".join(f"{counts[name]} {name}" for name in ("answered", "abstained", "errors"))
    return f"{len(made)} rows: {told}" + (f" ({pace.taken} from before)" if pace.taken else "")


def _told(row: Row) -> dict[str, Any]:
    """What is asked in a row; its history only where it has one: earlier versions knew none."""
    known = [*KEYS, *([HISTORY] if row.values.get(HISTORY) else [])]
    return {key: row.values.get(key) for key in known}


def _checked(answerer: Answerer, row: Row, images: Path, first_seen: dict[str, int], asked: str) -> dict[str, Any]:
    """The output row of an input row; whatever is wrong with it is told in it."""
    name = row.values.get("id")
    head = {"id": name if isinstance(name, str | int) else None, "line": row.line, "asked": asked}
    try:
        if row.problem:
            raise ValueError(row.problem)
        if head["id"] is not None and first_seen.setdefault(str(name), row.line) != row.line:
            raise ValueError(f"id {str(name)[:80]!r} was already used in line {first_seen[str(name)]}")
        return {**head, **_answered(answerer, row, images)}
    except (ValueError, OSError) as error:
        return {**head, "error": _without_names(str(error), row, images)}


def _without_names(message: str, row: Row, images: Path) -> str:
    """`message` without the image's name and folder, which may tell who a patient is: outputs are handed on."""
    named = row.values.get("image")
    for private in (named if isinstance(named, str) else "", str(images.resolve()), str(images)):
        if len(private) > 1:
            message = message.replace(private, "IMAGE" if private == named else "IMAGES")
    return message


def _answered(answerer: Answerer, row: Row, images: Path) -> dict[str, Any]:
    from medrag_lightning.data.dialogues import read_history
    from medrag_lightning.data.images import ImageStore
    from medrag_lightning.data.tables.image_folder import ImageFolder

    if misspelt := misspelt_key(row, (*KEYS, HISTORY)):
        raise ValueError(misspelt.split("?")[0] + "?")
    named = row.text_or_none("image")
    image = None
    if named is not None:
        folder = ImageFolder.at(images, check=True)
        image = ImageStore([folder.root])(folder.ref(named))
    patient, study, modality = (row.text_or_none(name) for name in ("patient_id", "study_id", "modality"))
    said = read_history(row, HISTORY)
    answer = answerer.ask(row.text("question"), image, row.texts("choices"), patient, study, modality, said)
    return answer.to_json()


def _append(stream: IO[str], row: Mapping[str, Any]) -> None:
    stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    stream.flush()
    os.fsync(stream.fileno())


def _earlier(files: RowFiles) -> Iterator[dict[str, Any]]:
    """Rows of a finished or interrupted call; a line that was cut short is passed over, and ended."""
    for path in (files.output, files.partial):
        if not path.is_file():
            continue
        yield from _rows_of(path)
    if files.partial.is_file() and (data := files.partial.read_bytes()) and not data.endswith(b"\n"):
        with files.partial.open("ab") as stream:
            stream.write(b"\n")


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of ours, a line each; other lines are passed over."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


class _Pace:
    """Tells how far it is, now and then, on the terminal's error stream."""

    def __init__(self, total: int) -> None:
        self.total, self.seen, self.taken = total, 0, 0
        self.start = self.told = time.monotonic()

    def one(self, taken: bool) -> None:
        """Another row is there."""
        self.seen, self.taken = self.seen + 1, self.taken + taken
        now, asked = time.monotonic(), self.seen - self.taken
        if now - self.told < TELL_EVERY_SECONDS or not asked:
            return
        self.told = now
        rate = asked / (now - self.start)
        left = (self.total - self.seen) / rate
        tell(f"{self.seen} of {self.total} rows, {rate:.1f} a second, {left / 60:.1f} min left", sys.stderr)
