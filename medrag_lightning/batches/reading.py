"""Examples, prompts and the encoded batches that a reader takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from medrag_lightning.batches.steering import Steering, TokenRoles
from medrag_lightning.records import Candidate, Condition, Noise, Query, Regime, Trace, Variant


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
    """The segments of one user turn, in reading order (no answer inside), and a system message if the template has one.

    `strengths` are the retrieval scores of the candidates, by their number.
    """

    segments: tuple[Segment, ...]
    system: str = ""
    strengths: tuple[float, ...] = ()

    @property
    def images(self) -> list[Image]:
        """The images in reading order."""
        return [segment.image for segment in self.segments if segment.image is not None]


@dataclass(frozen=True, slots=True)
class Example:
    """One query with the evidence it is read with. `candidate_images[k]` belongs to `candidates[k]`; None if it has none.

    `system` names the retriever where several are compared; `condition` is set where the score table asks, `noise` where
    evidence was spoilt on purpose, `variant` where something was taken away; `dropped` are the ids of candidates that were left
    out because the prompt was too long, the lowest-ranked first; `trace` is what a reader of traces is to learn to write.
    """

    query: Query
    regime: Regime
    candidates: tuple[Candidate, ...] = ()
    query_image: Image | None = None
    candidate_images: tuple[Image | None, ...] = ()
    system: str = ""
    condition: Condition | None = None
    noise: Noise | None = None
    variant: Variant | None = None
    dropped: tuple[str, ...] = ()
    trace: Trace | None = None

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
        images_of_prompt: the number of images in each of the P prompts; may be left empty where `vision` is.
        image_places: for shared images, the places among the distinct images in `vision` of each prompt's images, in reading
            order. Empty: `vision` holds every prompt's images one after another, repeated ones too.
        image_keys: for shared images, `pixel_sha256` of each distinct image: a frozen vision tower sees each key once.
        roles: which token is what, where it was asked for.
        steering: how the reader's attention is to be steered while it reads these prompts; needs `roles`.
        pack_of_prompt: a number for each prompt; where gradients are wanted, prompts of one number are computed as one sequence
            that holds what they have in common once. Empty: each by itself.
    """

    ids_PT: Tensor
    mask_PT: Tensor
    vision: Mapping[str, Tensor] = field(default_factory=dict)
    images_of_prompt: tuple[int, ...] = ()
    image_places: tuple[tuple[int, ...], ...] = ()
    image_keys: tuple[str, ...] = ()
    roles: TokenRoles | None = None
    steering: Steering | None = None
    pack_of_prompt: tuple[int, ...] = ()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EncodedPrompts:
        """A copy on `device`."""
        move = {name: value.to(device, non_blocking=non_blocking) for name, value in self.vision.items()}
        ids_PT, mask_PT = (t.to(device, non_blocking=non_blocking) for t in (self.ids_PT, self.mask_PT))
        roles = None if self.roles is None else self.roles.to(device, non_blocking)
        return replace(self, ids_PT=ids_PT, mask_PT=mask_PT, vision=move, roles=roles)

    def pin_memory(self) -> EncodedPrompts:
        """A copy in page-locked memory."""
        pinned = {name: value.pin_memory() for name, value in self.vision.items()}
        roles = None if self.roles is None else self.roles.pin_memory()
        return replace(self, ids_PT=self.ids_PT.pin_memory(), mask_PT=self.mask_PT.pin_memory(), vision=pinned, roles=roles)


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


def split_by_length(lengths: Sequence[int], max_waste: float = 0.15, max_parts: int = 4) -> list[list[int]]:
    """Groups the positions of `lengths` so that little padding is computed, in as few groups as that takes.

    Each group is padded to its longest member. The number of groups grows from 1 until padding is at most `max_waste` of
    all tokens computed, or until `max_parts`; for each number, the cut with the least padding is taken (dynamic program over
    the sorted lengths). Positions inside a group are in rising order; groups are ordered by length.

    Raises:
        ValueError: if `max_parts` is not positive or `max_waste` is not in [0, 1).
    """
    if max_parts < 1 or not 0 <= max_waste < 1:
        raise ValueError(f"need max_parts >= 1 and 0 <= max_waste < 1, got {max_parts} and {max_waste}")
    count = len(lengths)
    if count == 0:
        return []
    order = sorted(range(count), key=lambda i: lengths[i])
    ranked = np.array([lengths[i] for i in order], dtype=np.float64)
    group_cost = ranked[None, :] * (np.arange(count)[None, :] - np.arange(count)[:, None] + 1)  # members i..j, padded to j
    group_cost[np.tril_indices(count, -1)] = np.inf
    best, cuts = group_cost[0], [np.zeros(count, dtype=int)]
    for _ in range(1, min(max_parts, count)):
        if ranked.sum() >= (1 - max_waste) * best[-1]:
            break
        total = np.r_[np.inf, best[:-1]][:, None] + group_cost
        cuts.append(total.argmin(axis=0))
        best = total.min(axis=0)
    ends = [count]
    for cut in reversed(cuts[1:]):
        ends.append(int(cut[ends[-1] - 1]))
    bounds = [0, *reversed(ends)]
    return [sorted(order[a:b]) for a, b in pairwise(bounds)]
