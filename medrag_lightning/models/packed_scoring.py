"""Mode ``packed`` of the scorer, with gradients: what the prompts of a pack have in common is computed once.

The sides of a preference pair have the same prompt, or the same evidence and another image, or the same image and other
evidence. A pack is computed as one tree: the common start, what follows it in each prompt, and behind each prompt its answers.
Positions count along a branch, and a mask of four axes lets a token see its ancestors alone, so that every number and every
gradient is that of mode ``rows``. All packs run in one forward pass, and only what predicts an answer goes through the LM head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medrag_lightning.batches import AnswerRows, EncodedPrompts
from medrag_lightning.models.answer_trie import AnswerTrees, answer_trees
from medrag_lightning.models.families import Family
from medrag_lightning.models.packing import Sequences, lay_out, prompt_trees
from medrag_lightning.models.prompt_layout import image_inputs, prompt_layout
from medrag_lightning.models.vision_cache import Features
from medrag_lightning.models.window import last_layer_window


def by_packs(model: Any, family: Family, prompts: EncodedPrompts, features: Sequence[Features], rows: AnswerRows) -> Tensor:
    """Log-probability in nats of every answer token, (R, L), 0 on padding.

    Args:
        model: a Hugging Face image-text-to-text model for which `supports_tree`.
        family: its traits.
        prompts: P prompts with `pack_of_prompt`.
        features: of every image in ``prompts.vision``, in order; gradients go through them where they have any.
        rows: R answers.
    """
    layout, trees = prompt_layout(model, family, prompts, features), answer_trees(rows, len(prompts.ids_PT))
    nodes_P = (trees.ids_PN >= 0).sum(1).tolist()
    forest = prompt_trees(layout.symbols, prompts.pack_of_prompt)
    packed = lay_out(forest, layout.start_P, prompts.ids_PT.shape[1], nodes_P, trees.sees_PNN.cpu().numpy())
    source = torch.from_numpy(packed.source_ST).to(prompts.ids_PT.device)
    ids = torch.cat([prompts.ids_PT.flatten(), trees.ids_PN.flatten()])
    place = torch.cat([layout.place.flatten(-2), (layout.place[..., -1:] + 1 + trees.depth_PN).flatten(-2)], -1)
    images = [features[i] for prompt, shared in packed.pieces for i in layout.images(prompt, start=shared)]
    with last_layer_window(model, family, packed.tail):
        logits_SNV = model(
            input_ids=ids[source],
            attention_mask=_added_mask(model, packed, source.device),
            position_ids=place[..., source],
            use_cache=False,
            logits_to_keep=packed.tail,
            **image_inputs(images),
        ).logits
    return _gathered(logits_SNV, packed, trees, rows)


def _added_mask(model: Any, packed: Sequences, device: torch.device) -> Tensor:
    """(S, 1, T, T), added to the attention logits: made once, where every layer would make and keep its own of a bool one."""
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else model.dtype
    sees_STT = torch.from_numpy(packed.sees_STT).to(device)
    mask = torch.zeros(sees_STT.shape, dtype=dtype, device=device).masked_fill_(~sees_STT, torch.finfo(dtype).min)
    return mask[:, None]


def _gathered(logits_SNV: Tensor, packed: Sequences, trees: AnswerTrees, rows: AnswerRows) -> Tensor:
    logits_SNV = logits_SNV if logits_SNV.dtype == torch.float64 else logits_SNV.float()
    device, prompt_R = logits_SNV.device, rows.prompt_of_row_R
    sequence_P, last_P, node_P = (
        torch.from_numpy(of_prompt).to(device) for of_prompt in (packed.sequence_P, packed.last_P, packed.node_P)
    )
    slot_RL = trees.slot_RL
    column_RL = torch.where(slot_RL == 0, last_P[prompt_R][:, None], node_P[prompt_R][:, None] + slot_RL - 1)
    sequence_R1 = sequence_P[prompt_R][:, None]
    logp_RL = logits_SNV[sequence_R1, column_RL, rows.ids_RL] - logits_SNV.logsumexp(-1)[sequence_R1, column_RL]
    return logp_RL.masked_fill(~rows.mask_RL, 0.0)
