"""What a query generator writes: for each corpus one tag with its queries, and how that is read again (HeteroRAG, MQG).

    <research>hazard of mri nodule red; nodule red prognosis</research>
    <guideline></guideline>
    <graph>nodule , treated by</graph>

Queries of a tag are parted by ``;``. An empty tag means: do not search there. `parse_searches` survives any text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST_CHARS = 300
"""Of one query; the rest is cut off, and told."""
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What may name a corpus: also the name of a part of `CorpusSearch`."""
_ANY_TAG = re.compile(r"<(/?)\s*([A-Za-z0-9][A-Za-z0-9_.-]{0,63})\s*>")

Searches = tuple[tuple[str, str], ...]
"""(name of the corpus, words), each corpus at most once: `Query.searches`."""


@dataclass(frozen=True, slots=True)
class WrittenSearches:
    """What a text asks each corpus.

    Attributes:
        wordings: the queries of each corpus whose tag was read, in the order of the corpora; none for an empty tag. A corpus
            whose tag is missing or broken is absent.
        faults: what was wrong with the text, one sentence each; empty for a text as it should be.
    """

    wordings: Mapping[str, tuple[str, ...]]
    faults: tuple[str, ...]

    def first(self) -> Searches | None:
        """The first query of each corpus that has one; None where not one tag could be read, so that nobody said anything."""
        return tuple((name, mine[0]) for name, mine in self.wordings.items() if mine) if self.wordings else None


def format_searches(wordings: Mapping[str, Sequence[str]], corpora: Sequence[str]) -> str:
    """The text of the queries, one line and tag a corpus, in the order of `corpora`; `parse_searches` gives them back.

    Raises:
        ValueError: a query is of an unknown corpus, blank, too long, or holds what parts queries or makes a tag.
    """
    if unknown := sorted(set(wordings) - set(corpora)):
        raise ValueError(f"there is no corpus {unknown[0]!r} to search; there are {', '.join(corpora)}")
    for name, mine in wordings.items():
        for words in mine:
            if words != _clean(words) or not words or len(words) > MOST_CHARS or any(mark in words for mark in ";<>"):
                raise ValueError(f"corpus {name!r}: {words!r} cannot be written as a query: it would not be read as the same")
    return "\n".join(f"<{name}>{'; '.join(wordings.get(name, ()))}</{name}>" for name in corpora)


def parse_searches(text: str, corpora: Sequence[str], most: int = 1) -> WrittenSearches:
    """Reads a generated text, whatever it is.

    A tag counts if it opens and closes once and no tag stands inside it. Of more than `most` queries the surplus is joined to
    the last one, as a ``;`` that belongs to its words; with `most` 1 every ``;`` is one.

    Args:
        text: what was generated.
        corpora: their names, which are the tags.
        most: queries of a corpus.
    """
    assert most >= 1
    assert all(TAG.fullmatch(name) for name in corpora), corpora
    assert len(set(corpora)) == len(corpora), corpora
    faults: list[str] = []
    bodies = _bodies(text, corpora, faults)
    wordings = {name: _queries(name, bodies[name], most, faults) for name in corpora if name in bodies}
    return WrittenSearches(wordings, tuple(faults))


def _bodies(text: str, corpora: Sequence[str], faults: list[str]) -> dict[str, str]:
    """What stands between the tags of each corpus, of those whose tags are sound."""
    found_tags = _ANY_TAG.finditer(text)  # `a < b > c` compares: with spaces inside only the name of a corpus makes a tag
    tags = [found for found in found_tags if found[2] in corpora or not any(one.isspace() for one in found[0])]
    if unknown := sorted({found[2] for found in tags} - set(corpora)):
        faults.append(f"there is no corpus {unknown[0][:64]!r}" + (f", and {len(unknown) - 1} more" if unknown[1:] else ""))
    bodies: dict[str, str] = {}
    for name in corpora:
        mine = [at for at, found in enumerate(tags) if found[2] == name]
        if not mine:
            faults.append(f"<{name}> is missing")
        elif len(mine) != 2 or tags[mine[0]][1] or not tags[mine[1]][1]:
            faults.append(f"<{name}> does not open once and close once")
        elif mine[1] != mine[0] + 1:
            faults.append(f"a tag stands inside <{name}>")
        else:
            bodies[name] = text[tags[mine[0]].end() : tags[mine[1]].start()]
    return bodies


def _queries(name: str, body: str, most: int, faults: list[str]) -> tuple[str, ...]:
    parts = [part for part in body.split(";") if _clean(part)]
    if len(parts) > most:
        faults.append(f"<{name}> has {len(parts)} queries, {most} wanted; the surplus is joined to the last")
        parts = [*parts[: most - 1], " ".join(parts[most - 1 :])]
    found: list[str] = []
    for part in parts:
        words = _clean(part.replace("<", " ").replace(">", " "))
        if len(words) > MOST_CHARS:
            faults.append(f"a query of <{name}> is longer than {MOST_CHARS} characters and was cut")
            words = words[:MOST_CHARS].rstrip()
        if words and words not in found:
            found.append(words)
    return tuple(found)


def _clean(words: str) -> str:
    """On one line, without control characters and the halves of characters."""
    shown = "".join(one if one.isprintable() else " " for one in words.encode("utf-8", "ignore").decode("utf-8"))
    return " ".join(shown.split())
