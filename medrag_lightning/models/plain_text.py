"""What people wrote stays plain text: no word of a report, a question or a choice is ever a token that a template writes.

Two locks. `PlainText.escape` breaks every special token, and every tag of the chat template (``<|user|>``, ``[INST]``,
``ASSISTANT:``), that stands in a text. `SpecialCount.check` then counts, in the finished ids of every prompt, the special
tokens and image placeholders, and refuses a prompt that holds another number of any than its template and its images make.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from medrag_lightning.batches import Prompt, Role, Segment
from medrag_lightning.models.token_roles import text_groups

WORD_JOINT = "\u200b"  # zero-width space: keeps a text readable while it stops being a special token
_BREAKERS = (WORD_JOINT, " ")  # the second for a tokenizer that drops the first
_BRACKETS = frozenset("<>[]|:")
_ROLES = r"user|assistant|system|human|model|bot|tool|ipython|developer"
_TAG = re.compile(
    rf"[<\[]\|?/?(?:{_ROLES}|inst|sys|think|tool_\w+|im_\w+|turn|\w*_of_\w+|eot|eom)(?:_id)?\|?[>\]]", re.IGNORECASE
)
_FRAME = re.compile(rf"(?:[<\[]\|?/?)(?:{_ROLES}|inst)(?:\|?[>\]])|\b(?:{_ROLES}):", re.IGNORECASE)


class PlainText:
    """Breaks what a template writes, where it stands in a text.

    Args:
        tokenizer: the reader's.
        image_token: the placeholder that the template writes for an image.
        frame: what the chat template writes around its texts.
    """

    def __init__(self, tokenizer: Any, image_token: str, frame: str) -> None:
        self.tokenizer = tokenizer
        added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
        self.ids = frozenset(i for i, token in added.items() if token.special or _TAG.fullmatch(token.content))
        kept = {added[i].content for i in self.ids} | {image_token} | set(_FRAME.findall(frame))
        self.tokens = sorted(kept, key=lambda token: (-len(token), token))
        self._folded = [_fold(token) for token in self.tokens] if self._normalises() else None

    def escape(self, text: str) -> str:
        """`text` with every such token in it broken by a zero-width space; other texts are returned unchanged.

        Only insertions are made. Where the tokenizer normalises texts, so that another spelling would become a token, all
        brackets of the text are broken.

        Raises:
            ValueError: the tokenizer makes a special token of it however it is broken.
        """
        if not self._suspect(text):
            return text
        for breaks in (self._broken, _broken_brackets):
            for breaker in _BREAKERS:
                broken = breaks(text, breaker)
                if not self.ids.intersection(self.tokenizer(broken, add_special_tokens=False)["input_ids"]):
                    return broken
        raise ValueError(f"the text {text[:80]!r} holds a special token that cannot be escaped; remove it")

    def _broken(self, text: str, breaker: str) -> str:
        for token in self.tokens:
            text = text.replace(token, token[0] + breaker + token[1:])
        return text

    def _suspect(self, text: str) -> bool:
        if any(token in text for token in self.tokens):
            return True
        if self._folded is None:
            return False
        folded = _fold(text)
        return any(token in folded for token in self._folded)

    def _normalises(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend is None or backend.normalizer is not None


class SpecialCount:
    """Counts special tokens and image placeholders in finished prompts.

    Args:
        ids: the ids that are counted.
        image_token_ids: what the tokenizer makes of the placeholder that a template writes for an image.
        ids_of: tokens of a rendered prompt, begin token included, its images not put in.
        render: the chat template.
    """

    def __init__(
        self,
        ids: frozenset[int],
        image_token_ids: Sequence[int],
        ids_of: Callable[[str], list[int]],
        render: Callable[[Prompt], str],
    ) -> None:
        self._known, self._ids = ids, np.array(sorted(ids), np.int64)
        self._one_image, self._ids_of, self._render = Counter(image_token_ids), ids_of, render
        self._of_layout: dict[tuple[bool, ...], Counter[int]] = {}

    def check(self, prompts: Sequence[Prompt], ids_PT: Tensor, mask_PT: Tensor, blocks: Sequence[Sequence[list[int]]]) -> None:
        """Raises ValueError for a prompt whose special tokens are not those of its template and of its images.

        Args:
            prompts: P prompts.
            ids_PT, mask_PT: their finished ids.
            blocks: of each prompt the ids that each of its images became.
        """
        ids, mask = ids_PT.numpy(), mask_PT.numpy().astype(bool)
        counted = np.isin(ids, self._ids) & mask
        for p, prompt in enumerate(prompts):
            found = Counter(ids[p, counted[p]].tolist())
            expected = self._expected(prompt, blocks[p])
            if found != expected:
                wrong = sorted((found - expected) + (expected - found))
                raise ValueError(
                    f"prompt {p} holds other special tokens than its template and images make (ids {wrong[:5]}): a text in it "
                    "was read as one; look for markup such as <image> in its question, choices and evidence, and remove it"
                )

    def _expected(self, prompt: Prompt, blocks: Sequence[list[int]]) -> Counter[int]:
        groups = [prompt.segments[part[0]] for part in text_groups(prompt.segments)]
        layout = (bool(prompt.system), *(segment.image is not None for segment in groups))
        if layout not in self._of_layout:
            bare = tuple(s if s.image is not None else Segment(Role.QUESTION, "x") for s in groups)
            made = Counter(self._ids_of(self._render(Prompt(bare, "x" if prompt.system else ""))))
            for _ in range(sum(layout[1:])):
                made.subtract(self._one_image)
            self._of_layout[layout] = Counter({i: n for i, n in made.items() if n and i in self._known})
        inside = Counter(i for block in blocks for i in block if i in self._known)
        return self._of_layout[layout] + inside


def _broken_brackets(text: str, breaker: str) -> str:
    return "".join(letter + breaker if _fold(letter) in _BRACKETS else letter for letter in text)


def _fold(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
