"""Which prompts start alike (same tokens, same images), so that what they share runs once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LEAST_SAVED_SHARE = 0.05  # of all prompt tokens: a second pass has a price of its own
_DEEPEST = 50  # levels of prefixes inside prefixes that are looked at

Symbols = NDArray[np.int64]
"""A prompt as numbers: token ids, and for every token of an image -1 - (number of the image)."""


class SharedPrompts(NamedTuple):
    """Prompts (by number) whose first `length` tokens are the same."""

    length: int
    members: tuple[int, ...]


def share(prompts: Sequence[Symbols]) -> list[SharedPrompts]:
    """Groups `prompts` so that the most tokens are saved by computing what a group shares once.

    One level of sharing: a prompt stands in one group. The last token of a prompt is never shared (it predicts the answer),
    and no image is cut in two. Prompts that share nothing are cut where the others are, so that what follows the shared
    part is of similar length. Where less than 5 % of the tokens would be saved, nothing is shared: length 0 everywhere.
    """
    order = neighbours(prompts)
    common = [common_start(prompts[a], prompts[b]) for a, b in pairwise(order)]
    groups = _grouped(common, 0, len(order), 0)
    saved = sum((stop - start - 1) * min(common[start : stop - 1], default=0) for start, stop in groups)
    if saved < _LEAST_SAVED_SHARE * sum(map(len, prompts)):
        return [SharedPrompts(0, (i,)) for i in range(len(prompts))]
    shared = [(stop - start > 1 and min(common[start : stop - 1]) > 0, start, stop) for start, stop in groups]
    rest = max(len(prompts[order[i]]) - min(common[a : b - 1]) for is_shared, a, b in shared if is_shared for i in range(a, b))
    found = []
    for is_shared, start, stop in shared:
        if is_shared:
            found.append(SharedPrompts(min(common[start : stop - 1]), tuple(sorted(order[start:stop]))))
        else:
            found += [SharedPrompts(whole_images(prompts[i], len(prompts[i]) - rest), (i,)) for i in order[start:stop]]
    return found


def neighbours(prompts: Sequence[Symbols]) -> list[int]:
    """The numbers of `prompts` in an order in which each stands beside one that starts as alike as any."""
    return sorted(range(len(prompts)), key=lambda i: prompts[i].astype(">i8").tobytes())


def whole_images(prompt: Symbols, length: int) -> int:
    """The largest number of tokens, at most `length`, that ends between images; 0 for a negative `length`."""
    length = max(length, 0)
    while 0 < length < len(prompt) and prompt[length] < 0 and prompt[length] == prompt[length - 1]:
        length -= 1
    return length


def common_start(a: Symbols, b: Symbols) -> int:
    """Tokens that two prompts have in common at the start; without the last of either, and without a part of an image."""
    most = min(len(a), len(b)) - 1
    different = np.flatnonzero(a[:most] != b[:most])
    length = int(different[0]) if len(different) else most
    return min(whole_images(a, length), whole_images(b, length))


def _grouped(common: Sequence[int], start: int, stop: int, depth: int) -> list[tuple[int, int]]:
    """Ranges of neighbours, cut at the least shared place as long as the parts save more than the whole."""
    if stop - start == 1:
        return [(start, stop)]
    least = min(common[start : stop - 1])
    whole = [(start, stop)]
    if depth == _DEEPEST:
        return whole
    cuts = [start, *(i + 1 for i in range(start, stop - 1) if common[i] == least), stop]
    parts = [group for a, b in pairwise(cuts) for group in _grouped(common, a, b, depth + 1)]
    return parts if _saved(common, parts) > _saved(common, whole) else whole


def _saved(common: Sequence[int], groups: Sequence[tuple[int, int]]) -> int:
    return sum((stop - start - 1) * min(common[start : stop - 1], default=0) for start, stop in groups)
