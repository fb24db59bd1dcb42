"""Which token of an encoded prompt is what: from the prompt's segments, after every image has become its tokens.

The rendered text is walked along the chat template's own words, so that every character has an owner: a segment, the system
message, or the template. A token belongs to the owner of its last character: where neighbouring texts are joined and a token
spans the seam, it belongs to the later segment, since nobody can have read it before. What a family writes around an image's
features (begin, end and row tokens) belongs to the image; a special token never belongs to the text beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrag_lightning.batches import Prompt, Role, Segment, TokenRoles
from medrag_lightning.models.prompt_pieces import Pieces, StockProcessor, last_characters

Layout = tuple[bool, ...]
"""Whether there is a system message; then for each part of the user's turn whether it is an image."""

_ROLES = list(Role)
_NOBODY = -1
_Places = NDArray[np.int64]


class MarkedProcessor(StockProcessor, Protocol):
    """What is used of `HfProcessor`."""

    def escape(self, text: str) -> str:
        """The text as it is rendered."""
        ...

    def template(self, messages: list[dict[str, Any]], generation: bool) -> str:
        """Messages as one string."""
        ...

    def image_block(self, size: tuple[int, int]) -> list[int]:
        """The ids that the placeholder of an image of this size becomes."""
        ...


class RoleFinder:
    """Finds the roles; keeps what the chat template writes around the parts of each layout."""

    def __init__(self) -> None:
        self._frames: dict[Layout, tuple[list[str], list[int]]] = {}
        self._around: tuple[str, str] | None = None

    def find(
        self,
        of: MarkedProcessor,
        pieces: Pieces,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        ids_PT: Tensor,
        mask_PT: Tensor,
    ) -> TokenRoles:
        """The roles of P encoded prompts.

        Args:
            of: the processor that encoded them.
            pieces: its pieces of text, which have learned those of `texts`.
            prompts, texts: the prompts, and each as the chat template renders it.
            ids_PT, mask_PT: what they were encoded to, left-padded.

        Raises:
            ValueError: where the template changes a text, or the tokens cannot be traced back to it.
        """
        role_PT = np.full(tuple(ids_PT.shape), _NOBODY, np.int8)
        document_PT = np.full(tuple(ids_PT.shape), _NOBODY, np.int16)
        begin, lengths = of.begin_ids(texts), mask_PT.sum(1).tolist()
        for p, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            ids = ids_PT[p, ids_PT.shape[1] - lengths[p] :].tolist()
            owner_T = self._owners(of, pieces, prompt, text, begin, ids)
            segments = [*prompt.segments, Segment(Role.INSTRUCTION, "system")]
            # The last entry stands for nobody, whose number is -1.
            role_S = np.array([*(_ROLES.index(s.role) for s in segments), _NOBODY], np.int8)
            document_S = np.array([*(_NOBODY if s.candidate is None else s.candidate for s in segments), _NOBODY], np.int16)
            role_PT[p, -len(ids) :], document_PT[p, -len(ids) :] = role_S[owner_T], document_S[owner_T]
        return TokenRoles(torch.from_numpy(role_PT), torch.from_numpy(document_PT), strengths(prompts))

    def _owners(
        self, of: MarkedProcessor, pieces: Pieces, prompt: Prompt, text: str, begin: list[int], ids: list[int]
    ) -> _Places:
        """The segment number of each token; the number after the last for the system message, -1 for the template."""
        owner_of_char = self._text_owners(of, prompt, text)
        images = [i for i, segment in enumerate(prompt.segments) if segment.image is not None]
        blocks = [of.image_block(image.size) for image in prompt.images]
        mark = of.processor.image_token
        rows = text.split(mark)
        if len(rows) != len(images) + 1:
            raise ValueError(f"the chat template writes {len(rows) - 1} image placeholders for {len(images)} images")
        joined, owners, at = list(begin), [np.full(len(begin), _NOBODY)], 0
        for number, piece in enumerate(rows):
            if piece:
                joined += pieces.ids[piece]
                owners.append(owner_of_char[at + pieces.last[piece]])
            if number < len(blocks):
                joined += blocks[number]
                owners.append(np.full(len(blocks[number]), images[number]))
            at += len(piece) + len(mark)
        if joined == ids:
            return np.concatenate(owners)
        return _whole(of, rows, owner_of_char, list(zip(images, blocks, strict=True)), begin, ids)

    def _text_owners(self, of: MarkedProcessor, prompt: Prompt, text: str) -> _Places:
        """The owner of each character of the rendered text; placeholders' are not used."""
        segments, parts = prompt.segments, text_groups(prompt.segments)
        layout = (bool(prompt.system), *(segments[part[0]].image is not None for part in parts))
        frame, order = self._frame(of, layout)
        written = [[(len(segments), prompt.system)]] if prompt.system else []
        written += [[(i, segments[i].text) for i in part] for part in parts if segments[part[0]].image is None]
        owner_of_char = np.full(len(text), _NOBODY)
        if not text.startswith(frame[0]):
            raise _changed(text, frame[0])
        at = len(frame[0])
        for number, after in zip(order, frame[1:], strict=True):
            owner = _joined_owners(of, written[number])
            whole = of.escape("".join(piece for _, piece in written[number]))
            dropped = next((d for d in _trims(whole) if text.startswith(whole[slice(*d)] + after, at)), None)
            if dropped is None:
                raise _changed(text, whole)
            kept = owner[slice(*dropped)]
            owner_of_char[at : at + len(kept)] = kept
            at += len(kept) + len(after)
        if at != len(text):
            raise _changed(text, text[at:])
        self._mark_around(of, prompt, text, owner_of_char)
        return owner_of_char

    def _mark_around(self, of: MarkedProcessor, prompt: Prompt, text: str, owner_of_char: _Places) -> None:
        """Gives the special tokens that the template writes beside a placeholder to its image."""
        if self._around is None:
            self._around = _around_image(of)
        (before, after), mark, at = self._around, of.processor.image_token, -1
        for i in [i for i, segment in enumerate(prompt.segments) if segment.image is not None]:
            at = text.find(mark, at + 1)
            end = at + len(mark)
            if at >= 0 and before and text.endswith(before, 0, at):
                owner_of_char[at - len(before) : at] = i
            if at >= 0 and after and text.startswith(after, end):
                owner_of_char[end : end + len(after)] = i

    def _frame(self, of: MarkedProcessor, layout: Layout) -> tuple[list[str], list[int]]:
        """The template's words before, between and after the texts of a layout, and the order it writes them in."""
        if layout not in self._frames:
            probes = [_probe(i) for i in range(len(layout))]
            named = zip(layout[1:], probes[1:], strict=True)
            user = [{"type": "image"} if image else {"type": "text", "text": probe} for image, probe in named]
            messages: list[dict[str, Any]] = [{"role": "user", "content": user}]
            if layout[0]:
                messages.insert(0, {"role": "system", "content": [{"type": "text", "text": probes[0]}]})
            text = of.template(messages, generation=True)
            asked = probes[: int(layout[0])] + [part["text"] for part in user if "text" in part]
            if any(text.count(probe) != 1 for probe in asked):
                raise ValueError("the reader's chat template does not write every text once; roles of tokens cannot be told")
            order = sorted(range(len(asked)), key=lambda i: text.index(asked[i]))
            frame = []
            for number in order:
                before, text = text.split(asked[number])
                frame.append(before)
            self._frames[layout] = ([*frame, text], order)
        return self._frames[layout]


