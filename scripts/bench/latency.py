"""How long answers take, by step: medians of what each answer tells, for runs and bundles, relative to the first (M24).

    python scripts/bench/latency.py runs/mine/test runs/other/test --ckpt_path runs/mine/reader/checkpoints/last.ckpt ...
    python scripts/bench/latency.py bundle_small bundle_large --questions 50 --device cuda

A run needs a checkpoint (`--ckpt_path`, one for all, or one a place; `-` for a bundle). Asked are closed and open test
questions of the run in turn, of a bundle its probes, again and again up to `--questions`; the first one is asked once more
before the clock starts. Only places that are asked alike can be compared. One question at a time: no batches. A reader's size
and the device are told beside the seconds: a "9x faster" without them says nothing. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from medrag_lightning.answering import Answerer
from medrag_lightning.handoff.bundle.from_run import read_run
from medrag_lightning.handoff.bundle.load import corpus_folder, load_bundle
from medrag_lightning.handoff.bundle.probes import choose_probes, read_probes
from medrag_lightning.records import Query

TOTAL = "all"


def main(argv: Sequence[str] | None = None) -> None:
    """Asks each place, prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path)
    parser.add_argument("--ckpt_path", nargs="+", default=["last"])
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(argv)
    checkpoints = asked.ckpt_path * len(asked.places) if len(asked.ckpt_path) == 1 else asked.ckpt_path
    if len(checkpoints) != len(asked.places):
        parser.error(f"{len(checkpoints)} checkpoints for {len(asked.places)} places: give one, or one for each")
    told = {}
    for place, checkpoint in zip(asked.places, checkpoints, strict=True):
        answerer, queries = opened(place, checkpoint, asked.device, asked.questions)
        told[str(place)] = {"parameters": parameters(answerer), **medians(answerer, queries, asked.questions)}
        print(f"{place}: {told[str(place)]['questions']} questions asked", file=sys.stderr, flush=True)
    _print(told, asked.device)
    print(json.dumps({"device": asked.device, "threads": torch.get_num_threads(), "places": told}))


def opened(place: Path, checkpoint: str, device: str, count: int) -> tuple[Answerer, list[Query]]:
    """A bundle with its probes, or a run with test questions."""
    if (place / "bundle.json").is_file():
        queries, _ = read_probes(corpus_folder(place, None))
        return load_bundle(place, device), queries
    run = read_run(place, checkpoint)
    generator = run.answerer.generator
    readers: list[Any] = [run.answerer.reader, *([] if generator is None else [generator.reader])]
    for one in readers:
        if isinstance(one, torch.nn.Module):
            one.to(device)
    return run.answerer, choose_probes(run.queries, count)


def medians(answerer: Answerer, queries: Sequence[Query], count: int) -> dict[str, Any]:
    """Median seconds of each step over `count` answers, and of the whole; a step that an answer has not took 0."""
    if not queries:
        raise ValueError("no question to ask: the run has no test questions, or the bundle no probes")
    answerer.answer(queries[0])
    seconds = [dict(answerer.answer(query).seconds) for query in islice(cycle(queries), count)]
    steps = dict.fromkeys(name for one in seconds for name in one)
    by_step = {name: statistics.median(one.get(name, 0.0) for one in seconds) for name in steps}
    whole = [sum(one.values()) for one in seconds]
    spread = statistics.quantiles(whole, n=20)[-1] if len(whole) > 1 else whole[0]
    return {"questions": count, "seconds": by_step | {TOTAL: statistics.median(whole)}, "p95_seconds": spread}


def parameters(answerer: Answerer) -> int | None:
    """Of the reader."""
    reader = answerer.reader
    return sum(one.numel() for one in reader.parameters()) if isinstance(reader, torch.nn.Module) else None


def _print(told: dict[str, Any], device: str) -> None:
    steps = [name for name in dict.fromkeys(step for one in told.values() for step in one["seconds"]) if name != TOTAL]
    first = next(iter(told.values()))["seconds"][TOTAL]
    print(f"\nMedian milliseconds an answer, {device}, {torch.get_num_threads()} threads:\n")
    print("| place | reader, parameters | " + " | ".join(steps) + " | all | 95 % below | relative to the first |")
    print("|---" * (len(steps) + 5) + "|")
    for place, one in told.items():
        cells = [f"{1e3 * one['seconds'].get(name, 0.0):.1f}" for name in (*steps, TOTAL)]
        size = "-" if one["parameters"] is None else f"{one['parameters'] / 1e6:.2f} M"
        relative = one["seconds"][TOTAL] / first if first else 1.0
        print(f"| {place} | {size} | {' | '.join(cells)} | {1e3 * one['p95_seconds']:.1f} | {relative:.2f} |")


if __name__ == "__main__":
    main()
