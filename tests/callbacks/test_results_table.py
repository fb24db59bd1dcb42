"""The results table: complete on disk, legible in 120 columns, and honest."""

import csv
import json
from dataclasses import replace

import lightning as L
import pytest
import yaml
from toy_run import Silent, ToyData, ToyStage, trainer

from callbacks.results_table import ResultsTable, cell, percent_cell, title_of
from medrag_lightning.metrics import Metric
from medrag_lightning.mixture import Fusion, TunedFusion
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


RIVALS = ("contrastive", "text head")


def test_rivals_have_rows_differences_and_an_analysis_of_retrieval(tmp_path, capsys):
    out, results = results_of(tmp_path, ToyStage(rivals=RIVALS), ToyData(rivals=RIVALS), capsys)
    assert max(map(len, out.splitlines())) <= 120
    assert "…" not in out
    assert [row["system"] for row in results["rows"] if row["need"] is None][:4] == ["retrieved", *RIVALS, "no retrieval"]
    assert {"contrastive", "text head"} <= {d["baseline"] for d in results["differences"]}
    evidence = results["evidence"]
    assert evidence["inconsistency"]["defined_by"] == "contrastive"
    inside = evidence["inconsistency"]["parts"]["inconsistent"]["closed_accuracy"]
    assert inside["contrastive"]["reference_minus"]["low"] > 0
    assert evidence["candidates"]["oracle"]["retrieved"]["value"]["n"] == 120
    assert evidence["pseudo_relevance"]["reason"] == ""
    account = evidence["ledger"]["accounts"]["retrieved"]
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    mine = [line for line in lines if line["system"] == "retrieved"]
    assert len(mine) == 120
    for outcome in ("helped", "hurt"):
        assert sum(line["outcome"] == outcome for line in mine) == account[outcome]
    assert f"{account['helped']} / {account['hurt']} / " in out
    assert "patient" not in (tmp_path / "ledger.jsonl").read_text()
    assert out.count("inconsistent, closed") == out.count("inconsistent, open") == 1


def test_what_cannot_be_analysed_is_said(tmp_path, capsys):
    out, results = results_of(tmp_path, ToyStage((Regime.RETRIEVED,)), ToyData(), capsys)
    assert "ledger, pseudo-relevance: not computed: needs the regime `none`" in " ".join(out.split())
    assert results["evidence"]["ledger"]["accounts"] == {}


@pytest.mark.parametrize(
    ("settings", "rivals", "message"),
    [
        ({"inconsistent_by": "text head"}, (), "inconsistent_by='text head' is no system of this test"),
        ({}, ("majority",), r"data.rivals: \['majority'\] are names of rows"),
    ],
)
def test_names_that_do_not_fit_are_refused_before_the_test(tmp_path, settings, rivals, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, ResultsTable(**settings), enable_progress_bar=False).test(ToyStage(), ToyData(rivals=rivals))


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="relevance_margin_nats must be 0 or more, got -1"):
        ResultsTable(relevance_margin_nats=-1)


def test_validation_writes_the_fusion_that_suits_it(tmp_path, capsys):
    stage = ToyStage()
    stage.tuned_fusion = TunedFusion(Fusion(temperature=0.5, head_weights={"image_to_image": 1.0}), 0.4, 0.5, 120)
    settings = ResultsTable(resamples=100, inconsistent_by="contrastive")
    run = trainer(tmp_path, settings, enable_progress_bar=False)
    run.validate(stage, ToyData(rivals=("contrastive",)), verbose=False)
    written = yaml.safe_load((tmp_path / "fusion.yaml").read_text())
    assert Fusion(**written["model"]["init_args"]["fusion"]) == stage.tuned_fusion.fusion
    assert "NLL 0.5000 -> 0.4000 nats on 120" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "ledger_val.jsonl").exists()
    trainer(tmp_path / "test", ResultsTable(resamples=100), enable_progress_bar=False).test(stage, ToyData(), verbose=False)
    assert not (tmp_path / "test" / "fusion.yaml").exists()


def test_a_stage_that_answers_nothing_has_no_table(tmp_path, capsys):
    class Bare(L.LightningDataModule):
        test_dataloader = val_dataloader = ToyData.loader

    run = trainer(tmp_path, ResultsTable(), enable_progress_bar=False)
    run.test(Silent(), Bare(), verbose=False)
    run.validate(Silent(), Bare(), verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_long_open_answers_are_scored_as_reports(tmp_path, capsys):
    table = ResultsTable(resamples=200, report_from_words=2, report_scores=["ratescore"])
    trainer(tmp_path, table, enable_progress_bar=False).test(ToyStage(), ToyData(), verbose=False)
    out, results = capsys.readouterr().out, json.loads((tmp_path / "results.json").read_text())
    row = results["reports"]["rows"]["retrieved"]
    assert row["cider_d"]["n"] == 30
    assert row["cider_d"]["low"] < row["cider_d"]["value"] < row["cider_d"]["high"]
    assert row["rouge_l"]["value"] > results["reports"]["rows"]["no retrieval"]["rouge_l"]["value"]
    assert max(map(len, out.splitlines())) <= 120
    assert "CIDEr-D" in out
    assert any("RaTEScore: unavailable: RaTEScore is not installed" in note for note in results["notes"])


def test_short_open_answers_are_no_reports(tmp_path, capsys):
    out, results = results_of(tmp_path, ToyStage(), ToyData(), capsys)
    assert "reports" not in results
    assert "CIDEr" not in out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"report_from_words": None, "report_scores": ["radgraph"]}, "would be ignored"),
        ({"report_from_words": 0}, "at least 1"),
        ({"report_scores": ["bleurt"]}, "'bleurt' is none of ratescore, radgraph, chexbert"),
    ],
)
def test_settings_of_report_scores(settings, message):
    with pytest.raises(ValueError, match=message):
        ResultsTable(**settings)


def test_evidence_that_did_not_fit_is_told(tmp_path, capsys):
    class Short(ToyStage):
        def on_test_epoch_end(self):
            super().on_test_epoch_end()
            self.predictions = [
                replace(p, dropped=("d8", "d9")) if p.regime is Regime.RETRIEVED and n % 2 else p
                for n, p in enumerate(self.predictions)
            ]

    out, results = results_of(tmp_path, Short(), ToyData(), capsys)
    told = "retrieved: 120 of 360 candidates did not fit into the prompts of 60 of 120 queries"
    assert told in results["notes"]
    assert told in " ".join(out.split())
