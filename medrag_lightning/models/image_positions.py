"""Positions of multimodal RoPE (Qwen2-VL, arXiv 2409.12191, Section 2.1) for a batch of prompts at once."""

from __future__ import annotations

import torch
from torch import Tensor


def image_positions(ids_PT: Tensor, mask_PT: Tensor, image_id: int, grid_I3: Tensor | None, merge: int) -> Tensor:
    """(3, P, T) positions, those of the stock ``get_rope_index`` on real tokens; without its loop over prompts.

    A text token stands one after the token before it; a token of an image at the image's start plus (0, row, column); and
    the text after an image starts after the longer of its two sides.

    Args:
        ids_PT: token ids, left-padded.
        mask_PT: 1 on real tokens.
        image_id: the token that image features replace.
        grid_I3: (time, height, width) in patches of each image, in reading order; time is 1. None without images.
        merge: patches of a side that one token stands for.
    """
    index_PT = mask_PT.cumsum(-1) - 1
    is_image_PT = (ids_PT == image_id) & (mask_PT > 0)
    if grid_I3 is None or len(grid_I3) == 0:
        return index_PT.clamp_min(0).expand(3, -1, -1)
    sides_I2 = grid_I3[:, 1:].to(ids_PT.device) // merge
    count_I, reach_I = sides_I2.prod(-1), sides_I2.amax(-1)
    image = torch.repeat_interleave(torch.arange(len(count_I), device=ids_PT.device), count_I)  # of each image token
    inside = torch.arange(len(image), device=ids_PT.device) - (count_I.cumsum(0) - count_I)[image]
    skipped_PT = torch.zeros_like(index_PT)  # stands at the last token of each image
    skipped_PT[is_image_PT] = torch.where(inside == count_I[image] - 1, (count_I - reach_I)[image], 0)
    place_PT = index_PT - skipped_PT.cumsum(-1)
    start = (index_PT - skipped_PT.cumsum(-1) + skipped_PT)[is_image_PT] - inside
    place_3PT = place_PT.clamp_min(0).repeat(3, 1, 1)
    width = sides_I2[:, 1][image]
    place_3PT[0][is_image_PT] = start
    place_3PT[1][is_image_PT] = start + inside // width
    place_3PT[2][is_image_PT] = start + inside % width
    return place_3PT
