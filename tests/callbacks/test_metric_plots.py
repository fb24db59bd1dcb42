"""Plots: there after the run, drawn from the file, and right about what is best."""

import io

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from toy_run import Silent, ToyData, ToyStage, trainer

from callbacks.metric_plots import MetricPlots, draw_metric, draw_reliability, read_curves, smoothed


def test_draws_the_run(tmp_path):
    run = trainer(tmp_path, MetricPlots(), logger=CSVLogger(tmp_path), max_epochs=3, enable_progress_bar=False)
    stage, data = ToyStage(), ToyData()
    run.fit(stage, data)
    run.test(stage, data, verbose=False)
    drawn = {"loss.png", "val_closed_macro_f1.png", "reliability.png", "ledger.png"}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == drawn
    for path in (tmp_path / "plots").iterdir():
        with Image.open(path) as image:
            assert image.size[0] > 500
            assert np.asarray(image.convert("L")).std() > 5


def test_a_stage_that_answers_nothing_has_no_test_plots(tmp_path):
    run = trainer(tmp_path, MetricPlots(), enable_progress_bar=False)
    run.test(Silent(), ToyData(), verbose=False)
    assert not (tmp_path / "plots").exists()


def test_without_a_csv_logger_it_says_so(tmp_path):
    run = trainer(tmp_path, MetricPlots(), max_epochs=1, enable_progress_bar=False)
    with pytest.warns(UserWarning, match=r"no metrics\.csv"):
        run.fit(ToyStage(), ToyData())
    assert not (tmp_path / "plots").exists()


def test_curves_skip_gaps_and_what_is_not_finite(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss_step,val/loss\n0,1,2.5,\n0,2,nan,\n0,2,,0.5\n")
    assert read_curves(path) == {"train/loss": ([1], [2.5]), "val/loss": ([2], [0.5])}


def test_smoothing_keeps_a_constant_and_follows_late():
    assert smoothed([3.0] * 5, 0.9) == pytest.approx([3.0] * 5)
    assert smoothed([1.0, 2.0], 0) == [1.0, 2.0]
    assert 0 < smoothed([0.0] * 10 + [1.0], 0.9)[-1] < 0.5


def test_smoothing_must_be_a_weight():
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), got 1"):
        MetricPlots(smoothing=1)


def test_reliability_of_many_systems_is_drawn():
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.5, 1, 300)
    points = (probability.tolist(), (rng.random(300) < probability).astype(float).tolist())
    png = draw_reliability({"retrieved": points, "no retrieval": points})
    assert Image.open(io.BytesIO(png)).format == "PNG"


def test_what_was_before_training_is_a_line_on_the_same_plot(tmp_path, monkeypatch):
    (tmp_path / "metrics.csv").write_text(
        "step,val/loss,val/frozen_loss,val/top1_accuracy,val/frozen_top1_accuracy,val/t_score\n"
        "1,0.9,1.0,0.5,0.4,0.1\n2,0.8,1.0,0.6,0.4,0.1\n"
    )
    monkeypatch.setattr("callbacks.metric_plots.find_metrics", lambda trainer: tmp_path / "metrics.csv")
    run = trainer(tmp_path, MetricPlots())
    MetricPlots().on_fit_end(run, Silent())
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"loss.png", "val_top1_accuracy.png"}
    curve = ([1, 2], [0.5, 0.6])
    assert draw_metric("val/top1_accuracy", curve) != draw_metric("val/top1_accuracy", curve, ([1, 2], [0.4, 0.4]))
