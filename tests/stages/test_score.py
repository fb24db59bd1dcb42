"""Scoring by `predict`: the numbers, the same bytes on 1 or 2 processes and after a kill, nothing computed twice, refusals."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from score_script import EVERYTHING, plan, score
from toy import ToyTable, data, reader, stage, trainer

from medrag_lightning.data.conditions import Conditions
from medrag_lightning.data.feeds import World
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.data.scoring_feed import ScoringFeed
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.records import AnswerType, Condition
from medrag_lightning.score_files import SHARDS
from medrag_lightning.stages.score import Score

SMALL = {"conditions": Conditions(), "prompts_per_pack": 8}


def counted():
    """A stage whose reader counts the prompts that it reads."""
    counting = reader()
    read = counting.token_logp
    counting.prompts_read = 0

    def token_logp(prompts, rows):
        counting.prompts_read += len(prompts.ids_PT)
        return read(prompts, rows)

    counting.token_logp = token_logp
    return Score(counting)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The toy's table, scored in this process with small packs."""
    made = tmp_path_factory.mktemp("score")
    score(made, made / "t", plan_=plan(made / "t", **SMALL))
    return made


def test_two_processes_and_a_killed_run_write_the_same_bytes(tmp_path):
    script = Path(__file__).with_name("score_script.py")
    paths = os.pathsep.join([str(script.parent), str(script.parents[2])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((tmp_path / "after_kill.txt").read_text().splitlines()) == 3  # what the killed run left
    tables = [tmp_path / name for name in ("one", "two", "resumed")]
    for table in tables:
        assert {path.name for path in table.iterdir()} == {"identity.json", "scores.arrow", "manifest.json"}
        for path in table.iterdir():
            assert path.read_bytes() == (tables[0] / path.name).read_bytes(), path
    assert len(ScoreTable.open(tables[1]).query_ids) == 16
    assert "of 255 rows are there" in done.stderr
    assert "ETA" in done.stderr


def test_scores_are_those_of_the_reader_read_one_by_one(folder):
    table, module = ScoreTable.open(folder / "t"), data(folder)
    module.setup("fit")
    scorer = Score(reader())
    scorer.reader.prepare(module.training_texts())
    scorer.reader.eval()
    examples = module_examples(folder, module)
    collate = scorer.collator(False)
    for example in examples[:6]:
        with torch.no_grad():
            alone = scorer.predict_step(collate([example]), 0)[0]
        stored = table.score(example.query.id, example.condition)
        np.testing.assert_allclose(stored.logp_nats, alone.logp_nats, atol=1e-5)
        assert (stored.answers, stored.token_counts, stored.correct) == (alone.answers, alone.token_counts, alone.correct)
        if example.query.answer_type is AnswerType.CLOSED:
            assert stored.answers == example.query.choices
            assert stored.correct == (int(np.argmax(stored.logp_nats)) == example.query.gold_index)
        else:
            assert (stored.answers, stored.gold_index, stored.correct) == ((example.query.answer,), 0, None)


def module_examples(folder, module):
    """The examples that the plan asks for, as the feed builds them."""
    queries = {split: module.split_queries(split) for split in ("train", "val", "test")}
    world = World(
        queries, module.documents(), module._retrieved, {}, module._image_store(), module.source, module.evidence, False, 0
    )
    items = ScoringFeed(world, plan(folder / "elsewhere", **SMALL)).prediction()
    return items.examples.build([pair for pack in items.packs[:3] for pair in pack])


def test_bulk_reads_fit_the_candidates_of_the_data_module(folder):
    module = data(folder)
    module.setup("fit")
    table = ScoreTable.open(folder / "t")
    for query in module.split_queries("train"):
        ids = [candidate.id for candidate in module._retrieved[query.id].candidates]
        logp_KC, _, gold = table.one_candidate(query.id, ids)
        choices = len(query.choices) or 1
        assert logp_KC.shape == (len(ids), choices)
        assert table.without(query.id)[0].shape == (1, choices)
        assert gold == max(query.gold_index, 0)
        stored = table.score(query.id, Condition((ids[1],))).logp_nats
        np.testing.assert_array_equal(logp_KC[1], np.float32(stored))


def test_a_second_run_reads_nothing_and_more_conditions_only_what_is_new(folder):
    before = {path.name: path.read_bytes() for path in (folder / "t").iterdir()}
    again = score(folder, folder / "t", counted(), plan(folder / "t", **SMALL))
    assert again.reader.prompts_read == 0
    assert before == {path.name: path.read_bytes() for path in (folder / "t").iterdir()}
    one_more = plan(folder / "t", **SMALL | {"conditions": Conditions(each_candidate=False, random=1)})
    more = score(folder, folder / "t", counted(), one_more)
    assert more.reader.prompts_read == 16  # a query each; `none` is there already
    assert len(ScoreTable.open(folder / "t")) == 16 * 4 + 16
    assert score(folder, folder / "t", counted(), plan(folder / "t", **SMALL)).reader.prompts_read == 0
    new = score(folder, folder / "new", counted(), plan(folder / "new", **SMALL))
    assert new.reader.prompts_read == 16 * (3 + 1)  # J14: a prompt for each candidate, and one without


def test_another_reader_template_corpus_precision_or_generation_is_refused_and_nothing_is_lost(folder):
    def refused(match, stage_=None, **settings):
        before = {path.name: path.read_bytes() for path in (folder / "t").iterdir()}
        with pytest.raises(ValueError, match=match):
            score(folder, folder / "t", stage_, plan(folder / "t", **SMALL | settings.pop("plan", {})), **settings)
        assert before == {path.name: path.read_bytes() for path in (folder / "t").iterdir()}

    refused("scores of another reader .*give the --model.init_args.init_from", Score(reader(seed=1)))
    refused("scores of another template", Score(reader(), PromptTemplate(list_choices=True)))
    refused("scores of another generate and max_new_tokens", Score(reader(), generate="open"))
    refused("scores of another precision", precision="bf16-mixed")


def test_a_changed_corpus_or_question_is_refused(folder, monkeypatch):
    def changed(name, change):
        original = getattr(ToyTable, name)
        monkeypatch.setattr(ToyTable, name, lambda self: change(original(self)))

    changed("documents", lambda found: [replace(found[0], text="it is new"), *found[1:]])
    with pytest.raises(ValueError, match="another corpus and reader"):  # the toy's tokenizer is trained on the corpus
        score(folder, folder / "t", plan_=plan(folder / "t", **SMALL))
    monkeypatch.undo()
    changed("queries", lambda found: [replace(found[0], question="which one?"), *found[1:]])
    with pytest.raises(ValueError, match="query 'q0' has changed since it was scored"):
        score(folder, folder / "t", plan_=plan(folder / "t", **SMALL))


def test_a_limited_run_leaves_an_unfinished_table_that_the_next_run_finishes(tmp_path):
    with pytest.warns(UserWarning, match=r"rows are still missing \(was the number of batches limited\?\)"):
        score(tmp_path, tmp_path / "t", plan_=plan(tmp_path / "t", **SMALL), limit_predict_batches=2)
    assert list((tmp_path / "t" / SHARDS).iterdir())
    with pytest.raises(ValueError, match="is not finished"):
        ScoreTable.open(tmp_path / "t")
    score(tmp_path, tmp_path / "t", plan_=plan(tmp_path / "t", **SMALL))
    assert len(ScoreTable.open(tmp_path / "t")) == 64


def test_weights_come_from_a_reader_checkpoint_and_words_where_asked(tmp_path):
    trained = stage()
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(trained, datamodule=data(tmp_path))
    checkpoint = tmp_path / "reader.ckpt"
    fit.save_checkpoint(checkpoint, weights_only=True)
    few = plan(tmp_path / "t", conditions=Conditions(each_candidate=False), splits=("val",))
    done = score(tmp_path, tmp_path / "t", Score(reader(), generate="open", max_new_tokens=3, init_from=str(checkpoint)), few)
    assert done.reader.fingerprint() == trained.reader.fingerprint()
    table = ScoreTable.open(tmp_path / "t")
    for name in table.query_ids:
        (found,) = table.of_query(name)
        closed = len(found.answers) > 1
        assert (found.generated is None) == closed
        assert found.correct in (True, False)
    other = Score(reader(), PromptTemplate(order="query_first"), init_from=str(checkpoint))
    with pytest.raises(ValueError, match="trained with prompt order 'evidence_first' and another template"):
        score(tmp_path, tmp_path / "t2", other, few)
    with pytest.raises(ValueError, match=r"contradict|hidden|does not fit"):
        score(tmp_path, tmp_path / "t2", Score(reader(hidden=48), init_from=str(checkpoint)), few)


def test_other_verbs_and_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match="only predicts; `test` was asked"):
        Score(reader()).setup("test")
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        Score(reader(), max_new_tokens=0)
    assert EVERYTHING.kinds()[-1] == "corrupted noise:0.5"
