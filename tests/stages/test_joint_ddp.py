"""Reader and retriever on two processes with half the batch each end as on one."""

import os
import subprocess
import sys
from pathlib import Path

import joint_ddp_script
import pytest
import torch
from joint_ddp_script import run


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    one, two = (tmp_path_factory.mktemp(f"joint{processes}") for processes in (1, 2))
    run(one, 1)
    script = joint_ddp_script.__file__
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(script).parent), *sys.path])}
    done = subprocess.run([sys.executable, script, str(two), "2"], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return one, two


def test_weights_are_those_of_one_process(outcomes):
    one, two = (torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in outcomes)
    assert {name.split(".")[0] for name in one} == {"reader", "heads"}
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=0, msg=name)


def test_so_are_the_metrics(outcomes):
    for phase in ("fit", "test"):
        one, two = (torch.load(folder / f"{phase}.pt", weights_only=True) for folder in outcomes)
        assert set(one) == set(two)
        assert f"{'val' if phase == 'fit' else 'test'}/even_loss" in one
        for name, value in one.items():
            assert two[name] == pytest.approx(value, abs=1e-4), name
