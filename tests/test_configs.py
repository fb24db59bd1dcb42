"""Every YAML in configs/ is parsed, instantiated and run for one step."""

import sys
from pathlib import Path

import pytest
import torch

from medrag_lightning.artifacts import read_json, write_json
from medrag_lightning.cli import main

sys.path.insert(0, str(Path(__file__).parent / "models"))
sys.path.insert(0, str(Path(__file__).parent / "data"))
from page_files import pages_at
from reader_folders import FOLDERS
from test_dual_encoder import save_dual_encoder

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TINY = "model.init_args.reader.init_args.backbone"
SMALL = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "vocabulary": 400}
ONE_STEP = ["--trainer.fast_dev_run=1", "--data.init_args.max_train_queries=8", "--data.init_args.max_eval_queries=4"]

FUSED = """
data:
  init_args:
    source: &fused
      class_path: medrag_lightning.retrieval.fused.FusedSearch
      init_args:
        pool: &pool
          class_path: medrag_lightning.retrieval.source.LiveSearch
          init_args:
            encoder: {{class_path: medrag_lightning.models.tiny_towers.TinyTowers}}
            per_channel: {{image_to_text: 3, image_to_image: 3, text_to_text: 3}}
        fusion: {{class_path: medrag_lightning.models.similarity_fusion.TrainedFusion, init_args: {{checkpoint: {best}}}}}
        top: 2
    rivals:
      alpha alone:
        class_path: medrag_lightning.retrieval.fused.FusedSearch
        init_args:
          pool: *pool
          fusion:
            class_path: medrag_lightning.models.similarity_fusion.FixedFusion
            init_args: {{weights: {{image_to_text: 1}}}}
          top: 2
"""


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def small() -> list[str]:
    return [f"--{TINY}.init_args.{key}={value}" for key, value in SMALL.items()]


def test_every_file_is_tested_here():
    known = {"base.yaml", "smoke.yaml"}
    folders = {"data", "readers", "retrievers", "stages", "recipes"}
    found = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert all(name in known or name.split("/")[0] in folders for name in found)
    stages = {"critical_layers", "embed", "reader_raft", "reader_raft_all", "retriever_contrastive", "score"}
    stages |= {"retriever_kl", "retriever_kl_small", "retriever_kl_jomed", "fusion_nce", "reader_preference", "query_generator"}
    stages |= {"retriever_contrastive_factual", "explore", "trace"}  # cli/test_cli_explore.py, cli/test_cli_trace.py
    stages |= {"reader_trace", "joint", "candidate_reranker", "reader_raft_reports"}  # a test_..._config.py each
    assert set(names("stages")) <= stages, "a new stage needs a run of its own here"


def test_the_default_runs_one_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *ONE_STEP, *small()])


def test_the_best_weights_of_a_run_serve_the_other_verbs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--data.init_args.max_train_queries=64", "--data.init_args.max_eval_queries=40", "--trainer.max_epochs=1"]
    main(["fit", *few, *small(), "--test_after_fit", "false"])
    for verb, written in (("validate", "results_val.json"), ("test", "results.json"), ("predict", "predictions/predict.jsonl")):
        main([verb, "-c", "runs/smoke-001/config.yaml", "--ckpt_path", "best"])
        assert (tmp_path / "runs" / "smoke-001" / written).exists()


@pytest.mark.data
def test_a_reader_of_reports_is_scored_as_one(medrag_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAG_DATA", str(medrag_data))
    monkeypatch.chdir(tmp_path)
    few = ["--data.init_args.max_train_queries=16", "--data.init_args.max_eval_queries=4", "--trainer.max_epochs=1"]
    brief = ["--model.init_args.max_new_tokens=24"]
    main(["fit", "-c", "stages/reader_raft_reports", "-c", "data/cxr_reports", *few, *brief, *small()])
    (told,) = Path("runs").glob("*/results.json")
    scores = read_json(told)["reports"]["rows"]
    assert set(scores) >= {"retrieved", "no retrieval"}
    assert scores["retrieved"]["rouge_l"]["value"] is not None


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in names("data") if name != "minihospital"])
def test_data_configs_run_one_step(name, medrag_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAG_DATA", str(medrag_data))
    monkeypatch.chdir(tmp_path)
    if name == "pubmedqa":  # its source reads what this verb writes
        main(["reranker", "-c", "data/pubmedqa"])
        assert Path("runs/pubmedqa_reranker.json").is_file()
    if name == "minihospital_pages":  # the user's own
        pages_at(tmp_path / "pages")
    main(["fit", "-c", "stages/reader_raft", "-c", f"data/{name}", *ONE_STEP, *small()])


def test_the_embedding_stage_makes_the_store_that_the_next_run_searches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["predict", "-c", "data/minihospital", "-c", "stages/embed"])
    shards = list(Path("runs/evidence").rglob("*.npy"))
    assert shards
    main(["fit", *ONE_STEP, *small()])
    assert list(Path("runs/evidence").rglob("manifest.json"))


