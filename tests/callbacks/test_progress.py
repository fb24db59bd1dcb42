"""Progress: plain lines where there is no terminal, a bar where there is one, the time left in both."""

import re

import pytest
from toy_run import ToyData, ToyStage, trainer

from callbacks.progress import Progress, RunClock, total_batches
from callbacks.throughput import Throughput


def test_prints_plain_lines_without_a_terminal(tmp_path, capsys):
    run = trainer(tmp_path, Throughput(), Progress(every_n_steps=10))
    stage, data = ToyStage(), ToyData()
    run.fit(stage, data)
    lines = capsys.readouterr().out.splitlines()
    train = [line for line in lines if line.startswith("train ")]
    assert [line.split(",")[0] for line in train] == ["train 10/32", "train 20/32", "train 30/32", "train 32/32"]
    for line in train:
        assert re.search(r"loss \S+ .*samples/s .*tokens/s .*ETA \d+:\d\d:\d\d", line), line
    assert train[-1].endswith("ETA 0:00:00")
    validations = [line for line in lines if line.startswith("validation after step")]
    assert len(validations) == 2
    assert "val/closed_macro_f1" in validations[0]
    run.test(stage, data, verbose=False)
    assert "test 16/16  ETA 0:00:00" in capsys.readouterr().out


def test_shows_a_bar_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    bar = Progress(refresh_per_second=1000)
    run = trainer(tmp_path, Throughput(), bar, max_epochs=1)
    run.fit(ToyStage(), ToyData())
    assert bar.is_enabled
    shown = bar.get_metrics(run, run.lightning_module)
    assert {"loss", "samples/s", "ETA"} <= set(shown)
    assert "v_num" not in shown


def test_time_left_is_that_of_the_whole_run():
    clock = RunClock()
    clock.start(100.0, 20, 120)
    assert clock.eta() == "-:--:--"
    clock.tick(110.0, 30)
    assert clock.eta() == "0:01:30"
    clock.start(0.0, 0, None)
    clock.tick(5.0, 5)
    assert clock.eta() == "-:--:--"


@pytest.mark.parametrize(
    ("limits", "total"),
    [({"max_epochs": 3}, 48), ({"max_epochs": 3, "max_steps": 7}, 7), ({"max_epochs": -1}, None),
     ({"max_steps": 5, "max_epochs": -1, "accumulate_grad_batches": 2}, 10)],
)  # fmt: skip
def test_total_is_the_nearest_limit(tmp_path, limits, total):
    run = trainer(tmp_path, enable_progress_bar=False, **limits)
    run.fit_loop.max_batches = 16
    assert total_batches(run) == total


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="got 0 and 10"):
        Progress(every_n_steps=0)
