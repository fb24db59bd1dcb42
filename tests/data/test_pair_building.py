"""Pairs from a score table: exactly those of the rules over all outcome patterns, with their references; refusals."""

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from knowledge_world import documents, query, world_of, write_table

from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.knowledge_conditions import KnowledgeConditions
from medrag_lightning.data.pair_building import build, build_or_read
from medrag_lightning.data.pair_rules import READING, asked
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.preference_files import MANIFEST, read_preferences
from medrag_lightning.records import AnswerType, ImageRef, ImageShown, PairKind, Split

WHOLE = KnowledgePlan(max_reports=2, max_documents=2, sample=False)
RULES = ("hkpt_v1", "hkpt_v2", "rag_pt", "kb_pt")
PARTS = ("full", "bare", "without_reports", "without_documents", "other", "other_alone")


def patterned(plan=WHOLE, **settings):
    """A world of 64 training questions, question n answered right where bit b of n is set, and two of validation."""
    asked_ = [query(n, image=ImageRef(f"i{n}.png"), patient_id=f"a{n}", study_id=None) for n in range(64)]
    return world_of(plan, queries=[*asked_, query(64, Split.VAL), query(65, Split.VAL)], **settings)


def bits(n):
    return dict(zip(PARTS, (bool(n >> place & 1) for place in range(6)), strict=True))


def scripted(world):
    """The reader: right where the pattern of the question says so."""
    part_of = {}
    every = [one for mine in world.queries.values() for one in mine]
    planner = KnowledgeConditions(world, every)
    for one in every:
        for around in planner.of(one):
            part_of |= {(one.id, getattr(around, part)): part for part in PARTS}

    def says(one, condition):
        right = bits(int(one.id[1:]))[part_of[one.id, condition]]
        return one.answer if right else next(choice for choice in one.choices if choice != one.answer)

    return says


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    world = patterned()
    return world, write_table(tmp_path_factory.mktemp("pairs") / "t", world, scripted(world))


def pairs_by_kind(pairs):
    return Counter((str(pair.kind), pair.knowledge and str(pair.knowledge)) for pair in pairs)


def built(made, **plan):
    world, table = made
    return build(world, PreferencePlan(table=str(table), **plan), ScoreTable.open(table))


def wanted(rules, repeats):
    """How many pairs 64 patterns give, by the words of the papers."""
    counts = Counter()
    for pattern in map(bits, range(64)):
        with_k, without = pattern["full"], {"reports": "without_reports", "documents": "without_documents", "both": "bare"}
        looks = with_k and pattern["other"] and not (rules == "hkpt_v2" and pattern["other_alone"])
        counts["cross_modality", None] += looks and rules != "kb_pt"
        ks = ("reports", "documents", "both") if rules.startswith("hkpt") else ("both",)
        used = [k for k in ks if with_k and not pattern[without[k]] and rules != "kb_pt"]
        hurt = [k for k in ks if not with_k and pattern[without[k]]]
        for name, found in (("knowledge_utilisation", used), ("knowledge_robustness", hurt)):
            # Closed with two choices: all wrong answers are one, so of up to three pairs of a question all are equal.
            for k in found if repeats == "all" else found[:1]:
                counts[name, k] += 1
    return +counts


@pytest.mark.parametrize(("rules", "repeats"), [*product(RULES, ("once", "weighted", "all"))])
def test_all_outcome_patterns_give_the_pairs_of_the_table(made, rules, repeats):
    pairs, statistics = built(made, rules=rules, repeats=repeats)
    assert pairs_by_kind(pairs[Split.TRAIN]) == wanted(rules, repeats)
    everything = wanted(rules, "all")
    weight = sum(pair.weight for pair in pairs[Split.TRAIN])
    assert weight == (len(pairs[Split.TRAIN]) if repeats == "once" else sum(everything.values()))
    told = statistics["train"]
    met = {name: one["sets"] for name, one in told["conditions_met"].items()}
    assert met == {k if about is None else f"{k} of {about}": n for (k, about), n in everything.items()}
    assert told["left_out"]["repeats"] == sum(everything.values()) - len(pairs[Split.TRAIN])
    assert told["pairs"]["all"]["pairs"] == len(pairs[Split.TRAIN])
    assert told["questions"] == {"all": 64, "judged": 64}
    reads = len(asked(rules))
    assert told["reader_passes"] == {"a_set": reads, "in_all": 64 * reads, "different": 64 * reads}  # H33
    assert sum(told["patterns"]["counts"].values()) == 64
    assert told["right_under"]["full"] == {"right": 32, "of": 64}


