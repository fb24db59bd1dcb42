"""Whether a teacher's reply can stand in a trace."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medrag_lightning.interfaces import TraceStep
from medrag_lightning.metrics import parse_closed
from medrag_lightning.records import Document, Kept, Query, kept_faults, parse_trace

ANSWERS: tuple[TraceStep, ...] = ("initial", "final")
Written = tuple[Kept, ...] | str


def read_reply(
    step: TraceStep, reply: str, query: Query, documents: Sequence[Document], images: Sequence[bool]
) -> tuple[Written | None, list[str]]:
    """What a reply writes, and its faults; nothing where it has any.

    The tags of the step may stand around it. ``rearrange`` keeps excerpts of the evidence, word for word, at least one text and
    one image where there are any; the answers to a closed question each state one of its choices.

    Args:
        step: which was asked for.
        reply: what the teacher said.
        query: the question.
        documents: all of its evidence.
        images: whether each has an image.
    """
    body = _unwrapped(step, reply)
    told = parse_trace(f"<{step}>{body}</{step}>")
    faults = [fault for fault in told.faults if not fault.endswith("is missing")]
    if step == "rearrange":
        kept = told.kept or ()
        faults += kept_faults(kept, [document.text for document in documents], images)
        faults += [
            f"evidence {one.number} is kept without its text, and has no image" for one in kept if _is_empty(one, images)
        ]
        return (None if faults else kept), faults
    text = {"initial": told.initial, "rethink": told.rethink, "final": told.final}[step]
    if text is not None and step in ANSWERS and query.choices and parse_closed(text, query.choices) is None:
        faults.append(f"<{step}> states none of the choices, or several")
    return (None if faults else text), faults


def _unwrapped(step: TraceStep, reply: str) -> str:
    found = re.fullmatch(rf"\s*<{step}>(.*)</{step}>\s*", reply, re.DOTALL)
    return found[1] if found else reply


def _is_empty(one: Kept, images: Sequence[bool]) -> bool:
    return not one.text and 1 <= one.number <= len(images) and not images[one.number - 1]
