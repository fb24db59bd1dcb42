"""Questions asked again: what each variant shows, who is left out, and that no ordinary number knows of it."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from toy import ToySource, ToyTable, data, stage, trainer

from callbacks.metric_plots import MetricPlots
from callbacks.predictions_writer import PredictionsWriter
from callbacks.results_table import ResultsTable
from medrag_lightning.batches import Steering
from medrag_lightning.data import knowledge_sets
from medrag_lightning.data.evidence import EvidenceMixture
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.knowledge_sets import AskedAgain
from medrag_lightning.data.module import MedragData
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.records import Candidate, Channel, Condition, Document, ImageShown, Regime, Retrieved, Split, Variant

TEXTS = [Document(f"t{n}", f"an article on {n}") for n in range(6)]
PLAN = KnowledgePlan()


class TwoKinds(ToyTable):
    """Pairs and texts."""

    def documents(self):
        return [*super().documents(), *TEXTS]


class Mixed(ToySource):
    """Two pairs and one text between them; question 16 finds pairs alone, question 17 a text alone, question 18 nothing."""

    def retrieve(self, queries):
        by_id = {document.id: document for document in self.documents}
        found = []
        for query in queries:
            n = int(query.id[1:])
            ids = {16: ["d20", "d1"], 17: ["t0"], 18: []}.get(n, [f"d{(n + 4) % 24}", f"t{n % 6}", f"d{(n + 1) % 24}"])
            channels = [Channel.IMAGE_TO_IMAGE if name[0] == "d" else Channel.TEXT_TO_TEXT for name in ids]
            rows = [Candidate(by_id[name], 0.9 - k / 10, channels[k]) for k, name in enumerate(ids)]
            found.append(Retrieved(query.id, tuple(rows), "toy"))
        return found


class NextImage:
    """The image of another question; none is legal for question 19."""

    def __init__(self, world, queries):
        self.every = {query.id for mine in world.queries.values() for query in mine}

    def of(self, query):
        other = f"q{(int(query.id[1:]) + 2) % 24}"
        assert other in self.every
        return None if query.id == "q19" else Condition((), ImageShown.OTHER, other)


@pytest.fixture(autouse=True)
def _other_images(monkeypatch):
    monkeypatch.setattr(knowledge_sets, "CounterImages", NextImage)


def served(folder, **settings):
    table = TwoKinds(str(folder))
    chosen = {"evidence": EvidenceMixture(samples_per_query=1), "cache_folder": str(folder / "evidence"), **settings}
    return MedragData([table], [table], Mixed(), regimes=["retrieved", "none"], batch_size=6, **chosen)


def run_test(folder, module=None, **settings):
    """Data of a test that has been set up, and its stage."""
    module, made = module or stage(), served(folder, **settings)
    run = trainer(folder)
    run.test(module, datamodule=made, verbose=False)
    return made, module


def examples(made):
    world = made.world()
    found = {"retrieved": world.retrieved, **world.of_rival}
    items = AskedAgain(world, world.queries[Split.TEST], found, NextImage(world, []))
    return items, items[[SampleKey(0, place) for place in range(len(items))]]


def test_what_each_variant_shows(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        made, _ = run_test(tmp_path)
    _, shown = examples(made)
    of = {(e.query.id, e.variant): e for e in shown}
    assert len(of) == len(shown)
    both = of["q20", Variant.OTHER_IMAGE], of["q20", Variant.OTHER_IMAGE_ALONE]
    assert [[c.id for c in e.candidates] for e in both] == [["d0", "t2", "d21"], []]
    assert [e.regime for e in both] == [Regime.RETRIEVED, Regime.NONE]
    own, other = (made.world().open_image(made.split_queries("test")[k].image).tobytes() for k in (4, 6))
    assert {e.query_image.tobytes() for e in both} == {other}
    assert both[0].query_image is both[1].query_image
    reports, texts = of["q20", Variant.WITHOUT_DOCUMENTS], of["q20", Variant.WITHOUT_REPORTS]
    assert [(c.id, c.score, c.channel) for c in reports.candidates] == [
        ("d0", 0.9, Channel.IMAGE_TO_IMAGE), ("d21", 0.9 - 2 / 10, Channel.IMAGE_TO_IMAGE)
    ]  # fmt: skip
    assert [c.id for c in texts.candidates] == ["t2"]
    assert {e.query_image.tobytes() for e in (reports, texts)} == {own}
    assert [len([i for i in e.candidate_images if i is not None]) for e in (reports, texts)] == [2, 0]
    assert all(e.query in made.split_queries("test") for e in shown)  # with its own image, which names it
    assert {e.system for e in shown} == {""}


def test_who_is_left_out_is_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        made, module = run_test(tmp_path, knowledge=PLAN)
    every = {query.id for query in made.split_queries("test")}
    asked = {v: {p.query_id for p in module.predictions if p.variant is v} for v in Variant}
    assert every - asked[Variant.OTHER_IMAGE] == {"q18", "q19"}  # no evidence; no other image
    assert asked[Variant.OTHER_IMAGE_ALONE] == asked[Variant.OTHER_IMAGE]
    assert every - asked[Variant.WITHOUT_DOCUMENTS] == {"q17", "q18"}
    assert every - asked[Variant.WITHOUT_REPORTS] == {"q16", "q18"}
    told = caplog.text
    assert "knowledge other_image of retrieved: 2 of 8 queries are left out: they have no image, no evidence" in told
    assert "knowledge without_reports of retrieved: 2 of 8 queries are left out: no text was retrieved" in told


def test_a_question_without_image_keeps_its_evidence_variants(tmp_path):
    made, _ = run_test(tmp_path)
    bare = [replace(query, image=None) for query in made.split_queries("test")]
    world = made.world()
    items = AskedAgain(world, bare, {"retrieved": world.retrieved}, NextImage(world, []))
    assert {variant for _, _, variant in items.items} == {Variant.WITHOUT_REPORTS, Variant.WITHOUT_DOCUMENTS}


@pytest.mark.parametrize("layout", ["one_per_prompt", "all_in_one_prompt"])
def test_ordinary_numbers_files_and_pictures_know_nothing_of_it(tmp_path, layout):
    """Results, ledger, pictures, logged metrics and tuned fusion are those of a run without a plan."""
    module = stage(evidence=layout)
    trainer(tmp_path, max_steps=2).fit(module, datamodule=served(tmp_path))
    numbers, tuned, predictions = {}, {}, {}
    for name, plan in (("plain", None), ("asked", KnowledgePlan(systems=("retrieved", "mcr")))):
        settings = {"cache_folder": str(tmp_path / "evidence"), "rivals": {"mcr": ToySource()}, "knowledge": plan}
        for verb in ("validate", "test"):
            callbacks = [ResultsTable(resamples=100), MetricPlots(), PredictionsWriter(str(tmp_path / name / "said"))]
            run = trainer(tmp_path / name, callbacks=callbacks)
            numbers[name, verb] = getattr(run, verb)(module, datamodule=served(tmp_path, **settings), verbose=False)
            predictions[name, verb] = list(module.predictions)
        tuned[name] = module.tuned_fusion
    for verb in ("validate", "test"):
        assert numbers["plain", verb][0] == numbers["asked", verb][0]  # Lightning repeats them for every loader
        assert [p for p in predictions["asked", verb] if p.variant is None] == predictions["plain", verb]
        assert {p.variant for p in predictions["asked", verb]} == {None, *Variant}
    assert tuned["plain"] == tuned["asked"]
    assert {p.system for p in predictions["asked", "validate"] if p.variant} == {""}
    assert {p.system for p in predictions["asked", "test"] if p.variant} == {"", "mcr"}
    alone = [p for p in predictions["asked", "test"] if p.variant is Variant.OTHER_IMAGE_ALONE]
    assert {(p.system, p.regime, p.cited) for p in alone} == {("", Regime.NONE, ())}
    assert len({p.query_id for p in alone}) == len(alone)
    files = [p.relative_to(tmp_path / "plain") for p in sorted((tmp_path / "plain").rglob("*")) if p.is_file()]
    assert len(files) > 6
    for file in [file for file in files if file.parts[0] != "said"]:
        plain, asked = ((tmp_path / name / file).read_bytes() for name in ("plain", "asked"))
        assert plain.replace(b"/plain/", b"/asked/") == asked, file  # notes name the folder
    rows = [json.loads(line) for line in (tmp_path / "asked" / "said" / "test.jsonl").read_text().splitlines()]
    assert {row["variant"] for row in rows} == {None, *map(str, Variant)}


def test_answers_agree_with_the_ordinary_ones_where_the_prompt_is_the_same(tmp_path):
    """Question 16 has pairs alone, question 17 a text alone: taking the other kind away takes nothing."""
    _, module = run_test(tmp_path, knowledge=PLAN)
    of = {(p.query_id, p.variant): p for p in module.predictions if p.regime is Regime.RETRIEVED}
    for query, variant in (("q16", Variant.WITHOUT_DOCUMENTS), ("q17", Variant.WITHOUT_REPORTS)):
        assert replace(of[query, variant], variant=None).cited == of[query, None].cited
        assert of[query, variant].answer == of[query, None].answer
        assert of[query, variant].logp_nats == pytest.approx(of[query, None].logp_nats, abs=1e-5)


def test_training_prediction_and_the_validation_of_a_fit_ask_nothing_again(tmp_path):
    made, module = served(tmp_path, knowledge=PLAN), stage()
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, datamodule=made)
    assert not any(isinstance(loader.dataset, AskedAgain) for loader in made.val_dataloader())
    assert all(p.variant is None for p in module.predictions)
    run.predict(module, datamodule=made, return_predictions=False)
    assert all(p.variant is None for p in module.predictions)


def test_no_systems_no_questions(tmp_path):
    _, module = run_test(tmp_path, knowledge=KnowledgePlan(systems=()))
    assert all(p.variant is None for p in module.predictions)


def test_a_rival_alone_is_asked_again_and_steered_as_ever(tmp_path):
    steered = stage(evidence="all_in_one_prompt", steering={"mcr": Steering("mass_preserving", [0])})
    made, module = run_test(tmp_path, steered, knowledge=KnowledgePlan(systems=("mcr",)), rivals={"mcr": ToySource()})
    asked = [p for p in module.predictions if p.variant is not None]
    assert {p.system for p in asked if p.regime is Regime.RETRIEVED} == {"mcr"}
    assert {p.variant for p in asked} == set(Variant)
    world = made.world()
    items = AskedAgain(world, world.queries[Split.TEST], world.of_rival, NextImage(world, []))
    parts = steered.collator(training=False)(items[[SampleKey(0, place) for place in range(4)]]).parts
    assert {part.prompts.steering is None for part in parts} == {True, False}  # without evidence there is nothing to steer


def test_systems_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.knowledge\.systems names 'fused'; there are \['retrieved', 'mcr'\]"):
        data(tmp_path, rivals={"mcr": ToySource()}, knowledge=KnowledgePlan(systems=("fused",)))
    with pytest.raises(ValueError, match=r"data\.knowledge\.systems repeats a system"):
        data(tmp_path, knowledge=KnowledgePlan(systems=("retrieved", "retrieved")))
    with pytest.raises(ValueError, match=r"needs the regime retrieved among data\.regimes to compare with"):
        data(tmp_path, regimes=["none"], knowledge=PLAN)
    data(tmp_path, regimes=["none"], knowledge=KnowledgePlan(systems=()))
    data(tmp_path, regimes=["none"], rivals={"mcr": ToySource()}, knowledge=KnowledgePlan(systems=("mcr",)))
