"""Rates: the right number, no pause counted, and no influence on the run."""

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from toy_run import ToyData, ToyStage, trainer

from callbacks.metric_plots import read_curves
from callbacks.throughput import SlidingRate, Throughput


def test_rate_over_a_window_without_pauses():
    rate = SlidingRate(window=2)
    rate.start(10.0)
    assert rate.per_second is None
    rate.tick(11.0, 4)
    assert rate.per_second == 4
    rate.tick(12.0, 8)
    rate.pause(12.0)
    rate.resume(100.0)
    rate.tick(101.0, 8)
    assert rate.per_second == 8  # the first second has left the window, the pause never counted


def test_logs_samples_and_tokens(tmp_path):
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, Throughput(), logger=logger, enable_progress_bar=False).fit(ToyStage(), ToyData())
    curves = read_curves(tmp_path / "lightning_logs/version_0/metrics.csv")
    samples, tokens = curves["train/samples_per_second"][1], curves["train/tokens_per_second"][1]
    assert len(samples) == 32
    assert tokens[-1] == pytest.approx(samples[-1] * 25)


def test_does_not_change_the_weights(tmp_path):
    weights = []
    for callbacks in ((), (Throughput(),)):
        torch.manual_seed(0)
        stage = ToyStage()
        trainer(tmp_path, *callbacks, enable_progress_bar=False).fit(stage, ToyData())
        weights.append(stage.line.weight.clone())
    assert torch.equal(*weights)


def test_window_must_be_positive():
    with pytest.raises(ValueError, match="window must be at least 1 batch, got 0"):
        Throughput(0)
