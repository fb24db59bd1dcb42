"""Markdown pages and plain texts as sections; what is only markup goes, what it marks stays."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from medrag_lightning.data.pages.section import Outline, Page, one_line

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[^`]*")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})")
_TABLE_RULE = re.compile(r"[ \t]*\|?(?:[ \t]*:?-{2,}:?[ \t]*\|?)+[ \t]*")
_DEFINITION = re.compile(r" {0,3}\[[^\]]+\]:[ \t]*\S+.*")
_KEY = re.compile(r"([A-Za-z_][\w-]*)[ \t]*:[ \t]*(.*)")
_TAG = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|br|center|cite|code|dd|del|details|div|dl|dt|em|figure|figcaption|font|h[1-6]|hr|i|img|ins|kbd"
    r"|li|mark|ol|p|pre|q|s|small|span|strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul|video)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_INLINE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"!\[[^\]]*\](?:\([^()\s]*(?:\s[^()]*)?\)|\[[^\]]*\])"), " "),  # a picture is not here
    (re.compile(r"\[\^[^\]]+\]"), ""),  # mark of a footnote
    (re.compile(r"\[([^\[\]]+)\](?:\([^()\s]*(?:\([^()]*\))?[^()]*\)|\[[^\]]*\])"), r"\1"),
    (re.compile(r"<(?:https?://|mailto:)[^<>\s]+>"), " "),
    (_TAG, " "),
    (re.compile(r"(`+)(.+?)\1"), r"\2"),
    (re.compile(r"(\*\*\*|___|\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*]+?)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w_])_(?=[^\s_])([^_]+?)(?<=\S)_(?![\w_])"), r"\1"),
    (re.compile(r"~~(?=\S)(.+?)(?<=\S)~~"), r"\1"),
    (re.compile(r"\\([\\`*_{}\[\]()#+.!|<>~-])"), r"\1"),
)


def markdown_page(text: str) -> Page:
    """The sections of a Markdown page, by headings of both kinds; ``title``, ``url`` and ``license`` of its front matter.

    Marks of emphasis, links (their words stay), pictures, rules, lines of tables, comments and HTML tags are left out, so that
    no text looks like markup and none need be dropped for it later.

    Raises:
        ValueError: the front matter is never closed.
    """
    lines = text.splitlines()
    front, begins = _front_matter(lines)
    outline = Outline()
    plain = re.sub(r"<!--.*?-->", lambda found: "\n" * found[0].count("\n"), "\n".join(lines[begins:]), flags=re.DOTALL)
    for kind, level, words, line in _pieces(plain.split("\n")):
        if kind == "heading":
            outline.head(level, _plain(words), begins + line)
        else:
            outline.say(("\n" + words) if kind == "code" else "\n" + _structure(words))
    sections = tuple(one.saying(one_line(_inline(one.text)), "") for one in outline.sections())
    title = front.get("title") or next((one.headings[0] for one in sections if one.headings), "")
    return Page(title, front.get("url", ""), front.get("license") or front.get("licence", ""), sections)


def plain_page(text: str) -> Page:
    """A plain text as one section without a heading."""
    outline = Outline()
    outline.say(text)
    return Page(sections=outline.sections())


def _front_matter(lines: list[str]) -> tuple[dict[str, str], int]:
    """What stands between two lines ``---`` at the very top, and the number of lines that it takes."""
    if not lines or lines[0].strip() != "---" or len(lines) < 2 or not _KEY.fullmatch(lines[1].strip()):
        return {}, 0
    end = next((at for at, line in enumerate(lines[1:], start=1) if line.strip() in ("---", "...")), None)
    if end is None:
        raise ValueError("the front matter that begins with --- is never closed; end it with another line of ---")
    found = (_KEY.fullmatch(line.strip()) for line in lines[1:end])
    return {one[1].lower(): one[2].strip().strip("\"'") for one in found if one}, end + 1


def _pieces(lines: list[str]) -> Iterator[tuple[str, int, str, int]]:
    """Headings with their level, other lines, and lines of code, each with its number from 1."""
    fence = ""
    for at, line in enumerate(lines):
        if found := _FENCE.fullmatch(line):
            if not fence:
                fence = found[1]
                continue
            if found[1].startswith(fence):
                fence = ""
                continue
        if fence:
            yield "code", 0, line, at + 1
        elif found := _ATX.fullmatch(line):
            yield "heading", len(found[1]), found[2] or "", at + 1
        elif _is_underlined(lines, at):
            yield "heading", 1 if lines[at + 1].strip().startswith("=") else 2, line, at + 1
        elif not (at and _is_underlined(lines, at - 1)):
            yield "line", 0, line, at + 1


def _is_underlined(lines: list[str], at: int) -> bool:
    """Whether the line is a heading because the next one underlines it."""
    if at + 1 >= len(lines) or not lines[at].strip() or not _UNDERLINE.fullmatch(lines[at + 1]):
        return False
    alone = at == 0 or not lines[at - 1].strip() or bool(_ATX.fullmatch(lines[at - 1]))
    return alone and "|" not in lines[at] and not lines[at].lstrip().startswith((">", "- ", "* ", "+ "))


def _structure(line: str) -> str:
    """A line without what only arranges it: marks of quotations, rules, lines and bars of tables."""
    if _RULE.fullmatch(line) or _DEFINITION.fullmatch(line) or ("|" in line and _TABLE_RULE.fullmatch(line)):
        return ""
    line = re.sub(r"^ {0,3}(?:> ?)+", "", line)
    line = re.sub(r"^(\s*)[*+-] (?:\[[ xX]\] )?", r"\1- ", line)
    return line.strip().strip("|") if line.strip().startswith("|") else line


def _inline(text: str) -> str:
    for pattern, by in _INLINE:
        text = pattern.sub(by, text)
    return html.unescape(text)


def _plain(words: str) -> str:
    return one_line(_inline(words))
