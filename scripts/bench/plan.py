"""How well `check --only plan` foretells a run: predicted against real seconds, peak memory and disk of a short fit.

``python scripts/bench/plan.py [--folder DIR] [--max_epochs 2] [--max_train_queries 2000] [-c FILE ... --KEY VALUE ...]``

The real run comes after the plan, in a process of its own and an empty folder, on the shipped default unless ``-c`` says else.
Peak memory is the child's own ``ru_maxrss``. Ratios are predicted over real; on a machine with other work to do the seconds of
the two differ for that reason as well, so the load is printed. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.cli.hardware import load_average, size_text
from medrag_lightning.cli.plan import read_probe, run_probe
from medrag_lightning.cli.plan_figures import estimate
from medrag_lightning.cli.plan_verdict import Room, plan_rows, verdict


def main(argv: Sequence[str] | None = None) -> None:
    """Plans, runs, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--max_epochs", default="2")
    parser.add_argument("--max_train_queries", default="2000")
    options, rest = parser.parse_known_args(argv)
    words = [
        *rest,
        f"--trainer.max_epochs={options.max_epochs}",
        f"--data.init_args.max_train_queries={options.max_train_queries}",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        before = Path.cwd()
        os.chdir(folder)  # caches of an earlier run would be reused
        try:
            told = compare(words)
        finally:
            os.chdir(before)
    print(json.dumps(told))


def compare(words: Sequence[str]) -> dict[str, Any]:
    """The plan of ``fit`` with these arguments, and what became of it."""
    began = time.perf_counter()
    found = run_probe("fit", words, print)
    if "probe" not in found:
        raise ValueError(f"the plan failed: {found}")
    probe = read_probe(found["probe"])
    plan_seconds = time.perf_counter() - began
    plan = estimate(probe)
    for name, text in [*plan_rows(probe, plan), verdict(probe, plan, Room(None, 2**50))[1]]:
        print(f"{name:18}{text}")
    load_before = load_average()
    seconds, peak = run(words)
    disk = sum(path.stat().st_size for path in Path("runs").rglob("*") if path.is_file() and path.suffix != ".npz")
    print(f"real              {seconds:.0f} s, {size_text(peak)}, {size_text(disk)}; load {load_before} to {load_average()}")
    return {
        "plan_seconds": round(plan_seconds, 1),
        "seconds_predicted": round(plan.seconds, 1),
        "seconds_real": round(seconds, 1),
        "seconds_ratio": round(plan.seconds / seconds, 3),
        "peak_predicted": plan.peak_bytes,
        "peak_real": peak,
        "peak_ratio": round(plan.peak_bytes / peak, 3),
        "disk_predicted": plan.disk_bytes,
        "disk_real": disk,
        "disk_ratio": round(plan.disk_bytes / disk, 3),
        "load": load_before,
    }


def run(words: Sequence[str]) -> tuple[float, int]:
    """Seconds and peak bytes of the real fit, with its test."""
    began = time.perf_counter()
    with Path("fit.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen([sys.executable, "-m", "medrag_lightning", "fit", *words], stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise ValueError(
            f"the fit ended with exit code {child.returncode}: {Path('fit.log').read_text(encoding='utf-8')[-2000:]}"
        )
    return time.perf_counter() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
