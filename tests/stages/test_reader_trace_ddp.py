"""A reader of traces on two processes with half the batch each ends as on one, and writes the same traces."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import reader_trace_ddp_script
import torch
from reader_trace_ddp_script import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    one, two = (tmp_path_factory.mktemp(f"traces{processes}") for processes in (1, 2))
    run(one, 1)
    script = reader_trace_ddp_script.__file__
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(script).parent), *sys.path])}
    done = subprocess.run([sys.executable, script, str(two), "2"], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return one, two


def test_weights_are_those_of_one_process(outcomes):
    one, two = (torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in outcomes)
    assert one
    assert not any("vision_tower" in name for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0, msg=name)


def test_so_are_the_metrics(outcomes):
    for phase in ("fit", "test"):
        one, two = (torch.load(folder / f"{phase}.pt", weights_only=True) for folder in outcomes)
        assert set(one) == set(two)
        assert f"{'val' if phase == 'fit' else 'test'}/final_accuracy" in one
        for name, value in one.items():
            assert two[name] == pytest.approx(value, abs=1e-5), name


def test_and_the_traces_in_their_order(outcomes):
    one, two = (_rows(folder) for folder in outcomes)
    assert [(row["query_id"], row["system"], row["raw"]) for row in one] == [
        (row["query_id"], row["system"], row["raw"]) for row in two
    ]
    assert {row["system"] for row in one} == {"", "initial"}


def _rows(folder):
    return [json.loads(line) for line in (folder / "predictions" / "test.jsonl").read_text().splitlines()]
