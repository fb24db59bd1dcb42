"""A calibration travels with its bundle: the same answers and abstentions, told on the card, looked at by `verify`; or none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bundle_world import STEERED, World, answerer, export, in_this_process, live, reader

import medrag_lightning
from medrag_lightning.answering.calibrated import described
from medrag_lightning.artifacts import write_json, write_manifest
from medrag_lightning.calibration import Calibration, CalibrationSettings, Outcomes, calibrate
from medrag_lightning.calibration.artifact import write
from medrag_lightning.cli import main
from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.handoff.bundle.sums import write_sums
from medrag_lightning.handoff.bundle.verify import verify_bundle

ALL = {"evidence": "all_in_one_prompt"}
MIXED = {"image_to_image": 2, "image_to_text": 1}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def calibrated(system, path, threshold=0.0, without_from=None, k=2):
    """The system with a calibration of one policy, as if it had been found for it."""
    outcomes = Outcomes((0, k), np.zeros((2, 40)), np.full((2, 40), 0.9), tuple(map(str, range(40))))
    settings = CalibrationSettings(0.3, 0.1, (k,), (threshold,), (without_from,))
    of = {name: told() for name, told in described(system).items()}
    found = calibrate(outcomes, settings)
    system.calibration = write(path, found, "error", "patients", {**of, "calibration_set": "c" * 64}, split="val")
    return system


@pytest.mark.parametrize(
    ("settings", "policy"),
    [(ALL, {}), (ALL, {"threshold": 0.6}), (STEERED, {"without_from": 0.5}), ({}, {"threshold": 0.5, "k": 1})],
)
def test_the_bundle_answers_and_abstains_as_it_was_calibrated(world, tmp_path, settings, policy):
    made = calibrated(answerer(world, tmp_path, reader(True), live(MIXED), **settings), tmp_path / "c.json", **policy)
    expected = [made.answer(query) for query in world.queries]
    told = export(world, made, tmp_path)
    assert "at most 0.3" in told["inside"]["calibrated"]
    assert not verify_bundle(tmp_path / "bundle").faults
    loaded = medrag_lightning.load_bundle(tmp_path / "bundle")
    for query, before in zip(world.queries, expected, strict=True):
        image = str(query.image)
        after = loaded.ask(query.question, image, query.choices, query.patient_id, query.study_id, query.modality)
        assert (after.text, after.abstained, after.guarantee) == (before.text, before.abstained, before.guarantee)
        assert len(after.citations) == len(before.citations) <= policy.get("k", 2)
    with pytest.raises(ValueError, match="leave abstain_below out"):
        loaded.abstain_below = 0.5
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    for words in ("## Calibration", "alpha (the risk that is not exceeded): 0.3", "delta", "n: 40 patients, 40 questions",
                  "bonferroni", "exchangeable", "split val", "within"):  # fmt: skip
        assert words in card
    rows = dict(verify_bundle(tmp_path / "bundle").inside)
    assert "n = 40 patients" in rows["calibrated"]


def test_some_are_abstained_from_and_some_are_not(world, tmp_path):
    """What the test above compares is not the same for all."""
    made = answerer(world, tmp_path, reader(True), live(MIXED), **ALL)
    chances = sorted(p for p in (made.answer(query).probability for query in world.queries) if p is not None)
    made = calibrated(made, tmp_path / "c.json", threshold=(chances[0] + chances[-1]) / 2, k=3)
    export(world, made, tmp_path)
    loaded = medrag_lightning.load_bundle(tmp_path / "bundle")
    closed = [query for query in world.queries if query.choices]
    kinds = {loaded.ask(q.question, str(q.image), q.choices, q.patient_id, q.study_id, q.modality).abstained for q in closed}
    assert kinds == {True, False}


@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}])
def test_a_reader_that_was_not_calibrated_is_refused(world, tmp_path, how):
    made = calibrated(answerer(world, tmp_path, reader(True), live(MIXED), **ALL), tmp_path / "c.json")
    with pytest.raises(ValueError, match=r"not the one that was calibrated: .* differ by .*--reader adapter"):
        export(world, made, tmp_path, **how)
    assert not (tmp_path / "bundle").exists()


def test_an_adapter_keeps_the_reader_as_it_is(world, tmp_path):
    made = calibrated(answerer(world, tmp_path, reader(True), live(MIXED), **ALL), tmp_path / "c.json")
    told = export(world, made, tmp_path, reader="adapter")
    assert told["parity"]["max_abs_delta_as_trained_nats"] <= 1e-5


def _of_another_layout(told):
    told["evidence"] = "one_per_prompt"


def _with_a_threshold(told):
    told["abstain_below"] = 0.5


def _no_policy(told):
    told["calibration"]["policy"] = None


def _k_below_0(told):
    told["calibration"]["policy"]["k"] = -1


def _alpha_of_2(told):
    told["calibration"]["alpha"] = 2


@pytest.mark.parametrize("change", [_of_another_layout, _with_a_threshold, _no_policy, _k_below_0, _alpha_of_2])
def test_verify_finds_a_calibration_that_does_not_fit(world, tmp_path, change):
    export(world, calibrated(answerer(world, tmp_path, reader(), live(MIXED), **ALL), tmp_path / "c.json"), tmp_path)
    told = json.loads((tmp_path / "bundle" / "system.json").read_text())
    change(told)
    write_json(tmp_path / "bundle" / "system.json", told)
    write_sums(tmp_path / "bundle")
    (fault, *_) = verify_bundle(tmp_path / "bundle").faults
    assert "calibration" in fault


def test_a_changed_prompt_is_found_when_it_is_loaded(world, tmp_path):
    export(world, calibrated(answerer(world, tmp_path, reader(), live(MIXED), **ALL), tmp_path / "c.json"), tmp_path)
    told = json.loads((tmp_path / "bundle" / "system.json").read_text())
    told["template"]["evidence_prefix"] = "other: "
    write_json(tmp_path / "bundle" / "system.json", told)
    with pytest.raises(ValueError, match="another template"):
        medrag_lightning.load_bundle(tmp_path / "bundle", verify=False)


def test_a_file_that_does_not_say_what_it_is_of_is_refused(world, tmp_path):
    made = calibrated(answerer(world, tmp_path, reader(), live(MIXED), **ALL), tmp_path / "c.json")
    told = dict(made.calibration.told)
    told["of"] = {name: value for name, value in told["of"].items() if name != "reader"}
    write_manifest(tmp_path / "less.json", told)
    with pytest.raises(ValueError, match=r"less.json: does not say of which reader it is"):
        Calibration.read(tmp_path / "less.json")


def test_options_that_contradict_each_other_are_refused(world, tmp_path, capsys):
    export(world, calibrated(answerer(world, tmp_path, reader(), live(MIXED), **ALL), tmp_path / "c.json"), tmp_path)

    def failed(*words):
        with pytest.raises(SystemExit):
            main(list(words))
        return capsys.readouterr().err

    bundle, file = str(tmp_path / "bundle"), str(tmp_path / "c.json")
    asked = ["answer", bundle, "--question", "which colour is it?", "--choices", "red,green"]
    assert "leave abstain_below out" in failed(*asked, "--abstain_below", "0.5")
    assert "answers by the one that it was exported with" in failed(*asked, "--calibration", file)
    exporting_ = ["export", "r", "--ckpt_path", "best", "--output", "o", "--abstain", "0.5"]
    assert "beside --calibration" in failed(*exporting_, "--calibration", file)
    main([*asked, "--format", "json"])
    assert "at most 0.3" in json.loads(capsys.readouterr().out)["guarantee"]
