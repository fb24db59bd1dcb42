"""Prompts that share images: each distinct image prepared once, each piece of text tokenised once, the rest put together.

An image token is a special token, so a tokenizer splits a text there first; the pieces between images can be tokenised apart.
Where that is not so, the stock processor's ids are taken: the first prompt of every layout (which of its parts are images) is
compared with them, and one difference is enough to stay with the stock processor.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from medrag_lightning.batches import EncodedPrompts, Prompt, pixel_sha256

logger = logging.getLogger(__name__)

_MOST_PIECES = 20_000


class StockProcessor(Protocol):
    """What is used of `HfProcessor`."""

    processor: Any
    tokenizer: Any

    def fit(self, image: Image) -> Image:
        """The image, not larger than allowed."""
        ...

    def call(self, texts: Sequence[str], images: Sequence[Sequence[Image]], bare: bool = False) -> dict[str, Any]:
        """The stock processor's output."""
        ...

    def begin_ids(self, texts: Sequence[str]) -> list[int]:
        """The ids that the tokenizer puts before each of these rendered texts."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens, the image token among them."""
        ...


@dataclass(slots=True)
class Pieces:
    """Ids of pieces of text, and the layouts (`_layout`) in which joined pieces were seen to equal the stock ids.

    `last` holds, for pieces whose tokens were asked for their roles, the place in the piece of each token's last character.
    """

    ids: dict[str, list[int]] = field(default_factory=dict)
    last: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    proven: set[tuple[bool, ...]] = field(default_factory=set)
    exact: bool = True

    def learn(self, of: StockProcessor, texts: Sequence[str]) -> None:
        """Tokenises, with offsets, those pieces of rendered `texts` that are not known yet."""
        if len(self.ids) > _MOST_PIECES:
            self.ids.clear()
            self.last.clear()
        pieces = (piece for text in texts for piece in text.split(of.processor.image_token))
        new = list({piece: None for piece in pieces if piece and not (piece in self.last and piece in self.ids)})
        if not new:
            return
        made = of.tokenizer(new, add_special_tokens=False, return_offsets_mapping=True)
        for piece, ids, offsets in zip(new, made["input_ids"], made["offset_mapping"], strict=True):
            self.ids.setdefault(piece, ids)
            self.last[piece] = last_characters(piece, ids, offsets, of.special_ids)


def encode_shared(of: StockProcessor, pieces: Pieces, prompts: Sequence[Prompt], texts: Sequence[str]) -> EncodedPrompts:
    """P prompts, rendered as `texts`, whose `vision` holds each distinct image once (by its pixels, after scaling)."""
    images, places, keys = distinct_images(of, prompts)
    blocks: list[list[int]] = []
    vision: dict[str, Tensor] = {}
    if images:
        inputs = of.call([of.processor.image_token] * len(images), [[image] for image in images], bare=True)
        blocks = _unpadded(inputs)
        vision = vision_of(inputs)
    shown = [[images[i] for i in row] for row in places]
    ids = _joined(of, pieces, texts, [[blocks[i] for i in row] for row in places]) if pieces.exact else []
    if pieces.exact and not _agrees(of, pieces, prompts, texts, shown, ids):
        logger.warning("prompts are tokenised whole: pieces of them, tokenised apart, give other tokens in this reader")
        pieces.exact = False
    if not pieces.exact:
        ids = _unpadded(of.call(texts, shown))
    width = max(map(len, ids))
    pad = int(of.tokenizer.pad_token_id)
    ids_PT = torch.tensor([[pad] * (width - len(row)) + row for row in ids])
    lengths = torch.tensor([len(row) for row in ids])[:, None]
    mask_PT = (torch.arange(width) >= width - lengths).long()
    return EncodedPrompts(ids_PT, mask_PT, vision, tuple(map(len, places)), places, keys)


def last_characters(
    text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], special: frozenset[int]
) -> NDArray[np.int64]:
    """The place of each token's last character; of special tokens without the white space that they swallow."""
    offset_T2 = np.array(offsets, np.int64).reshape(-1, 2)
    last = np.maximum(offset_T2[:, 0], offset_T2[:, 1] - 1)
    for i in [i for i, token in enumerate(ids) if token in special]:
        start, end = offsets[i]
        last[i] = start + max(len(text[start:end].rstrip()) - 1, 0)
    return last


def distinct_images(
    of: StockProcessor, prompts: Sequence[Prompt]
) -> tuple[list[Image], tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """The distinct images, scaled; which of them each prompt shows, in reading order; and the key of each."""
    number_of_object: dict[int, int] = {}
    number_of_key: dict[str, int] = {}
    images: list[Image] = []
    for image in chain.from_iterable(prompt.images for prompt in prompts):
        if id(image) in number_of_object:
            continue
        scaled = of.fit(image)
        number = number_of_object[id(image)] = number_of_key.setdefault(pixel_sha256(scaled), len(images))
        if number == len(images):
            images.append(scaled)
    places = tuple(tuple(number_of_object[id(image)] for image in prompt.images) for prompt in prompts)
    return images, places, tuple(number_of_key)


def vision_of(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a stock processor's output was made from images."""
    text = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
    return {name: value for name, value in inputs.items() if name not in text}


def _joined(of: StockProcessor, pieces: Pieces, texts: Sequence[str], blocks: Sequence[list[list[int]]]) -> list[list[int]]:
    split = [text.split(of.processor.image_token) for text in texts]
    if len(pieces.ids) > _MOST_PIECES:
        pieces.ids.clear()
    new = list({piece: None for row in split for piece in row if piece and piece not in pieces.ids})
    if new:
        pieces.ids.update(zip(new, of.tokenizer(new, add_special_tokens=False)["input_ids"], strict=True))
    lead, joined = of.begin_ids(texts), []
    for row, of_images in zip(split, blocks, strict=True):
        ids = list(lead)
        for i, piece in enumerate(row):
            ids += pieces.ids[piece] if piece else []
            ids += of_images[i] if i < len(of_images) else []
        joined.append(ids)
    return joined


def _agrees(
    of: StockProcessor,
    pieces: Pieces,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    images: Sequence[list[Image]],
    ids: Sequence[list[int]],
) -> bool:
    """Whether the first prompt of every new layout has the stock processor's ids."""
    if not pieces.proven and _eats_spaces(of):
        return False
    new = {layout: p for p, layout in enumerate(map(_layout, prompts)) if layout not in pieces.proven}
    if not new:
        return True
    chosen = list(new.values())
    stock = _unpadded(of.call([texts[p] for p in chosen], [images[p] for p in chosen]))
    if stock != [ids[p] for p in chosen]:
        return False
    pieces.proven.update(new)
    return True


def _layout(prompt: Prompt) -> tuple[bool, ...]:
    return (bool(prompt.system), *(segment.image is not None for segment in prompt.segments))


def _eats_spaces(of: StockProcessor) -> bool:
    """Whether a special token swallows the space beside it: then the piece beside it depends on it."""
    return any(token.lstrip or token.rstrip for token in of.tokenizer.added_tokens_decoder.values())


def _unpadded(inputs: Mapping[str, Tensor]) -> list[list[int]]:
    rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].sum(1).tolist(), strict=True)
    return [row[len(row) - count :] for row, count in rows]
