"""Retriever backbones: tiny random CLIP and SigLIP saved to a folder, and the encoder without weights."""

import time

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from medrag_lightning.interfaces import Retriever
from medrag_lightning.models.dual_encoder import HfDualEncoder
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder

IMAGE_PX, CONTEXT = 32, 12
TEXTS = ["left lung opacity", "no finding", "opacity " * 40]


def word_tokenizer():
    words = ["<pad>", "<s>", "<unk>", "</s>", "left", "lung", "opacity", "no", "finding"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "unk_token": "<unk>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=CONTEXT, **names)


def save_dual_encoder(kind, folder, seed=0):
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    vision = size | {"image_size": IMAGE_PX, "patch_size": 8}
    if kind == "clip":
        text = size | ids | {"max_position_embeddings": CONTEXT}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
        square = {"height": IMAGE_PX, "width": IMAGE_PX}
        pictures = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_PX}, crop_size=square)
        processor = CLIPProcessor(pictures, word_tokenizer())
    else:
        text = size | ids | {"max_position_embeddings": CONTEXT, "projection_size": 32}
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        pictures = SiglipImageProcessorPil(size={"height": IMAGE_PX, "width": IMAGE_PX})
        processor = SiglipProcessor(pictures, word_tokenizer())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval(), processor


def pictures(count=5, side=40):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (side, side + 8, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return (folder, *save_dual_encoder(request.param, folder))


def test_vectors_are_those_of_the_model_itself(saved):
    folder, model, processor = saved
    encoder = HfDualEncoder(str(folder), device="cpu", batch_size=2)
    assert isinstance(encoder, Retriever)
    assert encoder.shared_space
    full = {"padding": "max_length", "truncation": True, "max_length": CONTEXT, "return_tensors": "pt"}
    inputs = processor(text=TEXTS, images=pictures(3), **full)
    if model.config.model_type == "siglip":
        inputs.pop("attention_mask", None)
    with torch.no_grad():
        output = model(**inputs)
    np.testing.assert_allclose(encoder.embed_images(pictures(3)), output.image_embeds.numpy(), atol=2e-6)
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), output.text_embeds.numpy(), atol=2e-6)
    assert encoder.dim == output.text_embeds.shape[1]


def test_vectors_do_not_depend_on_the_batch(saved):
    folder = saved[0]
    one, many = HfDualEncoder(str(folder), batch_size=1), HfDualEncoder(str(folder), batch_size=8)
    np.testing.assert_allclose(one.embed_images(pictures()), many.embed_images(pictures()), atol=1e-6)
    np.testing.assert_allclose(one.embed_texts(TEXTS), many.embed_texts(TEXTS), atol=1e-6)
    assert many.embed_images([]).shape == many.embed_texts([]).shape == (0, many.dim)


def test_fingerprint_follows_weights_and_transform_not_the_folder(saved, tmp_path):
    folder, model, processor = saved
    encoder = HfDualEncoder(str(folder))
    before = encoder.fingerprint()
    encoder.embed_texts(TEXTS)  # leaves truncation and padding state in the tokenizer
    assert encoder.fingerprint() == before
    model.save_pretrained(tmp_path / "copy")
    processor.save_pretrained(tmp_path / "copy")
    assert HfDualEncoder(str(tmp_path / "copy")).fingerprint() == before
    assert HfDualEncoder(str(folder), max_text_tokens=5).describe()["weights"] == encoder.describe()["weights"]
    assert HfDualEncoder(str(folder), max_text_tokens=5).fingerprint() != before
    assert HfDualEncoder(str(folder), dtype="bfloat16").fingerprint() != before
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    assert encoder.fingerprint() != before


def test_image_size_and_half_precision(saved):
    folder = saved[0]
    large = HfDualEncoder(str(folder), image_size_px=48)
    assert large.embed_images(pictures(2, 60)).shape == (2, large.dim)
    assert large.fingerprint() != HfDualEncoder(str(folder)).fingerprint()
    half = HfDualEncoder(str(folder), dtype="bfloat16").embed_images(pictures(2))
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)


def test_is_frozen_and_moves_with_its_owner(saved):
    encoder = HfDualEncoder(str(saved[0]))
    owner = torch.nn.ModuleList([encoder])
    assert encoder.dim
    assert not any(weight.requires_grad for weight in owner.parameters())
    owner.to(torch.float64)
    assert encoder.embed_images(pictures(1)).dtype == np.float32


