"""A page and its sections, and what of them says nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

NO_VALUES = frozenset({"nan", "none", "null", "n/a", "na", "nil", "undefined", "-", "--", "?", "tbd", "todo"})
"""What programs write where there is no text; one published builder wrote it as a text, and stopped when it read it again."""


@dataclass(frozen=True, slots=True)
class Section:
    """What stands under one heading of a page.

    Attributes:
        number: its place in the page, from 1; a section that is left out keeps its number, so that no other's changes.
        headings: the headings above it, the outermost first; none before the first heading.
        text: its words on one line, without markup.
        line: of the file, from 1, where it begins.
        note: how its text was made, where it is not the page's own; empty otherwise.
    """

    number: int
    headings: tuple[str, ...]
    text: str
    line: int = 1
    note: str = ""

    def fault(self) -> str | None:
        """Why it is no evidence: ``empty``, ``no value`` (NaN and the like) or ``no words``; None where it is."""
        if not self.text:
            return "empty"
        if self.text.strip(" .").casefold() in NO_VALUES:
            return "no value"
        return None if any(letter.isalpha() for letter in self.text) else "no words"

    def saying(self, text: str, note: str) -> Section:
        """The section with another text in place of its own."""
        return replace(self, text=text, note=note)


@dataclass(frozen=True, slots=True)
class Page:
    """What was read of one page: its sections, and what it says about itself; empty where it does not."""

    title: str = ""
    url: str = ""
    license: str = ""
    sections: tuple[Section, ...] = ()


@dataclass(slots=True)
class Outline:
    """Collects sections while a page is read from top to bottom."""

    _headings: list[tuple[int, str]] = field(default_factory=list)
    _words: list[str] = field(default_factory=list)
    _line: int = 1
    _done: list[Section] = field(default_factory=list)

    def say(self, words: str) -> None:
        """Adds words to the section that is open."""
        self._words.append(words)

    def head(self, level: int, heading: str, line: int) -> None:
        """Ends the section that is open and begins one under `heading`; ``level`` 1 is the outermost."""
        self._end()
        while self._headings and self._headings[-1][0] >= level:
            self._headings.pop()
        self._headings.append((level, one_line(heading)))
        self._line = line

    def sections(self) -> tuple[Section, ...]:
        """All of them; nothing may be added afterwards."""
        self._end()
        return tuple(self._done)

    def _end(self) -> None:
        text = one_line("".join(self._words))
        self._words.clear()
        if text or self._headings:  # what stands before the first heading is a section only if it says something
            headings = tuple(heading for _, heading in self._headings if heading)
            self._done.append(Section(len(self._done) + 1, headings, text, self._line))


def one_line(text: str) -> str:
    """`text` on one line, without control characters and other letters that nobody sees."""
    return " ".join("".join(letter if letter.isprintable() or letter.isspace() else "" for letter in text).split())
