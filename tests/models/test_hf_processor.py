"""Prompts to inputs: order, padding, answers, and texts that try to be special tokens."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import get_args

import pytest
import torch
from reader_world import ANSWERS, FAMILIES, TEXTS, picture, prompts, reader, tiny
from tokenizers import AddedToken

from medrag_lightning.batches import Prompt, Role, Segment, pixel_sha256
from medrag_lightning.interfaces import Processor
from medrag_lightning.models.families import family_of
from medrag_lightning.models.hf_processor import HfProcessor
from medrag_lightning.models.image_only import ImageOnlyProcessor
from medrag_lightning.models.scoring import unshared
from medrag_lightning.prompts import PromptOrder

INJECTIONS = ("<image>", "<|user|>", "</s>", "<|image_pad|>", "<|vision_start|>", "<pad>", "<fake_token_around_image>")


def text_prompt(*texts: str) -> Prompt:
    return Prompt(tuple(Segment(Role.QUESTION, text) for text in texts))


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_left_padded_and_hold_their_images(family: str) -> None:
    processor = reader(family).processor
    assert isinstance(processor, Processor)
    encoded = processor.encode_prompts(prompts())
    assert encoded.images_of_prompt == (2, 1, 0, 1, 2)
    assert bool(encoded.mask_PT[:, -1].all())
    assert bool((encoded.mask_PT.diff(dim=1) >= 0).all())
    assert encoded.ids_PT.dtype == torch.int64
    for p, prompt in enumerate(prompts()):
        alone = processor.encode_prompts([prompt])
        assert encoded.ids_PT[p, encoded.mask_PT[p].bool()].tolist() == alone.ids_PT[0].tolist()


@pytest.mark.parametrize("order", get_args(PromptOrder))
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_images_give_the_stock_ids_and_pixels(family: str, order: PromptOrder) -> None:
    """Three batches, so that pieces are taken from earlier ones; images of several shapes, and some shown again."""
    loaded = reader(family).processor
    processor = HfProcessor(loaded.processor, max_image_side_px=64)
    again = [replace(p, segments=tuple(replace(s, image=picture(7, (64, 40))) if s.image else s for s in p.segments))
             for p in prompts(order)[:2]]  # fmt: skip
    blank, two = Segment(Role.QUESTION, " \n"), Segment(Role.QUESTION, "  two  ")
    odd = [Prompt((two, Segment(Role.QUERY_IMAGE, image=picture(7)), blank))]
    for asked in ([*prompts(order), *again], odd + again, [text_prompt("only text")]):
        shared, stock = processor.encode_prompts(asked, share_images=True), processor.encode_prompts(asked)
        assert shared.ids_PT.equal(stock.ids_PT)
        assert shared.mask_PT.equal(stock.mask_PT)
        assert shared.mask_PT.dtype == stock.mask_PT.dtype
        assert shared.images_of_prompt == stock.images_of_prompt == tuple(map(len, shared.image_places))
        assert len(shared.image_keys) == len({key for p in asked for key in (pixel_sha256(processor.fit(i)) for i in p.images)})
        family_of_reader = family_of(reader(family).core.config.model_type)
        if family_of_reader.image_layout != "prompt":
            plain = unshared(family_of_reader, shared)
            assert all(plain.vision[name].equal(value) for name, value in stock.vision.items())
    assert processor._pieces.exact


def test_pieces_that_tokenise_otherwise_fall_back_to_whole_prompts(caplog: pytest.LogCaptureFixture) -> None:
    processor = reader("llava").processor
    asked = prompts()
    stock = processor.encode_prompts(asked)
    processor._pieces.ids["<|user|>"] = [5, 5]  # as if this piece had other tokens when it stands alone
    assert processor.encode_prompts(asked, share_images=True).ids_PT.equal(stock.ids_PT)
    assert "tokenised whole" in caplog.text
    assert processor.encode_prompts(asked, share_images=True).ids_PT.equal(stock.ids_PT)


def test_special_tokens_that_swallow_spaces_fall_back_too() -> None:
    processor = reader("llava").processor
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<image>", rstrip=True, special=True)]})
    asked = [Prompt((Segment(Role.QUERY_IMAGE, image=picture(0)), Segment(Role.QUESTION, "  is there a nodule?")))]
    assert processor.encode_prompts(asked, share_images=True).ids_PT.equal(processor.encode_prompts(asked).ids_PT)
    assert not processor._pieces.exact


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_answer_tokenise_as_one_string(family: str) -> None:
    processor = reader(family).processor
    for prompt in prompts():
        start = processor.encode_prompts([prompt]).ids_PT[0].tolist()
        for answer, ids in zip(ANSWERS, processor.encode_answers(ANSWERS), strict=True):
            together = processor.call([processor.render(prompt) + " " + answer + "</s>"], [prompt.images])
            assert together["input_ids"][0].tolist() == start + ids


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_cannot_become_a_special_token(family: str) -> None:
    processor = reader(family).processor
    clean = processor.encode_prompts([text_prompt("findings: none")])
    special = set(processor.tokenizer.all_special_ids) | {processor.image_token_id}
    allowed = [i for i in clean.ids_PT[0].tolist() if i in special]
    for bad in INJECTIONS:
        for prompt in (text_prompt(f"findings: {bad} none"), text_prompt(f"findings: {bad[:3]}", f"{bad[3:]} none")):
            ids = processor.encode_prompts([prompt]).ids_PT[0].tolist()
            assert [i for i in ids if i in special] == allowed
            assert bad in processor.decode([i for i in ids if i not in special])
    answers = processor.encode_answers(list(INJECTIONS))
    assert all(special.intersection(row) == {processor.end_id} for row in answers)


def test_a_system_message_and_an_escape_inside_it() -> None:
    processor = reader("llava").processor
    text = processor.render(Prompt((Segment(Role.QUESTION, "x"),), system="be brief <image>"))
    assert text.startswith("<|system|>be brief <\u200bimage></s><|user|>")


@pytest.mark.parametrize("family", FAMILIES)
def test_decode_stops_at_the_end_of_turn(family: str) -> None:
    processor = reader(family).processor
    (ids,) = processor.encode_answers(["no large effusion"])
    assert processor.decode([*ids, *ids, processor.pad_id]) == "no large effusion"
    assert processor.decode([]) == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_token_count_is_close_to_the_truth(family: str) -> None:
    processor = reader(family).processor
    true = processor.encode_prompts(prompts()).mask_PT.sum(1).tolist()
    for prompt, length in zip(prompts(), true, strict=True):
        assert 0 <= length - processor.count_tokens(prompt) <= 10  # role tokens and image brackets are not counted


@pytest.mark.parametrize("order", ["evidence_first", "query_first", "image_first"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_length_is_the_truth(family: str, order: PromptOrder) -> None:
    processor = reader(family).processor
    asked = [*prompts(order), *(Prompt(prompt.segments, "be brief <image>") for prompt in prompts(order))]
    asked.append(text_prompt("<image> x"))
    for shared in (False, True):
        true = processor.encode_prompts(asked, share_images=shared).mask_PT.sum(1).tolist()
        assert [processor.prompt_length(prompt) for prompt in asked] == true


def test_images_are_capped_and_thin_ones_stretched() -> None:
    processor = HfProcessor(reader("llava").processor.processor, max_image_side_px=64)
    assert processor.fit(picture(0, (128, 96))).size == (64, 48)
    assert processor.fit(picture(0, (1000, 2))).size == (64, 28)
    small = picture(0, (40, 32))
    assert processor.fit(small) is small
    with pytest.raises(ValueError, match="at least 28"):
        HfProcessor(processor.processor, max_image_side_px=8)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_processor_travels_to_loader_workers(family: str) -> None:
    processor = reader(family).processor
    copy = pickle.loads(pickle.dumps(processor))  # noqa: S301  own bytes, as spawned workers do
    assert copy.encode_prompts(prompts()).ids_PT.equal(processor.encode_prompts(prompts()).ids_PT)


def test_image_only_processor_refuses_no_image_and_repeats_placeholders() -> None:
    loaded = tiny("qwen2_vl").load(TEXTS)
    stock = loaded.processor.processor
    assert isinstance(stock, ImageOnlyProcessor)
    out = stock(["<|image_pad|>a", "b<|image_pad|><|image_pad|>"], [[picture(0)], [picture(1), picture(2)]], padding=True)
    counts = [row.count(loaded.processor.image_token_id) for row in out["input_ids"]]
    grid = out["image_grid_thw"].prod(-1) // 4
    assert counts == [int(grid[0]), int(grid[1:].sum())]


def test_a_template_without_answers_is_refused() -> None:
    stock = tiny("llava").load(TEXTS).processor.processor
    stock.chat_template = "{{ 'no turns' }}"
    with pytest.raises(ValueError, match="chat template"):
        HfProcessor(stock)
    assert json.dumps(stock.chat_template)
