"""Exploration: what an expert is shown, that nothing is asked twice, what is kept after an interruption (H13)."""

from dataclasses import replace

import pytest
from exploration_world import CORPORA, Library, Scripted, Shelf, files, ground, library, questions, reply

from medrag_lightning.artifacts import read_json
from medrag_lightning.data.exploration.exploring import explore_or_read
from medrag_lightning.data.exploration.plan import DESCRIPTIONS, ExplorationPlan
from medrag_lightning.data.exploration.verdicts import read_verdict
from medrag_lightning.data.replies import Replies
from medrag_lightning.preference_files import read_preferences
from medrag_lightning.records import AnswerType, Condition, PairKind, Split, parse_searches
from medrag_lightning.search_files import read_searches

SOUND = reply(research=["good a", "bad b"], wiki=["good c", "bad d"], graph=["bad , e"])
NAMES = [f"q{n}" for n in range(7)]


def plan(folder, expert, **settings):
    return ExplorationPlan(**{"expert": expert, "folder": str(folder), "corpora": CORPORA, "queries_per_corpus": 2, **settings})


def expert_of(names=NAMES, **settings):
    return Scripted({name: [SOUND] for name in names}, **settings)


def test_what_is_learnt_lies_in_files_that_stages_read(tmp_path):
    found = explore_or_read(ground(questions(NAMES[:4]), questions(NAMES[4:], Split.VAL)), plan(tmp_path, expert_of()))
    table = read_searches(tmp_path / "targets")
    assert {(row.query_id, row.split) for row in table.rows} == {(n, Split.TRAIN if n < "q4" else Split.VAL) for n in NAMES}
    assert {row.searches for row in table.rows} == {(("research", "good a"), ("wiki", "good c"))}
    assert table.identity["corpora"] == list(CORPORA)
    pairs = read_preferences(tmp_path / "pairs")
    assert pairs.identity == table.identity
    assert {split: len(mine) for split, mine in pairs.pairs.items()} == {Split.TRAIN: 4, Split.VAL: 3}
    (first, *_) = pairs.pairs[Split.TRAIN]
    assert first.kind is PairKind.SEARCH_WORDING
    assert first.chosen.condition == first.rejected.condition == Condition()
    assert first.chosen.reference_nats is None
    assert first.weight == 1.0
    assert parse_searches(first.rejected.answer, list(CORPORA)).first()[-1] == ("graph", "bad , e")
    assert found.statistics == read_json(tmp_path / "statistics.json")
    assert {"samples.html", "samples.jsonl", "replies"} <= {path.name for path in tmp_path.iterdir()}


def test_an_expert_sees_nothing_of_the_answer(tmp_path):
    """Two worlds that differ in nothing but the answers and what is known of documents give the same tasks, one by one."""
    closed = {"choices": ("GOLD", "other"), "answer_type": AnswerType.CLOSED, "searches": (("wiki", "GOLD"),)}
    told = [replace(q, relevant_ids=("GOLD-1",), poison_ids=("GOLD-2",)) for q in questions(NAMES)]
    told[0] = replace(told[0], **closed)
    other = [replace(q, answer="other", relevant_ids=(), poison_ids=("x",)) for q in told]
    experts = [expert_of(), expert_of()]
    for place, (expert, asked) in enumerate(zip(experts, (told, other), strict=True)):
        explore_or_read(ground(asked), plan(tmp_path / str(place), expert, splits=("train",)))
    shown = [[replace(task, image=None) for task in expert.explored] for expert in experts]
    assert shown[0] == shown[1]
    assert all(task.image is not None for task in experts[0].explored)
    assert "GOLD" not in repr([task for task in shown[0] if not task.query.choices])
    assert {task.query.answer for task in experts[0].judged} == {"GOLD"}


def test_the_second_run_asks_nobody(tmp_path):
    first, second = expert_of(), expert_of()
    world = ground(questions(NAMES))
    made = explore_or_read(world, plan(tmp_path, first))
    kept = files(tmp_path)
    again = explore_or_read(ground(questions(NAMES)), plan(tmp_path, second))
    assert (sum(first.calls), second.calls, again.asked) == (made.asked, [], 0)
    assert again.statistics == made.statistics
    assert files(tmp_path) == kept


def test_other_choices_of_the_same_replies_ask_nobody_either(tmp_path):
    explore_or_read(ground(questions(NAMES)), plan(tmp_path, expert_of()))
    with pytest.raises(ValueError, match=r"of another settings.*replies stay"):
        explore_or_read(ground(questions(NAMES)), plan(tmp_path, expert_of(), pairs="one_corpus"))
    for name in ("targets", "pairs"):
        for path in (tmp_path / name).iterdir():
            path.unlink()
    expert = expert_of()
    explore_or_read(ground(questions(NAMES)), plan(tmp_path, expert, pairs="one_corpus"))
    assert expert.calls == []
    assert read_preferences(tmp_path / "pairs").identity["settings"]["pairs"] == "one_corpus"


