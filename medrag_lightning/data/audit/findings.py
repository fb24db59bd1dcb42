"""What a check finds: what is wrong, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Attributes:
        kind: what it is, in snake case, such as ``image_missing``.
        severity: an ``error`` stops the user, a ``warning`` should be looked at, a ``note`` is told.
        where: ``file:line``, a split, or a setting's key.
        what: one sentence without any patient identifier.
        remedy: what to do about it.
    """

    kind: str
    severity: Severity
    where: str
    what: str
    remedy: str
