"""A few prompts with and without images, answers of uneven length, and the plain computation to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medrag_lightning.batches import AnswerRows, EncodedPrompts, Example, Prompt
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.prompts import PromptOrder, PromptTemplate
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, ImageRef, Query, Regime

FAMILIES = ("llava", "qwen2_vl", "idefics3", "qwen2_5_vl", "qwen3_vl")
TEXTS = ["is there a nodule? yes no", "background: chest x-ray shows a large effusion on the left", "what grade? none mild"] * 3
ANSWERS = ("yes", "no large effusion", "mild")


def tiny(family: str, **settings: Any) -> TinyBackbone:
    """A backbone that builds and runs in milliseconds; images of 32 px."""
    small = {"hidden": 32, "layers": 2, "heads": 2, "vision_hidden": 16, "vision_layers": 2, "image_side_px": 32}
    return TinyBackbone(family, **{**small, "patch_px": 16, "vocabulary": 320, **settings})  # type: ignore[arg-type]


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """Noise, so that every image differs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prompts(order: PromptOrder = "evidence_first") -> list[Prompt]:
    """Five prompts of different length: two images, one, none, a long evidence, an image last."""
    template = PromptTemplate(order=order)
    rows = [
        (picture(0), picture(1), "chest x-ray shows a large effusion"),
        (picture(2), None, "no finding"),
        (None, None, "a large effusion on the left, and no nodule anywhere else in this long report"),
        (None, picture(3), "mild"),
        (picture(4), picture(5), "x"),
    ]
    return [template.build(_example(i, *row)) for i, row in enumerate(rows)]


def _example(number: int, query_image: Image.Image | None, evidence_image: Image.Image | None, text: str) -> Example:
    query = Query(f"q{number}", "is there a nodule?", answer="yes", choices=("yes", "no"), answer_type=AnswerType.CLOSED)
    ref = ImageRef("e.png") if evidence_image else None
    candidate = Candidate(Document(f"d{number}", text, ref), 0.5, Channel.IMAGE_TO_IMAGE)
    return Example(query, Regime.RETRIEVED, (candidate,), query_image, (evidence_image,))


def reader(family: str, **settings: Any) -> HfReader:
    """A prepared reader in evaluation mode, its weights enlarged so that scores depend visibly on every input."""
    made = HfReader(tiny(family, **settings))
    made.prepare(TEXTS)
    with torch.no_grad():
        for parameter in made.core.parameters():
            parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)
    return made.eval()


def answer_rows(made: Any, prompt_of_row: list[int], answers: list[str]) -> AnswerRows:
    """Right-padded rows."""
    ids = made.processor.encode_answers(answers)
    ids_RL = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
    mask_RL = torch.zeros_like(ids_RL, dtype=torch.bool)
    for r, row in enumerate(ids):
        ids_RL[r, : len(row)] = torch.tensor(row)
        mask_RL[r, : len(row)] = True
    return AnswerRows(ids_RL, mask_RL, torch.tensor(prompt_of_row))


def full_inputs(made: HfReader, prompt: Prompt, answer_ids: list[int]) -> dict[str, Tensor]:
    """What a user of the stock library would feed for one prompt and its answer: no padding, no batch."""
    one: EncodedPrompts = made.processor.encode_prompts([prompt])
    ids = torch.cat([one.ids_PT, torch.tensor([answer_ids])], 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **one.vision}
    if made.family.multimodal_rope:
        inputs["mm_token_type_ids"] = (ids == made.processor.image_token_id).long()
    if made.family.token_types:
        inputs[made.family.token_types] = (ids == made.processor.image_token_id).long()
    return inputs


def plain_logp(made: HfReader, prompt: Prompt, answer_ids: list[int]) -> Tensor:
    """log p of the answer's tokens from the stock forward over the whole sequence."""
    inputs = full_inputs(made, prompt, answer_ids)
    logp = made.core(**inputs).logits.float().log_softmax(-1)
    count = len(answer_ids)
    return logp[0, -count - 1 : -1].gather(-1, inputs["input_ids"][0, -count:, None]).squeeze(-1)
