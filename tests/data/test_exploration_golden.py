"""The sets that a query generator learns from: ten questions that cover every rule, and a file that was checked by hand (H15).

The file holds the expert's replies and what must come of them. ``MEDRAG_WRITE_GOLDEN=1`` writes it anew, to be looked at.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from exploration_world import CORPORA, Scripted, ground, questions

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.data.exploration.choosing import pairs, sort, targets
from medrag_lightning.data.exploration.exploring import explore_or_read
from medrag_lightning.data.exploration.plan import ExplorationPlan
from medrag_lightning.data.exploration.verdicts import Judged
from medrag_lightning.preference_files import read_preferences
from medrag_lightning.records import Document, Split, parse_searches
from medrag_lightning.search_files import read_searches

GOLDEN = Path(__file__).parent / "exploration_golden.json"
QUESTIONS = {
    "every corpus has both": [
        "<research>good a; bad b; good c</research><wiki>good d; bad e</wiki><graph>good , f; bad , g</graph>"
    ],
    "no positive": ["<research>bad a</research><wiki>bad b; bad c</wiki><graph></graph>"],
    "no negative": ["<research>good a</research><wiki>good b; good c</wiki><graph></graph>"],
    "a corpus without positives": ["<research>good a; good b</research><wiki>bad c; bad d</wiki><graph></graph>"],
    "a corpus without negatives": ["<research>good a</research><wiki>good b; bad c</wiki><graph></graph>"],
    "malformed at first": ["<research>bad x</research><wiki>", "<research>good a</research><wiki>bad b</wiki><graph></graph>"],
    "malformed for ever": ["<research>good a</research><wiki>good b</wiki></wiki><graph>bad , c</graph>"],
    "unreadable verdicts": ["<research>good a</research><wiki>maybe b</wiki><graph></graph>"],
    "nothing found": ["<research>nothing a</research><wiki>good b</wiki><graph>nothing , c</graph>"],
    "surplus and repeats": ["<research>good a; good a; bad b; bad c; bad d</research><wiki> ; </wiki><graph></graph>"],
}
SPLIT = dict.fromkeys(list(QUESTIONS)[8:], Split.VAL)


def run(folder: Path, how: str) -> dict[str, object]:
    every = [replace(q, split=SPLIT.get(q.id, Split.TRAIN)) for q in questions(list(QUESTIONS))]
    split = {kind: [q for q in every if q.split is kind] for kind in Split}
    plan = ExplorationPlan(Scripted(QUESTIONS), str(folder), CORPORA, queries_per_corpus=3, pairs=how)
    told = explore_or_read(ground(split[Split.TRAIN], split[Split.VAL], seed=5), plan).statistics["splits"]
    rows = read_searches(folder / "targets").rows
    found = [pair for mine in read_preferences(folder / "pairs").pairs.values() for pair in mine]
    return {
        "targets": {name: [dict(row.searches or ()) for row in rows if row.query_id == name] for name in QUESTIONS},
        "pairs": {
            name: [[one.chosen.answer, one.rejected.answer] for one in found if one.query_id == name] for name in QUESTIONS
        },
        "statistics": told,
    }


def test_ten_questions_give_the_sets_of_the_file(tmp_path):
    made = {how: run(tmp_path / how, how) for how in ("mixed", "one_corpus")}
    made = {"replies": QUESTIONS, **json.loads(json.dumps(made))}
    if os.environ.get("MEDRAG_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    assert made == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_file_says_what_the_rules_say():
    """Each rule, read from the file without the code that made it."""
    told = json.loads(GOLDEN.read_text(encoding="utf-8"))
    mixed, one = told["mixed"], told["one_corpus"]
    dropped = {"no positive": 0, "no negative": 1}
    for made in (mixed, one):
        assert [name for name, mine in made["targets"].items() if not mine] == ["no positive"]
        assert [name for name, mine in made["pairs"].items() if not mine] == ["no positive", "no negative"]
        assert made["statistics"]["train"]["pairs"]["dropped"] == {"no gold answer": 0, "no positive": 1, "no negative": 1}
        assert made["targets"] == mixed["targets"], "the texts do not depend on how pairs are made"
        assert all(1 <= len(mine) <= 3 for name, mine in made["targets"].items() if name not in list(dropped)[:1])
    both = mixed["targets"]["every corpus has both"]
    assert sorted(row["research"] for row in both) == ["good a", "good c"]
    assert {(row["wiki"], row["graph"]) for row in both} == {("good d", "good , f")}
    assert mixed["targets"]["a corpus without positives"] in ([{"research": a}, {"research": b}] for a, b in AB)
    assert mixed["targets"]["malformed at first"] == [{"research": "good a"}]
    assert mixed["targets"]["malformed for ever"] == [{"research": "good a"}]
    assert mixed["targets"]["surplus and repeats"] == [{"research": "good a"}]
    sides = {name: {(_told(a), _told(b)) for a, b in mine} for name, mine in mixed["pairs"].items()}
    assert sides["a corpus without negatives"] == {("research=good a|wiki=good b", "wiki=bad c")}
    assert sides["malformed for ever"] == {("research=good a", "graph=bad , c")}
    assert sides["unreadable verdicts"] == {("research=good a", "wiki=maybe b")}
    assert sides["nothing found"] == {("wiki=good b", "research=nothing a|graph=nothing , c")}
    assert sides["surplus and repeats"] == {("research=good a", "research=bad b bad c bad d")}
    assert {b for _, b in sides["a corpus without positives"]} == {"wiki=bad c", "wiki=bad d"}
    for name, mine in one["pairs"].items():
        for chosen, rejected in mine:
            mine_lines, theirs = chosen.splitlines(), rejected.splitlines()
            assert sum(a != b for a, b in zip(mine_lines, theirs, strict=True)) == 1, name
    single = {name: {(_told(a), _told(b)) for a, b in mine} for name, mine in one["pairs"].items()}
    assert single["unreadable verdicts"] == {("research=good a", "research=good a|wiki=maybe b")}
    assert single["a corpus without negatives"] == {("research=good a|wiki=good b", "research=good a|wiki=bad c")}
    assert len(single["every corpus has both"]) == 3
    assert told["mixed"]["statistics"]["train"]["written"]["malformed_replies"] == 1 + 6
    assert told["mixed"]["statistics"]["train"]["written"]["never_complete"] == 1


AB = [("good a", "good b"), ("good b", "good a")]


def _told(text: str) -> str:
    return "|".join(f"{name}={mine[0]}" for name, mine in parse_searches(text, list(CORPORA)).wordings.items() if mine)


@pytest.mark.parametrize("how", ["mixed", "one_corpus"])
def test_draws_stay_within_what_is_allowed_and_reach_all_of_it(how):
    """Against all that is allowed, enumerated; wanted in great number, everything is drawn, and nothing twice."""
    names = ["r", "w", "g"]
    wordings = {"r": ("good 1", "good 2", "bad 1"), "w": ("bad 2", "bad 3"), "g": ("good 3",)}
    document = (Document("d", "x"),)
    judged = [Judged("q", n, w, document, "", w.startswith("good")) for n, mine in wordings.items() for w in mine]
    told = sort(judged, names)
    chosen = [(("r", r), ("g", "good 3")) for r in ("good 1", "good 2")]
    assert sorted(targets(told, 99, counter_rng(0, "t"))) == sorted(chosen)
    if how == "mixed":
        allowed = set(itertools.product(chosen, [(("r", "bad 1"), ("w", w)) for w in ("bad 2", "bad 3")]))
    else:
        allowed = {(one, (("r", "bad 1"), one[1])) for one in chosen}
        allowed |= {(one, (one[0], ("w", w), one[1])) for one in chosen for w in ("bad 2", "bad 3")}
    found = pairs(told, 99, how, counter_rng(0, "t"))
    assert len(found) == len(set(found)) == len(allowed)
    assert set(found) == allowed
    assert pairs(told, 2, how, counter_rng(0, "t")) == pairs(told, 2, how, counter_rng(0, "t"))
    drawn = {tuple(pairs(told, 1, how, counter_rng(seed, "t"))) for seed in range(40)}
    assert drawn == {(one,) for one in allowed}


@pytest.mark.parametrize("how", ["mixed", "one_corpus"])
def test_a_question_that_nothing_supports_may_teach_to_search_nowhere(how):
    document = (Document("d", "x"),)
    judged = [Judged("q", name, words, document, "", False) for name in ("r", "w") for words in ("bad 1", "bad 2")]
    rng = counter_rng(0, "t")
    dropped = sort(judged, ["r", "w"])
    assert dropped.lacks == "no positive"
    assert targets(dropped, 3, rng) == pairs(dropped, 3, how, rng) == []
    kept = sort(judged, ["r", "w"], may_leave_out=True)
    assert kept.lacks is None
    assert targets(kept, 3, rng) == [()]
    ((chosen, rejected),) = pairs(kept, 3, how, rng)
    assert chosen == ()
    assert len(rejected) == (2 if how == "mixed" else 1)
    silent = sort([], ["r", "w"], may_leave_out=True)  # nothing was searched, so nothing is known
    assert targets(silent, 3, rng) == pairs(silent, 3, how, rng) == []
