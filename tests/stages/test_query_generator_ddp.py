"""A query generator on two processes with half the batch each ends as on one, and writes the same searches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import query_generator_ddp_script
import torch
from query_generator_ddp_script import run

from medrag_lightning.search_files import read_searches


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    one, two = (tmp_path_factory.mktemp(f"generator{processes}") for processes in (1, 2))
    run(one, 1)
    script = query_generator_ddp_script.__file__
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(script).parent), *sys.path])}
    done = subprocess.run([sys.executable, script, str(two), "2"], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return one, two


def test_weights_are_those_of_one_process(outcomes):
    one, two = (torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in outcomes)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0, msg=name)


def test_so_are_the_metrics(outcomes):
    for phase in ("fit", "test"):
        one, two = (torch.load(folder / f"{phase}.pt", weights_only=True) for folder in outcomes)
        assert set(one) == set(two)
        assert f"{'val' if phase == 'fit' else 'test'}/hit_at_2" in one
        for name, value in one.items():
            if not name.endswith("ms_a_question"):
                assert two[name] == pytest.approx(value, abs=1e-5), name


def test_and_the_searches_of_every_question_in_their_order(outcomes):
    one, two = (read_searches(folder / "written") for folder in outcomes)
    assert [row.query_id for row in one.rows] == [row.query_id for row in two.rows]
    assert one.rows == two.rows
    assert len(one.rows) == 24