def text_groups(segments: Sequence[Segment]) -> list[list[int]]:
    """The parts of a user's turn: numbers of neighbouring text segments together, each image alone."""
    numbered = groupby(range(len(segments)), key=lambda i: -1 if segments[i].image is None else i)
    return [list(members) for _, members in numbered]


def strengths(prompts: Sequence[Prompt]) -> Tensor:
    """float32 (P, K) retrieval scores by candidate number; NaN for candidates that a prompt does not show."""
    shown = [sorted({s.candidate for s in prompt.segments if s.candidate is not None}) for prompt in prompts]
    strength_PK = torch.full((len(prompts), max((row[-1] + 1 for row in shown if row), default=0)), torch.nan)
    for p, row in enumerate(shown):
        for k in row:
            if k < len(prompts[p].strengths):
                strength_PK[p, k] = prompts[p].strengths[k]
    return strength_PK


def _joined_owners(of: MarkedProcessor, texts: Sequence[tuple[int, str]]) -> _Places:
    """The owner of each character of the joined and escaped texts; a zero-width space goes with what it follows."""
    plain = "".join(text for _, text in texts)
    owner = np.repeat([number for number, _ in texts], [len(text) for _, text in texts])
    escaped = of.escape(plain)
    if escaped == plain:
        return owner
    place, source = 0, np.zeros(len(escaped), np.int64)
    for i, character in enumerate(escaped):
        is_own = place < len(plain) and character == plain[place]
        place += is_own
        source[i] = max(place - 1, 0)
    assert place == len(plain), "escaping only inserts"
    return owner[source]


