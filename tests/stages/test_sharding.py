"""A reader sharded over two processes ends as on one; its checkpoint serves one process; a resumed run goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fsdp_script import stage
from toy import data, trainer

from medrag_lightning.stages import sharding


@pytest.fixture(scope="module", params=["lora", pytest.param("full", marks=pytest.mark.slow)])
def outcomes(request, tmp_path_factory):
    found = {"adapter": request.param}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"sharded{processes}")
        script = Path(__file__).with_name("fsdp_script.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent)}
        command = [sys.executable, str(script), str(folder), str(processes), request.param]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found[processes] = folder
    return found


def test_weights_are_those_of_one_process(outcomes):
    one, two = (torch.load(outcomes[n] / "last.ckpt", weights_only=True) for n in (1, 2))
    assert set(one["state_dict"]) == set(two["state_dict"])
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, atol=2e-6, rtol=0, msg=name)
    one, two = (torch.load(outcomes[n] / "fit.pt", weights_only=True) for n in (1, 2))
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-5), name


def test_its_checkpoint_serves_one_process(outcomes, tmp_path):
    shared = {"datamodule": data(tmp_path), "verbose": False, "weights_only": True}
    paths = [outcomes[processes] / "last.ckpt" for processes in (1, 2)]
    found = [trainer(tmp_path).test(stage(outcomes["adapter"]), ckpt_path=path, **shared) for path in paths]
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-5)


def test_a_reader_without_layers_is_refused():
    mesh = {"tensor_parallel": type("Mesh", (), {"size": lambda self: 1})()}
    with pytest.raises(ValueError, match="Linear has no decoder_layers; it cannot be sharded"):
        sharding.shard(torch.nn.Linear(2, 2), mesh)
