"""A probe of real runs on a very small hospital: what is counted is exact, what is written is nothing."""

import time
from dataclasses import asdict
from pathlib import Path

import pytest

from medrag_lightning.cli import plan, plan_measure, plan_probe, plan_store, plan_weights
from medrag_lightning.cli.hardware import Memory
from medrag_lightning.cli.plan_figures import Probe, estimate

SMALL = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "vocabulary": 400}
READER = [f"--model.init_args.reader.init_args.backbone.init_args.{key}={value}" for key, value in SMALL.items()]
DATA = """
data:
  init_args:
    tables: &world
      - class_path: medrag_lightning.data.minihospital.MiniHospital
        init_args: {seed: 1, size: 48}
    corpus: *world
    batch_size: 8
    max_train_queries: 21
    max_eval_queries: 9
    regimes: [retrieved, none]
"""


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(DATA)
    return ["-c", "data/minihospital", "-c", "small.yaml"]


def probed(verb, words, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    return plan_probe.probe_of(verb, words, folder, time.time())


def left(tmp_path):
    return [path.name for path in (tmp_path / "runs").glob("*")] if (tmp_path / "runs").is_dir() else []


def test_a_fit_is_counted_exactly_and_leaves_nothing(words, tmp_path):
    more = ["--trainer.max_epochs=3", "--trainer.accumulate_grad_batches=2"]
    probe = probed("fit", [*words, *READER, *more], tmp_path)
    told = estimate(probe)
    assert (probe.stage, probe.samples, probe.batch_size, probe.train_batches) == ("reader_raft", 21, 8, 3)
    assert (told.batches, told.steps, told.validations) == (9, 6, 3)
    assert [rung.samples for rung in probe.ladder] == [1, 4, 8, 8]
    assert len(probe.cold) == len(probe.warm) == 3
    assert [(one.phase, one.items) for one in probe.evaluations] == [("val", 9), ("test", 9), ("test", 9)]
    assert probe.optimizer_bytes == pytest.approx(2 * probe.gradient_bytes, rel=0.01)  # Adam's two moments
    assert probe.trainable < probe.parameters
    assert probe.checkpoint_bytes > 3 * 4 * probe.trainable
    assert probe.checkpoints_kept == 2
    assert probe.store == "built"
    assert probe.prediction_bytes > 100
    assert probe.peak_train > probe.base_bytes > 0
    assert all(one.tokens > 0 for one in probe.cold)
    assert left(tmp_path) == ["minihospital"]


def test_a_batch_that_would_not_fit_is_not_tried(words, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_measure, "memory", lambda: Memory(0, 15 * 10**9))
    monkeypatch.setattr(plan_measure, "memory_now", lambda: 0)
    monkeypatch.setattr(plan_measure, "peak_bytes", iter(range(10**10, 10**12, 10**9)).__next__)
    probe = probed("fit", [*words, *READER, "--data.init_args.batch_size=16"], tmp_path)
    assert [rung.samples for rung in probe.ladder] == [1, 4]
    assert probe.cold == []
    assert probe.evaluations == []
    assert "memory would have run out" in probe.notes[0]
    assert not estimate(probe).is_measured
    assert estimate(probe).peak_bytes > probe.peak_train


def test_a_large_store_is_computed_and_not_built(words, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_store, "BUILD_SECONDS", -1.0)
    probe = probed("validate", [*words, *READER], tmp_path)
    assert (probe.verb, probe.store) == ("validate", "computed")
    assert probe.store_seconds > 0
    assert probe.store_bytes > 4 * probe.documents
    assert [(one.phase, one.items) for one in probe.evaluations] == [("val", 9)] * 2
    assert probe.ladder == []


def test_a_stage_that_only_predicts_is_planned_as_that(words, tmp_path):
    probe = probed("fit", [*words, "-c", "stages/embed"], tmp_path)
    assert (probe.verb, probe.stage, probe.store) == ("predict", "embed", "embedded")
    assert probe.evaluations[0].items == probe.documents
    assert probe.store_bytes % (4 * probe.documents) == 0


def test_conditions_to_be_scored_are_counted_and_no_table_is_written(words, tmp_path):
    probe = probed("predict", [*words, "-c", "stages/score", *READER, "--data.init_args.scoring.prompts_per_pack=16"], tmp_path)
    assert probe.evaluations[0].items == (21 + 9) * 5  # alone, and with each of 4 candidates
    assert left(tmp_path) == ["minihospital"]


def test_what_a_stage_lacks_is_the_users_to_know(words, tmp_path):
    with pytest.raises(ValueError, match="the score table runs/scores does not exist"):
        probed("fit", [*words, "-c", "stages/fusion_nce"], tmp_path)


def test_the_verb_and_the_folder_are_read_from_the_arguments():
    assert plan._verb(["-c", "a", "--verb", "test"]) == ("test", ["-c", "a"])
    assert plan._verb(["--verb=predict"]) == ("predict", [])
    assert plan._verb(["-c", "a"]) == ("fit", ["-c", "a"])
    with pytest.raises(ValueError, match="a plan is of fit"):
        plan._verb(["--verb", "index"])
    assert plan._run_folder(["--trainer.default_root_dir", "x"]) == plan._run_folder(["--trainer.default_root_dir=x"])


@pytest.mark.parametrize(
    ("script", "kind", "text"),
    [
        ("kill -9 $$", "memory_does_not_fit", "SIGKILL"),
        ("echo 'torch.OutOfMemoryError: CUDA out of memory.'; exit 1", "memory_does_not_fit", "CUDA out of memory"),
        ("echo 'KeyError: 3'; exit 1", "plan_failed", "exit code 1: KeyError: 3"),
        ('echo \'{"failure": "user", "text": "no such file"}\' > "$4"', "plan_failed", "no such file"),
    ],
)
def test_a_child_that_ends_badly_is_told(script, kind, text, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(plan.sys, "executable", str(program))
    findings, rows = plan.plan_findings(["-c", "mine.yaml"])
    assert [finding.kind for finding in findings] == [kind]
    assert findings[0].where == "mine.yaml"
    assert text in findings[0].what
    assert rows[-1][1].startswith("not planned")


def test_a_busy_machine_is_told_beside_the_time(monkeypatch):
    monkeypatch.setattr(plan, "run_probe", lambda *arguments: {"probe": asdict(Probe(verb="predict", stage="score"))})
    monkeypatch.setattr(plan, "load_average", lambda: 0.5)
    assert "note" not in dict(plan.plan_findings(["-c", "a"])[1])
    monkeypatch.setattr(plan, "load_average", lambda: 99.0)
    findings, rows = plan.plan_findings(["-c", "a"])
    assert "99.0 processes wanted" in dict(rows)["note"]
    assert findings == []


def test_what_the_child_says_is_passed_on(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho '@plan \"ordinary batches\"'\necho noise\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(plan.sys, "executable", str(program))
    said = []
    found = plan.run_probe("fit", [], said.append)
    assert said == ["ordinary batches"]
    assert found == {"failure": "crash", "text": "the probe ended with exit code 3: noise"}


def test_weights_that_cannot_fit_are_refused_before_they_are_loaded(tmp_path, monkeypatch):
    class Reader:
        class backbone:  # noqa: N801
            class backbone:  # noqa: N801
                name, quantization = str(tmp_path), None

    class Stage:
        reader = Reader

    (tmp_path / "model-1.safetensors").write_bytes(b"0" * 1000)
    (tmp_path / "model-2.safetensors").write_bytes(b"0" * 500)
    monkeypatch.setattr(plan_weights, "free_memory", lambda: 1500)
    plan_weights.refuse_large_weights(Stage)
    monkeypatch.setattr(plan_weights, "free_memory", lambda: 1499)
    with pytest.raises(plan_weights.WeightsTooLargeError, match=r"1\.5 kB, 1\.5 kB are free"):
        plan_weights.refuse_large_weights(Stage)
    Reader.backbone.backbone.quantization = "nf4"
    plan_weights.refuse_large_weights(Stage)


def test_weights_in_the_download_cache_are_found(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"0" * 7)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert plan_weights.weight_bytes("a/b") == 7
    assert plan_weights.weight_bytes("a/c") == 0


@pytest.mark.slow
def test_a_plan_is_near_the_truth(words, tmp_path, monkeypatch):
    """Memory within a tenth, seconds within a factor of two even on a machine with other work to do."""
    import importlib.util

    path = Path(__file__).parents[2] / "scripts" / "bench" / "plan.py"
    spec = importlib.util.spec_from_file_location("bench_plan", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    told = bench.compare([*words, "--data.init_args.max_train_queries=200", "--trainer.max_epochs=2"])
    assert told["peak_ratio"] == pytest.approx(1.0, abs=0.1)
    assert 0.5 < told["seconds_ratio"] < 2.0
