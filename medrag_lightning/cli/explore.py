"""The verb `explore`: what a query generator learns from, by an expert that searches and judges."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.cli import config_files
from medrag_lightning.cli.outcome import INTERRUPTED, tell
from medrag_lightning.cli.shown_table import metric_row, show_table


def run_explore(arguments: Sequence[str]) -> None:
    """Explores as a configuration describes, or reads what is there; says how it came about and where it lies."""
    names, _ = config_files.split_arguments(arguments)
    if not names:
        raise ValueError("explore needs -c: the data and how to explore, such as -c DATA -c stages/explore")
    from medrag_lightning.cli.verbs import build_data
    from medrag_lightning.data.exploration.exploring import Ground, explore_or_read

    data = build_data(arguments)
    plan = getattr(data, "exploration", None)
    if plan is None:
        raise ValueError("explore: data.exploration is not set; add -c stages/explore, or set it")
    data.prepare_data()
    world = data.world()
    world.source.load(world.documents, world.open_image, data.evidence_folder())
    ground = Ground(world.queries, world.documents, world.source, world.open_image, world.seed)
    try:
        found = explore_or_read(ground, plan)
    except KeyboardInterrupt:
        tell("\nexplore: stopped; every reply so far is kept, and the same command goes on", sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    _print(found.statistics)
    if found.asked == 0:
        tell("the expert was not asked: all of its replies were known", sys.stdout)
    for path in sorted(Path(found.folder).iterdir()):
        tell(str(path), sys.stdout)


def _print(told: Mapping[str, Any]) -> None:
    """All of `statistics.json` that a person wants to see."""
    for name, one in told["replies"].items():
        tell(f"{name}: {one['asked_now']} tasks given to the expert, {one['known_before']} replies known before", sys.stdout)
    for split, one in told["splits"].items():
        _print_split(split, one)
    _print_agreement(told["agreement"])


def _print_split(split: str, told: Mapping[str, Any]) -> None:
    written, questions = told["written"], told["questions"]
    tell(f"\n{split}: {questions['explored']} of {questions['all']} questions explored", sys.stdout)
    counts = {name.replace("_", " "): value for name, value in written.items() if isinstance(value, int)}
    tell("written: " + ", ".join(f"{name} {value}" for name, value in counts.items()), sys.stdout)
    for fault, count in written["faults"].items():
        tell(f"  {count} x {fault}", sys.stdout)
    columns = list(next(iter(told["corpora"].values())))
    rows = [
        [name, *(str(one[column]) for column in columns), str(written["too_few_queries"][name])]
        for name, one in told["corpora"].items()
    ]
    shown = [name.removeprefix("questions_").replace("_", " ") for name in columns]
    show_table(["corpus", *shown, "too few queries"], rows)
    for name, of in (("targets", "texts"), ("pairs", "pairs")):
        one = told[name]
        dropped = ", ".join(f"{why} {count}" for why, count in one["dropped"].items())
        tell(f"{name}: {one[of]} of {one['questions']} questions; dropped: {dropped}", sys.stdout)


def _print_agreement(told: Mapping[str, Any] | None) -> None:
    if told is None:
        tell("\nthe judge's agreement is not known: no judged question names the documents that answer it", sys.stdout)
        return
    tell(f"\nthe judge against known documents: {told['searches']} searches, {told['truly_supported']} supported", sys.stdout)
    rows = [metric_row(name.replace("_", " "), told[name]) for name in ("accuracy", "f1", "kappa", "always_no")]
    show_table(["", "value", "95 % interval", "note"], rows)
