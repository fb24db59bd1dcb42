"""Summaries by a rule: the first sentences of a section."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import SummaryTask

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(\"'])")


class LeadSentences:
    """The first sentences of a text, word for word; `interfaces.Summariser` without a model.

    Encyclopaedias and guidelines tell first what matters most; a text that does not is cut badly. An abbreviation before a
    capital letter is taken for the end of a sentence.

    Args:
        sentences: of a summary.
    """

    def __init__(self, sentences: int = 3) -> None:
        if sentences < 1:
            raise ValueError(f"sentences must be at least 1, got {sentences}")
        self.sentences = sentences

    def summarise(self, tasks: Sequence[SummaryTask]) -> list[str]:
        """The lead of each text."""
        return [" ".join(_END.split(task.text.strip())[: self.sentences]) for task in tasks]

    def fingerprint(self) -> str:
        """Of the number of sentences."""
        return fingerprint("lead sentences", 1, self.sentences)
