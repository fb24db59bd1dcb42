"""Weighted similarities: start, constraints, standardisation (R03), missing sides, scopes, checkpoints, weights by hand."""

import json

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from medrag_lightning.interfaces import LearnedFusion, SimilarityFusion
from medrag_lightning.models.fusion_gate import statistics
from medrag_lightning.models.similarity_fusion import FixedFusion, TrainedFusion, WeightedSimilarities
from medrag_lightning.records import Channel, Query

THREE = ["image_to_text", "image_to_image", "text_to_text"]
QUERIES = [Query(f"q{n}", "?", modality=name) for n, name in enumerate(["CT", "MR", None, "xray"])]


def cosines(seed=0, queries=4, pool=6):
    rng = np.random.default_rng(seed)
    return (np.array([0.1, 0.7, 0.3]) + np.array([0.02, 0.1, 0.05]) * rng.normal(size=(queries, pool, 3))).astype(np.float32)


def order(fusion, similarity):
    return np.argsort(-fusion.scores(similarity, QUERIES), axis=1).tolist()


def save(fusion, path):
    state = {f"fusion.{name}": value for name, value in fusion.state_dict().items() if name != "log_tau" or fusion.learn_tau}
    head = {"stage": "fusion_nce", "version": "0", "description": {"fusion": fusion.describe()}}
    torch.save({"state_dict": state, "medrag": json.loads(json.dumps(head))}, path)
    return str(path)


def changed(scope, **settings):
    fusion = WeightedSimilarities(scope=scope, **settings)
    fusion.prepare(["MR", "CT", "ct "])
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return fusion


@pytest.mark.parametrize("scope", ["global", "per_modality", "per_query"])
@pytest.mark.parametrize("constraint", ["none", "softplus", "simplex"])
def test_every_scope_and_constraint_starts_at_one_over_m(scope, constraint):
    fusion = WeightedSimilarities(scope=scope, constraint=constraint)
    fusion.prepare(["CT", "MR"])
    assert isinstance(fusion, LearnedFusion)
    weight = fusion.query_weights(torch.from_numpy(cosines()), [q.modality for q in QUERIES]).detach()
    torch.testing.assert_close(weight, torch.full((4, 3), 1 / 3))
    uniform = FixedFusion(dict.fromkeys(THREE, 1 / 3))
    np.testing.assert_allclose(fusion.scores(cosines(), QUERIES), uniform.scores(cosines(), QUERIES), atol=1e-6)


def test_constraints_hold_wherever_the_weights_go():
    for scope in ("global", "per_modality", "per_query"):
        simplex, softplus = changed(scope, constraint="simplex"), changed(scope, constraint="softplus")
        names = [query.modality for query in QUERIES]
        shares = simplex.query_weights(torch.from_numpy(cosines()), names).detach()
        torch.testing.assert_close(shares.sum(1), torch.ones(4))
        lengths = softplus.query_weights(torch.from_numpy(cosines()), names).detach()
        torch.testing.assert_close(lengths.norm(dim=1), torch.full((4,), 3**-0.5))
        assert (shares > 0).all()
        assert (lengths > 0).all()


def test_scaling_a_channel_changes_nothing_when_standardised():
    """R03: all image-image cosines times 3."""
    weights = {"image_to_text": 0.6, "image_to_image": 0.3, "text_to_text": 0.1}
    scaled = cosines(pool=30) * np.array([1, 3, 1], np.float32)
    for make in (lambda on: FixedFusion(weights, standardise=on), lambda on: changed("global", standardise=on)):
        assert order(make(True), cosines(pool=30)) == order(make(True), scaled)
        assert order(make(False), cosines(pool=30)) != order(make(False), scaled)


def test_without_standardisation_it_is_the_published_sum():
    fusion = FixedFusion({"image_to_text": 0.6, "image_to_image": 0.3, "text_to_text": 0.1}, standardise=False)
    np.testing.assert_allclose(fusion.scores(cosines(), QUERIES), cosines() @ np.array([0.6, 0.3, 0.1]), rtol=1e-5)


