"""No training on a leak: what `fit` does about items that stand in training and in validation or test."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from medrag_lightning.artifacts import fingerprint, read_json, write_json
from medrag_lightning.data.audit.image_pass import image_facts
from medrag_lightning.data.audit.leak import Leak
from medrag_lightning.data.audit.leaks import find_leaks, pair_leaks
from medrag_lightning.data.images import ImageStore
from medrag_lightning.records import Document, ImageRef, Query, Split

OnLeak = Literal["refuse", "warn", "ignore"]
SCHEMA = 1  # raise it when the audit finds other things in the same data
FEW = 500  # images that one process opens sooner than others are started
TELL_SECONDS = 15.0
HOW = (
    "every leak, those of the evidence corpus too:  python -m medrag_lightning check -c YOUR_CONFIG --only leaks\n"
    "to train in spite of it (its numbers are not those of new patients):  --data.init_args.leaks warn"
)
logger = logging.getLogger(__name__)


class LeakGuard:
    """Compares the splits before training: ids, patients, studies, image files, bytes, pixels, and near-duplicate pictures.

    The corpus is left to the verb `check`: the leak rule guards it at search time, and nothing is trained on held-out items
    through it, unless a retriever learns from its image-text pairs: then those are compared with the held-out questions. What
    was found is kept in `folder` by a fingerprint of the questions and of the size and time of change of each image file, so
    a second run opens no image, and one with a few new files opens those alone.

    Args:
        mode: ``refuse``, ``warn`` or ``ignore``.
        folder: where what was found is kept.
    """

    def __init__(self, mode: OnLeak, folder: str | Path) -> None:
        self.mode, self.folder = mode, Path(folder)

    def check(
        self, queries: Mapping[Split, Sequence[Query]], images: ImageStore, pairs: Sequence[Document] | None = None
    ) -> list[Leak]:
        """The leaks between the splits, or with `pairs` those between what a retriever learns from and held-out questions.

        They are told in the log.

        Raises:
            ValueError: lists the leaks and how to go on, if the mode is ``refuse`` and one of them is an error.
        """
        if self.mode == "ignore":
            return []
        leaks = self._known(queries, images, pairs)
        refused = [leak for leak in leaks if leak.refuses]
        if refused and self.mode == "refuse":
            raise ValueError(_message("training is refused, because held-out items are not new to it", refused))
        if leaks:
            logger.warning(
                "%s", _message("held-out items are not independent; the numbers of this run look better than they are", leaks)
            )
        return leaks

    def _known(
        self, queries: Mapping[Split, Sequence[Query]], images: ImageStore, pairs: Sequence[Document] | None
    ) -> list[Leak]:
        """From an earlier run on the same records and files, else looked for now."""
        records: dict[str, Sequence[Query | Document]] = {str(split): mine for split, mine in queries.items()}
        records |= {} if pairs is None else {"pairs": pairs}
        file = self.folder / f"leaks-{_key(records, images)[:20]}.json"
        if file.is_file():
            told = read_json(file)["leaks"]
            return [Leak(**{**one, "between": tuple(one["between"]), "examples": tuple(one["examples"])}) for one in told]
        refs = list(dict.fromkeys(one.image for mine in records.values() for one in mine if one.image is not None))
        workers = 1 if len(refs) < FEW else None
        facts = image_facts(refs, images.roots, images.max_pixels, workers, _Told(len(refs)), self.folder)
        leaks = find_leaks(queries, (), facts, words=False) if pairs is None else pair_leaks(queries, pairs, facts)
        write_json(file, {"schema": SCHEMA, "leaks": [asdict(leak) for leak in leaks]})
        return leaks


class _Told:
    """Says in the log how long the pass over the images will take, if it takes long."""

    def __init__(self, count: int) -> None:
        self.count, self.began = count, time.monotonic()
        self.told = self.began

    def __call__(self, done: int, count: int) -> None:
        now = time.monotonic()
        if now - self.told >= TELL_SECONDS:
            self.told = now
            left = (now - self.began) / max(done, 1) * (count - done)
            logger.warning("looking for leaks (once for these files): %d of %d images, about %.0f s left", done, count, left)


def _key(records: Mapping[str, Sequence[Query | Document]], images: ImageStore) -> str:
    """Fingerprint of what the audit depends on: records, and size and time of change of each image file."""
    lines = [f"{SCHEMA} {images.max_pixels}"]
    files: dict[str, None] = {}
    for side, mine in records.items():
        for one in mine:
            ref = one.image
            lines.append(f"{side}\t{one.id}\t{one.patient_id}\t{one.study_id}\t{_text(ref)}")
            if ref is not None:
                files[ref.path] = None
    return fingerprint("\n".join(lines), "\n".join(map(_state, files)))


def _text(ref: ImageRef | None) -> str:
    return "" if ref is None else f"{ref.path}\t{ref.array}\t{ref.index}"


def _state(path: str) -> str:
    try:
        state = os.stat(path)  # noqa: PTH116  (three times as fast, for a hundred thousand files)
    except (OSError, ValueError):
        return f"{path}\tmissing"
    return f"{path}\t{state.st_size}\t{state.st_mtime_ns}"


def _message(headline: str, leaks: Sequence[Leak]) -> str:
    told = [f"data.leaks: {headline}:"]
    for leak in leaks:
        told += [f"  {leak.kind}: {leak.what}", *(f"      also {example}" for example in leak.examples[1:])]
        told.append(f"      remedy: {leak.remedy}")
    return "\n".join([*told, HOW])