@pytest.mark.parametrize("calls", [0, 1, 3, 5, 8, 13])
def test_a_run_that_was_cut_off_goes_on_and_ends_alike(tmp_path, calls):
    whole, cut, rest = expert_of(), expert_of(stop_after=calls), expert_of()
    world = ground(questions(NAMES[:4]), questions(NAMES[4:], Split.VAL))
    explore_or_read(world, plan(tmp_path / "whole", whole, batch_size=2))
    assert len(whole.calls) > 13
    with pytest.raises(KeyboardInterrupt):
        explore_or_read(world, plan(tmp_path / "cut", cut, batch_size=2))
    explore_or_read(world, plan(tmp_path / "cut", rest, batch_size=2))
    assert sum(cut.calls[:calls]) + sum(rest.calls) == sum(whole.calls)  # the batch that was cut off is asked again, no other
    mine, theirs = files(tmp_path / "cut"), files(tmp_path / "whole")
    assert {k: v for k, v in mine.items() if k.startswith("targets") or k == "pairs/pairs.arrow"} == {
        k: v for k, v in theirs.items() if k.startswith("targets") or k == "pairs/pairs.arrow"
    }


def test_new_questions_are_asked_and_old_ones_are_not(tmp_path):
    explore_or_read(ground(questions(NAMES[:5])), plan(tmp_path, expert_of()))
    with pytest.raises(ValueError, match=r"of another questions"):
        explore_or_read(ground(questions(NAMES)), plan(tmp_path, expert_of()))
    for path in (tmp_path / "targets").iterdir():
        path.unlink()
    for path in (tmp_path / "pairs").iterdir():
        path.unlink()
    expert = expert_of()
    changed = [replace(questions(NAMES)[0], question="another?"), *questions(NAMES)[1:]]
    found = explore_or_read(ground(changed), plan(tmp_path, expert))
    assert [task.query.id for task in expert.explored] == ["q0", "q5", "q6"]
    assert found.statistics["replies"]["explore"] == {"known_before": 5, "asked_now": 3}


def test_another_expert_is_refused_before_it_is_asked(tmp_path):
    explore_or_read(ground(questions(NAMES)), plan(tmp_path, expert_of()))
    for name in ("targets", "pairs"):
        for path in (tmp_path / name).iterdir():
            path.unlink()
    kept, other = files(tmp_path), expert_of(name="another")
    with pytest.raises(ValueError, match="replies of another expert"):
        explore_or_read(ground(questions(NAMES)), plan(tmp_path, other))
    assert other.calls == []
    assert files(tmp_path) == kept


def test_a_reply_without_its_tags_is_asked_for_again_at_most_five_times(tmp_path):
    broken, few = "<research>good a</research> <wiki>", reply(research=["good a"])
    replies = {"q0": [broken, broken, SOUND], "q1": [broken], "q2": [few], "q3": ["", SOUND]}
    expert = Scripted(replies)
    found = explore_or_read(ground(questions(list(replies))), plan(tmp_path, expert))
    told = found.statistics["splits"]["train"]["written"]
    assert [sum(task.query.id == name for task in expert.explored) for name in replies] == [3, 6, 1, 2]
    assert told["replies"] == 12
    assert told["asked_again"] == 8
    assert told["malformed_replies"] == 2 + 6 + 0 + 1
    assert told["never_complete"] == 1
    assert told["too_few_queries"] == {"research": 2, "wiki": 2, "graph": 4}
    assert told["faults"]["<graph> is missing"] == 2 + 6 + 1
    assert {task.attempt for task in expert.explored if task.query.id == "q1"} == set(range(6))
    rows = {row.query_id: row.searches for row in read_searches(tmp_path / "targets").rows}
    assert rows["q1"] == rows["q2"] == (("research", "good a"),)
    second = Scripted(replies)
    explore_or_read(ground(questions(list(replies))), plan(tmp_path, second))
    assert second.calls == []


def test_of_broken_replies_the_one_with_most_tags_counts(tmp_path):
    tags = ["<wiki>good w</wiki>", "<research>good r</research><wiki>good x</wiki>", "<graph>good , g</graph>"]
    explore_or_read(ground(questions(["q0"])), plan(tmp_path, Scripted({"q0": tags}), most_attempts=3))
    (row, *_) = read_searches(tmp_path / "targets").rows
    assert row.searches == (("research", "good r"), ("wiki", "good x"))


def test_each_search_is_made_once_and_nothing_found_is_not_judged(tmp_path):
    source, expert = library(), Scripted({"q0": [reply(research=["good a", "nothing"], wiki=["bad b"])], "q1": [SOUND]})
    found = explore_or_read(ground(questions(["q0", "q1"]), source=source), plan(tmp_path, expert, top=2))
    assert all(count == 1 for shelf in source.parts.values() for count in shelf.asked.values())
    judged = [(task.query.id, task.corpus, task.words) for task in expert.judged]
    assert sorted(judged)[:2] == [("q0", "research", "good a"), ("q0", "wiki", "bad b")]
    assert all(len(task.documents) == 2 for task in expert.judged)
    assert found.statistics["splits"]["train"]["corpora"]["research"] == {
        "searches": 4,
        "found_nothing": 1,
        "yes": 2,
        "no": 1,
        "unreadable": 0,
        "questions_with_positive": 2,
        "questions_with_negative": 2,
    }


