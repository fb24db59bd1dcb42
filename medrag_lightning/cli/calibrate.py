"""The verb `calibrate`: how many candidates to read, when to do without, when to abstain, so that a risk is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from medrag_lightning.cli.calibrate_options import Asked, parse
from medrag_lightning.cli.outcome import tell

SHARES_OF_ALPHA = (0.0, 0.25, 0.5, 2 / 3, 5 / 6)
SHOWN = 24


def run_calibrate(arguments: Sequence[str]) -> None:
    """Reads a score table, tests every choice, writes the one that was taken; prints the table and draws the plot."""
    asked, rest = parse(arguments)
    from medrag_lightning.calibration import calibrate
    from medrag_lightning.calibration.artifact import write
    from medrag_lightning.cli.verbs import build_data
    from medrag_lightning.data.calibrating import measure
    from medrag_lightning.data.scores import ScoreTable
    from medrag_lightning.records import Split

    data = build_data(rest)
    folder = asked.table or (None if data.scoring is None else data.scoring.table)
    if folder is None:
        raise ValueError("calibrate: --table FOLDER is missing: the score table (the configuration names none)")
    table = ScoreTable.open(folder)
    data.prepare_data()
    data.setup("predict")
    measured = measure(data.world(), table, Split(asked.split), asked.settings.needed_ks(), asked.reading)
    found = calibrate(measured.outcomes, asked.settings)
    more = {"split": asked.split, "left_out": measured.left_out, "notes": measured.notes}
    made = write(asked.output, found, asked.reading.risk.name, measured.unit, measured.of, **more)
    _print(asked, found, measured)
    tell("\n" + made.told["validity"], sys.stdout)
    places = [str(asked.output)]
    if asked.plot is not None:
        from medrag_lightning.artifacts import write_bytes
        from medrag_lightning.cli.calibrate_plot import draw

        write_bytes(asked.plot, draw(found, asked.reading.risk.name))
        places.append(str(asked.plot))
    for place in places:
        tell(place, sys.stdout)
    names = ("guaranteed", "policy", "risk", "alpha", "delta", "unit", "units", "questions")
    summary = {name: made.told[name] for name in names}
    chosen = made.told["chosen"] or {}
    figures = {name: chosen.get(name) for name in ("coverage", "p_value", "bound")}
    tell(json.dumps({"output": str(asked.output), **summary, "calibration_risk": chosen.get("risk"), **figures}), sys.stdout)


def _print(asked: Asked, found: Any, measured: Any) -> None:
    """What was tested on what, how many questions it takes, and what was taken."""
    settings = found.settings
    tell(
        f"{asked.split}: n = {found.units} {measured.unit} ({found.questions} questions), risk {asked.reading.risk.name}, "
        f"alpha {settings.alpha:g}, delta {settings.delta:g}, {len(found.tested)} choices, {settings.procedure}",
        sys.stdout,
    )
    if found.ordering_units:
        tell(f"{found.ordering_units} further {measured.unit} said in which order they were tested", sys.stdout)
    for why, count in measured.left_out.items():
        tell(f"left out: {count} questions ({why})", sys.stdout)
    for note in measured.notes:
        tell(f"note: {note}", sys.stdout)
    _print_tested(found)
    _print_required(found)
    if found.chosen is None:
        tell("no choice holds: the system abstains from everything (--fallback abstain)", sys.stdout)
    elif found.guaranteed:
        tell(f"taken: {found.chosen.policy}", sys.stdout)
    else:
        tell(f"NO GUARANTEE: no choice holds. Taken for its least risk: {found.chosen.policy}", sys.stdout)


def _print_tested(found: Any) -> None:
    """Every choice; of many, those that hold first, and no more than a page."""
    abstains = any(not row.policy.plain for row in found.tested)
    rows = list(found.tested)
    if len(rows) > SHOWN:
        rows = sorted(rows, key=lambda row: (not row.holds, -row.coverage, row.risk))[:SHOWN]
    names = ["choice", "risk", "upper bound", "p-value", "holds"] + (["coverage", "searched"] if abstains else [])
    cells = []
    for row in rows:
        mark = "taken" if found.chosen is not None and row.policy == found.chosen.policy else ""
        told = [str(row.policy), f"{row.risk:.3f}", f"{row.bound:.3f}", f"{row.p_value:.2g}", "yes" if row.holds else "no"]
        cells.append([*told, *([f"{row.coverage:.3f}", f"{row.searched:.3f}"] if abstains else []), mark])
    _table([*names, ""], cells)
    if len(found.tested) > len(rows):
        tell(f"and {len(found.tested) - len(rows)} more in the file", sys.stdout)


def _print_required(found: Any) -> None:
    from medrag_lightning.calibration import required_n

    settings, many = found.settings, len(found.tested)
    cells = []
    for share in SHARES_OF_ALPHA:
        needed = required_n(share * settings.alpha, settings.alpha, settings.delta, many)
        assert needed is not None
        first, always = needed
        cells.append([f"{share * settings.alpha:.3f}", str(first) if first == always else f"{first} to {always}"])
    tell("\nhow many answered questions (or patients) show a risk to be at most alpha, where they themselves have", sys.stdout)
    _table(["a risk of", f"it takes, tested with {many - 1} others (Bonferroni)"], cells)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=128).print(table)
