"""The picture of critical layers, the config file beside it, and what is said meanwhile."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from callbacks.critical_layers import CriticalLayersWriter, draw_layers, write_fragment
from medrag_lightning.metrics import Bootstrap, CriticalLayers, Knockout, LayerRule, layer_curve, windows

RULE = LayerRule(bootstrap=Bootstrap(resamples=200))


def found(directions, layers=12, window=3):
    change = [-0.9 if layer == layers // 2 else 0.01 * (layer % 3) for layer in range(layers)]
    rows = [{d: tuple(c * (1 + n / 40) for c in change) for d in directions} for n in range(20)]
    samples = [Knockout(f"q{n}", f"p{n}", row, row) for n, row in enumerate(rows)]
    curves = [layer_curve(direction, samples, RULE) for direction in directions]
    return CriticalLayers({"reader": "a"}, windows(layers, window), curves, 20, 20, 30, RULE)


@pytest.mark.parametrize(
    "of",
    [
        found(["evidence_to_question", "image_to_question", "evidence_to_last", "question_to_last"]),
        found(["question_to_last"], layers=1, window=1),
    ],
    ids=["four", "one"],
)
def test_any_number_of_directions_and_layers_is_drawn(of):
    assert draw_layers(of).startswith(b"\x89PNG")


def test_the_config_file_names_the_layers_file(tmp_path):
    write_fragment(tmp_path / "f.yaml", Path("runs/x/critical_layers.json"))
    made = yaml.safe_load((tmp_path / "f.yaml").read_text())
    assert made == {"model": {"init_args": {"critical_layers": "runs/x/critical_layers.json"}}}


def test_another_stage_and_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match="writes what stage critical_layers finds, not SimpleNamespace"):
        CriticalLayersWriter().on_predict_end(SimpleNamespace(), SimpleNamespace())
    with pytest.raises(ValueError, match="seconds_between_lines must be at least 0"):
        CriticalLayersWriter(-1)


def test_the_rest_is_told_by_samples_or_by_batches(monkeypatch):
    said, clock = [], [0.0]
    monkeypatch.setattr("callbacks.critical_layers.rank_zero_info", said.append)
    monkeypatch.setattr("callbacks.critical_layers.time.monotonic", lambda: clock[0])
    writer, trainer = CriticalLayersWriter(10), SimpleNamespace(num_predict_batches=[100], world_size=2)
    stage = SimpleNamespace(max_samples=40)
    writer.on_predict_start(trainer, stage)
    for batch, seconds in enumerate((5, 20)):
        clock[0] = float(seconds)
        writer.on_predict_batch_end(trainer, stage, ["a"] * 5, None, batch)
    assert said == ["measured about 20 samples of 40 at most, ETA 0:00:20"]
    stage.max_samples = None
    clock[0] = 40.0
    writer.on_predict_batch_end(trainer, stage, [], None, 49)
    assert said[1] == "measured about 20 samples, ETA 0:00:40"
