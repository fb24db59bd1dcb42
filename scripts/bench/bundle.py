"""Bundles of a run: parity with the training side in each form, seconds, megabytes, and flipped bits that `verify` finds.

Without RUN a tiny reader is trained for some steps on the mini-hospital first (untimed). The last line is JSON.

    python scripts/bench/bundle.py
    python scripts/bench/bundle.py runs/NAME-001 --ckpt_path best --probes 64
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.cli import main as command
from medrag_lightning.handoff.bundle.export import export_bundle
from medrag_lightning.handoff.bundle.from_run import read_run
from medrag_lightning.handoff.bundle.reader_files import How
from medrag_lightning.handoff.bundle.request import Settings
from medrag_lightning.handoff.bundle.verify import verify_bundle

FLIPS = 40


def main(argv: Sequence[str] | None = None) -> None:
    """Exports a run in every form that it has, and flips bits in the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--ckpt_path", default="last")
    parser.add_argument("--system", default="")
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--flips", type=int, default=FLIPS)
    parser.add_argument("--steps", type=int, default=40)
    told = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        run = told.run or trained(Path(place) / "run", told.steps)
        found: dict[str, Any] = {"max_abs_delta_nats": {}, "seconds": {}, "megabytes": {}}
        for dtype, how in forms(run, told.ckpt_path, told.system):
            name = f"{how}_{dtype or 'as_trained'}"
            output = Path(place) / name
            began = time.monotonic()
            made = read_run(run, told.ckpt_path, None, told.system)
            settings = Settings(output, how, "include", dtype, told.probes)
            parity = export_bundle(made, settings, lambda text: None, lambda what, done, count: None)["parity"]
            found["seconds"][name] = round(time.monotonic() - began, 1)
            found["megabytes"][name] = round(sum(p.stat().st_size for p in output.rglob("*") if p.is_file()) / 1e6, 1)
            found["max_abs_delta_nats"][name] = parity["max_abs_delta_logp_nats"]
            say(f"{name}: {parity['max_abs_delta_logp_nats']:.1e} nats over {parity['probes']} probes")
        first = Path(place) / next(iter(found["seconds"]))
        began = time.monotonic()
        assert not verify_bundle(first).faults
        found["seconds_verify"] = round(time.monotonic() - began, 2)
        found |= {"probes": told.probes, "flips": told.flips, "flips_found": flipped(first, told.flips)}
    say(json.dumps(found))


def trained(folder: Path, steps: int) -> Path:
    """The run folder of a short training of the shipped default."""
    command(["fit", "--trainer.max_steps", str(steps), "--trainer.default_root_dir", str(folder), "--test_after_fit", "false",
             "--data.init_args.cache_folder", str(folder / "evidence")])  # fmt: skip
    return folder


def forms(run: Path, checkpoint: str, system: str) -> list[tuple[Any, How]]:
    """(dtype, reader) of each bundle: an adapter is kept, too, where there is one."""
    reader: Any = read_run(run, checkpoint, None, system).answerer.reader
    more: list[tuple[Any, How]] = [(None, "adapter"), ("float32", "both")] if reader.adapter is not None else []
    return [("float32", "merged"), ("bfloat16", "merged"), *more]


def flipped(bundle: Path, count: int) -> int:
    """How many of `count` single flipped bits, each in a drawn file, `verify` finds."""
    rng, found = np.random.default_rng(0), 0
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    for number in rng.integers(len(files), size=count):
        path = files[int(number)]
        data = path.read_bytes()
        bit = int(rng.integers(8 * len(data)))
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        found += bool(verify_bundle(bundle).faults)
        path.write_bytes(data)
    return found


def say(text: str) -> None:
    """Writes a line to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
