"""A new environment with the extra `runtime` alone imports what answering needs (and has neither lightning nor trl)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_runtime_extra_is_enough_to_answer():
    command = ["bash", str(ROOT / "scripts" / "clean_runtime.sh")]
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("clean_runtime: passed\n")
