"""Intervals: reproducible, of the right width, and wider where items hang together."""

import math

import numpy as np
import pytest

from medrag_lightning.metrics import Bootstrap, bootstrap, macro_f1, paired_bootstrap, weighted_mean


def ids(n):
    return [f"q{i}" for i in range(n)]


def test_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = np.repeat([0.0, 1.0], [120, 280])
    metric = Bootstrap(resamples=4000).metric(weighted_mean(values), ids(400))
    half = 1.96 * math.sqrt(0.7 * 0.3 / 400)
    assert metric.value == pytest.approx(0.7)
    assert (metric.low, metric.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.006)
    assert metric.n == 400


def test_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    settings = Bootstrap(resamples=300)
    hits = 0
    for _ in range(200):
        metric = settings.metric(weighted_mean((rng.random(100) < 0.6).astype(float)), ids(100))
        hits += metric.low <= 0.6 <= metric.high
    assert 0.89 <= hits / 200 <= 0.99


def test_same_seed_same_interval_and_chunks_do_not_change_it(monkeypatch):
    values = np.random.default_rng(1).random(50)
    first = Bootstrap(seed=3).metric(weighted_mean(values), ids(50))
    assert Bootstrap(seed=3).metric(weighted_mean(values), ids(50)) == first
    assert Bootstrap(seed=4).metric(weighted_mean(values), ids(50)) != first
    monkeypatch.setattr("medrag_lightning.metrics.bootstrap.CHUNK_ELEMENTS", 501)
    assert Bootstrap(seed=3).metric(weighted_mean(values), ids(50)) == first


def test_clusters_of_equal_answers_widen_the_interval():
    values = np.repeat(np.random.default_rng(2).random(40) < 0.5, 10).astype(float)
    patients = [f"p{i // 10}" for i in range(400)]
    alone = Bootstrap().metric(weighted_mean(values), ids(400))
    together = Bootstrap().metric(weighted_mean(values), patients)
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.15)


def test_weights_draw_whole_clusters():
    clusters = ["a", "a", "b", "c", "c", "c"]
    weights = np.concatenate(list(Bootstrap(resamples=200).weights(clusters)))
    assert weights.shape == (200, 6)
    assert np.all(weights[:, 0] == weights[:, 1])
    assert np.all(weights[:, 0] + weights[:, 2] + weights[:, 3] == 3)


def test_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(4)
    hard = rng.random(300)
    a, b = (hard < 0.7).astype(float), (hard < 0.6).astype(float)
    gap = paired_bootstrap(a, b, ids(300))
    assert gap.value == pytest.approx(a.mean() - b.mean())
    assert 0 < gap.low < gap.value < gap.high
    assert paired_bootstrap(a, a, ids(300)).high == 0
    with pytest.raises(ValueError, match="one length"):
        paired_bootstrap(a, b[:-1], ids(300))


def test_what_cannot_be_computed_says_why():
    settings = Bootstrap()
    empty = settings.metric(weighted_mean([]), [])
    assert math.isnan(empty.value)
    assert empty.reason == "no items"
    single = settings.metric(weighted_mean([1.0, 0.0]), ["p", "p"])
    assert single.value == 0.5
    assert math.isnan(single.low)
    assert "one cluster" in single.reason
    assert settings.metric(weighted_mean([math.nan, 1.0]), ids(2)).reason == "undefined for these items"
    assert empty.as_json() == {"value": None, "low": None, "high": None, "n": 0, "reason": "no items"}


def test_macro_f1_interval_equals_a_loop_over_sklearn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(5)
    gold, answers = (rng.integers(0, 3, 60).astype(str) for _ in range(2))
    settings = Bootstrap(resamples=100)
    weights = np.concatenate(list(settings.weights(ids(60))))
    # ids sort as text, and weights follow the items: each row repeats items
    loop = [f1_score(gold.repeat(w.astype(int)), answers.repeat(w.astype(int)), average="macro") for w in weights]
    metric = settings.metric(macro_f1(gold.tolist(), answers.tolist()), ids(60))
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(loop, [0.025, 0.975])), abs=1e-12)


@pytest.mark.parametrize(("field", "value"), [("resamples", 10), ("confidence", 1.0)])
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Bootstrap(**{field: value})


def test_kept_weights_are_those_that_would_be_drawn(monkeypatch):
    clusters = [f"p{i // 3}" for i in range(30)]
    kept = np.concatenate(list(Bootstrap(resamples=100).weights(clusters)))
    monkeypatch.setattr(bootstrap, "KEPT_ELEMENTS", 0)
    monkeypatch.setattr(bootstrap, "CHUNK_ELEMENTS", 30 * 100)
    np.testing.assert_array_equal(np.concatenate(list(Bootstrap(resamples=100).weights(clusters))), kept)
    assert (kept[:, ::3] == kept[:, 1::3]).all()
