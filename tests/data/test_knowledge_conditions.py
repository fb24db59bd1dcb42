"""Evidence sets: numbers, order and distractors are as the plan says, and the scoring feed asks what the pairs will need."""

from collections import Counter
from dataclasses import replace

import pytest
from knowledge_world import documents, query, retrieved, world_of

from medrag_lightning.data.conditions import ConditionPlanner, Conditions
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.knowledge_conditions import EvidenceSets, KnowledgeConditions
from medrag_lightning.data.scoring_feed import ScoringFeed, ScoringPlan
from medrag_lightning.records import Condition, ImageShown, Knowledge, Retrieved, knowledge_of, shares_identity

BY_ID = {document.id: document for document in documents()}


def sets_of(world, one, **plan):
    return EvidenceSets(world, KnowledgePlan(**plan)).of(one)


def ranked(world, one, kind):
    return [*dict.fromkeys(c.id for c in world.retrieved[one.id].candidates if knowledge_of(c.document) is kind)]


def sizes(evidence):
    kinds = [knowledge_of(BY_ID[name]) for name in evidence]
    return kinds.count(Knowledge.REPORTS), kinds.count(Knowledge.DOCUMENTS)


def test_without_draws_a_set_is_the_best_of_each_kind_in_order():
    world = world_of()
    for one in world.queries["train"]:
        reports, texts = ranked(world, one, Knowledge.REPORTS), ranked(world, one, Knowledge.DOCUMENTS)
        found = sets_of(world, one, draws=5, max_reports=2, max_documents=3, sample=False, shuffle=False)
        assert found == [(*reports[:2], *texts[:3])]  # equal ones count once
        assert sets_of(world, one, max_reports=99, max_documents=0, sample=False, shuffle=False) == [tuple(reports)]


def test_numbers_are_drawn_evenly_and_the_best_are_taken():
    world, one = world_of(), query(1)
    plan = {"draws": 400, "max_reports": 2, "max_documents": 3}
    assert len(sets_of(world, one, shuffle=False, **plan)) == 12  # every pair of numbers, each once
    seen = Counter(EvidenceSets(world, KnowledgePlan(**plan))._draw(one, ranked_documents(world, one), n) for n in range(600))
    by_size = Counter()
    for evidence, count in seen.items():
        reports, texts = sizes(evidence)
        chosen = ranked(world, one, Knowledge.REPORTS)[:reports] + ranked(world, one, Knowledge.DOCUMENTS)[:texts]
        assert sorted(evidence) == sorted(chosen)
        by_size[reports, texts] += count
    assert len(by_size) == 12
    assert all(25 <= count <= 80 for count in by_size.values())  # 50 each
    assert len({e for e in seen if sizes(e) == (2, 3)}) > 10  # the order is drawn, too


def ranked_documents(world, one):
    kinds = (Knowledge.REPORTS, Knowledge.DOCUMENTS)
    return {kind: [BY_ID[name] for name in ranked(world, one, kind)] for kind in kinds}


def test_distractors_are_legal_of_the_same_kind_and_new():
    few = {"max_reports": 2, "max_documents": 2, "sample": False, "shuffle": False, "draws": 200}
    one = replace(query(1), relevant_ids=("t7",), poison_ids=("r9",))
    world = world_of(queries=[one], retrieved={one.id: Retrieved(one.id, retrieved([one], documents())[one.id].candidates[:5])})
    known = {c.id for c in world.retrieved[one.id].candidates}
    every = sets_of(world, one, distractor_share=1.0, **few)
    seen = {name for evidence in every for name in evidence}
    assert all(sizes(evidence) == (2, 2) and len(set(evidence)) == 4 for evidence in every)
    assert not seen & (known | {"t7", "r9"})
    assert all(shares_identity(one, BY_ID[name]) is None for name in seen)
    assert len(seen) > 6
    (plain,) = sets_of(world, one, **few)
    some = sets_of(world, one, distractor_share=0.5, **few)
    kept = [[name in plain for name in evidence] for evidence in some]
    assert plain in some
    assert all(any(row[place] for row in kept) and not all(row[place] for row in kept) for place in range(4))
    small = world_of(queries=[one], retrieved=retrieved([one], documents()))  # all legal reports were retrieved
    assert all(sizes(evidence) == (2, 2) for evidence in sets_of(small, one, distractor_share=1.0, **few))


