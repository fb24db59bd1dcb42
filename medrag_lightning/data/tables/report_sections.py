"""Sections of a radiology report by their headings. A missing heading gives no text, never a slice of another."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADING = re.compile(r"^[ \t]*(?P<name>[A-Z][A-Z0-9 ,/()&-]{2,60}?)[ \t]*:[ \t]*", re.MULTILINE)
_ALIASES = {
    "FINDING": ("FINDINGS",),
    "IMPRESSIONS": ("IMPRESSION",),
    "CONCLUSION": ("IMPRESSION",),
    "FINDINGS AND IMPRESSION": ("FINDINGS", "IMPRESSION"),
    "FINDINGS/IMPRESSION": ("FINDINGS", "IMPRESSION"),
}


def read_sections(report: str) -> dict[str, str]:
    """Text of each section by its heading in capitals, lines joined with spaces (JOMED spec, trap 14: never without one).

    A heading stands at the start of a line, in capitals, before a colon. A heading that occurs again (an addendum) adds to the
    first. "FINDINGS AND IMPRESSION" counts as both. Empty sections are left out.
    """
    text = report.replace("\r\n", "\n")
    marks = list(_HEADING.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    sections: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=False):  # without any heading there is one end and no mark
        body = " ".join(text[mark.end() : end].split())
        name = " ".join(mark["name"].split())
        for key in _ALIASES.get(name, (name,)):
            if body:
                sections[key] = f"{sections[key]} {body}" if key in sections else body
    return sections


def joined_sections(report: str, wanted: Sequence[str]) -> str:
    """The wanted sections of a report that it has, each once, in the order asked for; empty when it has none of them."""
    found = read_sections(report)
    return " ".join(dict.fromkeys(found[name.upper()] for name in wanted if name.upper() in found))
