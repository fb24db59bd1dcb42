"""A question of a dialogue is searched with what a rewriter made of it, read as it is, and answered where that fails."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
from test_answerer import ColourSource
from toy import COLOURS, data, stage, trainer

from medrag_lightning.answering import Answerer
from medrag_lightning.answering.dialogue import FAILED, UNUSED
from medrag_lightning.data.cached_rewriter import CachedRewriter
from medrag_lightning.data.rules_rewriter import RulesRewriter
from medrag_lightning.prompts import PromptTemplate

HISTORY = [["is it a colour card?", "yes"]]


class Noting(ColourSource):
    """Notes what it is asked."""

    asked: list[str]

    def retrieve(self, queries):
        self.asked = [query.searched for query in queries]
        return super().retrieve(queries)


class Dead:
    """A rewriter that is not there."""

    def rewrite(self, tasks):
        raise ConnectionError("nobody there")

    def fingerprint(self):
        return "d" * 64


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk")
    module, served = stage(), data(folder, eval_batch_size=1)
    served.prepare_data()
    trainer(folder, max_epochs=1).fit(module, datamodule=served)
    return module, served


def answerer(parts, rewriter=None, template=None) -> Answerer:
    module, served = parts
    placed = served.documents(), served.world().open_image, served.evidence_folder()
    return Answerer(Noting(), module.reader, *placed, template or module.template, max_new_tokens=4, rewriter=rewriter)


def image(parts):
    _, served = parts
    query = next(query for query in served.split_queries("test") if query.image)
    return served.world().open_image(query.image)


def test_what_was_rewritten_is_searched_and_told_and_the_reader_gets_the_question(parts) -> None:
    made = answerer(parts, RulesRewriter())
    answer = made.ask("and which colour?", image(parts), COLOURS, history=HISTORY)
    assert made.source.asked == ["colour card , which colour?"] == [answer.rewritten]
    assert list(answer.seconds) == ["rewrite", "retrieve", "encode", "read"]
    assert answer.prediction.question == "and which colour?"
    assert "searched as: colour card , which colour?" in str(answer)
    assert answer.to_json()["rewritten"] == "colour card , which colour?"
    assert not {FAILED, UNUSED} & set(answer.warnings)
    plain = made.ask("and which colour?", image(parts), COLOURS)
    assert made.source.asked == ["and which colour?"]
    assert (plain.rewritten, plain.logp_nats) == (None, answer.logp_nats)
    assert "rewritten" not in plain.to_json()
    assert "rewrite" not in plain.seconds


def test_a_dead_rewriter_leaves_the_question_with_a_warning(parts) -> None:
    made = answerer(parts, CachedRewriter(Dead(), timeout_seconds=5))
    answer = made.ask("and which colour?", image(parts), COLOURS, history=HISTORY)
    assert made.source.asked == ["and which colour?"]
    assert answer.text in COLOURS
    assert answer.rewritten is None
    assert answer.warnings[0] == FAILED


def test_nothing_of_what_is_asked_is_kept(parts, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = answerer(parts, CachedRewriter(RulesRewriter(), str(tmp_path / "cache")))
    made.ask("and which colour?", image(parts), COLOURS, history=HISTORY)
    assert not list(tmp_path.iterdir())


def test_a_history_that_nothing_uses_is_told_and_one_that_the_prompt_shows_is_not(parts) -> None:
    told = answerer(parts).ask("and which colour?", image(parts), COLOURS, history=HISTORY)
    assert told.warnings[0] == UNUSED
    shows = answerer(parts, template=PromptTemplate(history="full"))
    answer = shows.ask("and which colour?", image(parts), COLOURS, history=HISTORY)
    assert UNUSED not in answer.warnings
    query = replace(parts[1].split_queries("test")[0], history=(("is it a colour card?", "yes"),))
    prompt = shows.collate.template.build(shows.example(query))
    assert "earlier question: is it a colour card?" in "".join(segment.text or "" for segment in prompt.segments)


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ([["a"]], "turn 1 is"),
        ([["a", " "]], "its answer is blank"),
        ([["a", "b"]] * 101, "shorten it"),
        (["ab"], "turn 1 is 'ab'"),
    ],
)
def test_histories_that_are_none_are_refused(parts, history, fault) -> None:
    with pytest.raises(ValueError, match=fault):
        answerer(parts).ask("why?", None, COLOURS, history=history)
