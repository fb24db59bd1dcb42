"""Runs every fault drill (tests/faults and those beside it) and prints how many were passed, by kind.

    python scripts/bench/drills.py            all, some minutes
    python scripts/bench/drills.py --quick    without killed runs and lost ranks

A drill is one injected fault with its checks: what was there before is still readable, no litter, the message has a remedy, and
the same thing done again succeeds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLED = {
    "tests/stages/test_kill.py": "kill in training",
    "tests/stages/test_resume.py": "stop and resume",
}
WHOLE = {
    "tests/callbacks/test_finite_loss.py": "nan loss",
    "tests/callbacks/test_checkpoint_io.py": "checkpoint",
    "tests/cli/test_cli_orphan.py": "lost rank",
}
"""Tests that are one drill each; those of tests/faults tell how many they are."""


class Counts:
    """A plugin of pytest that adds up what the tests tell (`record_property("drill", (kind, passed, tried))`)."""

    def __init__(self) -> None:
        self.passed: dict[str, int] = defaultdict(int)
        self.tried: dict[str, int] = defaultdict(int)
        self.kills = self.survived = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Looks at one finished test."""
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when != "call" or report.skipped:
            return
        file = report.nodeid.split("::")[0]
        told = dict(report.user_properties)
        for name, value in report.user_properties:
            if name == "drill":
                self._add(*value)
        if "kills" in told:
            self.survived, self.kills = self.survived + told["kills"][0], self.kills + told["kills"][1]
        if file in KILLED:
            self.survived, self.kills = self.survived + report.passed, self.kills + 1
        elif file in WHOLE:
            self._add(WHOLE[file], int(report.passed), 1)

    def _add(self, kind: str, passed: int, tried: int) -> None:
        self.passed[kind] += passed
        self.tried[kind] += tried
        if kind.startswith("kill"):
            self.survived, self.kills = self.survived + passed, self.kills + tried


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the drills; gives 0 if all were passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without killed runs and lost ranks, which take minutes")
    parser.add_argument("--only", default="", help="drills whose name holds this (pytest -k)")
    chosen = parser.parse_args(argv)
    counts, began = Counts(), time.monotonic()
    files = [str(ROOT / "tests" / "faults"), *(str(ROOT / file) for file in (WHOLE if chosen.quick else {**WHOLE, **KILLED}))]
    marks = "not slow" if chosen.quick else "slow or not slow"
    words = ["-q", "-p", "no:cacheprovider", "--durations=0", "--durations-min=1000", "--rootdir", str(ROOT), "-m", marks]
    pytest.main([*words, *(["-k", chosen.only] if chosen.only else []), *files], plugins=[counts])
    print(f"\n{'kind of drill':24}{'passed':>8}{'tried':>8}")
    for kind in sorted(counts.tried):
        print(f"{kind:24}{counts.passed[kind]:8}{counts.tried[kind]:8}")
    print(f"{'runs and writes killed':24}{counts.survived:8}{counts.kills:8}")
    for name in counts.failed:
        print(f"failed: {name}")
    report = {
        "drills_passed": sum(counts.passed.values()),
        "drills_tried": sum(counts.tried.values()),
        "kills_survived": counts.survived,
        "kills": counts.kills,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(report))
    return int(bool(counts.failed) or report["drills_passed"] < report["drills_tried"])


if __name__ == "__main__":
    sys.exit(main())