def test_the_scoring_stage_makes_a_table_with_the_weights_of_a_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--data.init_args.max_train_queries=16", "--data.init_args.max_eval_queries=4"]
    main(["fit", *few, *small(), "--trainer.max_epochs=1", "--test_after_fit", "false"])
    (weights,) = Path("runs/smoke-001/checkpoints").glob("best*.ckpt")
    scoring = ["-c", "stages/score", "-c", "smoke", *few, *small(), f"--model.init_args.init_from={weights}"]
    main(["predict", "-c", "data/minihospital", *scoring])
    assert {path.name for path in Path("runs/scores").iterdir()} == {"identity.json", "scores.arrow", "manifest.json"}
    assert not list(Path("runs").rglob("predict.jsonl"))


def test_calibration_finds_the_layers_of_a_reader_and_a_test_reads_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--data.init_args.max_train_queries=16", "--data.init_args.max_eval_queries=24", "--data.init_args.only=closed"]
    shared = ["-c", "data/minihospital", *few, *small(), f"--{TINY}.init_args.layers=3"]
    raft = ["-c", "stages/reader_raft", *shared, "--model.init_args.evidence=all_in_one_prompt", "--test_after_fit=false"]
    main(["fit", *raft, "--trainer.max_epochs=1", "--trainer.default_root_dir=reader"])
    (weights,) = Path("reader/checkpoints").glob("best*.ckpt")
    found = ["--model.init_args.max_samples=6", f"--model.init_args.init_from={weights}", "--trainer.default_root_dir=found"]
    main(["predict", "-c", "stages/critical_layers", *shared, *found])
    assert {"critical_layers.json", "critical_layers.png", "steering_layers.yaml"} <= {p.name for p in Path("found").iterdir()}
    assert len(Path("found/predictions/predict.jsonl").read_text().splitlines()) == 24
    told = read_json("found/critical_layers.json")
    told["layers"]["evidence_to_question"] = [1]  # a reader that learnt for one step has none of its own
    write_json("found/critical_layers.json", told)
    steered = ["-c", "found/steering_layers.yaml", "--model.init_args.steering={retrieved: {policy: paper, layers: critical}}"]
    steered += ["--data.init_args.regimes=[retrieved]", f"--ckpt_path={weights}", "--trainer.default_root_dir=test"]
    main(["test", *raft[:-1], *steered])
    assert Path("test/results.json").exists()


def test_factual_positives_train_a_step_on_the_stage_s_own_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["-c", "data/minihospital_sparse", "-c", "stages/retriever_contrastive_factual", "--data.init_args.batch_size=8"]
    main(["fit", *command, "--trainer.max_steps=1", "--trainer.limit_val_batches=1"])
    assert '"factual"' in next(Path("runs").glob("*-001/retrieval.json")).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["tiny_towers", *names("retrievers")])
def test_retrievers_train_a_step(name, tmp_path, monkeypatch):
    """With the preset's own settings; a folder of random weights stands for the hub."""
    monkeypatch.chdir(tmp_path)
    encoder = "model.init_args.encoder"
    command = ["-c", "data/minihospital", "-c", "stages/retriever_contrastive", "--data.init_args.pairs.test_share=0.02"]
    command += ["--data.init_args.batch_size=8"] + ["-c", f"retrievers/{name}"] * (name in names("retrievers"))
    if name == "clip":
        save_dual_encoder("clip", tmp_path / "weights")
        command += [f"--{encoder}.init_args.name={tmp_path / 'weights'}"]
    if name == "tiny_clip":
        command += [f"--{encoder}.init_args.{key}={value}" for key, value in {"hidden": 32, "layers": 1}.items()]
    main(["fit", *command, "--trainer.max_steps=1", "--trainer.limit_val_batches=1"])
    assert list(Path("runs").glob("*-001/retrieval.json"))


