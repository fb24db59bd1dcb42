"""Contrastive training on two processes, each with a part of the batch, ends as one process with the whole batch does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    found = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"contrastive{processes}")
        script = Path(__file__).with_name("contrastive_ddp_script.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent)}
        command = [sys.executable, str(script), str(folder), str(processes)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        for loss in ("clip", "siglip"):
            weights = torch.load(folder / loss / "last.ckpt", weights_only=True)["state_dict"]
            found[processes, loss] = weights, torch.load(folder / loss / "fit.pt", weights_only=True)
    return found


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_weights_and_metrics_are_those_of_one_process(outcomes, loss):
    (one, numbers_of_one), (two, numbers_of_two) = outcomes[1, loss], outcomes[2, loss]
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0, msg=name)
    assert set(numbers_of_one) == set(numbers_of_two)
    for name, value in numbers_of_one.items():
        assert numbers_of_two[name] == pytest.approx(value, abs=1e-5), name
