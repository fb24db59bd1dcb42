"""What the project refuses: bombs, hostile names, pickles, identifiers that must not leak. Prints a table and one JSON line.

    python scripts/bench/security.py
    python scripts/bench/security.py --only bombs paths

Each drill runs in a child process of its own, whose time and memory are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from security_bombs import MOST_MIB, MOST_SECONDS, Drill, bombs  # type: ignore[import-not-found]

PARTS = ("bombs", "paths", "pickles", "canaries")


def outcome(drill: Drill) -> tuple[bool, str, float, float]:
    """Whether the drill was refused as it must be, in which words, in how many seconds, and by how many MiB memory grew."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        refused, words = _refused(drill)
        seconds = time.perf_counter() - start
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        os.write(writer, json.dumps([refused, words[:300], seconds, grown_mib]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        told = stream.read()
    os.waitpid(child, 0)
    if not told:
        return False, "the process died", 0.0, 0.0
    refused, words, seconds, grown_mib = json.loads(told)
    return refused and seconds < MOST_SECONDS and grown_mib < MOST_MIB, words, seconds, grown_mib


def _refused(drill: Drill) -> tuple[bool, str]:
    try:
        drill.read()
    except ValueError as error:
        return True, str(error)
    except Exception as error:  # noqa: BLE001  (anything else is a failed drill, and is told)
        return False, f"{type(error).__name__}: {error}"
    return False, "it was read"


def drills(parts: Sequence[str], folder: Path) -> list[Drill]:
    """The drills of some parts; their files are written under `folder`."""
    made: list[Drill] = []
    if "bombs" in parts:
        made += bombs(folder / "bombs")
    if "paths" in parts:
        from security_paths import hostile_paths  # type: ignore[import-not-found]

        made += hostile_paths(folder / "paths")
    if "pickles" in parts:
        from security_pickles import planted_pickles  # type: ignore[import-not-found]

        made += planted_pickles(folder / "pickles")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the drills; 1 if one was not refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    asked = parser.parse_args(argv)
    tried: Counter[str] = Counter()
    good: Counter[str] = Counter()
    told: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        for drill in drills(asked.only, Path(name)):
            fine, words, seconds, grown_mib = outcome(drill)
            tried[drill.kind] += 1
            good[drill.kind] += fine
            mark = "refused" if fine else "FAILED "
            shown = words.replace(name, "").splitlines()[0][:90] if words else ""
            print(f"{mark}  {drill.kind:<14} {drill.name:<28} {seconds:5.2f} s {grown_mib:6.0f} MiB  {shown}", flush=True)
        if "canaries" in asked.only:
            from security_canaries import canaries_found  # type: ignore[import-not-found]

            told = canaries_found(Path(name) / "canaries")
    for kind, count in tried.items():
        print(f"{kind:<14} {good[kind]} of {count} refused")
    line = {"refused": sum(good.values()), "tried": sum(tried.values()), **told}
    print(json.dumps({**line, "by_kind": {kind: [good[kind], count] for kind, count in tried.items()}}))
    return int(good != tried or bool(told.get("canaries")))


if __name__ == "__main__":
    raise SystemExit(main())
