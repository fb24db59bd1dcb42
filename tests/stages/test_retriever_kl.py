"""Retriever distillation: what trains, what a checkpoint holds, resume, live reader, planted world, validation numbers."""

import json
import logging
from functools import partial

import numpy as np
import pytest
import torch
from distill_world import ClosedTable, data, heads, score_table, source, stage, towers, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from test_resume import StopAfter

from callbacks.guards import FrozenGuard
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.interfaces import ServedStage
from medrag_lightning.models.headed_encoder import HeadedEncoder
from medrag_lightning.records import Channel

COUNT = 96


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    table = ClosedTable(str(folder), COUNT)
    return folder, table, score_table(folder / "scores", table)


def fit(world, module, epochs=1, keep=None, search=None, callbacks=(), **settings):
    folder, table, scores = world
    served = data(folder, table, scores, search=search, **settings)
    fitter = trainer(folder, max_epochs=epochs, callbacks=[FrozenGuard(1), *callbacks])
    fitter.fit(module, datamodule=served)
    if keep is not None:
        fitter.save_checkpoint(keep)
    return {name: float(value) for name, value in fitter.callback_metrics.items()}


def test_the_checkpoint_holds_the_trained_head_alone(world, tmp_path):
    """J04, J13: one head, no reader, no frozen tower; plain tensors and JSON."""
    module = stage(heads(["image"]))
    assert isinstance(module, ServedStage)
    encoder = {name: value.clone() for name, value in towers().state_dict().items()}
    fit(world, module, keep=tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["state_dict"]
    assert all(name.startswith("heads.towers.image.") for name in saved["state_dict"])
    assert sum(v.numel() for v in saved["state_dict"].values()) == sum(p.numel() for p in towers().image.parameters())
    json.dumps(saved["medrag"])
    assert all(torch.equal(value, encoder[name]) for name, value in module.heads.encoder.state_dict().items())


def test_second_head_starts_from_the_first_and_the_right_tower_asks_the_right_index(world, tmp_path):
    """J12 (trap 3): 2b starts from 2a; its first numbers are those of 2a's text head and the frozen image tower."""
    first = stage(heads(["text"]))
    fit(world, first, epochs=3, keep=tmp_path / "2a.ckpt")
    second = stage(heads(["image"]), init_from=str(tmp_path / "2a.ckpt"))
    fit(world, second, keep=tmp_path / "2b.ckpt")
    mine, before = second.heads.towers["text"].state_dict(), first.heads.towers["text"].state_dict()
    assert all(torch.equal(mine[name], value) for name, value in before.items())
    saved = torch.load(tmp_path / "2b.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[2] for name in saved} == {"image"}
    both = HeadedEncoder(towers(), str(tmp_path / "2a.ckpt"), str(tmp_path / "2b.ckpt"))
    folder, table, _ = world
    search, plain = source(encoder=both, count=3), source(count=3)
    served = data(folder, table, None, search=search)
    served.prepare_data()
    found = []
    for one in (search, plain):
        one.load(served.documents(), served._image_store(), served.evidence_folder())
        found.append(one.retrieve(served.split_queries("val")))
    image = [served._image_store()(q.image) for q in served.split_queries("val")]
    for side, channel in (("text", Channel.IMAGE_TO_TEXT), ("image", Channel.IMAGE_TO_IMAGE)):
        asked = both.embed_queries(image, side)
        for query, one in zip(asked, found[0], strict=True):
            best = next(c for c in one.candidates if c.channel is channel)
            assert best.score == pytest.approx(float(search.document_vectors(side, [best.id])[0] @ query), abs=1e-5)
    assert [[c.id for c in o.candidates] for o in found[0]] != [[c.id for c in o.candidates] for o in found[1]]


def test_both_heads_at_once_learn_as_each_alone(world):
    together, text, image = (stage(heads(sides)) for sides in (["text", "image"], ["text"], ["image"]))
    for module in (together, text, image):
        fit(world, module)
    for side, alone in (("text", text), ("image", image)):
        mine, theirs = together.heads.towers[side].state_dict(), alone.heads.towers[side].state_dict()
        assert all(torch.allclose(mine[name], value, atol=1e-6) for name, value in theirs.items())


@pytest.mark.parametrize("steps", [1, 6, 8])
def test_resume_gives_the_same_weights(world, tmp_path, steps):
    """J13: 6 steps an epoch; dropout on, augmentation on, t_score chosen once."""
    folder, table, scores = world

    def run(stop=None, resume=False):
        module = stage(heads(["text"], mode="train"), t_score="auto")
        served = data(folder, table, scores, augmentation=Augmentation())
        keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
        callbacks = [keep] if stop is None else [StopAfter(stop), keep]
        fitter = trainer(tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=callbacks)
        try:
            fitter.fit(module, datamodule=served, ckpt_path=tmp_path / "last.ckpt" if resume else None, weights_only=True)
        except SystemExit:
            assert stop is not None
        return module

    whole = run()
    run(stop=steps)
    resumed = run(resume=True)
    assert resumed.t_score == whole.t_score
    for name, value in whole.heads.towers.state_dict().items():
        assert torch.equal(resumed.heads.towers.state_dict()[name], value), name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_candidates_that_make_the_reader_right_rise(tmp_path, seed):
    """J11: reports of the query's colour make the reader right; the untrained text search finds colours by chance."""
    table = ClosedTable(str(tmp_path), COUNT)
    world = (tmp_path, table, score_table(tmp_path / "scores", table))
    one_side = source(seed, count=50, sides=["text"])
    found = fit(world, stage(heads(["text"], seed), seed=seed), 16, tmp_path / "text.ckpt", one_side, seed=seed)
    assert found["val/fused_accuracy"] >= found["val/frozen_fused_accuracy"]
    assert found["val/expected_gold"] > found["val/frozen_expected_gold"] + 0.1
    assert found["val/loss"] < found["val/frozen_loss"] - 0.1
    headed = HeadedEncoder(towers(seed), text_head=str(tmp_path / "text.ckpt"))
    after, before = (_held_out(table, tmp_path, source(seed, encoder, 2, ["text"])) for encoder in (headed, towers(seed)))
    assert after[0] > before[0] + 0.1  # share of top-2 candidates of the planted kind
    assert after[1] > before[1] + 0.2  # accuracy on questions that were neither trained nor validated on


def _held_out(table, folder, search):
    """Hit rate and accuracy of the top 2 on the test questions: the planted reader, mixed, is right if one names the colour."""
    served = data(folder, table, None, search=search)
    served.prepare_data()
    search.load(served.documents(), served._image_store(), served.evidence_folder())
    queries = served.split_queries("test")
    told = [[c.document.text.split()[-1] for c in one.candidates] for one in search.retrieve(queries)]
    hit = np.mean([[colour == q.answer for colour in colours] for q, colours in zip(queries, told, strict=True)])
    accuracy = np.mean([q.answer in colours for q, colours in zip(queries, told, strict=True)])
    return float(hit), float(accuracy)


def test_t_score_is_chosen_on_validation_and_told(world, caplog):
    with caplog.at_level(logging.INFO):
        module = stage(t_score=[0.02, 0.2])
        found = fit(world, module)
    assert module.t_score in (0.02, 0.2)
    assert found["val/t_score"] == pytest.approx(module.t_score)
    assert f"t_score {module.t_score} chosen" in caplog.text
    told = [float(word.rstrip(",")) for word in caplog.text.split("validation by value: ")[1].split()[1:4:2]]
    other = stage(t_score=0.2 if module.t_score == 0.02 else 0.02)
    worse = fit(world, other)["val/frozen_loss"]
    assert found["val/frozen_loss"] <= worse
    assert sorted(told) == pytest.approx(sorted([found["val/frozen_loss"], worse]), abs=1e-3)


def test_learning_from_the_best_few_of_a_pool(world):
    """The pool is searched anew at every step; candidates outside the present top carry no gradient."""
    module = stage(heads(["text"]), candidates=4)
    fit(world, module)
    folder, table, scores = world
    served = data(folder, table, scores)
    fitter = trainer(folder, fast_dev_run=True)
    fitter.fit(module, datamodule=served)
    batch = next(iter(served.train_dataloader()))
    pool = batch.pools["text"]
    score = torch.randn(pool.valid_BK.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    module.train()
    module._loss(batch, "text", score, score.detach()).backward()
    assert ((score.grad != 0).sum(1) <= 4).all()
    first = score.detach().topk(4, dim=1).indices
    assert float(score.grad.gather(1, first).abs().sum()) == pytest.approx(float(score.grad.abs().sum()))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="would be ignored: gold emdr2"):
        stage(gold="emdr2", prior="none")
    with pytest.raises(ValueError, match="length_normalised would be ignored"):
        stage(gold="pdist", length_normalised=True)
    with pytest.raises(ValueError, match="prior_by_t_score=false would be ignored"):
        stage(prior="none", prior_by_t_score=False)
    with pytest.raises(ValueError, match="t_score must be positive"):
        stage(t_score=[0.1, 0.0])
    with pytest.raises(ValueError, match="candidates must be at least 2"):
        stage(candidates=1)
    with pytest.raises(ValueError, match="no live reader"):
        stage(reader_from="x.ckpt")
    with pytest.raises(ValueError, match="scale must be positive"):
        stage(scale=0.0)


@pytest.mark.parametrize("gold", ["pdist", "emdr2", "loop", "class_posterior_double_softmax"])
def test_every_gold_score_teaches(world, gold):
    found = fit(world, stage(gold=gold, optimizer=partial(torch.optim.AdamW, lr=2e-2), skip_agreeing=gold == "loop"), 4)
    assert found["val/loss"] < found["val/frozen_loss"]
