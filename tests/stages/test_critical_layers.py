"""R17: calibration recovers a planted critical layer, on 1 and 2 processes alike; what cannot be measured is told."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from planted_reader import PlantedReader
from toy import ToySource, ToyTable, trainer

from callbacks.critical_layers import CriticalLayersWriter
from medrag_lightning.data.evidence import EvidenceMixture
from medrag_lightning.data.module import MedragData
from medrag_lightning.metrics import layers_of
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.records import Split
from medrag_lightning.stages.critical_layers import CalibrateLayers


def toy_data(folder, table=ToyTable, **settings):
    table = table(str(folder), 96)
    return MedragData(
        [table], [table], ToySource(), **{"evidence": EvidenceMixture(), "cache_folder": str(folder / "e"), **settings}
    )


def calibrate(folder, reader=None, module=None, settings=None, **trainer_settings):
    stage = CalibrateLayers(reader or PlantedReader(9, to_question=4, to_last=6), **{"window": 3, **(settings or {})})
    run = trainer(folder, callbacks=[CriticalLayersWriter()], **trainer_settings)
    run.predict(stage, module or toy_data(folder), return_predictions=False)
    return stage


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return folder, calibrate(folder)


def test_the_planted_layers_are_recovered(done):
    """Every window that holds the planted layer loses all that it carries; no other loses anything."""
    folder, stage = done
    found = json.loads((folder / "critical_layers.json").read_text())
    assert found["layers"]["evidence_to_question"] == [3, 4, 5]
    assert found["layers"]["question_to_last"] == [5, 6, 7]
    assert found["layers"]["image_to_question"] == found["layers"]["evidence_to_last"] == []
    assert "no window lowers" in found["none_because"]["image_to_question"]
    assert (found["split"], found["questions_asked"], found["samples"]) == ("val", 16, 16)
    for row in found["curves"]["evidence_to_question"]:
        inside = 4 in row["window"]
        assert (row["first_token"]["value"] < -0.5) == inside
        assert (row["choice"]["value"] < -0.3) == inside
        if not inside:
            assert row["first_token"]["value"] == pytest.approx(0, abs=1e-6)
    assert all(prediction.query_id in {f"q{n}" for n in range(96) if n // 4 % 6 == 3} for prediction in stage.predictions)


def test_one_layer_at_a_time_names_it_exactly(tmp_path):
    stage = calibrate(tmp_path, settings={"window": 1, "directions": ["question_to_last", "evidence_to_question"]})
    assert [curve.layers for curve in stage.found.curves] == [(6,), (4,)]


def test_a_second_run_writes_the_same_and_later_runs_read_it(done, tmp_path):
    folder, stage = done
    calibrate(tmp_path)
    assert (tmp_path / "critical_layers.json").read_bytes() == (folder / "critical_layers.json").read_bytes()
    assert (folder / "critical_layers.png").read_bytes()[:4] == b"\x89PNG"
    fragment = yaml.safe_load((folder / "steering_layers.yaml").read_text())
    path = fragment["model"]["init_args"]["critical_layers"]
    assert layers_of(path, stage.reader.fingerprint()) == [3, 4, 5]
    with pytest.raises(ValueError, match="layers of another reader"):
        layers_of(path, PlantedReader(9, 4, 6, seed=1).fingerprint())
    with pytest.raises(ValueError, match="no critical layers, image to question"):
        layers_of(path, stage.reader.fingerprint(), "image_to_question")


def test_two_processes_write_the_same(done, tmp_path):
    script = Path(__file__).with_name("critical_layers_script.py")
    paths = os.pathsep.join([str(script.parent), str(script.parents[2])])
    command = [sys.executable, str(script), str(tmp_path)]
    ran = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert (tmp_path / "critical_layers.json").read_bytes() == (done[0] / "critical_layers.json").read_bytes()


def test_only_as_many_samples_as_asked_are_read_again(tmp_path):
    reader = PlantedReader(9, 4, 6)
    stage = calibrate(tmp_path, reader, toy_data(tmp_path, eval_batch_size=4), {"max_samples": 3})
    assert stage.found.samples == 3
    assert len(stage.predictions) == 4
    passes = 1 + 4 * 9  # free, and each direction and window
    assert reader.calls <= 2 * (1 + passes)  # closed and open questions of the one batch that is read


def test_training_questions_on_request_and_a_wrong_reader_are_told(tmp_path):
    trained = calibrate(tmp_path, settings={"split": "train", "max_samples": 5, "directions": ["evidence_to_question"]})
    module = toy_data(tmp_path)
    module.setup("predict")
    assert {p.query_id for p in trained.predictions} <= {q.id for q in module.split_queries("train")}


class Wrong(ToyTable):
    """Evidence that never names the right colour."""

    def documents(self):
        return [replace(document, text="it is nothing") for document in super().documents()]

    def queries(self):
        return [replace(query, answer="red" if query.answer != "red" else "grey") for query in super().queries()]


class NoValidation(ToyTable):
    """All of its questions are for training or test."""

    def queries(self):
        return [query for query in super().queries() if query.split is not Split.VAL]


def test_nothing_to_measure_is_told_and_nothing_is_written(tmp_path):
    silent = PlantedReader(9, 4, 6, sharpness=0.0)
    wrong = toy_data(tmp_path, Wrong, only="open")
    silent.generate = lambda prompts, count: [[0]] * len(prompts.ids_PT)
    with pytest.raises(ValueError, match=r"answers none of 8 questions of split 'val' rightly"):
        calibrate(tmp_path, silent, wrong)
    with pytest.raises(ValueError, match=r"split 'val' has 0 questions for 1 processes, .*split train"):
        calibrate(tmp_path, module=toy_data(tmp_path, NoValidation))
    assert not (tmp_path / "critical_layers.json").exists()


def test_a_reader_that_looks_nowhere_has_no_critical_layers(tmp_path):
    with pytest.warns(UserWarning, match="critical layers, evidence → question: none; no window lowers"):
        stage = calibrate(tmp_path, PlantedReader(9, to_question=-1, to_last=-1))
    assert all(not curve.layers for curve in stage.found.curves)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": PromptTemplate(order="query_first")}, "a question reads only what stands before it"),
        ({"directions": []}, "directions must name at least one"),
        ({"directions": ["evidence_to_last", "evidence_to_last"]}, "each once"),
        ({"max_samples": 0}, "must be at least 1, got 0 and 16"),
        ({"resamples": 0}, "chosen by their intervals"),
        ({"keep_share": 1.5}, r"keep_share must lie in \(0, 1\]"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CalibrateLayers(PlantedReader(3, 1, 2), **settings)


def test_other_verbs_and_windows_too_wide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="only predicts; `test` was asked"):
        CalibrateLayers(PlantedReader(3, 1, 2)).setup("test")
    with pytest.raises(ValueError, match="a window of 9 layers cannot tell 9 layers apart"):
        calibrate(tmp_path, settings={"window": 9})