def _trims(text: str) -> list[tuple[int, int]]:
    """What a template may keep of a text: all, or all but the white space at its ends."""
    left, right = len(text) - len(text.lstrip()), len(text.rstrip())
    if left >= right:
        return [(0, len(text)), (0, 0)]
    return [(0, len(text)), (left, right), (left, len(text)), (0, right)]


def _around_image(of: MarkedProcessor) -> tuple[str, str]:
    """The special tokens that the template writes right before and after an image's placeholder (Qwen: vision start, end).

    Within a turn, between two texts, a special token can only belong to the image.
    """
    content = [{"type": "text", "text": _probe(0)}, {"type": "image"}, {"type": "text", "text": _probe(1)}]
    text = of.template([{"role": "user", "content": content}], generation=False)
    _, _, tail = text.partition(_probe(0))
    middle, _, _ = tail.partition(_probe(1))
    if middle.count(of.processor.image_token) != 1:  # written elsewhere, say all images first
        return "", ""
    before, after = middle.split(of.processor.image_token)
    tokens = {token.content for token in of.tokenizer.added_tokens_decoder.values() if token.special}
    kept = ["", ""]
    while found := next((token for token in tokens if before.endswith(token)), None):
        kept[0], before = found + kept[0], before.removesuffix(found)
    while found := next((token for token in tokens if after.startswith(token)), None):
        kept[1], after = kept[1] + found, after.removeprefix(found)
    return kept[0], kept[1]


def _whole(
    of: MarkedProcessor,
    rows: list[str],
    owner_of_char: _Places,
    images: list[tuple[int, list[int]]],
    begin: list[int],
    ids: list[int],
) -> _Places:
    """The owner of each token from the prompt's text with every image spelled out, for readers whose pieces do not add up."""
    word_of = _words(of, {token for _, block in images for token in block})
    spelled, owners, at = "", [], 0
    for number, piece in enumerate(rows):
        spelled += piece
        owners.append(owner_of_char[at : at + len(piece)])
        at += len(piece) + len(of.processor.image_token)
        if number < len(images):
            image, block = images[number]
            words = "".join(word_of[token] for token in block)
            spelled += words
            owners.append(np.full(len(words), image))
    made = of.tokenizer([spelled], add_special_tokens=False, return_offsets_mapping=True)
    if begin + made["input_ids"][0] != ids:
        raise ValueError("the roles of a prompt's tokens cannot be told: its text, tokenised whole, gives other tokens")
    last = last_characters(spelled, made["input_ids"][0], made["offset_mapping"][0], of.special_ids)
    return np.concatenate([np.full(len(begin), _NOBODY), np.concatenate(owners)[last]])


def _words(of: MarkedProcessor, tokens: set[int]) -> dict[int, str]:
    """Tokens as they stand in a text."""
    added = of.tokenizer.added_tokens_decoder
    return {token: added[token].content if token in added else of.tokenizer.decode([token]) for token in tokens}


def _probe(number: int) -> str:
    return f"Qq7zkv{number}x"


def _changed(text: str, what: str) -> ValueError:
    return ValueError(
        f"the reader's chat template changes {what[:60]!r} in {text[:60]!r}...; roles of tokens, which attention steering "
        "needs, cannot be told. Use a template that writes texts as they are."
    )