@pytest.mark.parametrize("standardise", [True, False])
def test_missing_sides_count_as_the_mean_and_padding_has_no_score(standardise):
    fusion = FixedFusion(dict.fromkeys(THREE, 1.0), standardise)
    given = cosines()
    given[0, 2, 1], given[1, 5], given[2, :, 2] = np.nan, np.nan, np.nan
    score = fusion.scores(given, QUERIES)
    assert np.isnan(score).nonzero() == (np.array([1]), np.array([5]))
    filled = given.copy()
    filled[0, 2, 1] = np.nanmean(given[0, :, 1].astype(np.float64))
    filled[2, :, 2] = 0
    if not standardise:  # with it a filled value changes the variance
        np.testing.assert_allclose(score[[0, 2]], fusion.scores(filled, QUERIES)[[0, 2]], atol=1e-6)
    alone = FixedFusion({"image_to_image": 1.0}, standardise).scores(given[:, :, 1:2], QUERIES)
    assert np.isnan(alone[0, 2])
    shorter = fusion.scores(given[:, :5], QUERIES)
    np.testing.assert_allclose(shorter[1], score[1, :5], atol=1e-5)


def test_a_constant_channel_says_nothing():
    given = cosines()
    given[:, :, 2] = 0.37
    full = FixedFusion({"image_to_text": 1.0, "image_to_image": 0.5, "text_to_text": 9.0}).scores(given, QUERIES)
    two = FixedFusion({"image_to_text": 1.0, "image_to_image": 0.5}).scores(given[:, :, :2], QUERIES)
    np.testing.assert_allclose(full, two, atol=1e-6)


def test_unknown_modalities_fall_back_on_the_shared_weights():
    fusion = changed("per_modality")
    assert fusion.modalities == ("ct", "mr")
    weight = fusion.query_weights(torch.from_numpy(cosines()), ["CT", "MR", None, "xray"]).detach()
    shared = fusion.shared_weights().detach()
    assert torch.equal(weight[2], shared)
    assert torch.equal(weight[3], shared)
    own = fusion.modality_weights()
    assert torch.equal(weight[0], own["ct"])
    assert torch.equal(weight[1], own["mr"])
    assert not torch.equal(own["ct"], own["mr"])
    with pytest.raises(ValueError, match="no training question tells its modality"):
        WeightedSimilarities(scope="per_modality").prepare([])


@pytest.mark.parametrize("scope", ["per_modality", "per_query"])
def test_own_weights_pass_no_gradient_to_the_shared_ones(scope):
    fusion = changed(scope)
    fusion.query_weights(torch.from_numpy(cosines()), ["ct", "mr", None, "ct"]).square().sum().backward()
    assert fusion.shared.grad is None
    own = [parameter for name, parameter in fusion.named_parameters() if name not in ("shared", "log_tau")]
    assert all(parameter.grad.abs().sum() > 0 for parameter in own)


def test_the_gate_sees_what_a_channel_looks_like():
    """Mean, spread, the best one's lead and the agreement with others; padding and missing channels change nothing."""
    given = torch.from_numpy(cosines(pool=40)).double().float()
    seen = statistics(given).reshape(4, 5, 3)
    torch.testing.assert_close(seen[:, 0], given.mean(1))
    torch.testing.assert_close(seen[:, 1], given.std(1, correction=0).log10() + 1)
    best = given.topk(2, dim=1).values
    torch.testing.assert_close(seen[:, 3], (best[:, 0] - best[:, 1]) / given.std(1, correction=0), rtol=1e-4, atol=1e-4)
    pearson = np.corrcoef(given[0].numpy().T)
    assert float(seen[0, 4, 0]) == pytest.approx((pearson[0, 1] + pearson[0, 2]) / 2, abs=1e-4)
    padded = torch.nn.functional.pad(given, (0, 0, 0, 3), value=torch.nan)
    torch.testing.assert_close(statistics(padded).reshape(4, 5, 3), seen)
    given[1, :, 2] = torch.nan
    assert (statistics(given).reshape(4, 5, 3)[1, :, 2] == 0).all()
    assert statistics(given).isfinite().all()


