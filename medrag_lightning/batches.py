"""The shape legend and the typed batches.

Shape suffixes, used for every tensor in this project:

    B  queries in a batch            K  candidates of a query         C  closed answers of a query
    P  prompts in a batch            R  rows = (prompt, answer) pairs T  tokens of a prompt, padded
    L  tokens of an answer, padded   V  vocabulary                    M  similarity channels
    D  width of an embedding         N  items of a data set           F  bins, folds, resamples

An *example* is one query with its evidence and open images, not tokenised: what the data module serves. A *prompt* is a
list of segments. A *reader batch* is P encoded prompts and the R answer rows that are to be scored after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from medrag_lightning.records import Candidate, Query, Regime


class Role(StrEnum):
    """What a segment of a prompt is; attention steering and token counts go by it."""

    INSTRUCTION = "instruction"
    EVIDENCE_IMAGE = "evidence_image"
    EVIDENCE_TEXT = "evidence_text"
    QUERY_IMAGE = "query_image"
    QUESTION = "question"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt: a text or one image. `candidate` numbers the evidence it belongs to, from 0."""

    role: Role
    text: str = ""
    image: Image | None = None
    candidate: int | None = None

    def __post_init__(self) -> None:
        if bool(self.text) == (self.image is not None):
            raise ValueError(f"a {self.role} segment holds either a text or an image, not {'both' if self.text else 'neither'}")

    @property
    def supervised(self) -> bool:
        """Whether the loss covers this segment: answers only."""
        return self.role is Role.ANSWER


@dataclass(frozen=True, slots=True)
class Prompt:
    """The segments of one user turn, in reading order (no answer inside), and a system message if the template has one."""

    segments: tuple[Segment, ...]
    system: str = ""

    @property
    def images(self) -> list[Image]:
        """The images in reading order."""
        return [segment.image for segment in self.segments if segment.image is not None]


@dataclass(frozen=True, slots=True)
class Example:
    """One query with the evidence it is read with. `candidate_images[k]` belongs to `candidates[k]`; None if it has none."""

    query: Query
    regime: Regime
    candidates: tuple[Candidate, ...] = ()
    query_image: Image | None = None
    candidate_images: tuple[Image | None, ...] = ()

    def without_images(self) -> Example:
        """The same example without pixels, to keep beside predictions."""
        return replace(self, query_image=None, candidate_images=())


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """P prompts as token ids, left-padded to T, with the image inputs that the model family wants beside them.

    Attributes:
        ids_PT: int64 token ids; the last token of every prompt stands at T-1.
        mask_PT: int64, 1 on real tokens.
        vision: model keyword arguments made from the images (``pixel_values``, ``image_grid_thw``, ...); empty without images.
    """

    ids_PT: Tensor
    mask_PT: Tensor
    vision: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EncodedPrompts:
        """A copy on `device`."""
        move = {name: value.to(device, non_blocking=non_blocking) for name, value in self.vision.items()}
        return EncodedPrompts(
            self.ids_PT.to(device, non_blocking=non_blocking), self.mask_PT.to(device, non_blocking=non_blocking), move
        )

    def pin_memory(self) -> EncodedPrompts:
        """A copy in page-locked memory."""
        return EncodedPrompts(
            self.ids_PT.pin_memory(), self.mask_PT.pin_memory(), {n: v.pin_memory() for n, v in self.vision.items()}
        )


@dataclass(frozen=True, slots=True)
class AnswerRows:
    """R answers to be scored, each after one prompt.

    Attributes:
        ids_RL: int64 token ids, right-padded; the end-of-turn token is part of the answer.
        mask_RL: bool, True on real answer tokens.
        prompt_of_row_R: int64, the prompt that the answer follows. Sorted: rows of one prompt are neighbours.
    """

    ids_RL: Tensor
    mask_RL: Tensor
    prompt_of_row_R: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AnswerRows:
        """A copy on `device`."""
        return AnswerRows(*(t.to(device, non_blocking=non_blocking) for t in (self.ids_RL, self.mask_RL, self.prompt_of_row_R)))

    def pin_memory(self) -> AnswerRows:
        """A copy in page-locked memory."""
        return AnswerRows(self.ids_RL.pin_memory(), self.mask_RL.pin_memory(), self.prompt_of_row_R.pin_memory())


@dataclass(frozen=True, slots=True)
class ReaderPart:
    """Prompts of similar length and their answer rows; a batch is one or more parts, so that little padding is computed.

    `query_of_prompt` gives, for each of the P prompts, the position of its query in the batch's `examples`;
    `candidate_of_prompt` the candidate shown (-1: none, or all of them in one prompt).
    """

    prompts: EncodedPrompts
    rows: AnswerRows | None
    query_of_prompt: tuple[int, ...]
    candidate_of_prompt: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ReaderPart:
        """A copy on `device`."""
        rows = None if self.rows is None else self.rows.to(device, non_blocking)
        return replace(self, prompts=self.prompts.to(device, non_blocking), rows=rows)

    def pin_memory(self) -> ReaderPart:
        """A copy in page-locked memory."""
        return replace(self, prompts=self.prompts.pin_memory(), rows=None if self.rows is None else self.rows.pin_memory())


@dataclass(frozen=True, slots=True)
class ReaderBatch:
    """B examples (pixels dropped) and their encoded parts, ready for a reader."""

    examples: tuple[Example, ...]
    parts: tuple[ReaderPart, ...]
    token_count: int = 0  # real prompt and answer tokens, for throughput

    def __len__(self) -> int:
        return len(self.examples)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ReaderBatch:
        """A copy on `device`."""
        return replace(self, parts=tuple(part.to(device, non_blocking) for part in self.parts))

    def pin_memory(self) -> ReaderBatch:
        """A copy in page-locked memory."""
        return replace(self, parts=tuple(part.pin_memory() for part in self.parts))


@dataclass(frozen=True, slots=True)
class EmbedItem:
    """One document or query to embed: its number in the corpus, and its open image and text (either may be missing)."""

    index: int
    text: str
    image: Image | None


Json = dict[str, Any]
