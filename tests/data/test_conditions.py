"""Conditions: what each kind shows, that it is legal, and that it never depends on anything but names and the seed."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from score_script import EVERYTHING
from toy import Unanswered, data

from medrag_lightning.data.conditions import ConditionExamples, ConditionPlanner, Conditions
from medrag_lightning.data.corruption import corrupted, corruption_name
from medrag_lightning.data.feeds import World
from medrag_lightning.data.scoring_feed import ScoringFeed, ScoringPlan, packed
from medrag_lightning.records import Condition, ImageShown


def world_of(folder, seed=0, processes=1, **settings):
    module = data(folder, seed=seed, **settings)
    module.setup("fit")
    return World(
        queries=module._queries,
        documents=module.documents(),
        retrieved=module._retrieved,
        of_rival={},
        open_image=module._image_store(),
        source=module.source,
        mixture=module.evidence,
        one_candidate_per_prompt=False,
        seed=seed,
        processes=processes,
    )


@pytest.fixture
def world(tmp_path):
    return world_of(tmp_path)


def conditions_of(world, query, chosen):
    found = {}
    for kind, condition in ConditionPlanner(world, world.queries["train"], chosen).of(query):
        found.setdefault(kind, []).append(condition)
    return found


def test_each_kind_shows_what_it_says(world):
    query = world.queries["train"][1]
    found = conditions_of(world, query, EVERYTHING)
    retrieved = tuple(candidate.id for candidate in world.retrieved[query.id].candidates)
    assert found["none"] == [Condition()]
    assert found["each_candidate"] == [Condition((name,)) for name in retrieved]
    assert found["all_candidates"] == [Condition(retrieved)]
    assert found["oracle"] == [Condition(query.relevant_ids)]
    assert len({c.evidence_ids for c in found["random"]}) == 2
    assert not {c.evidence_ids[0] for c in found["random"]} & {*retrieved, f"d{query.id[1:]}"}
    (other,) = found["other_evidence"]
    assert other.evidence_ids
    assert not set(other.evidence_ids) & {*retrieved, f"d{query.id[1:]}"}  # nor the patient's own document
    (alone, beside) = found["other_image"]
    assert alone.image_of == beside.image_of != query.id
    assert (alone.evidence_ids, beside.evidence_ids) == ((), retrieved)
    owner = {q.id: q for q in world.queries["train"]}[alone.image_of]
    assert owner.question == query.question
    assert owner.patient_id != query.patient_id
    assert [c.image for c in found["no_image"]] == [ImageShown.NONE] * 2
    assert [c.corruption for c in found["corrupted noise:0.5"]] == ["noise:0.5"] * 2


def test_the_first_k_are_shown_together_and_all_where_there_are_fewer(world):
    query = world.queries["train"][1]
    retrieved = tuple(candidate.id for candidate in world.retrieved[query.id].candidates)
    found = conditions_of(world, query, Conditions(none=False, each_candidate=False, first=(2, 1, 99)))
    assert found == {"first": [Condition(retrieved[:2]), Condition(retrieved[:1]), Condition(retrieved)]}
    for wrong in ((0,), (2, 2)):
        with pytest.raises(ValueError, match=r"scoring\.conditions\.first must hold numbers from 1 up"):
            Conditions(first=wrong)


def test_draws_follow_the_seed_and_not_the_order_of_queries(world, tmp_path):
    query = world.queries["train"][2]
    again = conditions_of(world_of(tmp_path), query, EVERYTHING)
    assert conditions_of(world, query, EVERYTHING) == again
    assert conditions_of(world_of(tmp_path, seed=1), query, EVERYTHING) != again


def test_examples_show_the_condition_and_open_each_image_once(world):
    query, *others = world.queries["train"]
    opened = []
    everything = {q.id: q for q in [query, *others]}
    documents = {document.id: document for document in world.documents}

    def open_image(ref):
        opened.append(ref)
        return world.open_image(ref)

    conditions = [c for found in conditions_of(world, query, EVERYTHING).values() for c in found]
    made = ConditionExamples(everything, documents, open_image).build([(query, condition) for condition in conditions])
    assert len(opened) == len(set(opened))
    pixels = {}
    for example, condition in zip(made, conditions, strict=True):
        assert example.condition == condition
        assert tuple(candidate.id for candidate in example.candidates) == condition.evidence_ids
        pixels[condition.image] = example.query_image
    assert pixels[ImageShown.NONE] is None
    assert pixels[ImageShown.OWN] == world.open_image(query.image)
    assert pixels[ImageShown.OTHER] != pixels[ImageShown.OWN]
    assert pixels[ImageShown.CORRUPTED] != pixels[ImageShown.OWN]
    with pytest.raises(ValueError, match=r"its evidence 'gone' is not in data\.corpus"):
        ConditionExamples(everything, documents, open_image).build([(query, Condition(("gone",)))])


def test_corruptions_depend_on_their_name_and_the_query_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    assert corrupted(image, "noise:0.5", "q") == corrupted(image, "noise:0.5", "q")
    assert corrupted(image, "noise:0.5", "q") != corrupted(image, "noise:0.5", "r")
    assert set(np.asarray(corrupted(image, "blank", "q")).ravel().tolist()) == {128}
    blurred = np.asarray(corrupted(image, "blur:0.1", "q"), float)
    assert blurred.std() < np.asarray(image, float).std() / 2
    assert [corruption_name(text) for text in ("noise", "noise:0.50", "blur:0.1", "blank")] == [
        "noise:0.5", "noise:0.5", "blur:0.1", "blank",
    ]  # fmt: skip
    for wrong in ("sharpen", "noise:", "noise:0", "blank:1", "noise:1.2.3"):
        with pytest.raises(ValueError, match="corruption"):
            corruption_name(wrong)


def test_packs_hold_whole_queries_and_those_with_the_same_evidence(world, tmp_path):
    def pairs(query, *evidence):
        return [(query, Condition((name,) if name else ())) for name in evidence]

    queries = [pairs(*row) for row in ("auvw", "bxyz", "c" + "klm" * 3, "dzx", "ew", "fx")]
    queries.append([("g", Condition(()))])
    packs = packed(queries, 6)
    assert ["".join(dict.fromkeys(query for query, _ in pack)) for pack in packs] == ["ae", "bdf", "c", "g"]
    assert [pair for pack in packs for pair in pack if pair[0] == "c"] == queries[2]
    assert sorted(map(len, packs)) == [1, 4, 6, 9]
    items = ScoringFeed(world, ScoringPlan(str(tmp_path / "t"), prompts_per_pack=9)).prediction()
    assert [len(pack) for pack in items.packs] == [8] * 6
    assert items.missing == len(items.wanted) == len(set(items.wanted)) == 48
    many = ScoringFeed(world_of(tmp_path, processes=9), ScoringPlan(str(tmp_path / "t"), prompts_per_pack=9)).prediction()
    assert [len(pack) for pack in many.packs] == [8] * 6 + [0] * 3  # each process gets a pack, so that its hooks run


def test_what_gives_nothing_is_an_error(world, tmp_path):
    def plan(**settings):
        return ScoringPlan(str(tmp_path / "t"), conditions=Conditions(**settings))

    with pytest.raises(ValueError, match="`poisoned` gives nothing for any of 12 queries"):
        ScoringFeed(world, plan(poisoned=True)).prediction()
    unanswered = Unanswered(str(tmp_path))
    module = data(tmp_path)
    module.tables = [unanswered]
    module.setup("fit")
    open_only = World(
        {split: [q for q in module.split_queries(split) if not q.choices] for split in ("train", "val", "test")},
        *(getattr(world, name) for name in ("documents", "retrieved", "of_rival", "open_image", "source", "mixture")), False, 0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="none of 4 questions can be scored"):
        ScoringFeed(open_only, plan()).prediction()
    for wrong, match in [
        ({"none": False, "each_candidate": False}, "asks for nothing"),
        ({"changed_image_with": ("all_candidates",)}, "would be ignored"),
        ({"no_image": True, "changed_image_with": ()}, "is empty"),
        ({"corrupted": ("noise", "noise:0.5")}, "repeats itself"),
        ({"random": -1}, "must not be negative"),
    ]:
        with pytest.raises(ValueError, match=match):
            Conditions(**wrong)
    with pytest.raises(ValueError, match="prompts_per_pack"):
        ScoringPlan(prompts_per_pack=0)
    with pytest.raises(ValueError, match=r"scoring\.splits"):
        ScoringPlan(splits=("train", "train"))
