"""The four steps of a trace, asked of a teacher one after another."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from PIL.Image import Image

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.audit.progress import telling
from medrag_lightning.data.replies import Replies
from medrag_lightning.data.tracing.checking import read_reply
from medrag_lightning.data.tracing.draft import Draft
from medrag_lightning.data.unanswered import unanswered
from medrag_lightning.interfaces import OpenImage, Teacher, TraceStep, TraceTask
from medrag_lightning.records import ImageRef
from medrag_lightning.score_files import documents_fingerprint, query_fingerprint

logger = logging.getLogger(__name__)
STEPS: tuple[TraceStep, ...] = get_args(TraceStep)
NO_IMAGE, NO_GOLD = "an image cannot be opened", "no gold answer"


@dataclass(slots=True)
class Calls:
    """What became of the calls of one step.

    Attributes:
        replies: how many there were, known ones among them.
        asked_again: of these, those of a second attempt or later.
        failed: calls without a reply.
        unusable: replies with a fault.
        excluded: questions whose trace ended here.
        faults: how often each kind of fault was found.
    """

    replies: int = 0
    asked_again: int = 0
    failed: int = 0
    unusable: int = 0
    excluded: int = 0
    faults: Counter[str] = field(default_factory=Counter)


class Writing:
    """Asks a teacher for each step, and again where a call fails or a reply cannot be used.

    Args:
        teacher: writes.
        replies: what it wrote before, by step.
        tells_gold: whether it is told the right answer in the last step.
        most_attempts: times that it is asked again.
        at_once: questions of a batch.
        open_image: opens an image.
    """

    def __init__(
        self,
        teacher: Teacher,
        replies: Mapping[str, Replies],
        tells_gold: bool,
        most_attempts: int,
        at_once: int,
        open_image: OpenImage,
    ) -> None:
        self.teacher, self.replies, self.tells_gold = teacher, replies, tells_gold
        self.most_attempts, self.at_once, self.open_image = most_attempts, at_once, open_image
        self.calls = {step: Calls() for step in STEPS}

    def write(self, drafts: Sequence[Draft]) -> None:
        """Writes every draft to its end, or ends it with a reason."""
        if self.tells_gold:
            for draft in drafts:
                if not (draft.query.answer or "").strip():
                    draft.end(NO_GOLD)
        self._look_at_images([draft for draft in drafts if not draft.reason])
        for step in STEPS:
            for draft in drafts:
                if step == "rearrange" and not draft.documents and not draft.reason:
                    draft.put(step, ())  # nothing was retrieved, so there is nothing to ask
            self._write_step(step, [draft for draft in drafts if not draft.reason])
            self.replies[step].pack()

    def task(self, draft: Draft, step: TraceStep, attempt: int) -> TraceTask:
        """What the teacher is shown: nothing of the answer, but in the last step of a gold-aware trace."""
        return TraceTask(
            step,
            unanswered(draft.query),
            self._opened(draft.query.image),
            draft.documents,
            tuple(self._opened(document.image) for document in draft.documents),
            draft.kept,
            draft.texts.get("initial"),
            draft.texts.get("rethink"),
            self._gold(draft, step),
            attempt,
        )

    def _write_step(self, step: TraceStep, drafts: Sequence[Draft]) -> None:
        calls = self.calls[step]
        failed: dict[str, bool] = {}
        for attempt in range(1 + self.most_attempts):
            asked = [draft for draft in drafts if not draft.has(step)]
            if not asked:
                break
            for draft, reply in zip(asked, self._replies(asked, step, attempt), strict=True):
                calls.replies += 1
                calls.asked_again += attempt > 0
                failed[draft.query.id] = reply is None
                if reply is None:
                    calls.failed += 1
                else:
                    self._take(draft, step, reply)
        for draft in drafts:
            if not draft.has(step):
                calls.excluded += 1
                draft.end(f"{'the call failed' if failed[draft.query.id] else 'no reply could be used'} in {step}", step)

    def _take(self, draft: Draft, step: TraceStep, reply: str) -> None:
        images = [document.image is not None for document in draft.documents]
        written, faults = read_reply(step, reply, draft.query, draft.documents, images)
        if written is None:
            calls = self.calls[step]
            calls.unusable += 1
            calls.faults.update(faults)
            draft.faults += faults
        else:
            draft.put(step, written)

    def _replies(self, drafts: Sequence[Draft], step: TraceStep, attempt: int) -> list[str | None]:
        tasks = {self._key(draft, step, attempt): draft for draft in drafts}

        def ask(batch: Sequence[Draft]) -> list[str | None]:
            return self.teacher.write([self.task(draft, step, attempt) for draft in batch])

        with telling(f"{step} replies" + (f", attempt {attempt + 1}" if attempt else "")) as tell:
            said = self.replies[step].ask(tasks, ask, self.at_once, lambda done: tell(done, len(tasks)))
        return [said[key] for key in tasks]

    def _key(self, draft: Draft, step: TraceStep, attempt: int) -> str:
        """Holds all that the reply may depend on."""
        kept = None if draft.kept is None else [[one.number, one.text] for one in draft.kept]
        told = [kept, draft.texts.get("initial"), draft.texts.get("rethink"), self._gold(draft, step)]
        evidence = [documents_fingerprint([document]) for document in draft.documents]
        return fingerprint(step, query_fingerprint(unanswered(draft.query)), evidence, told, attempt)

    def _gold(self, draft: Draft, step: TraceStep) -> str | None:
        return draft.query.answer if self.tells_gold and step == "final" else None

    def _opened(self, ref: ImageRef | None) -> Image | None:
        return None if ref is None else self.open_image(ref)

    def _look_at_images(self, drafts: Sequence[Draft]) -> None:
        """Opens every image once, before anybody is asked: one that cannot be shown ends its trace, and no number shifts."""
        faults = self._broken({ref for draft in drafts for _, ref in _images(draft)})
        for draft in drafts:
            if broken := [f"{what}: {faults[ref]}" for what, ref in _images(draft) if ref in faults]:
                draft.faults += broken
                draft.end(NO_IMAGE)

    def _broken(self, refs: Iterable[ImageRef]) -> dict[ImageRef, str]:
        found: dict[ImageRef, str] = {}
        every = sorted(refs, key=str)
        with telling("images") as tell:
            for place, ref in enumerate(every, 1):
                try:
                    self.open_image(ref)
                except (OSError, ValueError) as error:
                    if not found:
                        logger.warning("%s; its traces are left out: %s", NO_IMAGE, error)
                    found[ref] = NO_IMAGE
                tell(place, len(every))
        return found


def _images(draft: Draft) -> list[tuple[str, ImageRef]]:
    """Every image that the trace shows, and whose it is."""
    mine = [("the question", draft.query.image)]
    mine += [(f"evidence {number}", document.image) for number, document in enumerate(draft.documents, 1)]
    return [(what, ref) for what, ref in mine if ref is not None]