@pytest.mark.parametrize("scope", ["global", "per_modality", "per_query"])
@pytest.mark.parametrize("learn_tau", [True, False])
def test_a_checkpoint_brings_the_fusion_back(tmp_path, scope, learn_tau):
    fusion = changed(scope, constraint="simplex", learn_tau=learn_tau)
    if not learn_tau:
        fusion.log_tau.data.fill_(np.log(0.07))
    trained = TrainedFusion(save(fusion, tmp_path / "a.ckpt"))
    assert isinstance(trained, SimilarityFusion)
    assert trained.channels == tuple(Channel(name) for name in THREE)
    np.testing.assert_allclose(trained.scores(cosines(), QUERIES), fusion.scores(cosines(), QUERIES), atol=1e-6)
    assert trained.fingerprint() == fusion.fingerprint() != changed("global").fingerprint()
    shared = TrainedFusion(str(tmp_path / "a.ckpt"), shared=True).scores(cosines(), QUERIES)
    expected = FixedFusion(dict(zip(THREE, fusion.shared_weights().tolist(), strict=True))).scores(cosines(), QUERIES)
    np.testing.assert_allclose(shared, expected, atol=1e-5)


def test_other_files_and_contradictions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such checkpoint; fit the stage fusion_nce first"):
        _ = TrainedFusion(str(tmp_path / "none.ckpt")).channels
    torch.save({"state_dict": {}, "medrag": {"stage": "reader_raft", "description": {}}}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match="TrainedFusion needs a checkpoint of stage 'fusion_nce'"):
        _ = TrainedFusion(str(tmp_path / "b.ckpt")).channels
    fusion = changed("per_query")
    with pytest.raises(ValueError, match="scope: checkpoint 'per_query', here 'global'"):
        WeightedSimilarities().restore(fusion.describe())
    with pytest.raises(ValueError, match="modalities"):
        changed("per_query").restore({**fusion.describe(), "modalities": ["ct"]})
    for wrong in ({"gate_width": 8}, {"tau": 0.0}, {"channels": []}, {"channels": ["text_to_text"] * 2}):
        with pytest.raises(ValueError, match=r"gate_width|tau|channels"):
            WeightedSimilarities(**wrong)
    with pytest.raises(ValueError, match="not all 0"):
        FixedFusion({"text_to_text": 0.0})


def test_another_scope_starts_from_published_weights():
    published, fusion = changed("global"), WeightedSimilarities(scope="per_query")
    fusion.prepare(["ct"])
    fusion.start_from(published.describe(), dict(published.state_dict()), "a.ckpt")
    weight = fusion.query_weights(torch.from_numpy(cosines()), ["ct", None, "mr", "ct"]).detach()
    torch.testing.assert_close(weight, published.shared_weights().detach().expand(4, 3))
    with pytest.raises(ValueError, match="constraint"):
        WeightedSimilarities(constraint="simplex").start_from(published.describe(), dict(published.state_dict()), "a.ckpt")


def test_weights_by_hand_are_one_yaml_line():
    parser = ArgumentParser()
    parser.add_argument("--fusion", type=SimilarityFusion)
    line = "{class_path: medrag_lightning.models.similarity_fusion.FixedFusion, init_args: {weights: {image_to_text: 1}}}"
    made = parser.instantiate_classes(parser.parse_args([f"--fusion={line}"])).fusion
    assert made.channels == (Channel.IMAGE_TO_TEXT,)
    one = cosines()[:, :, :1]
    assert order(made, one) == np.argsort(-one[:, :, 0], axis=1).tolist()
