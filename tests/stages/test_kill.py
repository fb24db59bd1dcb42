"""kill -9 at a random moment of training, then `--ckpt_path last`: the final weights are those of an undisturbed run.

Three kills always; twenty with: pytest -m slow tests/stages/test_kill.py
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

CONFIG = """
model:
  class_path: medrag_lightning.stages.reader_raft.ReaderRaft
  init_args:
    reader:
      class_path: medrag_lightning.models.hf_reader.HfReader
      init_args:
        backbone:
          class_path: medrag_lightning.models.tiny.TinyBackbone
          init_args: {hidden: 32, layers: 1, heads: 2, vision_hidden: 32, vision_layers: 1, image_side_px: 32,
                      vocabulary: 320, dropout: 0.2}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.003}}
    max_new_tokens: 4
data:
  class_path: medrag_lightning.data.module.MedragData
  init_args:
    tables: [{class_path: toy.ToyTable, init_args: {folder: FOLDER}}]
    corpus: [{class_path: toy.ToyTable, init_args: {folder: FOLDER}}]
    source: {class_path: toy.ToySource}
    evidence: {samples_per_query: 2}
    augmentation: {shift_share: 0.05}
    batch_size: 6
    max_eval_queries: 2
    cache_folder: FOLDER/evidence
trainer:
  max_epochs: 30
  accelerator: cpu
  log_every_n_steps: 1
  callbacks:
    - class_path: callbacks.preemption.Preemption
    - class_path: callbacks.last_checkpoint.LastCheckpoint
      init_args: {every_n_steps: 2}
    - class_path: callbacks.progress.Progress
test_after_fit: false
"""
TOTAL = 120


class Runs:
    """Starts `fit` on the toy in folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "toy.yaml"
        self.config.write_text(CONFIG.replace("FOLDER", str(folder)))

    def start(self, name: str, workers: int, *more: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "medrag_lightning", "fit", "-c", str(self.config)]
        command += ["--trainer.default_root_dir", str(self.folder / name), f"--data.init_args.num_workers={workers}"]
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*command, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self, process: subprocess.Popen) -> None:
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out[-3000:]

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        checkpoint = torch.load(self.folder / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == TOTAL
        return checkpoint["state_dict"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("kill"))
    process = made.start("whole", 0)
    last = made.folder / "whole" / "checkpoints" / "last.ckpt"
    ready = wait_for(last, process)
    made.finish(process)
    made.training_seconds = last.stat().st_mtime - ready
    return made


def wait_for(path: Path, process: subprocess.Popen) -> float:
    """The time at which a file appears while a process runs."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    return time.time()


def kill_in_training(runs: Runs, seed: int, workers: int) -> tuple[str, int]:
    """Kills a run at a random moment; earlier where the machine was faster than before and training had already ended."""
    share = random.Random(seed).uniform(0, 0.8)
    for attempt in range(4):
        name = f"killed{seed}-{attempt}"
        process = runs.start(name, workers)
        last = runs.folder / name / "checkpoints" / "last.ckpt"
        wait_for(last, process)
        time.sleep(share * runs.training_seconds / 2**attempt)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        step = torch.load(last, weights_only=True)["global_step"]
        if process.returncode == -signal.SIGKILL and step < TOTAL:
            return name, step
    raise AssertionError(f"seed {seed}: training always ended before it was killed")


def kill_and_resume(runs: Runs, seed: int) -> None:
    workers = (0, 2)[seed % 2]
    name, step = kill_in_training(runs, seed, workers)
    runs.finish(runs.start(name, workers, "--ckpt_path", "last"))
    whole, resumed = runs.weights("whole"), runs.weights(name)
    differ = [key for key, value in whole.items() if not torch.equal(value, resumed[key])]
    assert not differ, f"seed {seed}, killed after the checkpoint of step {step}: {len(differ)} weights differ"


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_run_resumes_bit_equal(runs, seed):
    kill_and_resume(runs, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(20))
def test_twenty_killed_runs_resume_bit_equal(runs, seed):
    kill_and_resume(runs, 100 + seed)
