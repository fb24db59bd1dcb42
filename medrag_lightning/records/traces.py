"""What a reader writes that rearranges its evidence, answers, rethinks and answers for good, and how that is read (MIRA, RTRA).

    <rearrange>
    [2] The nodule is calcified ... no contrast was given.
    [1]
    </rearrange>
    <initial>benign</initial>
    <rethink>1. Evidence 2 says calcified, as the image shows.</rethink>
    <final>benign</final>

A line of ``<rearrange>`` keeps one piece of evidence, by the number that the prompt gives it, from 1, and word for word as much
of its text as is wanted; ``...`` stands between excerpts that do not follow one another, and no text keeps the image alone. An
empty ``<rearrange>`` keeps nothing. `parse_trace` survives any text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STEPS = ("rearrange", "initial", "rethink", "final")
"""The tags, in their order."""
GAP = " ... "
"""Between two excerpts of one text."""
MOST_NUMBER = 10_000
_TAG = re.compile(r"<(/?)\s*(rearrange|initial|rethink|final)\s*>")
_LINE = re.compile(r"\[(\d{1,6})\](?: (.*))?")


@dataclass(frozen=True, slots=True)
class Kept:
    """A piece of evidence that is kept: its number in the prompt, from 1, and what of its text, ``""`` for its image alone."""

    number: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """The four steps.

    Attributes:
        kept: the evidence that is kept, in the order in which it is to be read.
        initial: the first answer.
        rethink: what is wrong or right with it, by the evidence.
        final: the last answer.
    """

    kept: tuple[Kept, ...]
    initial: str
    rethink: str
    final: str


@dataclass(frozen=True, slots=True)
class WrittenTrace:
    """What was read of a text that may be anything.

    Attributes:
        kept: as of `Trace`; None where that step could not be read.
        initial, rethink, final: None where the step is missing, broken or blank.
        faults: what was wrong with the text, one sentence each; empty for a text as it should be.
    """

    kept: tuple[Kept, ...] | None
    initial: str | None
    rethink: str | None
    final: str | None
    faults: tuple[str, ...]

    def answer(self) -> str | None:
        """The final answer, or the first where there is no final one; None where there is neither: nothing was answered."""
        return self.initial if self.final is None else self.final

    def whole(self) -> Trace | None:
        """The trace, if nothing of it is missing."""
        if self.kept is None or self.initial is None or self.rethink is None or self.final is None:
            return None
        return Trace(self.kept, self.initial, self.rethink, self.final)


def format_trace(trace: Trace) -> str:
    """The text of a trace; `parse_trace` gives it back without a fault.

    Raises:
        ValueError: a step is blank, holds a tag, or would not be read as the same.
    """
    for name, text in (("initial", trace.initial), ("rethink", trace.rethink), ("final", trace.final)):
        if not text or text != _clean(text) or _TAG.search(text):
            raise ValueError(f"step {name} cannot be written: {text!r} is blank, ends in space or holds a tag of a trace")
    text = f"<rearrange>{format_kept(trace.kept)}</rearrange>\n"
    return text + "\n".join(f"<{name}>{getattr(trace, name)}</{name}>" for name in STEPS[1:])


def format_kept(kept: Sequence[Kept]) -> str:
    """What stands between the tags of ``rearrange``, a line for each piece of evidence.

    Raises:
        ValueError: a number is not one, repeats, or a text would not be read as the same.
    """
    seen: set[int] = set()
    for one in kept:
        if not 1 <= one.number <= MOST_NUMBER or one.number in seen:
            raise ValueError(f"evidence {one.number} cannot be kept: numbers go from 1 to {MOST_NUMBER}, each once")
        if one.text != on_one_line(one.text) or _TAG.search(one.text):
            raise ValueError(f"evidence {one.number} cannot be kept: its text is not on one line, or holds a tag of a trace")
        seen.add(one.number)
    return "".join(f"\n[{one.number}] {one.text}".rstrip() for one in kept) + ("\n" if kept else "")


def parse_trace(text: str) -> WrittenTrace:
    """Reads a generated text, whatever it is. A step counts if its tag opens and closes once and no tag stands inside it."""
    faults: list[str] = []
    bodies = _bodies(text, faults)
    kept = parse_kept(bodies["rearrange"], faults) if "rearrange" in bodies else None
    steps: dict[str, str | None] = {}
    for name in STEPS[1:]:
        steps[name] = _clean(bodies[name]) or None if name in bodies else None
        if name in bodies and steps[name] is None:
            faults.append(f"<{name}> is blank")
    return WrittenTrace(kept, steps["initial"], steps["rethink"], steps["final"], tuple(faults))


def parse_kept(body: str, faults: list[str]) -> tuple[Kept, ...]:
    """Reads what stands between the tags of ``rearrange``; lines that keep no evidence are left out, and told in `faults`."""
    kept: dict[int, Kept] = {}
    for line in body.split("\n"):
        shown = on_one_line(line)
        if not shown:
            continue
        found = _LINE.fullmatch(shown)
        number = 0 if found is None else int(found[1])
        if found is None or not 1 <= number <= MOST_NUMBER:
            faults.append("a line of <rearrange> does not begin with the number of evidence, such as [1]")
        elif number in kept:
            faults.append(f"<rearrange> keeps evidence {number} twice")
        else:
            kept[number] = Kept(number, found[2] or "")
    return tuple(kept.values())


def kept_faults(kept: Sequence[Kept], texts: Sequence[str], images: Sequence[bool]) -> list[str]:
    """What is wrong with what was kept, beside what was retrieved; empty for a verbatim subset with its minima.

    Kept evidence must be there, each piece at most once, and its text be excerpts of the evidence's own, in their order. At
    least one text and one image are kept where there are any (MIRA, Section 3.2).

    Args:
        kept: what was kept.
        texts: of all evidence, in the order of its numbers.
        images: whether each has an image.
    """
    faults = []
    if unknown := [one.number for one in kept if not 1 <= one.number <= len(texts)]:
        faults.append(f"there is no evidence {unknown[0]}: {len(texts)} were retrieved")
    known = [one for one in kept if 1 <= one.number <= len(texts)]
    if len({one.number for one in kept}) != len(kept):
        faults.append("evidence is kept twice")
    faults += [
        f"the text kept of evidence {one.number} is not its own"
        for one in known
        if not is_excerpt(one.text, texts[one.number - 1])
    ]
    if any(texts) and not any(one.text for one in known):
        faults.append("no text is kept")
    if any(images) and not any(images[one.number - 1] for one in known):
        faults.append("no image is kept")
    return faults


def is_excerpt(text: str, whole: str) -> bool:
    """Whether `text` is word for word out of `whole`: excerpts in their order, ``...`` between those that are apart."""
    at, of = 0, on_one_line(whole)
    if on_one_line(text) in of:  # also where the text itself has three points
        return True
    for part in on_one_line(text).split(GAP):
        found = of.find(part, at)
        if found < 0 or not part:
            return False
        at = found + len(part)
    return True


def on_one_line(text: str) -> str:
    """Without control characters, halves of characters and repeated space."""
    shown = "".join(one if one.isprintable() else " " for one in text.encode("utf-8", "ignore").decode("utf-8"))
    return " ".join(shown.split())


def _bodies(text: str, faults: list[str]) -> Mapping[str, str]:
    tags = list(_TAG.finditer(text))
    order = [found[2] for found in tags if not found[1]]
    if order != [name for name in STEPS if name in order]:
        faults.append("the steps are not in their order")
    bodies: dict[str, str] = {}
    for name in STEPS:
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


def _clean(text: str) -> str:
    """Lines without control characters, repeated space and blank lines."""
    lines = (on_one_line(line) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
