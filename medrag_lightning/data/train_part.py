"""Training questions dealt into parts by patient, so that one part trains a reader and another shows what it does not know."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from medrag_lightning.records import Query

_FORM = re.compile(r"(?P<part>[1-9]\d*)/(?P<parts>[1-9]\d*)")


def train_part(queries: Sequence[Query], told: str) -> list[Query]:
    """The questions of one part, in order: ``all``, or ``1/2`` for the first of two parts.

    All questions of a patient (where none is named: of a study, an image, else the question alone) are in one part, whatever
    else the data set holds.

    Raises:
        ValueError: if `told` is something else.
    """
    if told == "all":
        return list(queries)
    match = _FORM.fullmatch(told)
    if match is None or int(match["part"]) > int(match["parts"]):
        raise ValueError(f"data.train_part must be all, or a part such as 1/2 or 2/2, got {told!r}")
    part, parts = int(match["part"]) - 1, int(match["parts"])
    return [query for query in queries if _digest(query) % parts == part]


def _digest(query: Query) -> int:
    unit = query.patient_id or query.study_id or (str(query.image) if query.image else query.id)
    return int.from_bytes(hashlib.sha256(f"train part {unit}".encode()).digest()[:8], "big")
