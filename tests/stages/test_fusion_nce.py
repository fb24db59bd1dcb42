"""Learned fusion: planted weights (R01), scopes against the published one, checkpoints, resume, numbers, readable weights."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from fusion_world import ALPHA_BETA_GAMMA, CHANNELS, Arrays, direction, fit, fused, planted, stage, trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from medrag_lightning.batches import FusionBatch
from medrag_lightning.interfaces import ServedStage
from medrag_lightning.models.similarity_fusion import TrainedFusion
from medrag_lightning.records import Channel
from medrag_lightning.stages import fusion_nce
from medrag_lightning.stages.fusion_metrics import order_metrics

FAST = partial(torch.optim.Adam, lr=0.05)
TRUE = direction(ALPHA_BETA_GAMMA)


LOSSES = [{}, {"loss": "listwise", "tau": 0.3}, {"loss": "kl", "tau": 1.0}, {"loss": "marginal", "tau": 0.3}]


@pytest.mark.parametrize("settings", LOSSES)
def test_planted_weights_are_found(tmp_path, settings):
    """R01, for each loss, from reader's confidences with noise; and the order they give is better than any one similarity's."""
    module = stage(FAST, **settings)
    assert isinstance(module, ServedStage)
    found = fit(module, tmp_path, planted(4000), planted(500, seed=1))
    assert fused(module) @ TRUE > 0.998
    assert np.abs(fused(module) - TRUE).max() < 0.06
    rivals = [found[f"{name}_confidence"] for name in (*CHANNELS, "uniform", "random")]
    assert found["confidence"] > max(rivals) + 0.02
    assert found["oracle_confidence"] > found["confidence"]
    assert found["mrr"] > found["uniform_mrr"] > found["random_mrr"]
    assert found["weight_image_to_text"] == pytest.approx(fused(module)[0], abs=1e-5)
    assert found["spread_image_to_image"] == pytest.approx(0.1, abs=1e-3)


def test_only_unconstrained_weights_grow_in_length(tmp_path):
    """R01, trap 1: where the positive can always be told, the loss is lowered by length alone; the direction stays."""
    data = planted(1000, noise=0.0)
    lengths = {}
    for constraint in ("none", "softplus", "simplex"):
        for epochs in (10, 40):
            module = stage(FAST, constraint=constraint, tau=0.3)
            fit(module, tmp_path, data, epochs=epochs, limit_val_batches=0)
            weight = module.fusion.shared_weights().detach()
            lengths[constraint, epochs] = float(weight.norm())
            if constraint == "simplex":
                assert float(weight.sum()) == pytest.approx(1.0, abs=1e-6)
            assert fused(module) @ TRUE > 0.97
    assert lengths["none", 40] > 1.2 * lengths["none", 10] > 1.2 * 3**-0.5
    assert lengths["softplus", 40] == pytest.approx(lengths["softplus", 10]) == pytest.approx(3**-0.5)
    assert lengths["simplex", 40] <= 1.0


def by_modality(count, seed=0, different=True):
    names = ["CT" if n % 2 else "MR" for n in range(count)]
    weights = {"CT": [0.9, 0.1, 0.0], "MR": [0.0, 0.3, 0.9]} if different else dict.fromkeys(("CT", "MR"), ALPHA_BETA_GAMMA)
    return planted(count, weight_NM=np.array([weights[name] for name in names]), seed=seed, modality=names)


def numbers_of(module, items, folder):
    fitter = trainer(folder)
    fitter.test(module, datamodule=Arrays(items, items), verbose=False)
    return {name.split("/")[1]: float(value) for name, value in fitter.callback_metrics.items()}


@pytest.mark.parametrize("different", [True, False])
def test_weights_by_modality_win_where_modalities_differ_and_only_there(tmp_path, different):
    """And the shared weights of the same run are, to the bit, those of a run of scope global."""
    train, val = by_modality(3000, different=different), by_modality(600, seed=1, different=different)
    module, published = stage(FAST, scope="per_modality"), stage(FAST)
    found, plain = fit(module, tmp_path, train, val), fit(published, tmp_path, train, val)
    assert torch.equal(module.fusion.shared, published.fusion.shared)
    for name in ("loss", "confidence", "mrr", "recall@1"):
        assert found[f"global_{name}"] == pytest.approx(plain[name], abs=1e-6)
    gain = found["confidence"] - found["global_confidence"]
    assert gain > 0.08 if different else abs(gain) < 0.01
    if different:
        own = module.fusion.modality_weights()
        assert direction(own["ct"]) @ direction([0.9, 0.1, 0.0]) > 0.98
        assert direction(own["mr"]) @ direction([0.0, 0.3, 0.9]) > 0.98
    strangers = by_modality(200, seed=2, different=different)
    strangers.modality = ["PET"] * 200
    tested = numbers_of(module, strangers, tmp_path)
    rows = json.loads((tmp_path / "fusion_comparison.json").read_text())
    assert list(rows) == ["fusion", "global", "uniform", *CHANNELS, "random", "oracle"]
    assert rows["uniform"]["mrr"] == pytest.approx(tested["uniform_mrr"])
    assert tested["confidence"] == pytest.approx(tested["global_confidence"], abs=1e-6)


def spoilt(count, seed=0, spoil=True):
    """Every second query's image is spoilt: both its image similarities are narrow noise, only its words tell."""
    items = planted(count, weight_NM=np.array([[0.6, 0.3, 0.4]]), noise=0.1, seed=seed)
    if spoil:
        words = planted(count, weight_NM=np.array([[0.0, 0.0, 1.0]]), noise=0.1, seed=seed)
        half = np.arange(count) % 2 == 1
        rng = np.random.default_rng(seed + 100)
        items.similarity_NKM[half, :, 2] = words.similarity_NKM[half, :, 2]
        noise = rng.normal(size=(count, items.similarity_NKM.shape[1], 2)) * [0.003, 0.01]
        items.similarity_NKM[half, :, :2] = (np.array([0.1, 0.7]) + noise)[half]
        items.log_confidence_NK[half] = words.log_confidence_NK[half]
        items.rank_NK[half] = words.rank_NK[half]
    return items


