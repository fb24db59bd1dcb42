"""Spoilt evidence: paired over shares and systems, legal, exact in its shares, and never part of training."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from toy import ToySource, ToyTable, data, stage, trainer

from callbacks.predictions_writer import PredictionsWriter
from medrag_lightning.artifacts import counter_rng
from medrag_lightning.data.evidence import EvidenceMixture, EvidencePicker
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.noise import NoisePlan, NoisyExamples, Spoiler, noisy_sets
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.metrics import parse_closed
from medrag_lightning.records import (
    AnswerType,
    Candidate,
    Channel,
    Document,
    ImageRef,
    Noise,
    NoiseKind,
    Query,
    Regime,
    Retrieved,
    shares_identity,
)

SHARES = (0.125, 0.25, 0.375, 0.5)
COLOURS = ("red", "green", "blue")
DOCUMENTS = [Document(f"d{n}", f"the patch {n} is {COLOURS[n % 3]}", patient_id=f"p{n}") for n in range(60)]
BY_ID = {document.id: document for document in DOCUMENTS}
QUERIES = [
    Query(f"q{n}", f"which colour has patch {n} ?", ImageRef(f"{n}.png"), COLOURS[n % 3], COLOURS, AnswerType.CLOSED,
          patient_id=f"p{n}", relevant_ids=(f"d{n + 30}",)) for n in range(24)
]  # fmt: skip


def found(size=8, first=1):
    """Documents of the same colour, so that none contradicts."""
    return {
        q.id: Retrieved(q.id, tuple(Candidate(DOCUMENTS[(n + 3 * (k + first)) % 60], 1 - k / 10, Channel.IMAGE_TO_IMAGE)
                                    for k in range(size)))
        for n, q in enumerate(QUERIES)
    }  # fmt: skip


def picker(documents=DOCUMENTS, seed=0, **settings):
    return EvidencePicker(documents, {}, EvidenceMixture(), False, seed, **settings)


def spoiler(plan=None, systems=None, queries=QUERIES, **settings):
    return Spoiler(plan or NoisePlan(), queries, systems or {"retrieved": found()}, picker(**settings))


def changed(old, new):
    return {k for k, (a, b) in enumerate(zip(old, new, strict=True)) if a.document != b.document}


@pytest.mark.parametrize("kind", ["irrelevant", "contradicting", "duplicated"])
def test_replacement_is_nested_legal_and_keeps_place_score_and_channel(kind):
    spoils, ordinary = spoiler(), found()
    for query in spoils.queries[NoiseKind(kind)]:
        before: dict[int, str] = {}
        for share in SHARES:
            old = ordinary[query.id].candidates
            new = spoils.candidates(query, "retrieved", Noise(NoiseKind(kind), share))
            assert [(c.score, c.channel) for c in new] == [(c.score, c.channel) for c in old]
            places = changed(old, new)
            assert len(places) == 8 * share
            assert before.items() <= {k: new[k].id for k in places}.items()
            assert all(shares_identity(query, c.document) is None for c in new)
            before = {k: new[k].id for k in places}


def test_what_each_kind_puts_in():
    spoils, ordinary = spoiler(), found()
    for query in QUERIES:
        old = ordinary[query.id].candidates
        new = {kind: spoils.candidates(query, "retrieved", Noise(kind, 0.5)) for kind in list(NoiseKind)[:3]}
        kept = {k: {c.id for c in new[k]} & {c.id for c in old} for k in new}
        fresh = {k: [c.document for c in new[k] if c.id not in {o.id for o in old}] for k in new}
        irrelevant = {document.id for document in fresh[NoiseKind.IRRELEVANT]}
        assert len(irrelevant) == 4
        assert not irrelevant & set(query.relevant_ids)
        stated = [parse_closed(document.text, COLOURS) for document in fresh[NoiseKind.CONTRADICTING]]
        assert len(stated) == len({d.id for d in fresh[NoiseKind.CONTRADICTING]}) == 4
        assert not {query.answer, None} & set(stated)
        assert fresh[NoiseKind.DUPLICATED] == []
        assert (len(new[NoiseKind.DUPLICATED]), len(kept[NoiseKind.DUPLICATED])) == (8, 4)
        assert spoils.candidates(query, "retrieved", Noise(NoiseKind.BLANK_IMAGE, 1.0)) == old


def test_systems_of_one_size_lose_the_same_places_to_the_same_documents():
    systems = {"retrieved": found(), "other": found(first=9)}
    spoils = spoiler(systems=systems)
    for kind in (NoiseKind.IRRELEVANT, NoiseKind.CONTRADICTING):
        for query in spoils.queries[kind]:
            new = {name: spoils.candidates(query, name, Noise(kind, 0.375)) for name in systems}
            places = {name: changed(systems[name][query.id].candidates, new[name]) for name in systems}
            assert places["retrieved"] == places["other"]
            assert len({tuple(new[name][k].id for k in sorted(places[name])) for name in systems}) == 1
            seen = {c.id for name in systems for c in systems[name][query.id].candidates}
            assert not seen & {new["other"][k].id for k in places["other"]}


def test_draws_depend_on_seed_query_and_kind_alone():
    noise, last = Noise(NoiseKind.IRRELEVANT, 0.5), QUERIES[-1]
    whole = spoiler().candidates(last, "retrieved", noise)
    assert spoiler(queries=QUERIES[-1:]).candidates(last, "retrieved", noise) == whole
    assert spoiler(plan=NoisePlan(shares=(0.5,), kinds=("irrelevant",))).candidates(last, "retrieved", noise) == whole
    assert spoiler(seed=1).candidates(last, "retrieved", noise) != whole


@pytest.mark.parametrize(("size", "share"), [(3, 0.5), (4, 0.125), (5, 0.25), (15, 0.375)])
def test_the_mean_share_is_exact(size, share):
    spoils = spoiler()
    many = [replace(QUERIES[0], id=f"x{n}") for n in range(4000)]
    counts = np.array([len(spoils.replaced(query, Noise(NoiseKind.IRRELEVANT, share), size)[0]) for query in many])
    assert set(counts) <= {int(size * share), int(size * share) + 1}
    assert counts.mean() / size == pytest.approx(share, abs=4 * 0.5 / size / 4000**0.5)


def test_one_candidate_of_two_always_stays_under_duplication():
    spoils = spoiler(NoisePlan(kinds=("duplicated",), shares=(1.0,)), {"retrieved": found(2)})
    new = spoils.candidates(QUERIES[0], "retrieved", Noise(NoiseKind.DUPLICATED, 1.0))
    assert len(new) == 2
    assert len({c.id for c in new} & {c.id for c in found(2)["q0"].candidates}) == 1


def test_queries_without_contradiction_are_left_out_and_counted(caplog):
    opened = [replace(q, choices=(), answer_type=AnswerType.OPEN) for q in QUERIES[:10]]
    poisoned = replace(opened[0], poison_ids=("d59", "d58", "d57", "d56"))
    with caplog.at_level(logging.WARNING):
        spoils = spoiler(queries=[poisoned, *opened[1:], *QUERIES[10:]])
    assert [q.id for q in spoils.queries[NoiseKind.CONTRADICTING]] == ["q0", *(q.id for q in QUERIES[10:])]
    assert "noise contradicting: 9 of 24 queries are left out: too few documents" in caplog.text
    new = spoils.candidates(poisoned, "retrieved", Noise(NoiseKind.CONTRADICTING, 0.5))
    assert {c.id for c in new} >= {"d59", "d58", "d57", "d56"}


def test_contradictions_about_the_matter_come_first():
    spoils = spoiler(NoisePlan(kinds=("contradicting",), shares=(0.125,)))
    matter = replace(QUERIES[0], id="m", patient_id=None, question="which colour has patch 41 ?")
    spoils.found = {"retrieved": {"m": Retrieved("m", found()["q0"].candidates)}}
    assert spoils._contradictions([matter])["m"][0].id == "d41"
    denied = [*DOCUMENTS, Document("d99", "patch 41 is not green")]
    again = spoiler(NoisePlan(kinds=("contradicting",), shares=(0.125,)), documents=denied)
    again.found = spoils.found
    assert again._contradictions([matter])["m"][0].id == "d41"


def test_a_copy_of_the_query_image_is_never_drawn():
    """The same pixels under another name: only the last three documents look otherwise."""
    pixels = {f"{n}.png": Image.new("RGB", (4, 4), (n >= 57, 0, 0)) for n in range(60)}
    documents = [replace(d, image=ImageRef(f"{n}.png"), patient_id=None) for n, d in enumerate(DOCUMENTS)]
    asked = replace(QUERIES[0], image=ImageRef("0.png"), patient_id=None)
    few = {"retrieved": {"q0": Retrieved("q0", tuple(Candidate(documents[k], 1.0, Channel.FUSED) for k in (58, 59)))}}
    spoils = Spoiler(NoisePlan(shares=(0.5,)), [asked], few, picker(documents, open_image=lambda ref: pixels[ref.path]))
    new = spoils.candidates(asked, "retrieved", Noise(NoiseKind.IRRELEVANT, 0.5))
    assert {c.id for c in new} - {"d58", "d59"} == {"d57"}
    with pytest.raises(ValueError, match="corpus has only 1 documents that are irrelevant to it, 2 are needed"):
        spoils.candidates(asked, "retrieved", Noise(NoiseKind.IRRELEVANT, 1.0))


def test_blank_images_are_grey_nested_and_of_the_right_share():
    plan = NoisePlan(kinds=("blank_image",), blank_shares=(0.25, 0.5, 1.0))
    opened = Image.new("RGB", (4, 4), (9, 9, 9))
    queries = [*QUERIES, replace(QUERIES[0], id="bare", image=None)]
    (items,) = noisy_sets(plan, queries, {"retrieved": found()}, picker(), lambda ref: opened)
    examples = items[[SampleKey(0, place) for place in range(len(items))]]
    assert len(examples) == 3 * 24
    blank = [(e.noise.share, e.query.id) for e in examples if e.query_image is not opened]
    grey = {share: {name for at, name in blank if at == share} for share in plan.blank_shares}
    assert grey[0.25] < grey[0.5] < grey[1.0] == {q.id for q in QUERIES}
    assert all(e.query_image.getpixel((0, 0)) == (128,) * 3 for e in examples if e.noise.share == 1)


def test_max_queries_are_drawn_once_for_all_systems():
    plan = NoisePlan(max_queries=7)
    some = spoiler(plan, {"retrieved": found(), "other": found(4)})
    fewer = spoiler(replace(plan, max_queries=3))
    assert [len(mine) for mine in some.queries.values()] == [7] * 4
    assert {q.id for q in fewer.queries[NoiseKind.IRRELEVANT]} < {q.id for q in some.queries[NoiseKind.IRRELEVANT]}
    assert [q.id for q in some.queries[NoiseKind.IRRELEVANT]] != [q.id for q in QUERIES[:7]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ()}, "noise.kinds must name at least one"),
        ({"shares": (0.5, 0.5)}, "noise.shares must name at least one, each once"),
        ({"shares": (0.0, 0.5)}, r"must lie in \(0, 1\], got 0.0; share 0 is the ordinary test"),
        ({"blank_shares": (1.5,)}, "must lie in"),
        ({"max_queries": 0}, "noise.max_queries must be at least 1, got 0"),
    ],
)
def test_plans_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NoisePlan(**settings)


def test_systems_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"noise.systems names 'fused'; there are \['retrieved', 'mcr'\]"):
        data(tmp_path, rivals={"mcr": ToySource()}, noise=NoisePlan(systems=("fused",)))
    with pytest.raises(ValueError, match=r"needs the regime retrieved among data\.regimes"):
        data(tmp_path, regimes=["none"], noise=NoisePlan())
    data(tmp_path, regimes=["none"], rivals={"mcr": ToySource()}, noise=NoisePlan(systems=("mcr",)))


def test_the_minihospital_is_contradicted_where_it_can_be(tmp_path):
    world = MiniHospital(1, 120, folder=str(tmp_path))
    documents = world.documents()
    queries = [q for q in world.queries() if q.split == "test"]
    legal = {q.id: [d for d in documents if shares_identity(q, d) is None] for q in queries}
    chosen = {q.id: [legal[q.id][i] for i in counter_rng(3, q.id).permutation(len(legal[q.id]))[:4]] for q in queries}
    ordinary = {name: Retrieved(name, tuple(Candidate(d, 1.0, Channel.GIVEN) for d in few)) for name, few in chosen.items()}
    spoils = Spoiler(NoisePlan(), queries, {"retrieved": ordinary}, picker(documents))
    suited = spoils.queries[NoiseKind.CONTRADICTING]
    grades = [q for q in suited if q.answer_type is AnswerType.CLOSED and "five" in q.choices]
    assert 10 < len(grades) < len(suited) < len(queries)
    for query in grades:
        new = spoils.candidates(query, "retrieved", Noise(NoiseKind.CONTRADICTING, 0.5))
        fresh = [c.document for c in new if c.id not in {d.id for d in chosen[query.id]}]
        assert len(fresh) == 2
        assert all(d.id in query.poison_ids or parse_closed(d.text, query.choices) not in (None, query.answer) for d in fresh)
        irrelevant = spoils.candidates(query, "retrieved", Noise(NoiseKind.IRRELEVANT, 0.5))
        spoilt = {c.id for c in irrelevant} - {d.id for d in chosen[query.id]}
        assert not spoilt & {*query.relevant_ids, *query.poison_ids}


@pytest.mark.parametrize("layout", ["one_per_prompt", "all_in_one_prompt"])
def test_a_test_with_noise_keeps_its_ordinary_numbers(tmp_path, layout):
    """Predictions of noise are written with their noise; every ordinary metric is what it was without a plan."""
    fit = trainer(tmp_path, max_steps=2)
    trained = stage(evidence=layout)
    fit.fit(trained, datamodule=data(tmp_path, evidence=EvidenceMixture(samples_per_query=1)))
    plain = trainer(tmp_path).test(trained, datamodule=data(tmp_path, rivals={"mcr": ToySource()}), verbose=False)
    ordinary = list(trained.predictions)
    served = data(tmp_path, rivals={"mcr": ToySource()}, noise=NoisePlan(shares=(0.5,)))
    run = trainer(tmp_path, callbacks=[PredictionsWriter()])
    assert run.test(trained, datamodule=served, verbose=False)[0] == plain[0]
    assert [p for p in trained.predictions if p.noise is None] == ordinary
    spoilt = [p for p in trained.predictions if p.noise is not None]
    assert {p.system for p in spoilt} == {"", "mcr"}
    assert {p.noise.kind for p in spoilt} == set(NoiseKind)
    lines = (tmp_path / "predictions" / "test.jsonl").read_text().splitlines()
    irrelevant = sum('"noise": {"kind": "irrelevant", "share": 0.5}' in line for line in lines)
    assert irrelevant == 2 * len(served.split_queries("test"))
    assert sum('"noise": null' in line for line in lines) == len(ordinary)


def test_training_and_prediction_know_no_noise(tmp_path):
    served = data(tmp_path, noise=NoisePlan(), rivals={"mcr": ToySource()})
    run, module = trainer(tmp_path, max_steps=1), stage()
    run.fit(module, datamodule=served)
    loaders = [served.train_dataloader(), *served.val_dataloader()]
    assert not any(isinstance(loader.dataset, NoisyExamples) for loader in loaders)
    assert all(p.noise is None for p in module.predictions)
    run.predict(module, datamodule=served, return_predictions=False)
    assert all(p.noise is None for p in module.predictions)
    run.validate(module, datamodule=served, verbose=False)
    assert {p.system for p in module.predictions if p.noise is not None} == {""}
    assert {p.regime for p in module.predictions if p.noise is not None} == {Regime.RETRIEVED}


def test_the_toy_table_has_two_thirds_closed(tmp_path):
    """Only closed questions can be contradicted where no poison is known."""
    served = data(tmp_path, noise=NoisePlan(kinds=("contradicting",), shares=(0.5,)))
    module = stage()
    trainer(tmp_path).test(module, datamodule=served, verbose=False)
    spoilt = [p for p in module.predictions if p.noise is not None]
    assert {p.answer_type for p in spoilt} == {AnswerType.CLOSED}
    words = {d.id: d.text for d in ToyTable(str(tmp_path)).documents()}
    assert all(any(not words[name].endswith(p.gold) for name in p.cited) for p in spoilt)


class Similar(ToySource):
    """Every document is as similar as its number says; those that end in 7 have no image."""

    def similarities(self, queries, ids, channels):
        return [np.array([[np.nan if name[-1] == "7" else int(name[1:]) / 100] * len(channels) for name in row], np.float32)
                for row in ids]  # fmt: skip


class Doubled(Similar):
    """A fused source: twice the similarity."""

    def fused_scores(self, queries, ids):
        return [(2 * found_KM[:, 0]).tolist() for found_KM in self.similarities(queries, ids, [Channel.IMAGE_TO_IMAGE])]


@pytest.mark.parametrize(("source", "channel", "factor"), [(Similar, Channel.IMAGE_TO_TEXT, 1), (Doubled, Channel.FUSED, 2)])
def test_own_scores_are_the_sources(source, channel, factor):
    ordinary = {
        name: Retrieved(name, tuple(replace(c, channel=channel) for c in one.candidates)) for name, one in found().items()
    }
    plan = NoisePlan(scores="own")
    spoils = Spoiler(plan, QUERIES, {"retrieved": ordinary}, picker(), {"retrieved": source()})
    blind = Spoiler(NoisePlan(), QUERIES, {"retrieved": ordinary}, picker())
    lacking = 0
    for kind in (NoiseKind.IRRELEVANT, NoiseKind.CONTRADICTING):
        for query in spoils.queries[kind]:
            old = ordinary[query.id].candidates
            for share in SHARES:
                new = spoils.candidates(query, "retrieved", Noise(kind, share))
                kept = blind.candidates(query, "retrieved", Noise(kind, share))
                assert [(c.id, c.channel) for c in new] == [(c.id, c.channel) for c in kept]
                for place, (was, now) in enumerate(zip(old, new, strict=True)):
                    if place not in changed(old, new):
                        assert now == was
                    elif now.id[-1] == "7":
                        lacking += 1
                        assert now.score <= min(c.score for c in old)
                    else:
                        assert now.score == pytest.approx(factor * int(now.id[1:]) / 100)
    assert lacking > 0
    copied = spoils.candidates(QUERIES[0], "retrieved", Noise(NoiseKind.DUPLICATED, 0.5))
    assert set(copied) <= set(ordinary["q0"].candidates)


def test_own_scores_need_a_source_that_can_tell_them():
    with pytest.raises(ValueError, match=r"noise\.scores=own: the source of 'retrieved', ToySource, cannot tell how similar"):
        Spoiler(NoisePlan(scores="own"), QUERIES, {"retrieved": found()}, picker(), {"retrieved": ToySource()})
    fused = {n: Retrieved(n, tuple(replace(c, channel=Channel.FUSED) for c in one.candidates)) for n, one in found().items()}
    with pytest.raises(ValueError, match=r"of 'retrieved' have scores of no similarity \(channels fused\); use kept"):
        Spoiler(NoisePlan(scores="own"), QUERIES, {"retrieved": fused}, picker(), {"retrieved": Similar()})


def test_own_scores_of_rivals_come_from_the_rivals(tmp_path):
    plan = NoisePlan(kinds=("irrelevant",), shares=(1.0,), scores="own")
    served, module = data(tmp_path, rivals={"mcr": Similar()}, noise=plan), stage()
    served.source = Similar()
    trainer(tmp_path).test(module, datamodule=served, verbose=False)
    spoilt = [p for p in module.predictions if p.noise is not None]
    assert {p.system for p in spoilt} == {"", "mcr"}
    sure = [(name, score) for p in spoilt for name, score in zip(p.cited, p.scores, strict=True) if name[-1] != "7"]
    assert all(score == pytest.approx(int(name[1:]) / 100) for name, score in sure)
