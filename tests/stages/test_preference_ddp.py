"""Preference tuning on two processes, each with a part of the pairs, ends as one process with all of them does."""

import os
import subprocess
import sys
from pathlib import Path

import preference_ddp_script
import pytest
import torch
from preference_ddp_script import run


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    one, two = (tmp_path_factory.mktemp(f"preference{processes}") for processes in (1, 2))
    run(one, 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(preference_ddp_script.__file__).parent)}
    command = [sys.executable, preference_ddp_script.__file__, str(two), "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    weights = [torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (one, two)]
    return weights, [torch.load(folder / "fit.pt", weights_only=True) for folder in (one, two)]


def test_weights_are_those_of_one_process(outcomes):
    one, two = outcomes[0]
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0, msg=name)


def test_so_is_what_was_logged_of_every_kind(outcomes):
    one, two = outcomes[1]
    assert set(one) == set(two)
    assert {"train/loss", "val/loss", "val/cross_modality_margin", "val/knowledge_robustness_accuracy"} <= set(one)
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-5), name
