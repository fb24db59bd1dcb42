"""Two processes with half the batch each end as one process with the whole batch does."""

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
        folder = tmp_path_factory.mktemp(f"processes{processes}")
        script = Path(__file__).with_name("ddp_script.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent)}
        command = [sys.executable, str(script), str(folder), str(processes)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        weights = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        numbers = {phase: torch.load(folder / f"{phase}.pt", weights_only=True) for phase in ("fit", "test")}
        found[processes] = {"weights": weights, **numbers}
    return found


def test_weights_are_those_of_one_process(outcomes):
    for name, value in outcomes[1]["weights"].items():
        torch.testing.assert_close(outcomes[2]["weights"][name], value, atol=1e-6, rtol=0, msg=name)


def test_metrics_are_over_the_same_unique_samples(outcomes):
    for phase in ("fit", "test"):
        one, two = outcomes[1][phase], outcomes[2][phase]
        assert set(one) == set(two)
        for name, value in one.items():
            assert two[name] == pytest.approx(value, abs=1e-5), name