@pytest.mark.parametrize("limit", [None, 9])
def test_balanced_kinds_weigh_the_same_and_keep_their_sum(made, limit):
    plain, balanced = (built(made, rules="hkpt_v1", balance=how, max_pairs=limit)[0][Split.TRAIN] for how in ("none", "kinds"))
    assert [pair.id for pair in plain] == [pair.id for pair in balanced]
    weights = {kind: [pair.weight for pair in balanced if pair.kind is kind] for kind in READING}
    share = len(plain) / 3
    assert {kind: sum(mine) for kind, mine in weights.items()} == pytest.approx(dict.fromkeys(READING, share))
    assert all(len(set(mine)) == 1 for mine in weights.values())
    one_kind = built(made, rules="kb_pt", balance="kinds")[0][Split.TRAIN]
    assert {pair.weight for pair in one_kind} == {1.0}


def test_each_side_has_its_own_reference(made):
    world, _ = made
    pairs = built(made, rules="hkpt_v1", repeats="all")[0][Split.TRAIN]
    answer = {one.id: one.answer for one in world.queries["train"]}
    for pair in pairs:
        pattern = bits(int(pair.query_id[1:]))
        other = pair.kind is PairKind.CROSS_MODALITY
        assert pair.chosen.answer == answer[pair.query_id]
        assert (pair.rejected.answer == pair.chosen.answer) is other
        assert (pair.rejected.condition.image is ImageShown.OTHER) is other
        likely, less = -0.5, (-2.0, -3.0)  # what was answered, and the other choice, under the side's own condition
        assert (pair.chosen.reference_nats == likely) is pattern["full"]
        assert (pair.rejected.reference_nats == likely) is (pattern["other"] if other else not pattern["full"])
        assert {pair.chosen.reference_nats, pair.rejected.reference_nats} <= {likely, *less}
        assert (pair.chosen.tokens, pair.rejected.tokens) == (2, 2)


def test_kinds_and_numbers_can_be_limited(made):
    every = built(made)[0][Split.TRAIN]
    some, told = built(made, kinds=("knowledge_robustness",), max_pairs=5)
    robust = [pair for pair in every if pair.kind is PairKind.ROBUSTNESS]
    assert len(some[Split.TRAIN]) == 5
    assert told["train"]["left_out"] == {"other_kinds": 8 + 48, "repeats": 48 - 28, "max_pairs": 28 - 5}
    more = built(made, kinds=("knowledge_robustness",), max_pairs=9)[0][Split.TRAIN]
    assert [pair for pair in more if pair in some[Split.TRAIN]] == some[Split.TRAIN]
    assert [pair for pair in robust if pair in more] == more
    with pytest.raises(ValueError, match=r"preference\.kinds: kb_pt makes no pairs of cross_modality"):
        built(made, rules="kb_pt", kinds=("cross_modality", "knowledge_robustness"))


def test_evidence_of_several_draws_and_sizes(tmp_path):
    world = world_of(KnowledgePlan(draws=12, max_reports=2, max_documents=1))
    table = write_table(tmp_path, world, lambda one, c: one.choices[one.gold_index if c.evidence_ids else 1 - one.gold_index])
    pairs, told = build(world, PreferencePlan(table=str(tmp_path), rules="hkpt_v2"), ScoreTable.open(table))
    sizes = told["train"]["evidence_sets"]["by_size"]
    assert set(sizes) == {f"{r} reports, {t} documents" for r in range(3) for t in range(2)}
    assert sum(sizes.values()) == told["train"]["evidence_sets"]["all"]
    empty = sizes["0 reports, 0 documents"]
    assert told["train"]["evidence_sets"]["empty"] == empty == len(world.queries["train"])
    right = told["train"]["right_under"]
    assert right["full"]["right"] == right["full"]["of"] - empty  # the reader is right with any evidence
    blind = told["train"]["evidence_sets"]["without_another_image"]
    assert right["other"]["of"] == right["full"]["of"] - blind < right["full"]["of"]
    used = [pair for pair in pairs[Split.TRAIN] if pair.kind is PairKind.UTILISATION]
    assert all(pair.chosen.condition.evidence_ids for pair in used)
    assert len({pair.id for pair in pairs[Split.TRAIN]}) == len(pairs[Split.TRAIN])


def open_world(words):
    """Four open questions; what the reader says to each with evidence, by `words`, and without: nothing right."""
    asked_ = [query(n, choices=(), answer_type=AnswerType.OPEN, answer="left lung mass", image=None) for n in range(4)]
    asked_[3] = replace(asked_[3], answer=None)
    return world_of(replace(WHOLE, counter_image="noise"), queries=asked_), dict(zip(("q0", "q1", "q2"), words, strict=True))


