"""Readers loaded from folders, as presets load them from the hub: every preset's family, random weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from reader_folders import FOLDERS
from reader_world import ANSWERS, answer_rows, plain_logp, prompts

from medrag_lightning.interfaces import Reader
from medrag_lightning.models.backbones import Pretrained, kept_from_quantization
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for family, make in FOLDERS.items():
        made[family] = tmp_path_factory.mktemp(family)
        make(made[family])
    return made


def load(folder: Path, **settings: Any) -> HfReader:
    backbone = Pretrained(str(folder), **{"max_image_side_px": 32, **settings})
    adapter = LoraSettings(rank=2, projector=True)
    made = HfReader(backbone, adapter=adapter)
    made.prepare(())
    return made.eval()


@pytest.mark.parametrize("family", FOLDERS)
def test_scores_equal_the_plain_computation(family: str, folders: dict[str, Path]) -> None:
    made, asked = load(folders[family]), prompts()
    assert isinstance(made, Reader)
    index, answers = [0, 0, 1, 2, 3, 4, 4], [ANSWERS[i] for i in (0, 1, 1, 2, 0, 1, 2)]
    rows = answer_rows(made, index, answers)
    encoded = made.processor.encode_prompts(asked)
    assert encoded.images_of_prompt == (2, 1, 0, 1, 2)
    by_rows = made.token_logp(encoded, rows).detach()
    shared = made.processor.encode_prompts(asked, share_images=True)
    assert shared.ids_PT.equal(encoded.ids_PT)
    with torch.no_grad():
        in_evaluation, with_shared = made.token_logp(encoded, rows), made.token_logp(shared, rows)
    for r, p in enumerate(index):
        ids = rows.ids_RL[r, rows.mask_RL[r]].tolist()
        expected = plain_logp(made, asked[p], ids).detach()
        assert (by_rows[r, : len(ids)] - expected).abs().max() <= 1e-5
        assert (in_evaluation[r, : len(ids)] - expected).abs().max() <= 1e-5
        assert (with_shared[r, : len(ids)] - expected).abs().max() <= 1e-5
    assert len(made.generate(encoded, 3)) == 5


@pytest.mark.parametrize("family", FOLDERS)
def test_prompt_answer_and_end_tokenise_as_one_string(family: str, folders: dict[str, Path]) -> None:
    processor = load(folders[family]).processor
    prompt = prompts()[0]
    start = processor.encode_prompts([prompt])
    end = processor.tokenizer.convert_ids_to_tokens(processor.end_id)
    for answer, ids in zip(ANSWERS, processor.encode_answers(ANSWERS), strict=True):
        together = processor.call([processor.render(prompt) + processor._lead + answer + end], [prompt.images])
        assert together["input_ids"][0].tolist() == start.ids_PT[0].tolist() + ids
    assert end == {"gemma3": "<end_of_turn>", "smolvlm": "<end_of_utterance>"}.get(family, "</s>")


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_half_precision_base_trains_a_float32_adapter(family: str, folders: dict[str, Path]) -> None:
    made = load(folders[family], dtype="bfloat16").train()
    trained = [p for p in made.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    assert {p.dtype for p in made.core.parameters() if not p.requires_grad} == {torch.bfloat16}
    logp = made.token_logp(made.processor.encode_prompts(prompts()), answer_rows(made, [0, 1, 2, 3, 4], ["yes"] * 5))
    assert logp.dtype == torch.float32
    (-logp.mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    exact = load(folders[family])
    full = exact.token_logp(exact.processor.encode_prompts(prompts()), answer_rows(exact, [0, 1, 2, 3, 4], ["yes"] * 5))
    assert (full - logp).abs().max() < 0.5


def test_describe_and_reload(folders: dict[str, Path]) -> None:
    made = load(folders["llava"])
    again = HfReader(Pretrained(str(folders["llava"]), max_image_side_px=32), adapter=LoraSettings(rank=2, projector=True))
    again.restore(made.describe())
    assert again.describe() == made.describe()
    assert again.fingerprint() == made.fingerprint()
    other = HfReader(Pretrained(str(folders["llava"]), max_image_side_px=64), adapter=LoraSettings(rank=2, projector=True))
    with pytest.raises(ValueError, match=r"max_image_side_px: checkpoint 32, here 64"):
        other.restore(made.describe())


def test_a_missing_model_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"'nobody/nothing' cannot be loaded.*HF_HUB_OFFLINE"):
        HfReader(Pretrained("nobody/nothing")).prepare(())


def test_four_bits_without_the_extra_says_which_extra() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ValueError, match=r"medrag-lightning\[gpu\]"):
            Pretrained("x", quantization="nf4")
    else:
        with pytest.raises(ValueError, match="add an adapter"):
            HfReader(Pretrained("x", quantization="nf4"))


@pytest.mark.parametrize("family", FOLDERS)
def test_only_the_language_tower_goes_to_four_bits(family: str, folders: dict[str, Path]) -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module

    made = HfReader(Pretrained(str(folders[family]), max_image_side_px=32))
    made.prepare(())
    kept = kept_from_quantization(made.family)
    linear = [name for name, module in made.core.named_modules() if isinstance(module, torch.nn.Linear)]
    converted = {name for name in linear if should_convert_module(name, kept)}
    assert converted == {name for name in linear if f".{made.family.language}." in name}
    assert converted
