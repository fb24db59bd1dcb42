"""Attention read-out: the numbers are those of the reader, a question counts once, and predictions stay what they were."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_run import Silent, ToyData

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
from toy import ToySource, data, stage, trainer

from callbacks.attention_mass import AttentionMassWriter, SystemMass, _merged, as_csv, mass_table, mean_and_error
from callbacks.attention_plot import draw_mass
from medrag_lightning.batches import SEGMENTS, AttentionMass, EncodedPrompts, Role, Steering
from medrag_lightning.data.noise import NoisePlan
from medrag_lightning.records import Noise, NoiseKind

TOGETHER = "all_in_one_prompt"
LAYERS = 3


def fake_mass(prompts: EncodedPrompts) -> AttentionMass:
    """Attention spread evenly over all tokens, the same in every layer; twice as much on evidence where it is steered."""
    roles = prompts.roles
    assert roles is not None
    evidence_PT = roles.document_PT >= 0
    weight_PT = prompts.mask_PT.float() * (1 + evidence_PT.float() * (prompts.steering is not None))
    weight_PT = weight_PT / weight_PT.sum(1, keepdim=True)
    chosen = [evidence_PT] + [roles.role_PT == list(Role).index(role) for role in (Role.QUERY_IMAGE, Role.QUESTION)]
    chosen.append(~(chosen[0] | chosen[1] | chosen[2]))
    segment_PLS = torch.stack([(weight_PT * of).sum(1) for of in chosen], -1)[:, None].expand(-1, LAYERS, -1)
    count = roles.strength_PK.shape[1]
    document = [(weight_PT * (roles.document_PT == k)).sum(1) for k in range(count)]
    document_PK = torch.stack(document, -1) if count else torch.zeros(len(weight_PT), 0)
    document_PK = document_PK.masked_fill(roles.strength_PK.isnan(), torch.nan)
    return AttentionMass(segment_PLS, document_PK[:, None].expand(-1, LAYERS, -1))


def look(
    folder: Path,
    callback: AttentionMassWriter | None,
    verb: str = "test",
    real: bool = False,
    noise: NoisePlan | None = None,
    **settings: Any,
) -> Any:
    """The stage after a run with a reader whose attention is made up, unless `real`."""
    made = stage(**settings)
    if not real:
        made.reader.attention_mass = fake_mass  # type: ignore[method-assign, assignment]
    run = trainer(folder, callbacks=[] if callback is None else [callback])
    served = data(folder, rivals={"mcr": ToySource()}, eval_batch_size=3, noise=noise)
    getattr(run, verb)(made, served, verbose=False)
    return made


def test_a_row_a_system_and_predictions_as_without_it(tmp_path: Path) -> None:
    steering = {"evidence": TOGETHER, "steering": {"mcr": Steering("paper", [0])}}
    made = look(tmp_path, AttentionMassWriter(batches=1), **steering)
    found = json.loads((tmp_path / "attention_mass.json").read_text())
    systems = {system["name"]: system for system in found["systems"]}
    assert list(systems) == ["retrieved", "no retrieval", "random retrieval", "oracle", "mcr"]
    assert (found["layers"], found["segments"], found["split"]) == (LAYERS, list(SEGMENTS), "test")
    for system in systems.values():
        assert (system["questions"], system["patients"]) == (3, 3)
        shares = np.array([system["segments"][name]["mean"] for name in SEGMENTS])
        assert shares.sum(0) == pytest.approx(np.ones(LAYERS))
        documents = np.array([document["mean"] for document in system["documents"]]).reshape(-1, LAYERS)
        assert documents.sum(0) == pytest.approx(shares[0])
    assert systems["no retrieval"]["segments"]["evidence"]["mean"] == [0.0] * LAYERS
    assert systems["no retrieval"]["documents"] == []
    assert [d["number"] for d in systems["retrieved"]["documents"]] == [1, 2, 3]
    assert systems["mcr"]["segments"]["evidence"]["mean"][0] > systems["retrieved"]["segments"]["evidence"]["mean"][0]
    assert systems["mcr"]["steering"]["policy"] == "paper"
    assert systems["retrieved"]["steering"] is None
    assert (tmp_path / "plots" / "attention_mass.png").exists()
    without = look(tmp_path / "plain", None, **steering)
    assert made.predictions == without.predictions
    assert (made.mark_roles, without.mark_roles) == (True, False)


def test_some_systems_alone_are_looked_at_and_unknown_names_are_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="systems names bm25, which this run does not have"):
        look(tmp_path, AttentionMassWriter(systems=["mcr", "bm25"]), evidence=TOGETHER)
    found = json.loads((tmp_path / "attention_mass.json").read_text())
    assert [system["name"] for system in found["systems"]] == ["mcr"]


def test_noise_that_comes_mixed_in_a_batch_is_told_apart(tmp_path: Path) -> None:
    """A batch holds a question under every noise; each stands in a row of its own, with the attention on its own evidence."""
    plan = NoisePlan(kinds=("irrelevant", "blank_image"), shares=(0.5, 1.0), systems=("mcr",))
    look(tmp_path, AttentionMassWriter(batches=None, systems=["mcr"]), evidence=TOGETHER, noise=plan)
    found = json.loads((tmp_path / "attention_mass.json").read_text())["systems"]
    told = [None if s["noise"] is None else (s["noise"]["kind"], s["noise"]["share"]) for s in found]
    assert sorted(told, key=str) == sorted([None, ("irrelevant", 0.5), ("irrelevant", 1.0), ("blank_image", 1.0)], key=str)
    assert {s["questions"] for s in found} == {found[0]["questions"]}


def test_a_real_reader_is_looked_at_as_it_is_steered(tmp_path: Path) -> None:
    """The rival finds the same candidates, and is steered so strongly that the first gets all attention."""
    settings = {"evidence": TOGETHER, "steering": {"mcr": Steering("pasta", "all", gain=1e-6)}}
    made = look(tmp_path, AttentionMassWriter(), real=True, **settings)
    systems = {s["name"]: s for s in json.loads((tmp_path / "attention_mass.json").read_text())["systems"]}
    shares = np.array([[s["segments"][name]["mean"] for name in SEGMENTS] for s in systems.values()])
    assert shares.sum(1) == pytest.approx(np.ones((5, 1)), abs=1e-5)
    assert systems["mcr"]["documents"][0]["mean"][0] > 0.99 > systems["retrieved"]["documents"][0]["mean"][0]
    assert made.reader.layer_count == 1


def test_validation_alone_is_looked_at_and_a_fit_is_not(tmp_path: Path) -> None:
    look(tmp_path, AttentionMassWriter(), verb="validate")
    found = json.loads((tmp_path / "attention_mass_val.json").read_text())
    assert found["split"] == "val"
    # One candidate a prompt: three prompts a question, each document seen in its own.
    retrieved = found["systems"][0]
    assert retrieved["questions"] == 4
    assert [d["questions"] for d in retrieved["documents"]] == [4, 4, 4]
    callback, made = AttentionMassWriter(), stage()
    run = trainer(tmp_path / "fit", callbacks=[callback], max_steps=1)
    run.fit(made, data(tmp_path / "fit"))
    assert not made.mark_roles
    assert not list((tmp_path / "fit").glob("attention*"))


def test_the_error_knows_that_questions_of_one_patient_are_alike() -> None:
    values = np.random.default_rng(0).normal(size=(6, 2))
    mean, error = mean_and_error(values, list("abcdef"))
    assert mean == pytest.approx(values.mean(0))
    assert error == pytest.approx(values.std(0, ddof=1) / np.sqrt(6))
    twice = np.repeat(values, 5, axis=0)
    assert mean_and_error(twice, [c for c in "abcdef" for _ in range(5)])[1] == pytest.approx(error)
    assert np.isnan(mean_and_error(values, ["one"] * 6)[1]).all()


def made_up(name: str, **more: Any) -> SystemMass:
    """Twelve questions of six patients, five layers, four documents; the last document in half of the prompts."""
    rng = np.random.default_rng(len(name))
    system = SystemMass(name, **more)
    for n in range(12):
        segment = rng.dirichlet([8, 3, 4, 6], size=5)
        document = segment[:, :1] * rng.dirichlet([4, 3, 2, 1], size=5)
        if n % 2:
            document[:, 3] = np.nan
        system.seen[f"q{n}"] = [(segment, document)]
        system.cluster[f"q{n}"] = f"p{n // 2}"
    return system


def test_table_and_csv_tell_the_same(tmp_path: Path) -> None:
    noisy = made_up("mcr", noise=Noise(NoiseKind.IRRELEVANT, 0.5))
    table = mass_table([made_up("retrieved"), noisy, SystemMass("empty")], "test")
    assert [system["name"] for system in table["systems"]] == ["retrieved", "mcr"]
    assert table["systems"][0]["documents"][3]["questions"] == 6
    rows = list(csv.DictReader(as_csv(table).decode().splitlines()))
    assert len(rows) == 2 * 5 * (4 + 4)
    last = rows[-1]
    assert (last["system"], last["noise_kind"], last["noise_share"], last["part"]) == ("mcr", "irrelevant", "0.5", "document 4")
    assert float(last["mean"]) == pytest.approx(table["systems"][1]["documents"][3]["mean"][4], rel=1e-5)


def test_processes_that_saw_different_questions_make_one_table() -> None:
    whole, one, two = made_up("retrieved"), made_up("retrieved", steering=Steering("paper", [1])), made_up("retrieved")
    one.seen = {name: rows for name, rows in whole.seen.items() if int(name[1:]) % 3}
    two.seen = {name: rows for name, rows in whole.seen.items() if not int(name[1:]) % 3}
    (merged,) = _merged([{"retrieved None": two}, {"retrieved None": one}])
    assert merged.steering == one.steering
    assert mass_table([merged], "test")["systems"][0]["segments"] == mass_table([whole], "test")["systems"][0]["segments"]


def test_pictures_of_few_and_many_systems(tmp_path: Path) -> None:
    names = ("retrieved", "mcr", "image to image", "text", "other")
    many = [made_up(name, steering=Steering("paper", [1, 2])) for name in names]
    alone = made_up("retrieved")
    alone.seen = {"q0": alone.seen["q0"]}  # one question: no interval
    for systems in (many, [alone]):
        path = tmp_path / "mass.png"
        path.write_bytes(draw_mass(mass_table(systems, "test")))
        with Image.open(path) as image:
            assert image.size[0] > 600
            assert np.asarray(image.convert("L")).std() > 5


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batches must be at least 1"):
        AttentionMassWriter(batches=0)
    with pytest.raises(ValueError, match="Silent has no `mark_roles`"):
        trainer(tmp_path, callbacks=[AttentionMassWriter()]).test(Silent(), ToyData(), verbose=False)
    made = stage()
    made.reader.prepare(["which colour"])
    made.reader = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Identity does not tell where it looks"):
        AttentionMassWriter()._begin(made)