@pytest.mark.parametrize("spoil", [True, False])
def test_weights_by_query_win_where_a_similarity_is_sometimes_worthless_and_only_there(tmp_path, spoil):
    torch.manual_seed(0)
    module = stage(FAST, scope="per_query")
    found = fit(module, tmp_path, spoilt(3000, spoil=spoil), spoilt(600, seed=1, spoil=spoil))
    gain = found["mrr"] - found["global_mrr"]
    assert gain > 0.1 if spoil else gain < 0.01
    assert found["confidence"] > found["global_confidence"] + (0.02 if spoil else -0.01)


def test_chance_ties_and_queries_that_tell_nothing_in_the_numbers():
    confidence = torch.tensor([[0.9, 0.5, 0.2, 0.1], [0.4, 0.4, 0.4, 0.4], [0.3, 0.8, 0.1, 0.1]]).log()
    confidence[2, 3] = torch.nan
    rank = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [1, 0, 2, 3]])
    batch = FusionBatch((Channel.TEXT_TO_TEXT,), torch.zeros(3, 4, 1), confidence, rank, (None,) * 3)
    chance = order_metrics(torch.zeros(3, 4), batch)
    torch.testing.assert_close(chance["confidence"], torch.tensor([0.425, 0.4, 0.4]))
    torch.testing.assert_close(chance["mrr"], torch.tensor([25 / 48, torch.nan, 11 / 18]), equal_nan=True)
    torch.testing.assert_close(chance["recall@1"], torch.tensor([1 / 4, torch.nan, 1 / 3]), equal_nan=True)
    told = order_metrics(torch.tensor([[2.0, 3.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 9.0]]), batch)
    torch.testing.assert_close(told["confidence"], torch.tensor([0.5, 0.4, 0.55]))
    torch.testing.assert_close(told["mrr"], torch.tensor([0.5, torch.nan, 0.75]), equal_nan=True)
    torch.testing.assert_close(told["recall@1"], torch.tensor([0.0, torch.nan, 0.5]), equal_nan=True)


