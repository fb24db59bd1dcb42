"""Encoders come back from a bundle with the vectors they had, query heads included; their ONNX models give them, too."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from medrag_lightning.handoff.bundle.encoders import check_encoder, load_encoder, save_encoder
from medrag_lightning.handoff.bundle.json_schema import validate
from medrag_lightning.handoff.bundle.onnx_towers import write_onnx
from medrag_lightning.handoff.bundle.system import system_schema
from medrag_lightning.models.headed_encoder import HeadedEncoder
from medrag_lightning.models.heads import HeadLora, QueryHeads
from medrag_lightning.models.tiny_clip import TinyClip
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.models.trained_encoder import TrainedEncoder
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.retrieval.index import IndexConfig
from medrag_lightning.retrieval.source import LiveSearch

TEXTS = ["an effusion on the left", "no finding", "a long report about a nodule that is not there " * 4]


def noisy(module):
    with torch.no_grad():
        for n, (name, parameter) in enumerate(sorted(module.named_parameters())):
            if parameter.requires_grad and "logit" not in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n)))
    return module


def clip(family="clip"):
    made = TinyClip(family, hidden=32, layers=2, image_side_px=32, patch_px=16, max_text_tokens=24, vocabulary=320)
    made.prepare(TEXTS)
    return noisy(made).requires_grad_(False).eval()


def towers():
    return noisy(TinyTowers(32, 16)).requires_grad_(False).eval()


def trained():
    made = TrainedEncoder(towers(), "no.ckpt")
    made._is_loaded = True
    return made


def headed(kind, frozen):
    made = HeadedEncoder(frozen, text_head="no.ckpt")
    heads = QueryHeads(frozen, ["text"], kind, query_mix=0.4, mode="train", lora=HeadLora(rank=2) if kind == "lora" else None)
    heads.prepare(())
    heads.share = 0.5
    noisy(heads.towers)
    heads.ask_with_share()
    made.heads["text"] = heads.requires_grad_(False).eval()
    return made


KINDS = {
    "tiny_dual": lambda: TinyDualEncoder(64, seed=3),
    "tiny_towers": towers,
    "trained": trained,
    "clip": clip,
    "siglip": lambda: clip("siglip"),
    "tower head": lambda: headed("tower", towers()),
    "lora head": lambda: headed("lora", clip()),
    "projection head": lambda: headed("projection", clip()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_onnx_are_those_of_the_run(tmp_path, kind):
    made = KINDS[kind]()
    check_encoder(made)
    spec = json.loads(json.dumps(save_encoder(made, tmp_path, "encoder")))
    schema = system_schema()
    assert validate(spec, {"$ref": "#/$defs/encoder", "$defs": schema["$defs"]}) == []
    again = load_encoder(spec, tmp_path, "cpu")
    images = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (40, 30 + n, 3), dtype=np.uint8)) for n in range(3)]
    assert np.array_equal(made.embed_images(images), again.embed_images(images))
    assert np.array_equal(made.embed_texts(TEXTS), again.embed_texts(TEXTS))
    assert (made.dim, made.shared_space) == (again.dim, again.shared_space)
    if "head" in kind:
        for side in ("text", "image"):
            mine, theirs = made.embed_queries(images, side), again.embed_queries(images, side)
            assert np.allclose(mine, theirs, atol=1e-6)
        assert not np.allclose(again.embed_queries(images, "text"), again.embed_images(images), atol=1e-4)
    pytest.importorskip("onnxruntime")
    cosines = write_onnx([("", LiveSearch(again, {"image_to_image": 1}))], tmp_path)
    assert all(value >= 1 - 1e-4 for value in cosines.values())
    assert len(cosines) == (0 if kind == "tiny_dual" else 3 if "head" in kind else 2)


def test_a_model_whose_onnx_says_otherwise_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from medrag_lightning.handoff.bundle import onnx_towers

    monkeypatch.setattr(onnx_towers, "_cosines", lambda one, other: np.array([1.0, 0.9995]))
    with pytest.raises(ValueError, match=r"gives vectors of cosine 0\.999500"):
        write_onnx([("", LiveSearch(towers(), {"image_to_image": 1}))], tmp_path)


def test_a_bundle_from_before_a_setting_was_there_is_still_read():
    schema = system_schema()
    of_template = {"$ref": "#/$defs/template", "$defs": {**schema["$defs"], "template": schema["properties"]["template"]}}
    told = asdict(PromptTemplate())
    assert validate(told, of_template) == []
    old = {name: value for name, value in told.items() if name not in ("kinds", "closing", "max_prompt_tokens")}
    assert validate(old, of_template) == []
    assert validate({name: value for name, value in told.items() if name != "order"}, of_template) != []
    live = {"kind": "live", "encoder": {"kind": "tiny_dual", "dim": 8, "seed": 0}, "per_channel": {"text_to_text": 1}}
    live |= {"index": asdict(IndexConfig()), "dtype": "float32", "batch_size": 1, "distinct_documents": True}
    live |= {"distinct_texts": False}
    of_live = {"$ref": "#/$defs/live", "$defs": schema["$defs"]}
    assert validate(live, of_live) == validate(live | {"corpus": "wiki"}, of_live) == []
