"""HTML pages as sections, by the parser of the standard library."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from medrag_lightning.data.pages.section import Outline, Page, one_line

UNREAD = frozenset(
    {"script", "style", "noscript", "template", "nav", "aside", "footer", "form", "button", "select", "textarea"}
    | {"iframe", "object", "svg", "canvas", "audio", "video", "map"}
)
"""Elements whose words are no part of the text."""
UNREAD_CLASSES = frozenset({"reference", "mw-editsection", "navbox", "toc", "noprint", "sidebar", "breadcrumb", "breadcrumbs"})
UNREAD_ROLES = frozenset({"navigation", "banner", "contentinfo", "search", "complementary"})
BLOCKS = frozenset(
    {"address", "article", "blockquote", "br", "caption", "dd", "div", "dl", "dt", "figcaption", "figure", "header", "hr", "ul"}
    | {"main", "ol", "p", "pre", "section", "table", "tbody", "thead", "tr"}
)
VOID = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"))
_HEADING = re.compile(r"h([1-6])")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_LICENSES = ("license", "licence", "dc.rights", "dcterms.rights", "dcterms.license", "rights")


def html_page(text: str) -> Page:
    """The sections of an HTML page. Menus, scripts, footnote marks and whatever a reader of the page cannot see are left out.

    Raises:
        ValueError: a heading, or an element that is left out, is never closed: nobody can tell where it ends.
    """
    parser = _Parser()
    parser.feed(text)
    parser.close()
    return parser.page()


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.outline, self.title, self.url, self.license = Outline(), "", "", ""
        self._open: list[str] = []  # the element that is left out, and elements of its name inside it
        self._opened_on = 0
        self._heading: tuple[str, int, list[str]] | None = None
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if tag in ("meta", "link"):
            self._describes(tag, told)
        if tag in VOID:
            self._say(" " if tag in BLOCKS else "")
        elif self._open:
            self._open += [tag] * (tag == self._open[0])
        elif tag in UNREAD or _unseen(told):
            self._open, self._opened_on = [tag], self.getpos()[0]
        elif tag == "title":
            self._in_title = True
        elif found := _HEADING.fullmatch(tag):
            self._closed_heading()
            self._heading = (tag, int(found[1]), [])
            self._opened_on = self.getpos()[0]
        else:
            self._say({"li": " - ", "td": " | ", "th": " | "}.get(tag, " " if tag in BLOCKS else ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID and self._open and self._open[-1] == tag:
            self._open.pop()  # <div hidden/>

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            if tag == self._open[0]:
                self._open.pop()
        elif tag == "title":
            self._in_title = False
        elif self._heading is not None and tag == self._heading[0]:
            _name, level, words = self._heading
            self._heading = None
            self.outline.head(level, "".join(words), self._opened_on)
        elif tag in BLOCKS or tag == "li":
            self._say(" ")

    def handle_data(self, data: str) -> None:
        if self._in_title and not self._open:
            self.title += data
        else:
            self._say(data)

    def page(self) -> Page:
        """What was read; ValueError where something was not closed."""
        self._closed_heading()
        if self._open:
            told = (
                f"<{self._open[0]}> of line {self._opened_on} is left out and never closed, so that everything after it is lost"
            )
            raise ValueError(f"{told}; close it")
        return Page(one_line(self.title), self.url, one_line(self.license), self.outline.sections())

    def _say(self, words: str) -> None:
        if self._open:
            return
        if self._heading is None:
            self.outline.say(words)
        else:
            self._heading[2].append(words)

    def _closed_heading(self) -> None:
        if self._heading is not None:
            raise ValueError(f"the heading <{self._heading[0]}> of line {self._opened_on} is never closed; close it")

    def _describes(self, tag: str, told: dict[str, str]) -> None:
        """What ``<meta>`` and ``<link>`` say of the page."""
        if tag == "link":
            kinds = told.get("rel", "").lower().split()
            self.url = self.url or (told.get("href", "") if "canonical" in kinds else "")
            self.license = self.license or (told.get("href", "") if "license" in kinds else "")
        elif (told.get("name") or told.get("property", "")).lower() in _LICENSES:
            self.license = self.license or told.get("content", "")
        elif told.get("property", "").lower() == "og:url":
            self.url = self.url or told.get("content", "")


def _unseen(told: dict[str, str]) -> bool:
    """Whether an element is no part of what is read: hidden from the eye, a menu, or a mark of a footnote."""
    if "hidden" in told or told.get("aria-hidden") == "true" or _HIDDEN.search(told.get("style", "")):
        return True
    return told.get("role") in UNREAD_ROLES or not UNREAD_CLASSES.isdisjoint(told.get("class", "").split())