@pytest.mark.parametrize("scope", ["global", "per_modality", "per_query"])
def test_a_checkpoint_resumes_searches_and_is_told_in_words(tmp_path, scope, monkeypatch):
    """Ten epochs at once, or five and five more; the best checkpoint's weights are written beside it."""
    said = []
    monkeypatch.setattr(fusion_nce, "rank_zero_info", said.append)
    train, val = by_modality(600), by_modality(300, seed=1)

    def run(folder, epochs, resume=None):
        torch.manual_seed(0)
        best = ModelCheckpoint(folder / "checkpoints", "best-{step}", "val/loss", save_last=True)
        module = stage(FAST, scope=scope)
        module.schedule = type(module.schedule)("constant", 0.0)
        fitter = trainer(folder, max_epochs=epochs, callbacks=[best], enable_checkpointing=True)
        fitter.fit(module, datamodule=Arrays(train, val, 100), ckpt_path=resume, weights_only=True)
        return module, best

    whole, _ = run(tmp_path / "whole", 6)
    run(tmp_path / "part", 3)
    resumed, kept = run(tmp_path / "part", 6, str(tmp_path / "part/checkpoints/last.ckpt"))
    for name, value in whole.fusion.state_dict().items():
        assert torch.equal(resumed.fusion.state_dict()[name], value), name
    saved = torch.load(kept.best_model_path, weights_only=True)
    assert {name.split(".")[1] for name in saved["state_dict"]} <= {"shared", "deviation", "gate"}
    json.dumps(saved["medrag"])
    told = json.loads((tmp_path / "part/checkpoints/fusion_weights.json").read_text())
    trained = TrainedFusion(kept.best_model_path)._loaded()
    np.testing.assert_allclose(list(told["shared"]["direction"].values()), fused(type("M", (), {"fusion": trained})), atol=1e-5)
    assert list(told["shared"]["direction"]) == list(CHANNELS)
    assert told["shared"]["norm"] == pytest.approx(float(trained.shared.norm()), rel=1e-5)
    kinds = {"global": set(), "per_modality": {"by_modality"}, "per_query": {"over_queries"}}[scope]
    assert {"by_modality", "over_queries"} & set(told) == kinds
    for kind in kinds:
        assert {name.casefold() for name in told[kind]} == {"ct", "mr"}
    assert said[0].startswith("fusion weights (")


def test_another_scope_starts_from_the_published_weights(tmp_path):
    published = stage(FAST)
    fitter = trainer(tmp_path, max_epochs=2)
    fitter.fit(published, datamodule=Arrays(by_modality(600), by_modality(100)))
    fitter.save_checkpoint(tmp_path / "a.ckpt")
    module = stage(FAST, scope="per_modality", init_from=str(tmp_path / "a.ckpt"))
    found = fit(module, tmp_path, by_modality(600), epochs=1, limit_train_batches=0)
    assert not found
    assert torch.equal(module.fusion.shared, published.fusion.shared)


def test_settings_that_would_be_ignored_are_refused(tmp_path):
    for wrong in ({"loss": "hard", "t_confidence": 1.0}, {"loss": "kl", "negatives": 4}, {"negatives": 0}):
        with pytest.raises(ValueError, match=r"ignored|at least 1"):
            stage(**wrong)
    with pytest.raises(ValueError, match=r"fusion weighs text_to_image, data.fusion.channels has"):
        fit(stage(channels=["text_to_image", "image_to_text"]), tmp_path, planted(64), epochs=1)


def test_a_run_may_use_some_of_the_channels_that_are_kept(tmp_path):
    module = stage(FAST, channels=["text_to_text", "image_to_text"])
    fit(module, tmp_path, planted(2000, weight_NM=np.array([[0.8, 0.0, 0.6]])))
    assert fused(module) @ direction([0.6, 0.8]) > 0.99
