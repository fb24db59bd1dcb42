"""Stage query_generator: what it learns, what its searches find, and the table that it writes for every question."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from search_world import CORPORA, SquareTable, data, reader, stage, targets, trainer, words_for
from test_resume import StopAfter, assert_bit_equal
from toy import data as toy_data
from toy import stage as toy_stage

from callbacks.search_results import SearchResultsTable
from callbacks.search_table_writer import SearchTableWriter
from medrag_lightning.data.search_plan import SearchPlan
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.records import Split, parse_searches
from medrag_lightning.search_files import SearchRow, read_searches, write_searches

SHAPE = {"hidden": 64, "layers": 2, "patch_px": 32}


def predict(folder, module, plan=None, callbacks=(), **settings):
    served = data(folder, plan=plan or SearchPlan(written=str(folder / "written")), **settings)
    writer = SearchTableWriter(rows_per_shard=1)
    trainer(folder, callbacks=[writer, *callbacks]).predict(module, served, return_predictions=False)
    return folder / "written"


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A generator after one epoch, and its checkpoint: enough to be another one than an untrained."""
    folder = tmp_path_factory.mktemp("short")
    module, run = stage(), trainer(folder)
    run.fit(module, datamodule=data(folder))
    run.save_checkpoint(folder / "a.ckpt", weights_only=True)
    return folder, module, run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_questions_are_learnt_to_the_letter_and_their_documents_found(tmp_path):
    """Only the images tell the colours; the test's questions alone do not find their documents."""
    module = stage(made_reader=reader(**SHAPE), optimizer=partial(torch.optim.AdamW, lr=5e-3, betas=(0.9, 0.98)))
    served = data(tmp_path, count=48, batch_size=3)
    run = trainer(tmp_path, max_epochs=40, check_val_every_n_epoch=40, callbacks=[SearchResultsTable()])
    run.fit(module, datamodule=served)
    asked = served.split_queries("train")
    written = module.writer.write(asked, [served.world().open_image(query.image) for query in asked])
    assert len(asked) == 24
    assert [(one.first(), one.faults) for one in written] == [(words_for(query), ()) for query in asked]
    run.test(module, datamodule=served, verbose=False)
    told = run.callback_metrics
    assert told["test/hit_at_2"] == 1.0 > told["test/raw_hit_at_2"]
    assert told["test/read_whole"] == 1.0
    assert told["test/empty_tags"] == pytest.approx(1 - 4 / 8 / 3)  # four of the eight test questions ask one corpus
    rows = {row["need"]: row for row in json.loads((tmp_path / "searches.json").read_text())["rows"]}
    assert rows["image"]["empty_tags"]["value"] == 1.0
    assert rows["document"]["gain"]["value"] > 0.5


def test_the_loss_is_the_mean_over_the_tokens_of_the_texts(short):
    folder, module, run = short
    served = data(folder)
    served.setup("fit")
    queries = [q for q in SquareTable(str(folder)).queries() if q.split is Split.VAL]
    texts = ["".join(f"<{name}>{dict(words_for(q)).get(name, '')}</{name}>\n" for name in CORPORA)[:-1] for q in queries]
    assert [parse_searches(text, CORPORA).first() for text in texts] == [words_for(query) for query in queries]
    module.trainer = run
    run.validate(module, datamodule=served, verbose=False)
    found = float(run.callback_metrics["val/loss"])
    total = tokens = 0.0
    for loader in served.val_dataloader()[:1]:
        for batch in loader:
            for part in batch.parts:
                ids = module.reader.processor.encode_answers(texts)
                assert all(row[mask].tolist() in ids for row, mask in zip(part.rows.ids_RL, part.rows.mask_RL, strict=True))
                total -= float(module.reader.token_logp(part.prompts, part.rows).detach().sum())
                tokens += float(part.rows.mask_RL.sum())
    assert found == pytest.approx(total / tokens, rel=1e-5)
    assert set(run.callback_metrics) >= {"val/read_whole", "val/empty_tags", "val/same_corpora", "val/hit_at_2"}


def test_texts_of_any_kind_are_survived_and_counted(tmp_path, capsys):
    """A reader of random weights writes garbage; what the source is asked then is the question."""
    module = stage()
    run = trainer(tmp_path, callbacks=[SearchResultsTable(resamples=100)])
    run.test(module, datamodule=data(tmp_path, eval_batch_size=3), verbose=False)
    told = {name: float(value) for name, value in run.callback_metrics.items()}
    assert told["test/read_whole"] == 0.0
    assert told["test/unread"] == 1.0
    assert told["test/hit_at_2"] == told["test/raw_hit_at_2"]
    assert len(module.search_outcomes) == 8
    said = capsys.readouterr().out
    assert "8 of 8 texts had a fault" in said
    assert "the searches found exactly what the questions found" in said


def test_a_world_that_knows_no_gold_documents_says_so(tmp_path, capsys):
    served = data(tmp_path)
    served._read_tables()
    for queries in served._queries.values():
        queries[:] = [replace(query, relevant_ids=(), need=None) for query in queries]
    run = trainer(tmp_path, callbacks=[SearchResultsTable(resamples=100)])
    run.test(stage(), datamodule=served, verbose=False)
    assert "test/hit_at_2" not in run.callback_metrics
    assert "no gold document is known for any question" in capsys.readouterr().out


