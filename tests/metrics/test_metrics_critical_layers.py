"""Curves of blocked attention: a planted layer is chosen, a flat or noisy one gives none; layers stay with their reader."""

import json
import math

import numpy as np
import pytest

from medrag_lightning.metrics import Bootstrap, CriticalLayers, Knockout, LayerRule, layer_curve, layers_of, windows
from medrag_lightning.metrics.critical_layers import default_window

RULE = LayerRule(bootstrap=Bootstrap(resamples=400))


def samples(change_W, count=40, noise=0.02, seed=0, choices=True):
    """Questions, two of each patient, whose changes scatter around `change_W`."""
    rng = np.random.default_rng(seed)
    drawn = np.asarray(change_W) + rng.normal(0, noise, (count, len(change_W)))
    none = (math.nan,) * len(change_W)
    return [
        Knockout(f"q{n}", f"p{n // 2}", {"d": tuple(row.tolist())}, {"d": tuple((row / 2).tolist()) if choices else none})
        for n, row in enumerate(drawn)
    ]


def test_windows_are_centred_and_clipped():
    assert windows(5, 1) == [[0], [1], [2], [3], [4]]
    assert windows(6, 3) == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5]]
    assert len(windows(32, 9)) == 32
    assert windows(32, 9)[20] == list(range(16, 25))
    assert [default_window(n) for n in (1, 3, 8, 12, 24, 28, 32, 80)] == [1, 1, 3, 3, 7, 7, 9, 9]
    for n in (1, 2, 3, 4, 6, 12, 40):
        assert len(windows(n, default_window(n))) == n
    with pytest.raises(ValueError, match="an odd number of layers, so that it has a centre, got 4"):
        windows(32, 4)
    with pytest.raises(ValueError, match=r"a window of 9 layers cannot tell 3 layers apart.*for 1"):
        windows(3, 9)


def test_layers_that_lose_half_of_the_worst_are_kept():
    curve = layer_curve("d", samples([0.0, -0.1, -0.5, -0.8, -0.45, -0.3, 0.2], noise=0.01), RULE)
    assert curve.layers == (2, 3, 4)
    assert not curve.reason
    assert curve.first_token[3].value == pytest.approx(-0.8, abs=0.01)
    assert curve.first_token[3].low < -0.8 < curve.first_token[3].high < -0.75
    assert curve.choice[3].value == pytest.approx(curve.first_token[3].value / 2)
    assert layer_curve("d", samples([0.0, -0.1, -0.5, -0.8, -0.45, -0.3, 0.2], noise=0.01), RULE) == curve
    stricter = LayerRule(keep_share=0.9, bootstrap=RULE.bootstrap)
    assert layer_curve("d", samples([0.0, -0.1, -0.5, -0.8, -0.45, -0.3, 0.2], noise=0.01), stricter).layers == (3,)


def test_a_flat_curve_chooses_nothing():
    assert layer_curve("d", samples([0.1, 0.2, 0.3], noise=0), RULE).reason.startswith("no window lowers")
    assert "less than 1.00%" in layer_curve("d", samples([0.0, -0.005, 0.0], noise=0), RULE).reason
    assert layer_curve("d", samples([0.0, 0.0], noise=0), RULE).layers == ()


def test_noise_alone_seldom_chooses_a_layer():
    """The worst of 32 windows drops by chance; the test over all windows knows."""
    found = [layer_curve("d", samples([0.0] * 32, noise=0.5, seed=seed), RULE) for seed in range(40)]
    assert all(min(m.value for m in curve.first_token) < -0.01 for curve in found)
    assert sum(bool(curve.layers) for curve in found) <= 5
    assert any("may be chance" in curve.reason for curve in found)


def test_one_patient_gives_no_interval_and_no_choice():
    alone = [Knockout(s.query_id, "p", s.first_token, s.choice) for s in samples([0.0, -0.9])]
    curve = layer_curve("d", alone, RULE)
    assert curve.layers == ()
    assert "may be chance" in curve.reason
    assert "one cluster only" in curve.first_token[1].reason


def test_open_questions_have_no_choice():
    curve = layer_curve("d", samples([0.0, -0.5], choices=False), RULE)
    assert curve.layers == (1,)
    assert [metric.n for metric in curve.choice] == [0, 0]


@pytest.fixture
def written(tmp_path):
    def write(change_W):
        curve = layer_curve("d", samples(change_W), RULE)
        found = CriticalLayers({"reader": "a" * 64, "window": 1}, windows(3, 1), [curve], 40, 20, 50, RULE)
        path = tmp_path / "critical_layers.json"
        path.write_text(json.dumps(found.as_json(), allow_nan=False))
        return path

    return write


def test_layers_are_read_for_their_own_reader_only(written, tmp_path):
    path = written([0.0, -0.5, -0.4])
    assert layers_of(path, "a" * 64, "d") == [1, 2]
    assert "p0" not in path.read_text()
    with pytest.raises(ValueError, match=r"of another reader \(aaaaaaaaaaaa, this one is bbbbbbbbbbbb\): run stage"):
        layers_of(path, "b" * 64, "d")
    with pytest.raises(ValueError, match="direction 'evidence_to_question' was not measured, only d"):
        layers_of(path, "a" * 64)
    with pytest.raises(ValueError, match=r"no critical layers, d \(no window lowers.*nothing to steer"):
        layers_of(written([0.1, 0.1, 0.1]), "a" * 64, "d")
    with pytest.raises(ValueError, match="no such file; `predict` of stage critical_layers writes it"):
        layers_of(tmp_path / "none.json", "a")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not a critical_layers"):
        layers_of(tmp_path / "other.json", "a")


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match=r"keep_share must lie in \(0, 1\]"):
        LayerRule(keep_share=0)
    with pytest.raises(ValueError, match="chosen by their intervals"):
        LayerRule(bootstrap=Bootstrap(resamples=0))