def test_refusals_name_the_remedy(tmp_path, saved):
    with pytest.raises(ValueError, match=r"cannot be loaded.*Give a folder"):
        _ = HfDualEncoder(str(tmp_path / "nothing")).dim
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        HfDualEncoder("x", batch_size=0)
    with pytest.raises(ValueError, match="exceeds the context"):
        HfDualEncoder(str(saved[0]), max_text_tokens=999).embed_texts(["a"])
    with pytest.raises(ValueError, match="would be ignored"):
        HfDualEncoder(str(saved[0]), revision="main")
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    Qwen2Model(Qwen2Config(vocab_size=8, num_key_value_heads=1, **small)).save_pretrained(tmp_path / "reader")
    word_tokenizer().save_pretrained(tmp_path / "reader")
    with pytest.raises(ValueError, match="no dual encoder: it lacks get_image_features"):
        _ = HfDualEncoder(str(tmp_path / "reader")).dim


def test_pickled_weights_are_refused(tmp_path):
    save_dual_encoder("clip", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        _ = HfDualEncoder(str(tmp_path)).dim


def test_tiny_encoder_is_deterministic_and_independent_of_the_batch():
    encoder = TinyDualEncoder(dim=64)
    assert isinstance(encoder, Retriever)
    assert not encoder.shared_space
    images = pictures()
    together = encoder.embed_images(images)
    np.testing.assert_array_equal(together, np.concatenate([TinyDualEncoder(64).embed_images([i]) for i in images]))
    np.testing.assert_array_equal(encoder.embed_texts(TEXTS)[1:2], TinyDualEncoder(64).embed_texts(TEXTS[1:2]))
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert encoder.embed_images([]).shape == encoder.embed_texts([]).shape == (0, 64)


def test_tiny_encoder_fingerprint():
    assert TinyDualEncoder(64).fingerprint() == TinyDualEncoder(64).fingerprint()
    assert len({TinyDualEncoder(dim, seed).fingerprint() for dim in (32, 64) for seed in (0, 1)}) == 4
    with pytest.raises(ValueError, match="dim must be at least 8"):
        TinyDualEncoder(4)


def test_tiny_encoder_finds_the_same_pattern_and_the_same_words():
    encoder, rng = TinyDualEncoder(), np.random.default_rng(1)
    bases = rng.integers(0, 255, (12, 6, 6, 3), dtype=np.uint8)
    noisy = [np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8) for base in bases for _ in range(4)]
    vectors = encoder.embed_images([Image.fromarray(array).resize((40, 40)) for array in noisy])
    similarity = vectors @ vectors.T - 2 * np.eye(len(noisy))
    assert (similarity.argmax(1) // 4 == np.arange(len(noisy)) // 4).all()
    corpus = ["Right pleural effusion.", "Fracture of the left femur", "Normal chest", "Melanoma of the skin"]
    asked = ["Is there a fracture of the femur?", "pleural effusions", "is the skin lesion a melanoma"]
    assert (encoder.embed_texts(asked) @ encoder.embed_texts(corpus).T).argmax(1).tolist() == [1, 0, 3]


def test_tiny_encoder_takes_blank_images_and_wordless_texts():
    encoder = TinyDualEncoder(32)
    vectors = encoder.embed_images([Image.new("L", (1, 1)), Image.new("RGB", (300, 2), "white")])
    assert np.isfinite(vectors).all()
    assert np.isfinite(encoder.embed_texts(["??", "患者"])).all()


def test_tiny_encoder_is_fast_enough():
    encoder, images = TinyDualEncoder(), pictures(100, 28)
    encoder.embed_images(images[:2])
    start = time.process_time()
    encoder.embed_images(images)
    assert 100 / (time.process_time() - start) >= 500


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "margin"),
    [("breastmnist/breastmnist.npz", 0.1), ("retinamnist/retinamnist.npz", 0.1), ("ham10000/ham10000_28.npz", 0.15)],
)
def test_tiny_encoder_finds_images_of_the_same_class_above_chance(medrag_data, file, margin):
    """Share of training images whose nearest other one has their label, against drawing one at random."""
    arrays = np.load(medrag_data / file)
    images, labels = arrays["train_images"][:800], arrays["train_labels"].ravel()[:800]
    vectors = TinyDualEncoder().embed_images([Image.fromarray(array).convert("RGB") for array in images])
    nearest = (vectors @ vectors.T - 2 * np.eye(len(vectors))).argmax(1)
    chance = (np.bincount(labels) / len(labels)) ** 2
    assert (labels[nearest] == labels).mean() >= chance.sum() + margin
