"""Dialogues: a turn has what was said before it, and nothing of what was said after it is in its prompt or its evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from table_files import image_at, jsonl

from medrag_lightning.batches import Example
from medrag_lightning.data.tables import JsonlQueries, MessagesRows
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.records import Candidate, Channel, Query, Regime, shares_identity

LAST = 6  # turns of the longest dialogue


def mark(kind: str, dialogue: int, turn: int) -> str:
    """A word that stands in one turn alone."""
    return f"{kind}x{dialogue}y{turn}z"


def said(rng: np.random.Generator, dialogue: int) -> list[dict[str, str]]:
    told = []
    for turn in range(int(rng.integers(1, LAST + 1))):
        told.append({"role": "user", "content": f"shared words {mark('question', dialogue, turn)} ?"})
        told.append({"role": "assistant", "content": f"shared answer {mark('answer', dialogue, turn)}"})
    return told


@pytest.mark.parametrize("named", ["nothing", "patient_id", "study_id", "image"])
@pytest.mark.parametrize("seed", range(5))
def test_no_token_of_a_later_turn_is_in_a_prompt(tmp_path: Path, seed: int, named: str) -> None:
    rng = np.random.default_rng(seed)
    talks = [said(rng, dialogue) for dialogue in range(8)]
    own = {"nothing": {}, "image": {}} | {key: {key: "{}"} for key in ("patient_id", "study_id")}
    rows = [{"messages": talk} | {k: v.format(n) for k, v in own[named].items()} for n, talk in enumerate(talks)]
    if named == "image":
        for n, row in enumerate(rows):
            image_at(tmp_path / f"{n}.png")
            row["images"] = [f"{n}.png"]
    path = str(jsonl(tmp_path / "talks.jsonl", rows))
    table = MessagesRows(str(tmp_path), train=path, turns="history")
    queries, documents = table.queries(), table.documents()
    assert len(queries) == sum(len(talk) // 2 for talk in talks) == len(documents)
    template = PromptTemplate(history="full")
    places = [(n, turn) for n, talk in enumerate(talks) for turn in range(len(talk) // 2)]
    for query, (dialogue, turn) in zip(queries, places, strict=True):
        found = tuple(Candidate(one, 1.0, Channel.GIVEN) for one in documents if shares_identity(query, one) is None)
        assert found, "all that the leak rule lets through"
        example = Example(query, Regime.RETRIEVED, found, None, (None,) * len(found))
        text = "".join(segment.text or "" for segment in template.build(example).segments)
        for other in range(LAST):
            assert (mark("question", dialogue, other) in text) == (other <= turn)
            assert (mark("answer", dialogue, other) in text) == (other < turn)
        assert "z ?" in PromptTemplate().build(example).segments[-1].text


def test_the_turns_of_one_dialogue_belong_together_and_those_of_two_do_not(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    path = str(jsonl(tmp_path / "t.jsonl", [{"messages": talk * 2}, {"messages": talk * 2}, {"messages": talk}]))
    table = MessagesRows(str(tmp_path), train=path, turns="history")
    first, second, other, _, alone = table.queries()
    assert (first.history, second.history) == ((), (("a?", "b"),))
    assert first.study_id == second.study_id != other.study_id
    assert alone.study_id is None
    documents = {document.id: document for document in table.documents()}
    assert shares_identity(first, documents[second.id]) == "study_id"
    assert shares_identity(first, documents[other.id]) is None


def ask(name: str, question: str, history: list[list[str]] | None = None, **more: object) -> dict[str, object]:
    told = {"id": name, "question": question, "answer": "yes", "split": "train", **more}
    return told if history is None else told | {"history": history}


def test_jsonl_reads_histories_and_wants_the_turns_to_belong_together(tmp_path: Path) -> None:
    turn = [["is it a cyst?", "yes"]]

    def read(*rows: dict[str, object]) -> list[Query]:
        return JsonlQueries(str(jsonl(tmp_path / "q.jsonl", list(rows)))).queries()

    good = read(ask("a", "is it a cyst?", study_id="1"), ask("b", "and its risk?", turn, study_id="1"))
    assert [query.history for query in good] == [(), (("is it a cyst?", "yes"),)]
    read(ask("a", "is it a cyst?", study_id="1"), ask("x", "is it a cyst?"), ask("b", "and its risk?", turn, study_id="1"))
    with pytest.raises(ValueError, match=r"q\.jsonl: query 'b' and 'a', the turn before it, share no patient_id"):
        read(ask("a", "is it a cyst?"), ask("b", "and its risk?", turn, study_id="1"))
    with pytest.raises(ValueError, match="query 'b' has no patient_id"):
        read(ask("b", "and its risk?", turn))


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ("cough for weeks", "give it another name"),
        ({"a": "b"}, "expected a list of"),
        (["a", "b"], "turn 1 is 'a'; expected"),
        ([["a", "b"], ["a"]], "turn 2 is"),
        ([["a", " "]], "turn 1: its answer is blank"),
        ([["a", {"b": 1}]], "expected a text"),
    ],
)
def test_histories_that_are_none_are_named(tmp_path: Path, history: object, fault: str) -> None:
    path = jsonl(tmp_path / "q.jsonl", [ask("a", "b?", study_id="1") | {"history": history}])
    with pytest.raises(ValueError, match=rf"q\.jsonl:1: .*{fault}"):
        JsonlQueries(str(path)).queries()


def test_a_query_refuses_half_turns_and_blank_rewritings() -> None:
    with pytest.raises(ValueError, match="no pair of question and answer"):
        Query("a", "b?", history=(("c?", ""),))
    with pytest.raises(ValueError, match="rewritten is blank"):
        Query("a", "b?", rewritten=" ")
    assert Query("a", "b?").searched == "b?"
    assert Query("a", "b?", rewritten="what b?").searched == "what b?"