def test_searches_are_written_once_for_every_question(short, capsys):
    folder, module, _ = short
    table = read_searches(predict(folder, module))
    assert [row.query_id for row in table.rows] == [q.id for s in Split for q in data(folder).split_queries(s)]
    assert {row.split for row in table.rows} == set(Split)
    assert table.identity["generator"] == module.reader.fingerprint()
    assert table.identity["corpora"] == CORPORA
    before = {path.name: path.read_bytes() for path in (folder / "written").iterdir()}
    assert set(before) == {"manifest.json", "searches.arrow"}
    predict(folder, module)
    assert {path.name: path.read_bytes() for path in (folder / "written").iterdir()} == before
    with pytest.raises(ValueError, match="searches of another generator: write into another folder"):
        predict(folder, stage())
    with pytest.raises(ValueError, match="searches of another questions"):
        predict(folder, module, max_train_queries=2)
    assert {path.name: path.read_bytes() for path in (folder / "written").iterdir()} == before
    asked = data(folder, plan=SearchPlan(table=str(folder / "written")))
    assert {q.id: q.searches for q in asked.split_queries("test")} == {
        row.query_id: row.searches for row in table.rows if row.split is Split.TEST
    }


class Kill(L.Callback):
    """Fails the run after so many batches."""

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx == 2:
            raise RuntimeError("killed")


def test_a_killed_writer_goes_on_where_it_was(short, tmp_path):
    _, module, _ = short
    with pytest.raises(RuntimeError, match="killed"):
        predict(tmp_path, module, callbacks=[Kill()])
    torn = tmp_path / "written" / "shards" / "r00000-000077"
    torn.mkdir(parents=True)
    (torn / "searches.arrow").write_bytes(b"half a file")
    asked = []
    read = module.writer.read
    module.writer.read = lambda batch: asked.append(len(batch)) or read(batch)
    table = read_searches(predict(tmp_path, module))
    module.writer.read = read
    assert len(table.rows) == 24
    assert sum(asked) == 24 - 2 * 4
    assert table.rows == read_searches(predict(tmp_path / "whole", module)).rows


def fit(folder, stop_after=None, resume=False):
    module = stage(dropout=0.2)
    keep = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1, save_top_k=0)
    callbacks = [keep] if stop_after is None else [StopAfter(stop_after), keep]
    fitter = trainer(folder, max_epochs=2, enable_checkpointing=True, callbacks=callbacks)
    try:
        last = folder / "last.ckpt" if resume else None
        fitter.fit(module, datamodule=data(folder, batch_size=4), ckpt_path=last, weights_only=True)
    except SystemExit:
        assert stop_after is not None
    return fitter.global_step, {name: value.detach().clone() for name, value in module.named_parameters()}


def test_resume_is_bit_equal(tmp_path):
    """Twelve training texts: three steps an epoch."""
    total, weights = fit(tmp_path / "whole")
    assert total == 6
    for steps in (2, 3):
        fit(tmp_path / str(steps), stop_after=steps)
        ended, resumed = fit(tmp_path / str(steps), resume=True)
        assert ended == total
        assert_bit_equal(resumed, weights)


def test_a_checkpoint_of_another_prompt_or_other_corpora_is_refused(short, tmp_path):
    folder, _, _ = short
    path = str(folder / "a.ckpt")
    again = stage(init_from=path)
    trainer(tmp_path, max_steps=0).fit(again, datamodule=data(folder))
    with pytest.raises(ValueError, match="another prompt template"):
        stage(template=PromptTemplate(instruction="search")).load_weights_from(path)
    other = stage()
    other.corpora = ("wiki", "research", "graph")
    with pytest.raises(ValueError, match=r"trained to search research, wiki, graph.*--model.init_args.corpora"):
        other.load_weights_from(path)
    run, reads = trainer(tmp_path), toy_stage()
    run.fit(reads, datamodule=toy_data(tmp_path / "toy"))
    run.save_checkpoint(tmp_path / "raft.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"of stage 'reader_raft', and one of stage 'query_generator' or 'reader_preference'"):
        stage().load_weights_from(str(tmp_path / "raft.ckpt"))


def test_what_cannot_be_learnt_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"data.searches.targets names none: make them with the verb explore"):
        trainer(tmp_path).fit(stage(), datamodule=data(tmp_path, plan=SearchPlan()))
    made = targets(tmp_path)
    rows = [row for row in read_searches(made).rows if row.split is Split.TRAIN]
    write_searches(tmp_path / "train", rows, {})
    with pytest.raises(ValueError, match=r"no searches for any of 4 val questions"):
        trainer(tmp_path).fit(stage(), datamodule=data(tmp_path, plan=SearchPlan(str(tmp_path / "train"))))
    first, *others = read_searches(made).rows
    write_searches(tmp_path / "foreign", [SearchRow(first.query_id, first.split, (("book", "red"),)), *others], {})
    with pytest.raises(ValueError, match=rf"the searches of question '{first.query_id}': there is no corpus 'book' to search"):
        trainer(tmp_path).fit(stage(), datamodule=data(tmp_path, plan=SearchPlan(str(tmp_path / "foreign"))))
    for corpora in ([], ["a", "a"], ["a b"]):
        with pytest.raises(ValueError, match="corpora"):
            type(stage())(reader(), torch.optim.AdamW, corpora)


def test_several_targets_of_a_question_are_all_learnt(tmp_path):
    served = data(tmp_path, plan=SearchPlan(str(targets(tmp_path, samples=2)), decoded=3))
    module = stage()
    trainer(tmp_path, max_steps=0, limit_val_batches=0).fit(module, datamodule=served)
    assert len(served.train_dataloader().dataset) == 24
    learned, asked = served._feed().validation(alone=False)
    assert (len(learned), len(asked)) == (8, 3)
    assert all(query.searches == words_for(query) for query in asked.queries)
    assert len(served._feed().validation(alone=True)[1]) == 4
