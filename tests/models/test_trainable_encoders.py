"""The trainable dual encoders: one contract, three families."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from test_dual_encoder import TEXTS, pictures, save_dual_encoder

from medrag_lightning.interfaces import DualEncoder
from medrag_lightning.models.dual_encoder import HfDualEncoder
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.models.tiny_clip import TinyClip
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.models.trained_encoder import TrainedEncoder

SMALL = {"hidden": 32, "layers": 1, "image_side_px": 32, "max_text_tokens": 16, "vocabulary": 320}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {kind: tmp_path_factory.mktemp(kind) for kind in ("clip", "siglip")}
    for kind, folder in made.items():
        save_dual_encoder(kind, folder)
    return made


def encoder_of(name, folders):
    if name.startswith("hf"):
        return HfDualEncoder(str(folders[name[3:]]), device="cpu", freeze="nothing")
    return {"tiny_clip": TinyClip(**SMALL), "tiny_siglip": TinyClip("siglip", **SMALL), "towers": TinyTowers(32, 16)}[name]


NAMES = ["hf_clip", "hf_siglip", "tiny_clip", "tiny_siglip", "towers"]


@pytest.fixture(params=NAMES)
def encoder(request, folders):
    made = encoder_of(request.param, folders)
    made.prepare(TEXTS)
    return made


def move(encoder):
    """One large step, as training would take it."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)


def test_vectors_are_unit_and_those_of_embedding(encoder):
    assert isinstance(encoder, DualEncoder)
    images, texts = encoder.image_inputs(pictures(3)), encoder.text_inputs(TEXTS)
    assert {len(value) for value in (*images.values(), *texts.values())} == {3}
    for vectors, embedded in (
        (encoder.eval().image_vectors(images), encoder.embed_images(pictures(3))),
        (encoder.text_vectors(texts), encoder.embed_texts(TEXTS)),
    ):
        assert vectors.shape == (3, encoder.dim)
        assert vectors.requires_grad
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
        np.testing.assert_allclose(vectors.detach().numpy(), embedded, atol=1e-6)


def test_every_trainable_weight_gets_a_gradient(encoder):
    encoder.train()
    similarity = encoder.image_vectors(encoder.image_inputs(pictures(3))) @ encoder.text_vectors(encoder.text_inputs(TEXTS)).T
    (similarity * torch.randn(3, 3)).sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


def test_image_tower_is_a_copy_with_weights_of_its_own(encoder):
    tower, inputs = encoder.image_tower().eval(), encoder.image_inputs(pictures(2))
    torch.testing.assert_close(tower(inputs), encoder.eval().image_vectors(inputs))
    before = encoder.fingerprint()
    tower(inputs)[0, 0].backward()
    assert all(p.grad is not None and p.requires_grad for p in tower.parameters())
    move(tower)
    assert encoder.fingerprint() == before
    assert not torch.equal(tower(inputs), encoder.image_vectors(inputs))


def test_restore_gives_the_encoder_before_training(encoder, request, folders):
    before, settings = encoder.fingerprint(), encoder.settings()
    move(encoder)
    assert encoder.fingerprint() != before
    assert encoder.settings() == settings
    other = encoder_of(request.node.callspec.params["encoder"], folders)
    other.restore(settings)
    assert other.fingerprint() == before
    encoder.restore(settings)
    assert encoder.fingerprint() == before


def test_embedding_keeps_the_mode_of_every_part(encoder):
    encoder.train()
    modes = [part.training for part in encoder.modules()]
    encoder.embed_images(pictures(1))
    assert [part.training for part in encoder.modules()] == modes


def checkpoint_of(encoder, path):
    kept = {f"encoder.{name}": p.detach() for name, p in encoder.named_parameters() if p.requires_grad}
    head = {"stage": "retriever_contrastive", "version": "0", "description": {"encoder": encoder.settings(), "loss": "clip"}}
    torch.save({"state_dict": {**kept, "log_scale": torch.zeros(())}, "medrag": head}, path)


def test_trained_encoder_has_the_weights_of_the_checkpoint(encoder, request, folders, tmp_path):
    move(encoder)
    checkpoint_of(encoder, tmp_path / "best.ckpt")
    fresh = lambda: encoder_of(request.node.callspec.params["encoder"], folders)  # noqa: E731
    trained = TrainedEncoder(fresh(), str(tmp_path / "best.ckpt"))
    assert isinstance(trained, DualEncoder)
    np.testing.assert_allclose(trained.embed_images(pictures(2)), encoder.embed_images(pictures(2)), atol=1e-6)
    np.testing.assert_allclose(trained.embed_texts(TEXTS), encoder.embed_texts(TEXTS), atol=1e-6)
    assert trained.fingerprint() == encoder.fingerprint()
    assert not any(p.requires_grad for p in trained.parameters())
    assert all(p.requires_grad for p in trained.image_tower().parameters())
    again = TrainedEncoder(fresh(), str(tmp_path / "best.ckpt"))
    again.restore(trained.settings())
    move(encoder)
    checkpoint_of(encoder, tmp_path / "later.ckpt")
    with pytest.raises(ValueError, match="not the configured one"):
        TrainedEncoder(fresh(), str(tmp_path / "later.ckpt")).restore(trained.settings())