@pytest.mark.parametrize("name", [name for name in names("readers") if not name.endswith("_tuned")])
def test_reader_presets_run_one_step(name, tmp_path, monkeypatch):
    """With the preset's own settings, on a folder of random weights of its family in place of the hub's."""
    monkeypatch.chdir(tmp_path)
    command = ["fit", "-c", "stages/reader_raft", "-c", "data/minihospital", "-c", f"readers/{name}", *ONE_STEP]
    if name in ("tiny", "mini"):
        main([*command, *small()])
        return
    FOLDERS[name](tmp_path / "weights")
    main([*command, f"--{TINY}.init_args.name={tmp_path / 'weights'}"])


TUNED = [name for name in names("readers") if name.endswith("_tuned")]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "mini_tuned")) for n in TUNED])
def test_a_trained_reader_is_the_base_of_the_next(name, tmp_path, monkeypatch):
    """The preset that is trained first, then the one around its checkpoint."""
    monkeypatch.chdir(tmp_path)
    first, few = name.removesuffix("_tuned"), ["--test_after_fit=false", *ONE_STEP[1:]]
    command = ["fit", "-c", "stages/reader_raft_all", "-c", "data/minihospital"]
    shape = SMALL
    if first in FOLDERS:
        FOLDERS[first](tmp_path / "weights")
        shape = {"name": tmp_path / "weights"}
    settings = [f"{key}={value}" for key, value in shape.items()]
    once = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", *few]
    main([*command, "-c", f"readers/{first}", *once, *(f"--{TINY}.init_args.{one}" for one in settings)])
    (trained,) = Path("runs").glob("*/checkpoints/last.ckpt")
    monkeypatch.setenv("MEDRAG_READER", str(trained.resolve()))
    inner = [f"--{TINY}.init_args.backbone.init_args.{one}" for one in settings]
    main([*command, "-c", f"readers/{name}", *ONE_STEP, *inner])


def test_a_reader_with_all_evidence_in_its_prompt_trains_and_is_steered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steering = ["--model.init_args.steering", "{retrieved: {policy: paper, layers: all}}"]
    main(["fit", "-c", "stages/reader_raft_all", "-c", "data/minihospital", *ONE_STEP, *small(), *steering])


def test_a_hub_name_without_a_network_is_told_plainly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ending:
        main(["fit", "-c", "data/minihospital", "-c", "stages/reader_raft", "-c", "readers/llava", *ONE_STEP])
    assert ending.value.code == 2
    assert "llava-hf/llava" in capsys.readouterr().err


