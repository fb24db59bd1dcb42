"""Query heads: the mix, what gradient reaches, kinds, modes, and the way back from a checkpoint."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medrag_lightning.interfaces import QueryEncoder, QueryTowers, Retriever
from medrag_lightning.models.both_sides import BothSides, DistilledEncoder
from medrag_lightning.models.headed_encoder import HeadedEncoder
from medrag_lightning.models.heads import HeadLora, QueryHeads
from medrag_lightning.models.tiny_clip import TinyClip
from medrag_lightning.models.tiny_towers import TinyTowers

KINDS = ["tower", "projection", "lora"]


def towers(seed=0):
    return TinyTowers(dim=16, hidden=8, seed=seed)


def pictures(count=4):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]


def heads(sides=("text",), **settings):
    made = QueryHeads(towers(), list(sides), **settings)
    made.prepare([])
    return made


def asked(made, side="text"):
    inputs = made.encoder.image_inputs(pictures())
    return made.query_vectors(side, inputs, made.frozen_vectors(inputs))


def checkpoint(made, path):
    """As `stages/base.py` writes it."""
    state = {f"heads.{n}": p.detach().clone() for n, p in made.named_parameters() if p.requires_grad}
    head = {"stage": "retriever_kl", "description": {"heads": made.describe()}}
    torch.save({"state_dict": state, "medrag": head}, path)
    return str(path)


def nudge(module, scale=0.3):
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=rng)


def test_the_query_is_a_mix_that_is_not_normalised_again():
    """J05: 0.15 trained + 0.85 frozen; the trained tower's gradient is 0.15 times the direct one."""
    made = heads()
    assert isinstance(made, QueryTowers)
    inputs = made.encoder.image_inputs(pictures())
    frozen = made.frozen_vectors(inputs)
    assert torch.allclose(asked(made), frozen, atol=1e-6)  # a head starts as the frozen encoder
    nudge(made.towers)
    trained = made.towers["text"](inputs, frozen)
    mixed = asked(made)
    assert torch.allclose(mixed, 0.15 * trained + 0.85 * frozen, atol=1e-6)
    assert (mixed.norm(dim=-1) < 1 - 1e-3).all()
    direction = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(1))
    weights = list(made.towers.parameters())
    mine = torch.autograd.grad((mixed * direction).sum(), weights)
    direct = torch.autograd.grad((trained * direction).sum(), weights)
    assert all(torch.allclose(a, 0.15 * b, atol=1e-6) for a, b in zip(mine, direct, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_the_trained_head_alone(kind):
    """J04."""
    made = heads(["text", "image"], kind=kind)
    before = {n: p.clone() for n, p in made.named_parameters()}
    asked(made, "text").sum().backward()
    reached = {n for n, p in made.named_parameters() if p.grad is not None}
    assert reached
    assert all(name.startswith("towers.text.") for name in reached)
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    optimizer.step()
    moved = {n for n, p in made.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert moved <= reached


def test_a_projection_starts_as_the_identity_and_lora_trains_little():
    projection, lora, tower = (heads(kind=kind) for kind in ("projection", "lora", "tower"))
    assert torch.equal(projection.towers["text"].weight, torch.eye(16))
    count = {m.kind: sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (projection, lora, tower)}
    assert count["projection"] == 16 * 16
    small = heads(kind="lora", lora=HeadLora(rank=1))
    assert sum(p.numel() for p in small.parameters() if p.requires_grad) < count["tower"] / 4


def test_modes_are_what_the_configuration_says():
    """Trap 9: dropout of a trained tower is off unless asked for; the frozen encoder's always."""
    assert not any(m.training for m in heads().train().modules() if isinstance(m, nn.Dropout))
    made = heads(mode="train").train()
    assert all(m.training for m in made.towers.modules())
    assert not any(m.training for m in made.encoder.modules())
    first, second = asked(made), asked(made)
    assert not torch.equal(first, second)
    made.eval()
    assert torch.equal(asked(made), asked(made))


@pytest.mark.parametrize("kind", KINDS)
def test_a_headed_encoder_asks_as_the_trained_heads_did(kind, tmp_path):
    made = heads(["text"], kind=kind, lora=HeadLora(rank=2) if kind == "lora" else None)
    nudge(made.towers)
    path = checkpoint(made, tmp_path / "text.ckpt")
    headed = HeadedEncoder(towers(), text_head=path)
    assert isinstance(headed, Retriever)
    assert isinstance(headed, QueryEncoder)
    plain = towers()
    assert headed.fingerprint() == plain.fingerprint()  # the store stays valid
    assert np.array_equal(headed.embed_images(pictures()), plain.embed_images(pictures()))
    assert np.allclose(headed.embed_queries(pictures(), "text"), asked(made).detach(), atol=1e-6)
    assert np.array_equal(headed.embed_queries(pictures(), "image"), plain.embed_images(pictures()))
    before = headed.query_fingerprint()
    nudge(made.towers)
    assert HeadedEncoder(towers(), text_head=checkpoint(made, tmp_path / "b.ckpt")).query_fingerprint() != before


def test_the_second_head_starts_from_the_first_run_and_carries_its_head(tmp_path):
    """J12: text head as trained and frozen, image head as the frozen encoder."""
    first = heads(["text"])
    nudge(first.towers)
    path = checkpoint(first, tmp_path / "2a.ckpt")
    second = heads(["image"])
    saved = torch.load(path, weights_only=True)
    second.start_from(saved["medrag"]["description"]["heads"], _stripped(saved), path)
    assert torch.equal(asked(second, "text"), asked(first, "text"))
    assert torch.allclose(asked(second, "image"), second.frozen_vectors(second.encoder.image_inputs(pictures())), atol=1e-6)
    assert {n.split(".")[1] for n, p in second.named_parameters() if p.requires_grad} == {"image"}
    nudge(second.towers)
    both = HeadedEncoder(towers(), path, checkpoint(second, tmp_path / "2b.ckpt"))
    assert np.allclose(both.embed_queries(pictures(), "text"), asked(first, "text").detach(), atol=1e-6)
    assert np.allclose(both.embed_queries(pictures(), "image"), asked(second, "image").detach(), atol=1e-6)


def _stripped(saved):
    return {name.removeprefix("heads."): value for name, value in saved["state_dict"].items()}


def test_what_does_not_fit_is_refused(tmp_path):
    made = heads(["text"])
    path = checkpoint(made, tmp_path / "a.ckpt")
    saved = torch.load(path, weights_only=True)
    told, weights = saved["medrag"]["description"]["heads"], _stripped(saved)
    other = QueryHeads(towers(seed=1), ["text"])
    other.prepare([])
    with pytest.raises(ValueError, match="around another encoder"):
        other.start_from(told, weights, path)
    with pytest.raises(ValueError, match="kind tower"):
        heads(["text"], kind="projection").start_from(told, weights, path)
    with pytest.raises(ValueError, match="trained heads \\['text'\\], this run trains \\['image'\\]"):
        heads(["image"]).restore(told)
    with pytest.raises(ValueError, match="not 'image'"):
        HeadedEncoder(towers(), image_head=path).fingerprint()
    with pytest.raises(ValueError, match="no such checkpoint"):
        HeadedEncoder(towers(), text_head=str(tmp_path / "none.ckpt")).fingerprint()
    with pytest.raises(ValueError, match="query_mix"):
        QueryHeads(towers(), ["text"], query_mix=0.0)
    with pytest.raises(ValueError, match="ignored by heads of kind 'tower'"):
        QueryHeads(towers(), ["text"], lora=HeadLora())
    with pytest.raises(ValueError, match="ignored in mode eval"):
        QueryHeads(towers(), ["text"], kind="lora", lora=HeadLora(dropout=0.1))
    with pytest.raises(ValueError, match="each once"):
        QueryHeads(towers(), ["text", "text"])
    with pytest.raises(ValueError, match="has no head"):
        HeadedEncoder(towers())


def test_a_tower_without_linear_layers_takes_no_lora():
    class Bare(TinyTowers):
        def image_tower(self):
            return nn.Identity()

    with pytest.raises(ValueError, match="linear layers, and the image tower of Bare has none"):
        QueryHeads(Bare(dim=16), ["text"], kind="lora").prepare([])


def test_both_sides_train_the_encoder_and_come_back(tmp_path):
    made = BothSides(towers(), ["text", "image"])
    assert isinstance(made, QueryTowers)
    made.prepare([])
    inputs = made.encoder.image_inputs(pictures())
    frozen = made.frozen_vectors(inputs)
    made.passage_vectors("text", made.encoder.text_inputs(["an effusion"])).sum().backward()
    assert made.encoder.text.table.weight.grad is not None
    nudge(made.encoder)
    assert torch.equal(made.frozen_vectors(inputs), frozen)
    assert not torch.allclose(made.query_vectors("text", inputs, frozen), frozen, atol=1e-3)
    path = checkpoint(made, tmp_path / "both.ckpt")
    again = DistilledEncoder(towers(), path)
    made.eval()
    assert np.allclose(again.embed_images(pictures()), made.query_vectors("image", inputs, frozen).detach(), atol=1e-6)
    assert again.fingerprint() == made.encoder.fingerprint()
    with pytest.raises(ValueError, match="trained query heads, not both sides"):
        DistilledEncoder(towers(), checkpoint(heads(["text"]), tmp_path / "heads.ckpt")).fingerprint()
    with pytest.raises(ValueError, match="seed: checkpoint 0, here 3"):
        DistilledEncoder(towers(seed=3), path).fingerprint()


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("kind", ["tower", "lora"])
def test_heads_on_the_towers_of_transformers(family, kind, tmp_path):
    """Every weight of a LoRA head learns (SigLIP's pooling head is not adapted), and the way back brings the tokenizer."""
    shape = {"family": family, "hidden": 16, "layers": 1, "image_side_px": 16, "vocabulary": 300}
    made = QueryHeads(TinyClip(**shape), ["image"], kind=kind)
    made.prepare(["an effusion", "no finding"])
    inputs = made.encoder.image_inputs(pictures())
    frozen = made.frozen_vectors(inputs)
    assert torch.allclose(made.query_vectors("image", inputs, frozen), frozen, atol=1e-5)
    nudge(made.towers)
    (made.query_vectors("image", inputs, frozen) * torch.arange(16.0)).sum().backward()
    idle = [name for name, p in made.towers.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not [name for name in idle if kind == "lora"], idle
    headed = HeadedEncoder(TinyClip(**shape), image_head=checkpoint(made, tmp_path / "a.ckpt"))
    asked_again = headed.embed_queries(pictures(), "image")
    assert np.allclose(asked_again, made.query_vectors("image", inputs, frozen).detach(), atol=1e-5)
    assert np.allclose(headed.embed_texts(["an effusion"]), made.encoder.embed_texts(["an effusion"]), atol=1e-6)
