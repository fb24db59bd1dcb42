"""Markup that cannot be broken out of: whatever is not `Html` is escaped where it is put in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

# Control characters, lone surrogates (which no file can hold) and marks that turn the writing direction round.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufeff]")
VOID = {"br", "meta", "link", "img", "col", "hr"}


class Html(str):
    """Text that is markup already. Everything that is made of it by `+` or formatting is plain text again, thus escaped."""

    __slots__ = ()


def text(value: object) -> Html:
    """Any value as text: escaped, characters that no one sees replaced."""
    return Html(escape(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """``<name attribute="...">children</name>``. Children that are no `Html` are escaped, None is left out; so is an attribute
    that is None, and one that is True has no value. ``class_`` is ``class``, and ``_`` in names is ``-``.
    """
    told = "".join(
        f" {_name(key)}" if value is True else f' {_name(key)}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{told}>")
    return Html(f"<{name}{told}>{joined(children)}</{name}>")


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other, those that are no `Html` escaped, None left out; so is `between`."""
    made = [part if isinstance(part, Html) else text(part) for part in parts if part is not None]
    return Html(text(between).join(made))


def table(head: Iterable[object], rows: Iterable[Iterable[object]], caption: str | None = None, **attributes: object) -> Html:
    """A table whose first column names its rows; it scrolls sideways where there is no room."""
    top = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = []
    for row in rows:
        first, *others = row
        body.append(tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in others)))
    titled = tag("caption", caption) if caption else None
    return tag("div", tag("table", titled, tag("thead", top), tag("tbody", *body), **attributes), class_="scroll")


def folded(summary: object, *children: object, is_open: bool = False, **attributes: object) -> Html:
    """Something that is shown when its heading is clicked on."""
    return tag("details", tag("summary", summary), *children, open=is_open or None, **attributes)


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