def test_a_source_that_breaks_the_leak_rule_is_told(tmp_path):
    class Leaky(Shelf):
        def _found(self, query):
            for one in super()._found(query):
                yield replace(one, document=replace(one.document, patient_id=query.patient_id))

    source = Library({**library().parts, "wiki": Leaky("wiki")})
    with pytest.raises(ValueError, match="shares its patient_id"):
        explore_or_read(ground(questions(["q0"]), source=source), plan(tmp_path, Scripted({"q0": [SOUND]})))


def test_corpora_are_those_that_the_source_asks_by_name(tmp_path):
    expert = Scripted({"q0": [SOUND]})
    explore_or_read(ground(questions(["q0"])), plan(tmp_path, expert, corpora=None))
    assert expert.explored[0].corpora == {name: DESCRIPTIONS[name] for name in CORPORA}
    strange = Library({"atlas": Shelf("atlas")})
    for corpora, source, message in (
        (None, strange, "say what corpus 'atlas' holds"),
        ({"book": "x"}, library(), "asks no corpus 'book' by name; it asks research, wiki, graph"),
        (None, Library({"wiki": Shelf()}), "asks no corpus by name"),
    ):
        with pytest.raises(ValueError, match=message):
            explore_or_read(ground(questions(["q0"]), source=source), plan(tmp_path / "x", expert, corpora=corpora))


def test_a_part_is_asked_whole_whatever_it_is_made_of(tmp_path):
    class Pooled(Shelf):
        def retrieve(self, queries):
            return [replace(one, candidates=one.candidates[:1]) for one in self.pool.retrieve(queries)]

    pooled = Pooled()
    pooled.pool = Shelf("wiki")
    expert = Scripted({"q0": [SOUND]})
    explore_or_read(ground(questions(["q0"]), source=Library({**library().parts, "wiki": pooled})), plan(tmp_path, expert))
    assert {len(task.documents) for task in expert.judged if task.corpus == "wiki"} == {1}


def test_questions_without_an_answer_are_left_out_and_counted(tmp_path):
    asked = [replace(questions(["q0"])[0], answer=None), replace(questions(["q1"])[0], answer=" "), *questions(["q2"])]
    expert = expert_of()
    found = explore_or_read(ground(asked), plan(tmp_path, expert))
    assert {task.query.id for task in expert.explored} == {"q2"}
    assert found.statistics["splits"]["train"]["targets"]["dropped"] == {"no gold answer": 2}
    with pytest.raises(ValueError, match="no question of train, val has a gold answer"):
        explore_or_read(ground(asked[:2]), plan(tmp_path / "x", expert))


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        *[("yes", True), ("It is told there. **Yes.**", True), ("no, wait: YES!", True), ("<answer>yes</answer>", True)],
        *[("no", False), ("yes or no? No", False), ("yes, probably", None), ("", None), ("1.", None), ("oui", None)],
        *[("not yes but maybe", None), ("Yes 100 %", True), ("yesno", None)],
    ],
)
def test_the_last_word_is_the_verdict(reply, verdict):
    assert read_verdict(reply) is verdict


def test_damaged_replies_are_told(tmp_path):
    replies = Replies(tmp_path, "a" * 64)
    replies.ask({"k": 1, "l": 2}, lambda tasks: [f"said {n} \udcff" for n in tasks], 1, lambda done: None)
    assert replies.asked == 2
    assert len(list(tmp_path.glob("*.arrow"))) == 2
    replies.pack()
    (path,) = tmp_path.glob("*.arrow")
    assert Replies(tmp_path, "a" * 64).ask({"l": 2}, lambda tasks: [], 1, lambda done: None) == {"l": "said 2 ?"}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        Replies(tmp_path, "a" * 64)
    path.unlink()
    with pytest.raises(ValueError, match="1 replies to 2 tasks"):
        Replies(tmp_path, "a" * 64).ask({"k": 1, "l": 2}, lambda tasks: ["x"], 8, lambda done: None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 0}, "exploration.top must be at least 1"),
        ({"splits": ("train", "train")}, "each once"),
        ({"corpora": {}}, "exploration.corpora is empty"),
        ({"corpora": {"a b": "x"}}, "'a b' cannot be a tag"),
        ({"corpora": {"wiki": " "}}, "corpora.wiki says nothing"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ExplorationPlan(**settings)


def test_without_an_expert_nothing_is_explored(tmp_path):
    with pytest.raises(ValueError, match=r"exploration\.expert is not set"):
        explore_or_read(ground(questions(["q0"])), plan(tmp_path, None))