def test_a_retriever_learns_from_scores_and_searches(tmp_path, monkeypatch):
    """Stage score, stage retriever_kl for the text head, then with JOMED's numbers for the image head, from the first."""
    monkeypatch.chdir(tmp_path)
    search = "data.init_args.source.init_args"
    few = [*ONE_STEP[1:], *(f"--{search}.per_channel.image_to_{side}=4" for side in ("image", "text"))]
    shared = ["-c", "data/minihospital", "-c", "stages/retriever_kl"]
    main(["predict", *shared, "-c", "stages/score", *few, *small()])
    main(["fit", *shared, "-c", "stages/retriever_kl_small", *few, "--trainer.max_epochs=1"])
    (text,) = Path("runs").glob("retriever_kl_small-001/checkpoints/best-*.ckpt")
    image = ["--model.init_args.heads.init_args.sides=[image]", f"--model.init_args.init_from={text}", "--trainer.max_epochs=1"]
    main(["fit", *shared, "-c", "stages/retriever_kl_jomed", *few, *image])
    (best,) = Path("runs").glob("retriever_kl_jomed-001/checkpoints/best-*.ckpt")
    saved = torch.load(best, weights_only=True)
    assert saved["medrag"]["description"]["t_score"] == 1.0
    assert {name.split(".")[2] for name in saved["state_dict"]} == {"image"}
    assert saved["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 1.0


def test_a_fusion_learns_from_scores_and_searches(tmp_path, monkeypatch):
    """Stage score, stage fusion_nce with weights by query, and a reader's run with what it learned and one similarity alone."""
    monkeypatch.chdir(tmp_path)
    few = ["--data.init_args.max_train_queries=24", "--data.init_args.max_eval_queries=8", "--data.init_args.only=closed"]
    search = "data.init_args.source.init_args"
    channels = ("image_to_text", "image_to_image", "text_to_text")
    pools = [f"--{search}.per_channel.{channel}=3" for channel in channels]
    shared = ["-c", "data/minihospital", "-c", "stages/fusion_nce", *few, *pools]
    scoring = ["-c", "stages/score", "--data.init_args.scoring.splits=[train,val,test]"]
    main(["predict", *shared, *scoring, *small()])
    query = ["--model.init_args.fusion.init_args.scope=per_query", "--trainer.max_steps=4", "--trainer.val_check_interval=2"]
    main(["fit", *shared, *query])
    (best,) = Path("runs").glob("fusion_nce-001/checkpoints/best-*.ckpt")
    assert (best.parent / "fusion_weights.json").is_file()
    assert len(list(Path("runs/similarities").glob("*.npy"))) == 6  # similarities and confidences of three splits
    (tmp_path / "fused.yaml").write_text(FUSED.format(best=best))
    main(["fit", "-c", "stages/reader_raft", "-c", "data/minihospital", "-c", "fused.yaml", *ONE_STEP, *small()])


@pytest.mark.parametrize("name", names("recipes"))
def test_recipes_can_be_planned(name, tmp_path, monkeypatch, capsys):
    """Every step's config files are there and every placeholder is known; the commands are printed, nothing runs."""
    monkeypatch.chdir(tmp_path)
    main(["run", name, "--dry_run"])
    assert capsys.readouterr().out.count("python") >= 1
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_jomed_runs_from_raw_files_to_its_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["data.init_args.max_train_queries=16", "data.init_args.max_eval_queries=8"]
    steps = ("contrastive", "reader", "text_head", "image_head")
    asked = [f"--set={step}.trainer.max_epochs=1" for step in steps]
    steps = ("reader", "score", "text_head", "image_head", "tune", "test")
    asked += [f"--set={step}.{setting}" for step in steps for setting in few]
    asked += [f"--set={step}.data.init_args.regimes=[retrieved, none]" for step in ("tune", "test")]  # too few for poison
    main(["run", "jomed", "--candidates", "2", *asked])
    assert Path("runs/jomed/test/results.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_mrrag_runs_from_raw_files_to_its_curves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["data.init_args.max_train_queries=16", "data.init_args.max_eval_queries=8"]
    asked = [f"--set={step}.trainer.max_epochs=1" for step in ("contrastive", "reader")]
    steps = ("reader", "score", "published", "fusion", "calibrate", "test")
    asked += [f"--set={step}.{setting}" for step in steps for setting in few]
    asked += ["--set=test.data.init_args.regimes=[retrieved, none]"]  # so few questions have no known poison
    asked += [f"--set={step}.trainer.max_steps=50" for step in ("published", "fusion")]
    main(["run", "mrrag", "--pool", "4", "--score_queries", "16", *asked])
    for name in ("results.json", "noise.json", "plots/noise.png", "plots/attention_mass.png"):
        assert (Path("runs/mrrag/test") / name).is_file()
    assert Path("runs/mrrag/calibrate/critical_layers.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_hkpt_runs_from_raw_files_to_its_metrics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--set=contrastive.trainer.max_epochs=1", "--set=reader.trainer.max_epochs=3"]
    asked += ["--set=reader.data.init_args.max_train_queries=1500"]  # one that knows nothing says the same to everything
    few = ["data.init_args.max_train_queries=200", "data.init_args.max_eval_queries=40"]
    asked += [f"--set={step}.{setting}" for step in ("score", "pairs", "tune", "sft") for setting in few]
    asked += [f"--set={step}.data.init_args.max_eval_queries=8" for step in ("reader", "test_before", "test_sft", "test")]
    asked += [f"--set={step}.data.init_args.regimes=[retrieved, none]" for step in ("test_before", "test_sft", "test")]
    asked += [f"--set={step}.trainer.val_check_interval=2" for step in ("tune", "sft")]
    main(["run", "hkpt", "--updates", "4", *asked])
    for name in ("knowledge.json", "plots/knowledge.png", "noise.json"):
        assert (Path("runs/hkpt/test") / name).is_file()
    assert Path("runs/hkpt/pairs/pairs/statistics.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_modality_retrievers_runs_from_raw_files_to_routed_searches(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["run", "modality_retrievers", "--updates", "2", "--updates_of_three", "4", "--val_every", "2", "--test_size", "20"])
    for name, pairs in {"first": 20, "second": 20, "mixed": 60}.items():
        assert read_json(f"runs/modality_retrievers/{name}/retrieval.json")["pairs"] == pairs
    folders = [path.parent.name for path in Path("runs/evidence").glob("*/*/manifest.json")]
    assert sorted(folders) == ["first", "second", "third"]
    assert len(list(Path("runs/evidence").glob("*/router-*.json"))) == 1
