"""A part of the report: what it shows, or why there is nothing to show and what would make it."""

from __future__ import annotations

from dataclasses import dataclass

from medrag_lightning.handoff.report.markup import Html, tag

RUN = "RUN"  # stands for the run's folder in commands
TEST = f"python -m medrag_lightning test -c {RUN}/config.yaml --ckpt_path best"
VALIDATE = f"python -m medrag_lightning validate -c {RUN}/config.yaml --ckpt_path best"


@dataclass(frozen=True, slots=True)
class Section:
    """`body` is None where the part is absent: then `reason` says why, and `command` makes what is missing."""

    id: str
    title: str
    body: Html | None
    reason: str = ""
    command: str = ""
    is_open: bool = True

    @classmethod
    def absent(cls, name: str, title: str, reason: str, command: str = "") -> Section:
        """A part that cannot be shown."""
        return cls(name, title, None, reason, command)

    def html(self) -> Html:
        """The part, foldable."""
        head = tag("summary", tag("h2", self.title), tag("span", "not there", class_="badge") if self.body is None else None)
        body = self.body if self.body is not None else missing(self.reason, self.command)
        shown = self.is_open and self.body is not None
        return tag("section", tag("details", head, tag("div", body, class_="body"), open=shown or None), id=self.id)


def missing(reason: str, command: str = "") -> Html:
    """Why something is not there, and what makes it."""
    how = tag("span", " To have it: ", tag("code", command)) if command else None
    return tag("p", f"Not computed: {reason}.", how, class_="absent")


def note(*parts: object) -> Html:
    """A line that explains."""
    return tag("p", *parts, class_="note")
