"""Runs documented commands in this process, in a folder as the README's reader has it: data, ``mine.yaml``, ``film.png``."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "models"))
from documentation import Documented, documented
from documentation_table import TABLE, How
from reader_folders import FOLDERS
from small_hospital import write_hospital
from test_dual_encoder import save_dual_encoder

from medrag_lightning.cli import main

ROOT = Path(__file__).resolve().parents[1]
TINY_ENCODER = "medrag_lightning.models.tiny_dual_encoder.TinyDualEncoder"


def entries(test: str, kind: str | None = None) -> list[tuple[str, str, How]]:
    """(file, section, how) of every entry that `test` takes, in the order of the documentation."""
    found = [(file, section, how) for file, told in TABLE.items() for section, hows in told.items() for how in hows]
    chosen = [one for one in found if one[2].test == test and (kind is None or one[2].text.split(maxsplit=1)[0] == kind)]
    assert chosen, f"no entry of the table is for {test!r}"
    return chosen


def read(file: str) -> list[Documented]:
    """What the file documents."""
    return documented(ROOT / file)


def blocks(file: str, section: str, kind: str) -> list[str]:
    """The blocks of one kind in a section, with its ``...`` filled in."""
    found = [one.text for one in read(file) if (one.section, one.kind) == (section, kind)]
    return [text.replace("{class_path: ...}", f"{{class_path: {TINY_ENCODER}}}") for text in found]


def ward(folder: Path) -> dict[str, Path]:
    """Fills `folder`; gives what stands for the names in capitals."""
    film = write_hospital(folder / "data" / "mine")
    shutil.copy(film, folder / "film.png")
    shutil.copy(folder / "data" / "mine" / "questions.jsonl", folder / "questions.jsonl")
    for name in folder.glob("data/mine/*.png"):
        shutil.copy(name, folder)  # beside questions.jsonl, as `answer` wants them
    (folder / "mine.yaml").write_text(blocks("README.md", "Your own data in 25 lines", "yaml")[0])
    FOLDERS["qwen2_vl"](folder / "weights")
    save_dual_encoder("clip", folder / "clip")
    return {"WEIGHTS": folder / "weights", "CLIP": folder / "clip"}


def perform(how: How, **places: object) -> str:
    """Runs one command of the program; gives its standard output, after asserting what the table says of it."""
    out = say(how.words(**places))
    check(how, out)
    return out


def say(words: list[str]) -> str:
    """What ``main`` writes to standard output; any exit code but 0 is an error."""
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as ending:
            code = ending.code
    assert not code, f"{' '.join(words)} ended with {code}\n{out.getvalue()[-2000:]}\n{err.getvalue()[-2000:]}"
    return out.getvalue()


def check(how: How, out: str) -> None:
    """What the table says of a command's output, and of what it leaves in the current folder."""
    assert re.search(how.says, out), f"{how.text}: no {how.says!r} in\n{out[-3000:]}"
    assert not how.leaves or Path(how.leaves).exists(), f"{how.text} left no {how.leaves}"


def run_python(text: str, changes: dict[str, str] | None = None) -> str:
    """Runs a documented block of Python in the current folder; gives what it prints."""
    for said, used in (changes or {}).items():
        assert said in text, f"{said} is not in\n{text}"
        text = text.replace(said, used)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, "documentation", "exec"), {"__name__": "documentation"})
    return out.getvalue()


def printed_config(words: list[str]) -> dict[str, object]:
    """The configuration that the words come to."""
    told = yaml.safe_load(say([*words, "--print_config"]))
    assert isinstance(told, dict)
    return told
