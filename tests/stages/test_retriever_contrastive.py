"""The contrastive stage on the toy: it learns, resumes, hands over its weights, and chunks change nothing."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from toy import data, trainer

from callbacks.retrieval_table import RetrievalTable
from medrag_lightning.data.facts import TermFacts
from medrag_lightning.data.factual_plan import FactualPlan
from medrag_lightning.data.pair_feed import PairPlan
from medrag_lightning.models.dual_encoder import HfDualEncoder
from medrag_lightning.models.tiny_clip import TinyClip
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.models.trained_encoder import TrainedEncoder
from medrag_lightning.stages.retriever_contrastive import RetrieverContrastive

ADAMW = partial(torch.optim.AdamW, lr=3e-3)
SGD = partial(torch.optim.SGD, lr=0.1)
CLIP = {"hidden": 32, "layers": 1, "image_side_px": 32, "patch_px": 16, "vocabulary": 320}


def towers(**settings):
    return TinyTowers(**{"dim": 32, "hidden": 32, "dropout": 0.1, **settings})


def stage(encoder=None, optimizer=ADAMW, **settings):
    return RetrieverContrastive(encoder or towers(), optimizer, **settings)


def pairs(folder, **settings):
    """The toy's pairs, its held-out questions' own among them: nothing here asks those questions."""
    sizes = {"batch_size": 7, "eval_batch_size": 2}
    return data(folder, **{"pairs": PairPlan(0.2, 0.2), "leaks": "ignore", **sizes, **settings})


def fit(folder, module, epochs=2, data_settings=None, **settings):
    run = trainer(folder, max_epochs=epochs, **settings)
    run.fit(module, datamodule=pairs(folder, **(data_settings or {})))
    return run


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_images_find_their_colour(tmp_path, loss):
    module = stage(loss=loss, init_temperature=0.1)
    run = fit(tmp_path, module, epochs=20)
    found = {name: float(value) for name, value in run.callback_metrics.items()}
    assert found["val/image_to_text_recall@1"] == 1
    assert found["val/text_to_image_mrr"] == 1
    assert found["train/temperature"] > 0.01
    run.test(module, datamodule=pairs(tmp_path), verbose=False)
    assert list(module.rankings) == ["trained", "untrained"]
    assert module.rankings["trained"].rank_N["image_to_text"].tolist() == [1] * 5


def test_validation_does_not_depend_on_batches(tmp_path):
    module, found = stage(), []
    fit(tmp_path, module, epochs=1)
    for size in (1, 3, 50):
        run = trainer(tmp_path)
        found.append(run.validate(module, datamodule=pairs(tmp_path, eval_batch_size=size), verbose=False)[0])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] == pytest.approx(found[2], abs=1e-6)
    assert "val/image_to_text_recall@5" in found[0]


@pytest.mark.parametrize("make", [towers, lambda: TinyClip(**CLIP), lambda: TinyClip("siglip", **CLIP)])
def test_chunks_change_nothing(tmp_path, make):
    ends = {}
    for size in (None, 3):
        encoder = make() if make is not towers else towers(dropout=0.0)
        module = stage(encoder, SGD, chunk_size=size)
        fit(tmp_path, module, gradient_clip_val=1.0, accumulate_grad_batches=2)
        ends[size] = weights(module)
    for name, value in ends[None].items():
        torch.testing.assert_close(ends[3][name], value, atol=1e-6, rtol=0, msg=name)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    whole = stage(chunk_size=3)
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(tmp_path, whole, epochs=3, enable_checkpointing=True, callbacks=[keep])
    resumed = stage(chunk_size=3)
    run = trainer(tmp_path, max_epochs=3)
    run.fit(resumed, datamodule=pairs(tmp_path), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, atol=0, rtol=0, msg=name)


def test_the_checkpoint_serves_the_next_steps(tmp_path):
    module = stage(TinyClip(**CLIP))
    run = fit(tmp_path, module, epochs=1)
    run.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == module.trainable_names()
    trained = TrainedEncoder(TinyClip(**CLIP), str(tmp_path / "end.ckpt"))
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green")]
    np.testing.assert_allclose(trained.embed_images(images), module.encoder.embed_images(images), atol=1e-6)
    assert trained.fingerprint() == module.encoder.fingerprint()
    onward = stage(TinyClip(**CLIP), init_from=str(tmp_path / "end.ckpt"))
    trainer(tmp_path).validate(onward, datamodule=pairs(tmp_path), verbose=False)
    for name, value in weights(module).items():
        assert torch.equal(weights(onward)[name], value), name


def test_the_table_stands_beside_no_training_and_chance(tmp_path, capsys):
    module = stage()
    fit(tmp_path, module, epochs=3)
    run = trainer(tmp_path, callbacks=[RetrievalTable(resamples=100)])
    run.test(module, datamodule=pairs(tmp_path), verbose=False)
    printed = capsys.readouterr().out
    for words in ("image to text", "text to image", "trained", "untrained", "chance", "recall@5", "MRR", "5 held-out pairs"):
        assert words in printed
    assert (tmp_path / "retrieval.json").exists()


def test_the_temperature_has_a_floor(tmp_path):
    module = stage(init_temperature=0.5, min_temperature=0.4, optimizer=partial(torch.optim.SGD, lr=100.0))
    fit(tmp_path, module, epochs=2)
    assert (-module.log_scale).exp().item() >= 0.4 - 1e-6


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least min_temperature"):
        stage(init_temperature=0.001)
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        stage(chunk_size=0)
    with pytest.raises(ValueError, match="no torch module"):
        stage(TinyDualEncoder())
    with pytest.raises(ValueError, match="no weight of TinyClip trains"):
        fit(tmp_path, stage(TinyClip(**CLIP, freeze="all")))
    normed = towers()
    normed.norm = torch.nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="change the statistics of BatchNorm1d"):
        fit(tmp_path, stage(normed, chunk_size=2))
    module = stage()
    fit(tmp_path, module, epochs=1).save_checkpoint(tmp_path / "end.ckpt")
    with pytest.raises(ValueError, match="trained with loss 'clip'"):
        fit(tmp_path, stage(loss="siglip", init_from=str(tmp_path / "end.ckpt")))
    with pytest.raises(ValueError, match="stage embed"):
        trainer(tmp_path).predict(module, datamodule=pairs(tmp_path))
    assert HfDualEncoder("anything").freeze == "all"


def test_pairs_that_state_the_same_are_positives_and_right_answers(tmp_path, capsys):
    """All texts of the toy say a colour: with one fact for two colours, each is as good as the other."""
    facts = TermFacts({"warm": ["red", "grey"], "cold": ["green", "blue"]})
    metrics = {}
    for in_batch in (True, False):
        plan = PairPlan(0.2, 0.2, factual=FactualPlan(facts, 1.0, 1, in_batch))
        module = stage(init_temperature=0.1)
        run = fit(tmp_path, module, epochs=12, data_settings={"pairs": plan})
        run = trainer(tmp_path, callbacks=[RetrievalTable(resamples=100)])
        metrics[in_batch] = run.test(module, datamodule=pairs(tmp_path, pairs=plan), verbose=False)[0]
    told = json.loads((tmp_path / "retrieval.json").read_text(encoding="utf-8"))
    assert "states nearly the same" in capsys.readouterr().out
    assert set(told["factual"]) == {"pairs", "rows", "differences", "notes"}
    assert metrics[False]["test/image_to_text_recall@1"] == 1  # colours are told apart
    assert metrics[True]["test/image_to_text_recall@1"] < 1  # nothing tells them apart any more
    assert metrics[True]["test/factual_image_to_text_recall@1"] == 1
    assert module.factual_rankings["trained"].right_N["image_to_text"].max() == 2