def test_draws_depend_on_the_seed_and_the_query_alone():
    one, plan = query(1), {"draws": 6, "distractor_share": 0.3}
    found = sets_of(world_of(), one, **plan)
    assert sets_of(world_of(queries=[query(n) for n in range(3)]), one, **plan) == found
    assert sets_of(world_of(seed=1), one, **plan) != found
    assert sets_of(world_of(), one, **{**plan, "draws": 3}) == found[: len(sets_of(world_of(), one, **{**plan, "draws": 3}))]


def test_conditions_around_a_set():
    plan = KnowledgePlan(max_reports=2, max_documents=1, sample=False, shuffle=False)
    world = world_of(plan)
    planner = KnowledgeConditions(world, world.queries["train"])
    (around,) = planner.of(query(1))
    reports, (text,) = around.evidence[:2], around.evidence[2:]
    other = planner.images.of(query(1))
    assert around.kinds == {Knowledge.REPORTS, Knowledge.DOCUMENTS}
    assert around.full == Condition((*reports, text))
    assert around.bare == Condition()
    assert (around.without_reports, around.without_documents) == (Condition((text,)), Condition(reports))
    assert around.other == Condition((*reports, text), ImageShown.OTHER, other.image_of)
    assert around.other_alone == other
    assert len(around.conditions()) == 6
    (blind,) = planner.of(query(3))  # it has no image
    assert blind.other is blind.other_alone is None
    assert len(blind.conditions()) == 4
    one_kind = world_of(replace(plan, max_documents=0))
    (reports_alone,) = KnowledgeConditions(one_kind, [query(1)]).of(query(1))
    assert reports_alone.kinds == {Knowledge.REPORTS}
    assert reports_alone.without_documents == reports_alone.full
    assert len(reports_alone.conditions()) == 4


def test_the_scoring_feed_asks_exactly_these(tmp_path):
    world = world_of(KnowledgePlan(draws=3))
    chosen = Conditions(none=False, each_candidate=False, knowledge=True)
    plan = ScoringPlan(str(tmp_path / "t"), ("train", "val"), chosen)
    asked = {(q.id, c) for pack in ScoringFeed(world, plan).prediction().packs for q, c in pack}
    every = [*world.queries["train"], *world.queries["val"]]
    planner = KnowledgeConditions(world, every)
    assert asked == {(q.id, c) for q in every for one in planner.of(q) for c in one.conditions()}
    for split in ("train", "val"):  # whoever is asked beside them
        mine = KnowledgeConditions(world, world.queries[split])
        assert all(mine.of(q) == planner.of(q) for q in world.queries[split])
    both = ConditionPlanner(world, every, Conditions(knowledge=True)).of(every[0])
    assert next(kind for kind, _ in both) == "none"
    assert [kind for kind, _ in both][-1] == "knowledge"


def test_what_is_missing_is_told():
    world = world_of()
    with pytest.raises(ValueError, match=r"scoring\.conditions\.knowledge: data\.knowledge is not set"):
        ConditionPlanner(replace(world, knowledge=None), [], Conditions(knowledge=True))
    nothing = replace(world, retrieved={q.id: Retrieved(q.id, ()) for q in world.queries["train"]})
    with pytest.raises(ValueError, match=r"none of 8 queries has a candidate; set a data\.source"):
        KnowledgeConditions(nothing, world.queries["train"])
    with pytest.raises(ValueError, match=r"evidence sets are asked for, and data\.knowledge is not set"):
        KnowledgeConditions(replace(world, knowledge=None), [])
