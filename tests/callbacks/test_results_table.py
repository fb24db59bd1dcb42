"""The results table: complete on disk, legible in 120 columns, and honest."""

import csv
import json

import lightning as L
import pytest
from toy_run import ToyData, ToyStage, trainer

from callbacks.results_table import ResultsTable, cell, percent_cell, title_of
from medrag_lightning.metrics import Metric
from medrag_lightning.records import Query, Regime


def results_of(folder, stage, data, capsys):
    trainer(folder, ResultsTable(resamples=200), enable_progress_bar=False).test(stage, data, verbose=False)
    return capsys.readouterr().out, json.loads((folder / "results.json").read_text())


def test_table_on_disk_and_on_screen(tmp_path, capsys):
    out, results = results_of(tmp_path, ToyStage(), ToyData(), capsys)
    lines = out.rstrip().splitlines()
    assert max(map(len, lines)) <= 120
    assert "SYNTHETIC" in results["title"]
    for name in ("retrieved", "no retrieval", "random retrieval", "oracle", "poisoned", "question-only", "majority"):
        assert sum(line.startswith(name) for line in lines) >= 2, name
    overall = {row["system"]: row["metrics"] for row in results["rows"] if row["need"] is None}
    accuracy = overall["retrieved"]["closed_accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert accuracy["n"] == 90
    gaps = {(d["baseline"], d["metric"]): d for d in results["differences"]}
    assert gaps["no retrieval", "closed_accuracy"]["excludes_zero"]
    assert "200 resamples, seed 0, by patient (40 of them, 120 queries); * excludes 0" in results["intervals"]
    with (tmp_path / "results.csv").open() as stream:
        records = list(csv.DictReader(stream))
    assert {record["need"] for record in records} == {"all", "image", "report"}
    assert len(records) == 7 * 3 * 9


def test_a_reader_no_better_than_its_controls_is_told_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("toy_run").CHANCE, Regime.RETRIEVED, 0.5)
    out, results = results_of(tmp_path, ToyStage((Regime.RETRIEVED, Regime.NONE)), ToyData("real"), capsys)
    assert "SYNTHETIC" not in out
    assert "in closed accuracy, retrieved is worse than question-only, majority" in results["notes"]
    assert "in closed accuracy, retrieved is worse than question-only, majority" in out


def test_only_tested_queries_count(tmp_path, capsys):
    class Half(ToyStage):
        def on_test_epoch_end(self):
            super().on_test_epoch_end()
            self.predictions = [p for p in self.predictions if int(p.query_id.split("-")[1]) < 60]

    _, results = results_of(tmp_path, Half(), ToyData(), capsys)
    assert results["intervals"].count("60 queries") == 1
    assert {row["metrics"]["closed_accuracy"]["n"] for row in results["rows"] if row["need"] is None} == {45}


def test_data_without_queries_are_refused_before_the_test(tmp_path):
    class Bare(L.LightningDataModule):
        test_dataloader = ToyData.loader

    with pytest.raises(ValueError, match="ResultsTable needs a data module with `split_queries`, got Bare"):
        trainer(tmp_path, ResultsTable(), enable_progress_bar=False).test(ToyStage(), Bare())


def test_cells_are_short():
    assert cell(Metric(0.8125, 0.78, 0.8449, 10)) == "0.812 [.78, .84]"
    assert cell(Metric(1.0, 0.996, 1.0, 10)) == "1.000 [1.00, 1.00]"
    assert cell(Metric(-0.05, -0.1, 0.02, 10), signed=True) == "-0.050 [-.10, +.02]"
    assert cell(Metric.missing("no items")) == "-"
    assert percent_cell(Metric(1.0, 0.996, 1.0, 10)) == "100 [100, 100]"
    assert cell(Metric(0.5, float("nan"), float("nan"), 1)) == "0.500"


def test_titles_name_the_data():
    assert title_of([Query("q", "?", source="vqa_rad")]) == "Test results on vqa_rad"
    assert title_of([]) == "Test results on unnamed data"


def test_seed_decides_the_intervals(tmp_path, capsys):
    _, first = results_of(tmp_path / "a", ToyStage(), ToyData(), capsys)
    _, second = results_of(tmp_path / "b", ToyStage(), ToyData(), capsys)
    assert first == second