def test_open_answers_are_judged_by_metric_and_threshold(tmp_path):
    world, words = open_world([" The left lung mass.", "lung mass", "mass, left lung"])
    write_table(tmp_path, world, lambda one, c: words[one.id] if c.evidence_ids else "", generates=True)
    for metric, threshold, right in [("exact_match", 1.0, {"q0"}), ("token_f1", 0.8, {"q0", "q1", "q2"}),
                                     ("token_f1", 0.81, {"q0", "q2"}), ("rouge_l", 0.8, {"q0", "q1"})]:  # fmt: skip
        plan = PreferencePlan(table=str(tmp_path), rules="rag_pt", open_metric=metric, open_threshold=threshold)
        pairs, told = build(world, plan, ScoreTable.open(tmp_path))
        assert {pair.query_id for pair in pairs[Split.TRAIN]} == right
        assert told["train"]["questions"] == {"all": 4, "judged": 3, "not judged: no gold answer": 1}
    pair = pairs[Split.TRAIN][0]
    assert (pair.chosen.answer, pair.chosen.reference_nats, pair.chosen.tokens) == ("left lung mass", -2.0, 2)
    assert (pair.rejected.answer, pair.rejected.reference_nats, pair.rejected.tokens) == ("", None, 0)


def test_without_its_own_words_an_open_question_is_counted_not_dropped(tmp_path):
    world, _ = open_world(["a", "b", "c"])
    write_table(tmp_path, world, lambda one, c: "x", generates=False)
    pairs, told = build(world, PreferencePlan(table=str(tmp_path)), ScoreTable.open(tmp_path))
    assert pairs == {Split.TRAIN: [], Split.VAL: []}
    why = "not judged: open, and scored without the reader's own words (model.init_args.generate: open)"
    assert told["train"]["questions"] == {"all": 4, why: 3, "not judged: no gold answer": 1}


def test_no_pairs_are_a_result(tmp_path, caplog):
    world = world_of(WHOLE)
    write_table(tmp_path / "t", world, lambda one, shown: one.choices[1 - one.gold_index])
    plan = PreferencePlan(str(tmp_path / "p"), str(tmp_path / "t"))
    found = build_or_read(world, plan)
    assert found.pairs == {Split.TRAIN: [], Split.VAL: []}
    assert found.statistics["train"]["pairs"] == {"all": {"pairs": 0, "weight": 0, "questions": 0}}
    assert "no preference pairs from 8 train questions" in caplog.text


def test_what_is_there_is_read_and_something_else_refused(made, tmp_path):
    world, table = made
    plan = PreferencePlan(str(tmp_path / "one"), str(table))
    first = build_or_read(world, plan)
    before = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    again = build_or_read(world, plan)
    assert (again.pairs, again.statistics, again.identity) == (first.pairs, first.statistics, first.identity)
    build_or_read(world, replace(plan, folder=str(tmp_path / "two")))
    for path in (tmp_path / "two").iterdir():
        assert path.read_bytes() == before[path.name], path
    assert first.pairs == read_preferences(tmp_path / "two").pairs
    gone = replace(plan, table=str(tmp_path / "gone"), samples=3)  # the table may be gone, once pairs are there
    assert build_or_read(world, gone).pairs == first.pairs
    for other, changed, what in [
        (world, replace(plan, rules="kb_pt"), "preference.rules is hkpt_v2 there, kb_pt here"),
        (replace(world, knowledge=replace(WHOLE, max_reports=1)), plan, "knowledge.max_reports is 2 there, 1 here"),
        (replace(world, seed=3), plan, "seed is 0 there, 3 here"),
        (replace(world, documents=world.documents[:-1]), plan, "corpus is"),
        (replace(world, queries={**world.queries, Split.VAL: []}), plan, "questions is"),
    ]:
        with pytest.raises(ValueError, match=what):
            build_or_read(other, changed)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    (tmp_path / "one" / MANIFEST).unlink()  # an interrupted writing is done again
    assert build_or_read(world, plan).pairs == first.pairs


def test_a_table_that_does_not_fit_is_refused(made, tmp_path):
    world, table = made
    with pytest.raises(ValueError, match=r"does not exist: compute them with: python -m medrag_lightning predict"):
        build_or_read(world, PreferencePlan(str(tmp_path / "p"), str(tmp_path / "none")))
    with pytest.raises(ValueError, match=r"rows are missing in all.*scoring\.conditions\.knowledge must be true"):
        built((replace(world, knowledge=replace(WHOLE, max_reports=1)), table))
    with pytest.raises(ValueError, match="another corpus"):
        built((replace(world, documents=[*world.documents, replace(documents()[-1], id="new")]), table))
    turned = {s: [replace(q, choices=q.choices[::-1]) for q in mine] for s, mine in world.queries.items()}
    with pytest.raises(ValueError, match=r"scored query 'q0' with the answers \['yes', 'no'\], gold number 0; the data have"):
        built((replace(world, queries=turned), table))
    with pytest.raises(ValueError, match=r"preference pairs need data\.knowledge"):
        build_or_read(replace(world, knowledge=None), PreferencePlan(str(tmp_path / "p"), str(table)))
    assert not (tmp_path / "p").exists()
