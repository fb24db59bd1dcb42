"""What a reader relies on, reported: files, picture and table; silent where nothing was asked again."""

import csv
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from toy_run import Silent, ToyData, ToyStage, trainer

from callbacks.attention_mass import AttentionMassWriter
from callbacks.knowledge_plot import draw_knowledge
from callbacks.knowledge_table import KnowledgeTable
from callbacks.metric_plots import MetricPlots
from callbacks.noise_curves import NoiseCurves
from callbacks.results_table import ResultsTable
from medrag_lightning.batches import Example
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.metrics import Bootstrap, knowledge_use
from medrag_lightning.records import Query, Regime, Variant

LOST = {
    Variant.OTHER_IMAGE: 0.5,
    Variant.OTHER_IMAGE_ALONE: 0.6,
    Variant.WITHOUT_REPORTS: 0.3,
    Variant.WITHOUT_DOCUMENTS: 0.1,
}


class AskedData(ToyData):
    """Data with a plan; of it the table tells the other image."""

    knowledge = KnowledgePlan(counter_image="blank")


class AskedStage(ToyStage):
    """Answers worse without its image and without reports; the rival needs its image less."""

    def on_test_epoch_end(self):
        super().on_test_epoch_end()
        self.predictions += again(self.predictions)


def again(predictions):
    made = []
    for p in predictions:
        for variant, share in LOST.items():
            alone = variant is Variant.OTHER_IMAGE_ALONE
            if p.regime is Regime.RETRIEVED and not (alone and p.system):
                luck = random.Random(f"{p.query_id} {p.system} {variant}").random()
                lost = luck < share * (0.5 if p.system else 1)
                shown = {"regime": Regime.NONE, "cited": (), "system": ""} if alone else {}
                made.append(replace(p, answer=None if lost else p.answer, variant=variant, **shown))
    return made


def run(folder, stage, data, *callbacks):
    trainer(folder, *callbacks, enable_progress_bar=False).test(stage, data, verbose=False)


def test_files_table_and_picture(tmp_path, capsys):
    run(tmp_path, AskedStage(rivals=("mcr",)), AskedData(rivals=("mcr",)), KnowledgeTable(resamples=200))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    assert "…" not in out
    headings = ("retrieved, % (lower is better)", "mcr, % (lower is better)", "retrieved - mcr, %", "mcr, % by need")
    for words in (*headings, "closed", "report"):
        assert words in out
    told = json.loads((tmp_path / "knowledge.json").read_text())
    assert told["counter_image"] == "blank"
    wanted = {"metric": "kid", "source": "any", "system": "retrieved", "subset": "all"}
    (kid,) = [rate for rate in told["rates"] if rate | wanted == rate]
    assert kid["lower_is_better"]
    assert kid["low"] < kid["value"] < kid["high"]
    assert 0 < kid["n"] < 120
    assert {rate["subset"] for rate in told["rates"]} == {"all", "closed", "open", "need image", "need report"}
    assert "retrieved: 120 of 120 questions have evidence; asked again: 120 with another image" in told["notes"][0]
    with (tmp_path / "knowledge.csv").open() as stream:
        records = list(csv.DictReader(stream))
    assert len(records) == len(told["rates"]) == 2 * 14 * 5
    picture = Image.open(tmp_path / "plots" / "knowledge.png")
    assert picture.size[0] > 1000
    assert picture.size[1] > 800
    assert "patient" not in (tmp_path / "knowledge.csv").read_text()


def test_other_tables_and_pictures_never_see_it(tmp_path, capsys):
    for name, stage in (("clean", ToyStage()), ("asked", AskedStage())):
        run(tmp_path / name, stage, ToyData(), ResultsTable(resamples=100), MetricPlots(), NoiseCurves())
    files = [p.relative_to(tmp_path / "clean") for p in sorted((tmp_path / "clean").rglob("*")) if p.is_file()]
    assert len(files) == 5
    assert len([p for p in (tmp_path / "asked").rglob("*") if p.is_file()]) == 5
    for file in files:
        assert (tmp_path / "clean" / file).read_bytes() == (tmp_path / "asked" / file).read_bytes(), file


def test_silent_where_nothing_was_asked_again_and_for_a_stage_that_answers_nothing(tmp_path, capsys):
    run(tmp_path, ToyStage(), AskedData(), KnowledgeTable())
    run(tmp_path, Silent(), AskedData(), KnowledgeTable())
    assert list(tmp_path.iterdir()) == []
    assert "KUD" not in capsys.readouterr().out


def test_validate_has_a_table_of_its_own_and_a_fit_has_none(tmp_path):
    class Validated(AskedStage):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            self.predictions += again(self.predictions)

    once = trainer(tmp_path, KnowledgeTable(resamples=100), enable_progress_bar=False)
    once.validate(Validated(), AskedData(), verbose=False)
    assert (tmp_path / "knowledge_val.json").exists()
    assert (tmp_path / "plots" / "knowledge_val.png").exists()
    told = json.loads((tmp_path / "knowledge_val.json").read_text())
    assert any("needs the regime `none`" in str(rate["reason"]) for rate in told["rates"] if rate["metric"] == "kud")
    fit = trainer(tmp_path / "fit", KnowledgeTable(resamples=100), enable_progress_bar=False, max_epochs=1)
    fit.fit(Validated(), AskedData())
    assert not (tmp_path / "fit" / "knowledge_val.json").exists()


def test_what_cannot_be_computed_is_said(tmp_path, capsys):
    stage = AskedStage(regimes=(Regime.RETRIEVED,))
    run(tmp_path, stage, AskedData(), KnowledgeTable(resamples=100))
    out = " ".join(capsys.readouterr().out.split())
    assert "kud (reports), kud (documents), kud (both), kud_worded (reports)" in out
    assert "needs the regime `none` among data.regimes" in out


def test_only_the_first_process_writes(tmp_path):
    table, stage = KnowledgeTable(resamples=100), AskedStage()
    trainer(tmp_path, enable_progress_bar=False).test(stage, AskedData(), verbose=False)

    class Second:
        is_global_zero = False

    table.on_test_end(Second(), stage)
    assert list(tmp_path.iterdir()) == []


def test_a_run_reports_without_being_asked():
    base = yaml.safe_load((Path(__file__).parents[2] / "configs" / "base.yaml").read_text())
    assert "callbacks.knowledge_table.KnowledgeTable" in {entry["class_path"] for entry in base["trainer"]["callbacks"]}


@pytest.mark.parametrize("systems", [0, 4])
def test_any_number_of_systems_can_be_drawn(systems):
    data = AskedData()
    stage = ToyStage(rivals=tuple(f"s{n}" for n in range(1, systems)))
    stage.trainer = type("Holder", (), {"datamodule": data})()
    ToyStage.on_test_epoch_end(stage)
    made = [*stage.predictions, *(again(stage.predictions) if systems else [])]
    use = knowledge_use(made, {p.query_id: p.query_id for p in made}, Bootstrap(0))
    assert Image.open(io.BytesIO(draw_knowledge(use))).format == "PNG"


def test_attention_is_looked_at_in_ordinary_answers_only():
    writer = AttentionMassWriter()
    example = Example(Query("q", "what is it?"), Regime.RETRIEVED)
    assert writer._system_of(example).name == "retrieved"
    assert all(writer._system_of(replace(example, variant=variant)) is None for variant in Variant)
