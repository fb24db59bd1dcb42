"""Where in a text that a reader wrote an answer begins, and the text that rearranges nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medrag_lightning.batches import Example
from medrag_lightning.prompts import PromptTemplate, cut_at_word
from medrag_lightning.records import Kept
from medrag_lightning.records.traces import STEPS, format_kept, on_one_line

_TAG = re.compile(rf"<(/?\s*(?:{'|'.join(STEPS)})\s*)>")


def before_answer(text: str, step: str) -> str:
    """`text` up to where the answer of `step` (``initial`` or ``final``) begins, whatever the text is.

    What the reader wrote later is cut off. Steps that it left out before are left out here, too.
    """
    later = STEPS[STEPS.index(step) :]
    places = [place for name in later if (place := text.find(f"<{name}>")) >= 0]
    head = (text[: min(places)] if places else text).rstrip()
    return f"{head}\n<{step}>" if head else f"<{step}>"


def all_kept(example: Example, template: PromptTemplate) -> str:
    """The first step of a trace that keeps all that its prompt shows, word for word, in its order, up to the first answer."""
    texts = [on_one_line(cut_at_word(one.document.text, template.max_evidence_chars)) for one in example.candidates]
    kept = [Kept(place + 1, _TAG.sub(r"\1", text)) for place, text in enumerate(texts)]
    return f"<rearrange>{format_kept(kept)}</rearrange>\n<initial>"


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """Number of ids that all rows begin with."""
    shortest = min(map(len, rows))
    return next((place for place in range(shortest) if len({row[place] for row in rows}) > 1), shortest)
