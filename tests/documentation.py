"""What a Markdown file asks its reader to type: commands, options, settings, Python and YAML, each with its section."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from medrag_lightning.cli.help import VERB_HELP

PROGRAM = "python -m medrag_lightning "
STARTS = ("python ", "bash ", "pip ", "srun ", "export ", "medrag-lightning ")
FENCE = "```"


@dataclass(frozen=True, slots=True)
class Documented:
    """One thing to type. `kind`: command, option, setting, script, python or yaml; `line` counts from 1."""

    kind: str
    text: str
    section: str
    line: int


def documented(path: Path) -> list[Documented]:
    """Everything of the file, in order. A command has its comment taken off and its continued lines joined."""
    found: list[Documented] = []
    for language, section, line, lines in _blocks(path.read_text(encoding="utf-8")):
        text = "\n".join(lines)
        if language in ("python", "yaml"):
            found.append(Documented(language, text + "\n", section, line))
        elif language == "bash":
            found += [Documented("command", words, section, line) for words in _commands(text)]
        elif language is None:
            found += [Documented(kind, words, section, line) for kind, words in _spans(text)]
    return found


def _blocks(text: str) -> list[tuple[str | None, str, int, list[str]]]:
    """(language, section, first line, lines) of fenced and indented blocks, and of what is between; language None: prose."""
    marked, language, section = [], None, ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.startswith(FENCE)
        if fence:
            language = (line.removeprefix(FENCE).strip() or "text") if language is None else None
        elif language is None and line.startswith("#"):
            section = line.lstrip("# ")
        indented = language is None and line.startswith("    ")
        marked.append((("fence" if fence else "indented" if indented else language), section, number, line))
    blocks = []
    for (kind, section), group in groupby(marked, key=lambda one: one[:2]):
        lines = list(group)
        if kind != "fence":
            words = [line.removeprefix("    ") if kind == "indented" else line for *_, line in lines]
            shown = ("bash" if words[0].startswith(STARTS) else "yaml") if kind == "indented" else kind
            blocks.append((shown, section, lines[0][2], words))
    return blocks


def _commands(text: str) -> list[str]:
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [words for line in joined.splitlines() if (words := re.sub(r"(^|\s+)#.*", "", line).strip())]


def _spans(text: str) -> list[tuple[str, str]]:
    """(kind, words) of the code spans of prose that somebody may type; names of files, classes and verbs are not among them."""
    found = []
    for span in re.findall(r"`([^`]+)`", text):
        words = " ".join(span.split())
        verb, more, _ = words.partition(" ")[0], " " in words, None
        if words.startswith(STARTS) or (verb in VERB_HELP and more):
            found.append(("command", words))
        elif re.match(r"--?[a-z]", words, re.IGNORECASE):
            found.append(("option", words))
        elif re.fullmatch(r"(scripts/[\w/]+|\w+)\.(py|sh)", words):
            found.append(("script", words))
        elif re.match(r"[a-z_.]+\+?: \S", words):
            found.append(("setting", words))
    return found
