"""The sections as one page that needs nothing else: no script, no font, nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from medrag_lightning import __version__
from medrag_lightning.handoff.report.markup import Html, joined, tag
from medrag_lightning.handoff.report.section import RUN, Section

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # should anything slip in, it loads and runs nothing
BANNER = "A research tool, not a medical device. Nothing here may guide the care of a patient."
SPRITE = Html("<!--sprite-->")  # where the small images go, once it is known how much room is left


def page(title: str, subtitle: str, tiles: Sequence[tuple[str, str, str]], sections: Sequence[Section]) -> Html:
    """The whole file, `SPRITE` in it. `tiles`: name, value and a line each."""
    style = Html((Path(__file__).parent / "page.css").read_text(encoding="utf-8"))
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"), tag("title", title), tag("style", style),
    )  # fmt: skip
    links = [tag("li", tag("a", s.title, href=f"#{s.id}", class_="gone" if s.body is None else None)) for s in sections]
    shown = [tag("div", tag("span", name), tag("b", value), tag("span", line), class_="tile") for name, value, line in tiles]
    top = tag("header", tag("h1", title), tag("p", subtitle, class_="note"), tag("p", BANNER, class_="banner"))
    body = tag(
        "div", tag("nav", tag("ol", *links), aria_label="contents"),
        tag("main", top, tag("div", *shown, class_="tiles"), *(section.html() for section in sections), _footer()),
        class_="page",
    )  # fmt: skip
    return joined([Html("<!DOCTYPE html>\n"), tag("html", head, tag("body", SPRITE, body), lang="en")])


def _footer() -> Html:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    told = (
        f"Made by medrag_lightning {__version__} on {made}. In commands, {RUN} stands for the run's folder. Questions and "
        "documents are called by keyed hashes, patients and studies are not named; texts and images are those of the data, and "
        "what they show or say of a patient stays in them: hand this file on as you would hand on the data."
    )
    return tag("footer", tag("p", told))
