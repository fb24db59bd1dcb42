"""What a large reader is told as a teacher: how to write the four steps of a trace (MIRA, RTRA), in words of our own."""

from __future__ import annotations

from collections.abc import Sequence

from medrag_lightning.batches import Prompt, Role, Segment
from medrag_lightning.interfaces import TraceTask
from medrag_lightning.prompts import cut_at_word
from medrag_lightning.records import Document

REARRANGE = """\
Above are {shown}, and {count} numbered pieces of evidence that a search found for it. Do not answer the question yet. Choose \
the evidence that helps to answer it, the most useful first, and leave out what is beside the point, contradicts the image, or \
is out of date.

Write one line for each piece that you keep, and nothing else:
[number] the part of its text that helps, copied word for word

Rules:
- Copy exactly: change, add and correct nothing. To leave words out of the middle, write " ... " between the parts.
- For a piece of which only the image helps, write its number alone.
- Keep at least one text and at least one image, if there are any. Use each number once, and only numbers shown above."""
INITIAL = """\
Above are {shown}, and the evidence that was kept for it. Answer the question from the image and this evidence.
{how}"""
RETHINK = """\
Above are {shown}, the evidence that was kept for it, and a first answer. Check this answer as a critical colleague: does it \
fit the image, does it fit each piece of evidence, what was overlooked? Name evidence by its number.
Write a numbered list of at most five short points: 1. ... 2. ... Write no new answer, and no tags."""
FINAL = """\
Above are {shown}, the evidence that was kept for it, a first answer, and a review of that answer. Take the review into \
account as far as image and evidence bear it out, and answer the question for good.
{how}"""
FINAL_AWARE = """\
Above are {shown}, the evidence that was kept for it, a first answer, a review of that answer, and the right answer. Answer \
the question for good: say what the right answer says, at about its length.
{how}"""
CLOSED = "Write one of the possible answers, exactly as it stands there, and nothing else."
OPEN = "Write the answer alone, as short as it can be, without an explanation and without tags."
AGAIN = "\nAn earlier reply could not be used. Keep strictly to the form and the rules."
FIRST, REVIEW, RIGHT, EVIDENCE = "first answer: ", "review:\n", "right answer: ", "evidence"
_TOLD = {"rearrange": REARRANGE, "initial": INITIAL, "rethink": RETHINK, "final": FINAL}


def teacher_prompt(task: TraceTask, max_document_chars: int) -> Prompt:
    """Image, question, evidence under its own numbers, what was written before, and what to write now.

    Evidence that is not kept is not shown after the first step; the numbers of the rest stay as they are.

    Args:
        task: one step of one trace.
        max_document_chars: longer texts are cut after a word.
    """
    image = () if task.image is None else (Segment(Role.QUERY_IMAGE, image=task.image),)
    choices = f"\npossible answers: {' / '.join(task.query.choices)}" if task.query.choices else ""
    question = Segment(Role.QUESTION, f"question: {task.query.question}{choices}\n\n")
    before = f"{FIRST}{task.initial}\n" if task.initial is not None and task.step in ("rethink", "final") else ""
    before += f"{REVIEW}{task.rethink}\n" if task.rethink is not None and task.step == "final" else ""
    before += f"{RIGHT}{task.gold}\n" if task.gold is not None else ""
    return Prompt(
        (*image, question, *_evidence(task, max_document_chars), Segment(Role.INSTRUCTION, f"{before}\n{_told(task)}"))
    )


def constant_texts() -> Sequence[str]:
    """Everything that prompts say of themselves; a fingerprint holds it, and a tiny model makes its tokenizer of it."""
    return [REARRANGE, INITIAL, RETHINK, FINAL, FINAL_AWARE, CLOSED, OPEN, AGAIN, FIRST, REVIEW, RIGHT, EVIDENCE]


def _told(task: TraceTask) -> str:
    shown = "a medical image and a question about it" if task.image is not None else "a medical question"
    told = FINAL_AWARE if task.gold is not None else _TOLD[task.step]
    how = CLOSED if task.query.choices else OPEN
    return told.format(shown=shown, count=len(task.documents), how=how) + (AGAIN if task.attempt else "")


def _evidence(task: TraceTask, max_document_chars: int) -> list[Segment]:
    segments: list[Segment] = []
    for number, text in _shown(task, max_document_chars):
        image = task.images[number - 1]
        segments.append(Segment(Role.EVIDENCE_TEXT, f"{EVIDENCE} [{number}] ", candidate=number - 1))
        if image is not None:
            segments.append(Segment(Role.EVIDENCE_IMAGE, image=image, candidate=number - 1))
        segments.append(Segment(Role.EVIDENCE_TEXT, f"{text}\n", candidate=number - 1))
    return segments


def _shown(task: TraceTask, max_document_chars: int) -> list[tuple[int, str]]:
    """Number and text of each piece of evidence that this step shows."""
    if task.kept is None:
        return [(number, _cut(document, max_document_chars)) for number, document in enumerate(task.documents, 1)]
    return [(one.number, one.text) for one in task.kept]


def _cut(document: Document, limit: int) -> str:
    """Without the points that would mark a cut: a teacher would copy them, and they are not the document's."""
    text = cut_at_word(document.text, limit)
    return text.removesuffix("...") if len(" ".join(document.text.split())) > limit else text
