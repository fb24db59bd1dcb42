"""Which prompts are steered, and how: by system, never without evidence, never two kinds in one part; what is refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from toy import ADAMW, ToySource, data, reader, stage, trainer

from medrag_lightning.artifacts import write_json
from medrag_lightning.batches import EncodedPrompts, Example, Role, Steering
from medrag_lightning.data.evidence import EvidencePicker
from medrag_lightning.data.examples import EvalExamples
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.metrics.critical_layers import SCHEMA
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.reading.steered_systems import check_names, numbered, steered_systems
from medrag_lightning.records import Regime
from medrag_lightning.stages.reader_raft import ReaderRaft

PAPER, PASTA = Steering("paper", [0]), Steering("pasta", "all", gain=0.01)
TOGETHER = "all_in_one_prompt"


def test_systems_are_named_as_examples_name_them() -> None:
    assert steered_systems(None, None, True, "query_first") == {}
    made = steered_systems({"retrieved": PAPER, "mcr": PASTA}, None, False, "evidence_first")
    assert made == {"": PAPER, "mcr": PASTA}
    critical = steered_systems({"": replace(PAPER, layers="critical"), "b": PASTA}, [1, 2], False, "evidence_first")
    assert numbered(critical, [1, 2]) == {"": Steering("paper", [1, 2]), "b": PASTA}


def test_settings_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(ValueError, match="'mcr' needs all evidence in one prompt"):
        steered_systems({"mcr": PAPER}, None, True, "evidence_first")
    with pytest.raises(ValueError, match="'retrieved' would be ignored: with template order query_first"):
        steered_systems({"": PAPER}, None, False, "query_first")
    with pytest.raises(ValueError, match="query_first"):
        steered_systems({"": Steering("knockout", "all")}, None, False, "query_first")
    for looks_elsewhere in (Steering("pai", "all", 0.2), Steering("knockout", "all", direction="evidence_to_last")):
        assert steered_systems({"": looks_elsewhere}, None, False, "query_first")
    with pytest.raises(ValueError, match="twice"):
        steered_systems({"": PAPER, "retrieved": PASTA}, None, False, "evidence_first")
    with pytest.raises(ValueError, match=r"critical_layers=\[1\] would be ignored"):
        steered_systems({"": PAPER}, [1], False, "evidence_first")
    with pytest.raises(ValueError, match="not known which these are"):
        steered_systems({"": replace(PAPER, layers="critical")}, None, False, "evidence_first")


def test_critical_layers_may_be_those_of_a_file(tmp_path: Path) -> None:
    """The file is held against the reader once its weights are there; a reader that trains on keeps its layers."""
    settings = {"steering": {"": replace(PAPER, layers="critical")}, "critical_layers": str(tmp_path / "found.json")}
    made = stage(evidence=TOGETHER, **settings)
    made.reader.prepare(["which colour? red"])
    with pytest.raises(ValueError, match="no such file"):
        made.collator(training=False)
    told = {"schema": SCHEMA, "reader": made.reader.fingerprint(), "layers": {"evidence_to_question": [0]}}
    write_json(tmp_path / "found.json", told)
    assert made.collator(training=False).steering == {"": PAPER}  # type: ignore[attr-defined]
    with torch.no_grad():
        next(made.reader.parameters()).add_(1.0)
    assert made.collator(training=True).steering == {"": PAPER}  # type: ignore[attr-defined]
    fresh = stage(evidence=TOGETHER, **settings)
    fresh.reader = made.reader
    with pytest.raises(ValueError, match="reader"):
        fresh.collator(training=False)


def test_a_system_that_is_not_there_is_refused(tmp_path: Path) -> None:
    check_names({"", "mcr"}, ["mcr", "other"])
    made = stage(evidence=TOGETHER, steering={"mrc": PAPER})
    with pytest.raises(ValueError, match=r"names 'mrc', no system of this run; there are \['retrieved', 'mcr'\]"):
        trainer(tmp_path).test(made, data(tmp_path, rivals={"mcr": ToySource()}), verbose=False)


def collator(folder: Path, steering: dict[str, Steering], training: bool = False) -> tuple[RaftCollator, list[Example]]:
    """A collator, and test questions under four regimes and of a rival."""
    served = data(folder)
    served.prepare_data()
    served.setup("test")
    made = reader()
    made.prepare(served.training_texts())
    found = served._retrieved
    assert found is not None
    picker = EvidencePicker(served.documents(), found, served.evidence, False, 0, served._image_store())
    queries, images = served.split_queries("test"), served._image_store()
    sets = [EvalExamples(queries, picker, regime, images) for regime in (Regime.RETRIEVED, Regime.NONE, Regime.RANDOM)]
    sets += [EvalExamples(queries, picker, Regime.RETRIEVED, images, "mcr")]
    examples = [example for items in sets for example in items[[SampleKey(0, place) for place in range(3)]]]
    return RaftCollator(made.processor, PromptTemplate(), False, training, steering=steering), examples


@pytest.mark.parametrize("training", [False, True])
def test_a_part_is_steered_as_its_system_and_alike(tmp_path: Path, training: bool) -> None:
    collate, examples = collator(tmp_path, {"": PAPER, "mcr": PASTA}, training)
    batch = pickle.loads(pickle.dumps(collate))(examples)  # noqa: S301  own bytes, as spawned workers do
    seen = set()
    for part in batch.parts:
        of_part = [examples[place] for place in part.query_of_prompt]
        wanted = {None if not e.candidates else "mcr" if e.system else "" for e in of_part}
        assert len(wanted) == 1
        (name,) = wanted
        seen.add(name)
        assert part.prompts.steering == {None: None, "": PAPER, "mcr": PASTA}[name]
        if name is None:
            assert part.prompts.roles is None
            continue
        roles = part.prompts.roles
        assert roles is not None
        for p, example in enumerate(of_part):
            assert roles.strength_PK[p].tolist() == pytest.approx([c.score for c in example.candidates])
            assert set(roles.document_PT[p].tolist()) == {-1, *range(len(example.candidates))}
            assert bool((roles.role_PT[p] == list(Role).index(Role.QUESTION)).any())
    assert seen == {None, "", "mcr"}
    assert sorted(place for part in batch.parts for place in part.query_of_prompt) == list(range(len(examples)))


def test_without_steering_batches_are_as_before(tmp_path: Path) -> None:
    collate, examples = collator(tmp_path, {})
    plain = collate(examples)
    assert all(part.prompts.roles is None and part.prompts.steering is None for part in plain.parts)
    elsewhere = RaftCollator(collate.processor, PromptTemplate(), False, False, steering={"another": PAPER})(examples)
    marked = RaftCollator(collate.processor, PromptTemplate(), False, False, roles=True)(examples)
    assert len(plain.parts) == len(elsewhere.parts) == len(marked.parts)
    for one, two, three in zip(plain.parts, elsewhere.parts, marked.parts, strict=True):
        assert one.prompts.ids_PT.equal(two.prompts.ids_PT)
        assert one.prompts.ids_PT.equal(three.prompts.ids_PT)
        assert (two.prompts.roles, three.prompts.steering) == (None, None)
        assert three.prompts.roles is not None


class Watched(ReaderRaft):
    """Keeps the steering of every prompt that its reader is given, in training and evaluation apart."""

    def watch(self) -> ReaderRaft:
        self.trained: list[Steering | None] = []
        self.evaluated: list[tuple[str, str, Steering | None]] = []
        inner = self.reader.token_logp

        def token_logp(prompts: EncodedPrompts, rows):  # type: ignore[no-untyped-def]
            if torch.is_grad_enabled():
                self.trained.append(prompts.steering)
            return inner(replace(prompts, steering=None), rows)

        self.reader.token_logp = token_logp  # type: ignore[method-assign]
        return self

    def test_step(self, batch, batch_idx, dataloader_idx=0):  # type: ignore[no-untyped-def]
        for part in batch.parts:
            of_part = [batch.examples[place] for place in part.query_of_prompt]
            self.evaluated += [(str(e.regime), e.system, part.prompts.steering) for e in of_part]


@pytest.mark.parametrize("name", ["retrieved", ""])
def test_training_is_steered_as_the_runs_own_source_is(tmp_path: Path, name: str) -> None:
    settings = {"evidence": TOGETHER, "steering": {name: PAPER, "mcr": PASTA}, "max_new_tokens": 4}
    made = Watched(reader(), ADAMW, **settings).watch()  # type: ignore[arg-type]
    served = data(tmp_path, rivals={"mcr": ToySource()})
    run = trainer(tmp_path, max_steps=2, limit_val_batches=0)
    run.fit(made, served)
    assert set(map(str, made.trained)) == {str(PAPER), "None"}  # a few training prompts show no evidence
    run.test(made, served, verbose=False)
    told = {(regime, system): steering for regime, system, steering in made.evaluated}
    assert told == {
        ("retrieved", ""): PAPER,
        ("none", ""): None,
        ("random", ""): PAPER,
        ("oracle", ""): PAPER,
        ("retrieved", "mcr"): PASTA,
    }


def test_settings_come_from_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--steering", type=dict[str, Steering] | None)
    parser.add_argument("--critical_layers", type=list[int] | None)
    told = {"": {"policy": "paper", "layers": [0, 2]}, "mcr + pasta": {"policy": "pasta", "layers": "critical", "gain": 0.01}}
    made = parser.instantiate(parser.parse_object({"steering": told, "critical_layers": [3]}))
    steered = steered_systems(made.steering, made.critical_layers, False, "evidence_first")
    wanted = {"": Steering("paper", [0, 2]), "mcr + pasta": Steering("pasta", [3], gain=0.01)}
    assert numbered(steered, made.critical_layers) == wanted
    with pytest.raises(ArgumentError, match="policy"):
        parser.parse_object({"steering": {"": {"policy": "papers", "layers": "all"}}})