def test_trained_encoder_refuses_what_does_not_fit(tmp_path):
    encoder = TinyTowers(32, 16)
    checkpoint_of(encoder, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match="no such checkpoint"):
        TrainedEncoder(TinyTowers(32, 16), str(tmp_path / "none.ckpt")).fingerprint()
    with pytest.raises(ValueError, match=r"dim: checkpoint 32, here 64"):
        TrainedEncoder(TinyTowers(64, 16), str(tmp_path / "best.ckpt")).fingerprint()
    torch.save({"state_dict": {}, "medrag": {"stage": "reader_raft"}}, tmp_path / "reader.ckpt")
    with pytest.raises(ValueError, match="of stage 'reader_raft'"):
        _ = TrainedEncoder(TinyTowers(32, 16), str(tmp_path / "reader.ckpt")).dim
    with pytest.raises(ValueError, match="has no weights"):
        TrainedEncoder(TinyDualEncoder(), "x")


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [("all", ()), ("vision", ("text_",)), ("text", ("vision_", "visual_")), ("all_but_projection", ("visual_p", "text_p"))],
)
def test_freeze_chooses_what_trains(folders, freeze, trained):
    encoder = HfDualEncoder(str(folders["clip"]), freeze=freeze)
    encoder.prepare([])
    names = {name.removeprefix("model.") for name, p in encoder.named_parameters() if p.requires_grad}
    every = {name.removeprefix("model.") for name, _ in encoder.named_parameters()}
    assert names == {name for name in every if trained and name.startswith(trained)}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_lora_trains_updates_only_and_starts_as_the_base(folders, kind):
    settings = LoraSettings(rank=2, vision=True, projector=kind == "clip")
    encoder, base = HfDualEncoder(str(folders[kind]), lora=settings), HfDualEncoder(str(folders[kind]))
    encoder.prepare([])
    np.testing.assert_allclose(encoder.embed_images(pictures(2)), base.embed_images(pictures(2)), atol=1e-6)
    names = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name or "projection" in name for name in names)
    similarity = encoder.image_vectors(encoder.image_inputs(pictures(3))) @ encoder.text_vectors(encoder.text_inputs(TEXTS)).T
    similarity.diagonal().sum().backward()
    assert not [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]


def test_settings_that_would_be_ignored_are_refused(folders):
    folder = str(folders["clip"])
    with pytest.raises(ValueError, match="leave one out"):
        HfDualEncoder(folder, freeze="text", lora=LoraSettings())
    with pytest.raises(ValueError, match="bf16-mixed"):
        HfDualEncoder(folder, freeze="text", dtype="bfloat16")
    with pytest.raises(ValueError, match="dim=8 would be ignored"):
        TinyClip("siglip", dim=8)
    with pytest.raises(ValueError, match="dim >= 8"):
        TinyTowers(4)


def test_tiny_clip_pools_at_the_end_of_the_text():
    """A CLIP text tower with an end token of id 2 pools elsewhere and never learns."""
    encoder = TinyClip(**SMALL)
    encoder.prepare(TEXTS)
    texts = ["left lung", "left lung opacity", "no finding"]
    vectors = encoder.embed_texts(texts)
    alone = np.concatenate([encoder.embed_texts([text]) for text in texts])
    np.testing.assert_allclose(vectors, alone, atol=1e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_tiny_towers_start_near_the_untrained_encoder():
    blocks = np.random.default_rng(0).integers(0, 255, (24, 2, 2, 3), dtype=np.uint8)
    images = [Image.fromarray(block).resize((40, 40)) for block in blocks]
    mine, base = (encoder.embed_images(images) for encoder in (TinyTowers(256), TinyDualEncoder(256)))
    pairs = np.triu_indices(24, 1)
    assert np.corrcoef((mine @ mine.T)[pairs], (base @ base.T)[pairs])[0, 1] > 0.8  # two random projections of the same
    texts = ["Right pleural effusion.", "Normal chest", "pleural effusions", "??", "!"]
    vectors = TinyTowers(256).embed_texts(texts)
    assert (vectors[2] @ vectors[:2].T).argmax() == 0
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[3], vectors[4])
    assert np.isfinite(TinyTowers(32).embed_images([Image.new("L", (1, 1))])).all()


def test_towers_can_be_copied_and_moved_between_precisions():
    encoder = copy.deepcopy(TinyTowers(32, 16)).to(torch.float64)
    assert encoder.embed_texts(TEXTS).dtype == np.float32
