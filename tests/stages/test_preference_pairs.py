"""From a reader to pairs: the toy world is scored under its evidence sets, pairs are built from the table and read back."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from knowledge_toy import knowledge_data
from toy import reader, trainer

from callbacks.score_writer import ScoreWriter
from medrag_lightning.cli import main
from medrag_lightning.data.conditions import ConditionExamples, Conditions
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.pair_building import build, build_or_read
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.data.scoring_feed import ScoringPlan
from medrag_lightning.preference_files import read_preferences
from medrag_lightning.records import AnswerType, Split
from medrag_lightning.stages.score import Score

KNOWLEDGE = KnowledgePlan(draws=3, max_reports=2, max_documents=1, distractor_share=0.3)


def moody_reader():
    """An untrained reader gives one answer to everything; with larger weights its answers go by what it is shown."""
    made = reader()
    prepare = made.prepare

    def louder(texts):
        prepare(texts)
        for weight in made.parameters():
            weight.data.mul_(6.0 if weight.dim() > 1 else 1.0)

    made.prepare = louder
    return made


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The folder of the toy with its score table `t`, and the stage that scored."""
    folder = tmp_path_factory.mktemp("pairs")
    conditions = Conditions(none=False, each_candidate=False, knowledge=True)
    plan = ScoringPlan(str(folder / "t"), ("train", "val"), conditions)
    stage = Score(moody_reader(), generate="open", max_new_tokens=4)
    module = knowledge_data(folder, scoring=plan, knowledge=KNOWLEDGE)
    trainer(folder, callbacks=[ScoreWriter()]).predict(stage, module, return_predictions=False)
    return folder, stage


def world_of(folder):
    """As the verb has it: no trainer."""
    module = knowledge_data(folder, knowledge=KNOWLEDGE)
    module.prepare_data()
    module.setup("fit")
    return module.world()


def test_pairs_are_built_from_the_table_and_read_back(scored):
    folder, _ = scored
    plan = PreferencePlan(str(folder / "p"), str(folder / "t"), rules="hkpt_v1", repeats="all")
    world = world_of(folder)
    built = build_or_read(world, plan)
    assert built.pairs == read_preferences(folder / "p").pairs == build_or_read(world, plan).pairs
    assert list(built.pairs) == [Split.TRAIN, Split.VAL]
    table = ScoreTable.open(folder / "t")
    told = built.statistics["train"]
    assert told["questions"]["judged"] == len(world.queries["train"]) == 12
    _, whole = build(world, PreferencePlan(table=str(folder / "t"), rules="hkpt_v2"), table)
    assert table.manifest["rows"] == sum(whole[split]["reader_passes"]["different"] for split in ("train", "val"))  # H33
    assert len({pair.kind for pair in built.pairs[Split.TRAIN]}) >= 2
    queries = {query.id: query for query in world.queries["train"]}
    for pair in built.pairs[Split.TRAIN]:
        query = queries[pair.query_id]
        assert pair.chosen.answer == query.answer
        for side in (pair.chosen, pair.rejected):
            row = table.score(query.id, side.condition)
            if side.answer in row.answers:
                place = row.answers.index(side.answer)
                assert (side.reference_nats, side.tokens) == (row.logp_nats[place], row.token_counts[place])
            else:
                assert (query.answer_type, side.reference_nats, side.tokens) == (AnswerType.OPEN, None, 0)


def test_the_stored_reference_is_the_live_one(scored):
    folder, stage = scored
    world = world_of(folder)
    plan = PreferencePlan(str(folder / "live"), str(folder / "t"), rules="rag_pt")
    queries = {query.id: query for mine in world.queries.values() for query in mine}
    shows = ConditionExamples(queries, {d.id: d for d in world.documents}, world.open_image)
    collate = stage.collator(False)
    for pair in build_or_read(world, plan).pairs[Split.TRAIN][:8]:
        for side in (pair.chosen, pair.rejected):
            with torch.no_grad():
                (alone,) = stage.predict_step(collate(shows.build([(queries[pair.query_id], side.condition)])), 0)
            if side.reference_nats is not None:
                assert alone.logp_nats[alone.answers.index(side.answer)] == pytest.approx(side.reference_nats, abs=1e-5)


@pytest.fixture
def config(scored, monkeypatch):
    """A configuration of that world, in a folder of its own."""
    folder, _ = scored
    monkeypatch.chdir(folder)
    table = {"class_path": "knowledge_toy.ToyTexts", "init_args": {"folder": str(folder)}}
    settings = {
        "tables": [table], "corpus": [table], "source": {"class_path": "knowledge_toy.ToyKnowledge"},
        "cache_folder": str(folder / "evidence"), "preference": {"folder": "verb", "table": "t", "samples": 2},
        "knowledge": {"draws": 3, "max_reports": 2, "max_documents": 1, "distractor_share": 0.3},
    }  # fmt: skip
    told = {"data": {"class_path": "medrag_lightning.data.module.MedragData", "init_args": settings}}
    Path("toy_pairs.yaml").write_text(yaml.safe_dump(told))
    return ["pairs", "-c", "stages/score", "-c", "toy_pairs.yaml"]


def test_the_verb_prints_how_pairs_came_about(config, capfd):
    main(config)
    first = capfd.readouterr().out
    for text in ("train: questions: all 12, judged 12", "evidence sets: all ", "right under: full ", "reader passes: a set 6",
                 "kept", "left out: other kinds 0, repeats ", "leaks: "):  # fmt: skip
        assert text in first
    files = [Path(line).name for line in first.splitlines() if line.startswith("verb/")]
    assert files == ["manifest.json", "pairs.arrow", "samples.html", "samples.jsonl", "statistics.json"]
    assert len(Path("verb/samples.jsonl").read_text().splitlines()) == 2
    assert json.loads(Path("verb/manifest.json").read_text())["identity"]["preference"]["rules"] == "hkpt_v2"
    with pytest.raises(SystemExit) as ending:
        main([*config, "--data.init_args.preference.rules", "kb_pt"])
    assert ending.value.code == 2
    assert "preference.rules is hkpt_v2 there, kb_pt here. Give another folder" in capfd.readouterr().err
    assert not list(Path().glob("runs/*"))


def test_the_verb_writes_them_for_trl(config, capfd):
    main([*config, "--trl", "for_trl"])
    assert "for_trl: pairs in trl's format: " in capfd.readouterr().out
    pairs = {pair.id: pair for mine in read_preferences("verb").pairs.values() for pair in mine}
    lines = [line for path in Path("for_trl").glob("*/metadata.jsonl") for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    assert {row["id"] for row in rows} == {name for name, p in pairs.items() if p.chosen.condition == p.rejected.condition}
    main([*config, "--trl=for_trl"])  # nothing is written twice
    for wrong, message in ((["--trl"], "needs a folder"), (["--trl", "a", "--trl=b"], "2 times: a, b")):
        with pytest.raises(SystemExit):
            main([*config, *wrong])
        assert message in capfd.readouterr().err
