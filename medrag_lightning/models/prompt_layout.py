"""Where the tokens and images of a batch's prompts are: what every computation that moves tokens needs to know first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from torch import Tensor

from medrag_lightning.batches import EncodedPrompts
from medrag_lightning.models.families import Family
from medrag_lightning.models.image_positions import image_positions
from medrag_lightning.models.shared_prompts import Symbols
from medrag_lightning.models.vision_cache import Features, encoder_output


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """P prompts of T columns.

    Attributes:
        symbols: of each prompt its real tokens, its images numbered.
        start_P: column of a prompt's first real token.
        places: for each prompt the numbers of its images among all features, in reading order.
        image_ends: for each prompt, the number of tokens up to the end of each of its images.
        place: (P, T) positions, or (3, P, T) for multimodal RoPE.
    """

    symbols: list[Symbols]
    start_P: list[int]
    places: tuple[tuple[int, ...], ...]
    image_ends: list[list[int]]
    place: Tensor

    def images(self, prompt: int, start: int = 0, stop: int | None = None) -> tuple[int, ...]:
        """Numbers of the images of a prompt that end behind its first `start` and within its first `stop` tokens."""
        found = zip(self.places[prompt], self.image_ends[prompt], strict=True)
        return tuple(image for image, end in found if start < end and (stop is None or end <= stop))


def prompt_layout(model: Any, family: Family, prompts: EncodedPrompts, features: Sequence[Features]) -> PromptLayout:
    """The layout of `prompts`, whose images have `features`; ValueError where a prompt's image tokens are not as many."""
    image_id = int(model.config.image_token_id)
    counts = prompts.images_of_prompt or (0,) * len(prompts.ids_PT)
    starts = [0, *accumulate(counts)]
    places = prompts.image_places or tuple(tuple(range(a, b)) for a, b in pairwise(starts))
    first_P = (prompts.mask_PT == 0).sum(1).tolist()
    symbols, ends = _symbols(prompts, image_id, features, places, first_P)
    if family.multimodal_rope:
        grid_I3 = prompts.vision.get("image_grid_thw")
        if grid_I3 is not None:
            grid_I3 = grid_I3[[i for row in places for i in row]]
        merge = int(model.config.vision_config.spatial_merge_size)
        place = image_positions(prompts.ids_PT, prompts.mask_PT, image_id, grid_I3, merge)
    else:
        place = (prompts.mask_PT.cumsum(-1) - 1).clamp_min(0)
    return PromptLayout(symbols, first_P, places, ends, place)


def image_inputs(features: Sequence[Features]) -> dict[str, Any]:
    """What the model takes for images of these features, in reading order; nothing for none."""
    return {"mm_encoder_outputs": {"image": encoder_output(features)}} if features else {}


def _symbols(
    prompts: EncodedPrompts,
    image_id: int,
    features: Sequence[Features],
    places: Sequence[Sequence[int]],
    first_P: Sequence[int],
) -> tuple[list[Symbols], list[list[int]]]:
    """Each prompt's real tokens with its images numbered (all between an image's first and last token), and where they end."""
    ids_PT = prompts.ids_PT.cpu().numpy()
    made, ends = [], []
    for ids_T, first, images in zip(ids_PT, first_P, places, strict=True):
        symbols = ids_T[first:].copy()
        tokens = np.flatnonzero(symbols == image_id)
        after = list(accumulate(features[i][0].shape[0] for i in images))
        if len(tokens) != (after[-1] if after else 0):
            raise ValueError(f"a prompt has {len(tokens)} image tokens, its images make {after[-1] if after else 0}")
        for image, begin, end in zip(images, [0, *after], after, strict=False):
            symbols[tokens[begin] : tokens[end - 1] + 1] = -1 - image
        made.append(symbols)
        ends.append([int(tokens[end - 1]) + 1 for end in after])
    return made, ends
