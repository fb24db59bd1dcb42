"""`export` and `answer` of a run that searched with what a query generator wrote: never without a word about it."""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
from bundle_world import in_this_process
from search_world import CORPORA, SquareTable, targets, trainer
from search_world import stage as generating
from toy import stage

from callbacks.search_table_writer import SearchTableWriter
from medrag_lightning import load_bundle
from medrag_lightning.answering import Answerer
from medrag_lightning.cli import main
from medrag_lightning.data.module import MedragData
from medrag_lightning.data.search_plan import SearchPlan
from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.search_files import read_searches, write_searches

SMALL = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "image_side_px": 32}
ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}}
PART = {"encoder": {"class_path": "medrag_lightning.models.tiny_dual_encoder.TinyDualEncoder", "init_args": {"dim": 32}}}
LIVE = "medrag_lightning.retrieval.source.LiveSearch"


def served(folder, plan):
    parts = {name: LiveSearch(TinyDualEncoder(32), {"text_to_text": 1}, corpus=name) for name in CORPORA}
    table, chosen = (
        SquareTable(str(folder), 24),
        {"batch_size": 6, "eval_batch_size": 4, "cache_folder": str(folder / "evidence")},
    )
    return MedragData([table], [table], CorpusSearch(parts), searches=plan, **chosen)


def save(run, folder, model, searches):
    """What a run writes, but for what nobody reads here."""
    tables = [{"class_path": "search_world.SquareTable", "init_args": {"folder": str(folder)}}]
    parts = {n: {"class_path": LIVE, "init_args": {**PART, "per_channel": {"text_to_text": 1}, "corpus": n}} for n in CORPORA}
    source = {"class_path": "medrag_lightning.retrieval.corpus_search.CorpusSearch", "init_args": {"parts": parts}}
    given = {
        "tables": tables,
        "corpus": tables,
        "source": source,
        "searches": searches,
        "cache_folder": str(folder / "evidence"),
    }
    data = {"class_path": "medrag_lightning.data.module.MedragData", "init_args": given}
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 1, "model": model, "data": data}))


