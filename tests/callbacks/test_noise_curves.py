"""Noise curves of a run: files, picture and a short table; silent where no evidence was spoilt."""

import csv
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from toy_run import Silent, ToyData, ToyStage, answers, trainer

from callbacks.metric_plots import MetricPlots
from callbacks.noise_curves import NoiseCurves, draw_noise
from callbacks.results_table import ResultsTable
from medrag_lightning.metrics import Bootstrap, noise_curves
from medrag_lightning.records import Noise, NoiseKind, Regime, Split

SHARES = (0.25, 0.5)


class NoisyData(ToyData):
    """Data with a plan; what it says matters to the stage alone."""

    noise = "some plan"


class NoisyStage(ToyStage):
    """Answers worse the more evidence is spoilt; the rival bears it better."""

    def on_test_epoch_end(self):
        super().on_test_epoch_end()
        self.predictions += spoilt(self.predictions)


def spoilt(predictions):
    made = []
    for p in predictions:
        if p.regime is Regime.RETRIEVED:
            luck = random.Random(f"{p.query_id} {p.system}").random()
            for kind in NoiseKind:
                for share in (1.0,) if kind is NoiseKind.BLANK_IMAGE else SHARES:
                    lost = luck < share * (0.3 if p.system else 1.2)
                    made.append(replace(p, answer=None if lost else p.answer, noise=Noise(kind, share)))
    return made


def run(folder, stage, data, *callbacks):
    trainer(folder, *callbacks, enable_progress_bar=False).test(stage, data, verbose=False)


def test_files_table_and_picture(tmp_path, capsys):
    run(tmp_path, NoisyStage(rivals=("mcr",)), NoisyData(rivals=("mcr",)), NoiseCurves(resamples=200))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    assert "…" not in out
    for words in ("closed accuracy %", "loss, % of that of retrieved", "< half"):
        assert words in out
    told = json.loads((tmp_path / "noise.json").read_text())
    assert {(p["kind"], p["share"]) for p in told["points"]} == {
        *((str(k), s) for k in NoiseKind if k is not NoiseKind.BLANK_IMAGE for s in (0.0, *SHARES)),
        ("blank_image", 0.0), ("blank_image", 1.0),
    }  # fmt: skip
    assert told["scores"] == "kept"
    assert "retrieval does not notice" in told["how"]
    assert {p["system"] for p in told["points"]} == {"retrieved", "mcr"}
    assert {p["system"] for p in told["references"]} == {"no retrieval", "question-only", "majority"}
    wanted = {"kind": "irrelevant", "share": 0.5, "metric": "closed_accuracy"}
    (ratio,) = [r for r in told["loss_ratios"] if r | wanted == r]
    assert ratio["system"] == "mcr"
    assert ratio["beyond_half"]["high"] < 0
    assert ratio["ratio"]["low"] < ratio["ratio"]["value"] < ratio["ratio"]["high"] < 0.5
    with (tmp_path / "noise.csv").open() as stream:
        records = list(csv.DictReader(stream))
    assert len(records) == len(told["points"]) + len(told["references"])
    assert {"closed_accuracy", "closed_macro_f1", "open_token_recall"} == {record["metric"] for record in records}
    picture = Image.open(tmp_path / "plots" / "noise.png")
    assert picture.size[0] > picture.size[1] > 500
    assert "patient" not in (tmp_path / "noise.csv").read_text()


def test_other_tables_and_pictures_never_see_noise(tmp_path, capsys):
    """The same results, ledger and pictures with and without spoilt evidence."""
    for name, stage in (("clean", ToyStage()), ("noisy", NoisyStage())):
        run(tmp_path / name, stage, ToyData(), ResultsTable(resamples=100), MetricPlots())
    files = [p.relative_to(tmp_path / "clean") for p in sorted((tmp_path / "clean").rglob("*")) if p.is_file()]
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "clean" / file).read_bytes() == (tmp_path / "noisy" / file).read_bytes(), file


def test_silent_without_noise_and_for_a_stage_that_answers_nothing(tmp_path, capsys):
    run(tmp_path, ToyStage(), ToyData(), NoiseCurves())
    run(tmp_path, Silent(), NoisyData(), NoiseCurves())
    assert list(tmp_path.iterdir()) == []
    assert "noise" not in capsys.readouterr().out


def test_validate_has_curves_of_its_own(tmp_path):
    class Validated(NoisyStage):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            self.predictions += spoilt(self.predictions)

    once = trainer(tmp_path, NoiseCurves(resamples=100), enable_progress_bar=False)
    once.validate(Validated(), NoisyData(), verbose=False)
    assert (tmp_path / "noise_val.json").exists()
    assert (tmp_path / "plots" / "noise_val.png").exists()
    fit = trainer(tmp_path / "fit", NoiseCurves(resamples=100), enable_progress_bar=False, max_epochs=1)
    fit.fit(Validated(), NoisyData())
    assert not (tmp_path / "fit" / "noise_val.json").exists()


def test_a_baseline_that_is_not_there_is_refused_before_the_test(tmp_path):
    with pytest.raises(ValueError, match=r"NoiseCurves.baseline='direct' is no system of this test; .* \['retrieved', 'mcr'\]"):
        run(tmp_path, NoisyStage(rivals=("mcr",)), NoisyData(rivals=("mcr",)), NoiseCurves("direct"))


def test_a_run_draws_curves_without_being_asked():
    base = yaml.safe_load((Path(__file__).parents[2] / "configs" / "base.yaml").read_text())
    assert "callbacks.noise_curves.NoiseCurves" in {entry["class_path"] for entry in base["trainer"]["callbacks"]}


@pytest.mark.parametrize("systems", [1, 9])
def test_any_number_of_systems_and_kinds_can_be_drawn(systems):
    data, made = ToyData(), []
    stage = ToyStage((Regime.RETRIEVED,))
    for number in range(systems):
        plain = answers(data.split_queries(Split.TEST), stage.regimes, seed=number)
        made += [replace(p, system=f"s{number}" if number else "") for p in plain]
    kept = [p for p in spoilt(made) if p.noise.kind in (NoiseKind.IRRELEVANT, NoiseKind.BLANK_IMAGE)]
    groups = {p.query_id: p.query_id for p in made}
    curves = noise_curves([*made, *kept], groups, Bootstrap(0), "retrieved")
    assert Image.open(io.BytesIO(draw_noise(curves))).format == "PNG"
