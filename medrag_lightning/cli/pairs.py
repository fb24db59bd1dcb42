"""The verb `pairs`: preference pairs from a score table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.cli import config_files
from medrag_lightning.cli.outcome import tell
from medrag_lightning.cli.pairs_for_trl import split_trl, write_trl


def run_pairs(arguments: Sequence[str]) -> None:
    """Builds the pairs that a configuration describes, or reads them where they are; says how they came about and where."""
    trl, arguments = split_trl(arguments)
    names, _ = config_files.split_arguments(arguments)
    if not names:
        raise ValueError("pairs needs -c: the data and the stage, such as -c data/minihospital -c stages/reader_preference")
    from medrag_lightning.cli.verbs import build_parts
    from medrag_lightning.data.pair_building import build_or_read

    stage, data = build_parts(arguments)
    if getattr(data, "preference", None) is None:
        raise ValueError("pairs: data.preference is not set; add -c stages/reader_preference, or set it")
    data.prepare_data()
    data.setup("fit")
    world = data.world()
    found = build_or_read(world, data.preference)
    if data.preference.rules == "given":
        tell("pairs as they were given: " + ", ".join(f"{len(p)} {split}" for split, p in found.pairs.items()), sys.stdout)
    else:
        for split, told in found.statistics.items():
            _print_split(split, told)
    for path in sorted(Path(found.folder).iterdir()):
        tell(str(path), sys.stdout)
    if trl is not None:
        write_trl(stage, world, found.pairs, trl)


def _print_split(split: str, told: Mapping[str, Any]) -> None:
    """How one split's pairs came about."""
    from rich.console import Console
    from rich.table import Table

    questions, sets = told["questions"], told["evidence_sets"]
    for line in (
        _line(f"{split}: questions", questions),
        _line("evidence sets", {name: count for name, count in sets.items() if name != "by_size"}),
        _line("right under", {part: f"{one['right']}/{one['of']}" for part, one in told["right_under"].items()}),
        _line("reader passes", told["reader_passes"]),
    ):
        tell(line, sys.stdout)
    table = Table()
    for name in ("pairs", "sets", "questions", "kept", "weight"):
        table.add_column(name, justify="left" if name == "pairs" else "right")
    met, kept = told["conditions_met"], told["pairs"]
    for name in [*sorted({*met, *kept} - {"all"}), "all"]:
        found, mine = met.get(name), kept.get(name, {"pairs": 0, "weight": 0})
        first = ("", "") if found is None else (str(found["sets"]), str(found["questions"]))
        table.add_row(name, *first, str(mine["pairs"]), f"{mine['weight']:g}")
    Console(width=90).print(table)
    tell(_line("left out", told["left_out"]), sys.stdout)
    tell(_line("leaks", told["leaks"]) + "\n", sys.stdout)


def _line(name: str, counts: Mapping[str, Any]) -> str:
    named = {key if "." in key else key.replace("_", " "): value for key, value in counts.items()}  # settings keep theirs
    return f"{name}: " + ", ".join(f"{key} {value}" for key, value in named.items())