def model(kind, vocabulary, **settings):
    backbone = {"class_path": "medrag_lightning.models.tiny.TinyBackbone"}
    backbone["init_args"] = {**SMALL, "vocabulary": vocabulary, "dropout": 0.0}
    reader = {"class_path": "medrag_lightning.models.hf_reader.HfReader", "init_args": {"backbone": backbone}}
    return {"class_path": f"medrag_lightning.stages.{kind}", "init_args": {"reader": reader, "optimizer": ADAMW, **settings}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A generator, the searches that it wrote, and a reader that was trained on them."""
    folder = tmp_path_factory.mktemp("runs")
    plan = SearchPlan(targets=str(targets(folder)), written=str(folder / "written"))
    generator = generating(optimizer=partial(torch.optim.AdamW, lr=5e-3))
    fit = trainer(folder, max_epochs=4)
    fit.fit(generator, datamodule=served(folder, plan))
    writing = {"corpora": CORPORA, "max_new_tokens": 40}
    save(folder / "generator", folder, model("query_generator.QueryGenerator", 400, **writing), None)
    fit.save_checkpoint(folder / "generator" / "checkpoints" / "last.ckpt", weights_only=True)
    trainer(folder, callbacks=[SearchTableWriter()]).predict(generator, served(folder, plan), return_predictions=False)
    with torch.no_grad():
        next(generator.parameters()).add_(0.5)
    fit.save_checkpoint(folder / "generator" / "checkpoints" / "other.ckpt", weights_only=True)
    module, run = stage(), trainer(folder, limit_train_batches=1, max_epochs=1)
    run.fit(module, datamodule=served(folder, SearchPlan(table=str(folder / "written"))))
    answering = model("reader_raft.ReaderRaft", 320, max_new_tokens=4)
    for name, searches in (("searched", {"table": str(folder / "written")}), ("plain", None)):
        save(folder / name, folder, answering, searches)
        run.save_checkpoint(folder / name / "checkpoints" / "last.ckpt", weights_only=True)
    return folder


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)


def given(runs, which="last"):
    return ["--generator", str(runs / "generator"), "--generator_ckpt_path", which]


def test_the_generator_of_a_run_goes_into_its_bundle_and_answers_as_the_run(runs, tmp_path, here, capsys):
    run, bundle = runs / "searched", tmp_path / "bundle"
    main(["export", str(run), "--ckpt_path", "last", "--output", str(bundle), "--probes", "3", *given(runs)])
    assert "writing the query generator" in capsys.readouterr().err
    main(["verify", str(bundle)])
    assert re.search(r"query generator +a plain .* writes what to ask research, wiki, graph\n", capsys.readouterr().out)
    asked = [
        "--question",
        "which pigment?",
        "--image",
        f"{runs}/toy.npz#images/17",
        "--choices",
        "red,green",
        "--format",
        "json",
    ]
    told = []
    for system in ([str(bundle)], [str(run), "--ckpt_path", "last", *given(runs)]):
        main(["answer", *system, *asked])
        told.append(json.loads(capsys.readouterr().out))
    first, second = told
    assert first["searches"] == second["searches"]
    assert first["search_faults"] == second["search_faults"]
    assert first["choices"] == pytest.approx(second["choices"], abs=1e-5)
    assert [row["text"] for row in first["evidence"]] == [row["text"] for row in second["evidence"]]
    rows = read_searches(runs / "written").by_query()
    answerer = Answerer.from_run(
        run / "config.yaml",
        run / "checkpoints" / "last.ckpt",
        generator=(runs / "generator" / "config.yaml", runs / "generator" / "checkpoints" / "last.ckpt"),
    )
    for query in [query for query in SquareTable(str(runs), 24).queries() if query.split == "test"]:
        assert answerer.answer(query).searches == rows[query.id].searches


def test_without_it_the_bundle_says_so(runs, tmp_path, here, capsys):
    bundle = tmp_path / "bundle"
    command = ["export", str(runs / "searched"), "--ckpt_path", "last", "--output", str(bundle), "--probes", "2"]
    main([*command, "--without_generator"])
    assert "beware: The run was tested with searches that a query generator wrote" in capsys.readouterr().out
    assert "This bundle was exported without it, on demand" in (bundle / "MODEL_CARD.md").read_text()
    assert "lacks" in json.loads((bundle / "bundle.json").read_text())
    assert load_bundle(bundle).ask("which pigment?", choices=["red", "green"]).searches is None


@pytest.mark.parametrize(
    ("run", "arguments", "words"),
    [
        ("searched", [], "this run searched with what a query generator wrote .* --generator RUN .* --without_generator"),
        ("searched", ["OTHER"], "is not the generator that wrote .*: it has another generator"),
        ("searched", ["--generator", "none"], "none/config.yaml|none: there is no such config"),
        ("searched", ["GIVEN", "--without_generator"], "--generator and --without_generator: one would be ignored"),
        ("searched", ["--generator_ckpt_path", "last"], "--generator_ckpt_path would be ignored without --generator"),
        ("plain", ["GIVEN"], "--generator: the questions of .* were searched with themselves"),
        ("plain", ["--without_generator"], "--without_generator: the questions of .* were searched with themselves"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(runs, tmp_path, here, capsys, run, arguments, words):
    other = str(runs / "generator" / "checkpoints" / "other.ckpt")
    spelt = {"GIVEN": given(runs), "OTHER": given(runs, other)}
    told = [part for argument in arguments for part in spelt.get(argument, [argument])]
    with pytest.raises(SystemExit) as ending:
        main(["export", str(runs / run), "--ckpt_path", "last", "--output", str(tmp_path / "b"), *told])
    assert ending.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_missing_checkpoint_of_the_generator_is_called_by_its_option(runs, tmp_path, capsys):
    command = ["export", str(runs / "searched"), "--ckpt_path", "last", "--output", str(tmp_path / "b")]
    with pytest.raises(SystemExit):
        main([*command, "--generator", str(runs / "generator")])
    assert "--generator_ckpt_path best" in capsys.readouterr().err


def test_a_run_is_answered_by_its_own_options_and_a_bundle_by_none_of_them(runs, tmp_path, capsys):
    (tmp_path / "bundle.json").write_text("{}")
    for place, more, words in (
        (runs / "searched", [], "is a run: give the weights of its reader: --ckpt_path"),
        (runs / "searched", ["--ckpt_path", "last"], "this run searched with what a query generator wrote"),
        (tmp_path, ["--ckpt_path", "last"], "--ckpt_path would be ignored: .* is no run"),
        (tmp_path, ["--without_generator"], "--without_generator would be ignored"),
    ):
        with pytest.raises(SystemExit):
            main(["answer", str(place), "--question", "which pigment?", *more])
        assert re.search(words, capsys.readouterr().err)


def test_searches_by_hand_name_no_generator_and_any_may_follow(runs, tmp_path):
    from medrag_lightning.answering import run as running

    rows = read_searches(runs / "written").rows
    write_searches(tmp_path / "hand", rows, {"by": "hand"})
    writer = running.run_search_writer(runs / "generator" / "config.yaml", runs / "generator" / "checkpoints" / "other.ckpt")
    running._refuse_other_writer(writer, str(tmp_path / "hand"), ("a", "b"))
    write_searches(tmp_path / "half", rows, {**writer.identity(), "generator": "of bfloat16", "precision": "bf16-true"})
    running._refuse_other_writer(writer, str(tmp_path / "half"), ("a", "b"))
    write_searches(tmp_path / "prompt", rows, {**writer.identity(), "template": "other", "precision": "bf16-true"})
    with pytest.raises(ValueError, match="another template"):
        running._refuse_other_writer(writer, str(tmp_path / "prompt"), ("a", "b"))
