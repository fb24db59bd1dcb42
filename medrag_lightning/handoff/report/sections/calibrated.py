"""What a calibration was shown to keep: each choice's risk with its bound, the one that was taken, and its risk here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.calibration import Calibration, Policy
from medrag_lightning.handoff.report.cells import NOTHING
from medrag_lightning.handoff.report.chart import Axis, Plot, legend, panels
from medrag_lightning.handoff.report.markup import Html, joined, table, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.section import Section, note
from medrag_lightning.metrics import item_correct
from medrag_lightning.records import AnswerType

FILE = "calibration.json"
MOST_ROWS = 24
HOLDS, FAILS = 0, 1  # colours, in the order of the legend
Row = Mapping[str, Any]


def calibrated_section(material: Material) -> Section | None:
    """A part for each calibration of the run, or of the other steps of its recipe."""
    found = calibrations_of(material)
    if not found:
        return None
    parts: list[Html] = []
    for path in found:
        parts += _told(material, path, Calibration.read(path))
    return Section("calibrated", "Calibrated selection", joined(parts))


def calibrations_of(material: Material) -> list[Path]:
    """The files of the run's folder and, in a recipe, of the folders beside it; newest last."""
    folder = material.run.folder
    beside = folder.parent.iterdir() if material.run.step else ()
    places = [folder, *(place for place in beside if place != folder and place.is_dir() and "before" not in place.suffix)]
    there = [place / FILE for place in places if (place / FILE).is_file()]
    return sorted(there, key=lambda path: path.stat().st_mtime)


def _told(material: Material, path: Path, made: Calibration) -> list[Html]:
    told = made.told
    name = material.run.name if path.parent == material.run.folder else path.parent.name
    taken = "abstains from everything" if made.policy is None else str(made.policy)
    chosen = told.get("chosen") or {}
    rows = [
        ["taken", taken],
        ["guaranteed", "yes" if made.guaranteed else "NO: no choice was shown to keep the risk"],
        ["risk", f"{made.risk}: at most {made.alpha:g} (alpha), but with probability {made.delta:g} (delta)"],
        ["calibrated on", f"{told['units']} {told['unit']}, {told['questions']} questions ({told.get('split', NOTHING)})"],
        ["tested", f"{len(told['tested'])} choices, {told['settings']['procedure'].replace('_', ' ')}"],
        ["of the taken one, there", f"risk {_percent(chosen.get('risk'))} %, answers {_percent(chosen.get('coverage'))} %, "
                                    f"searches for {_percent(chosen.get('searched'))} %"],
        ["here", _here(material, path, made)],
    ]  # fmt: skip
    plain = all(row["policy"]["threshold"] == 0 and row["policy"]["without_from"] is None for row in told["tested"])
    plot = _by_k(told["tested"], made) if plain else _by_coverage(told["tested"], made)
    notes = [note(made.told["validity"]), *(note(str(line)) for line in told.get("notes", []))]
    left = [note(f"Left out: {count} questions ({why}).") for why, count in (told.get("left_out") or {}).items()]
    names = legend(["shown to keep the risk", "not shown to"])
    said = note("The dashed line is alpha; upright lines end at upper bounds, which hold together; the larger point was taken.")
    return [tag("h3", name), table(["", ""], rows), panels(plot), names, said, _choices(told["tested"], made), *notes, *left]


def _by_k(tested: Sequence[Row], made: Calibration) -> Html:
    """Risk by number of candidates, each with its upper bound."""
    ks = sorted(row["policy"]["k"] for row in tested)
    highest = max([100 * made.alpha, *(100 * _number(row["bound"]) for row in tested if row["bound"] is not None)])
    axis = Axis("candidates", ks[0] - 0.5, ks[-1] + 0.5, [(k, f"{k}") for k in ks])
    plot = Plot(f"{made.risk} by number of candidates (%)", axis, Axis("", 0.0, 1.05 * highest))
    plot.line([(axis.low, 100 * made.alpha), (axis.high, 100 * made.alpha)], 7, dashed=True, words=f"alpha {made.alpha:g}")
    for row in tested:
        colour, risk = (HOLDS if row["holds"] else FAILS), 100 * _number(row["risk"])
        k, bound = row["policy"]["k"], 100 * _number(row["bound"])
        plot.whisker(k, risk, bound, colour)
        held = "holds" if row["holds"] else "does not hold"
        plot.dot(k, risk, colour, f"{Policy(**row['policy'])}: {risk:.1f} %, at most {bound:.1f} %; {held}", _radius(row, made))
    return plot.svg()


def _by_coverage(tested: Sequence[Row], made: Calibration) -> Html:
    """Risk of what is answered against how much is answered."""
    shown = [row for row in tested if row["risk"] is not None]
    highest = max([100 * made.alpha, *(100 * row["risk"] for row in shown)])
    axis = Axis("answered (%)", 0.0, 104.0, [(share, f"{share}") for share in (0, 25, 50, 75, 100)])
    plot = Plot(f"{made.risk} of what is answered (%)", axis, Axis("", 0.0, 1.05 * highest))
    plot.line([(axis.low, 100 * made.alpha), (axis.high, 100 * made.alpha)], 7, dashed=True, words=f"alpha {made.alpha:g}")
    for row in sorted(shown, key=lambda row: (_is_taken(row, made), row["holds"])):
        words = f"{Policy(**row['policy'])}: {100 * row['risk']:.1f} %, at most {100 * _number(row['bound']):.1f} %"
        colour = HOLDS if row["holds"] else FAILS
        plot.dot(100 * row["coverage"], 100 * row["risk"], colour, words, _radius(row, made))
    return plot.svg()


def _choices(tested: Sequence[Row], made: Calibration) -> Html:
    rows = sorted(tested, key=lambda row: (not _is_taken(row, made), not row["holds"], -row["coverage"], _number(row["risk"])))
    body = [
        [
            str(Policy(**row["policy"])), _percent(row["risk"]), _percent(row["bound"]), f"{row['p_value']:.2g}",
            "yes" if row["holds"] else "no", _percent(row["coverage"]), _percent(row["searched"]),
        ]
        for row in rows[:MOST_ROWS]
    ]  # fmt: skip
    head = ["choice", "risk", "upper bound", "p-value", "holds", "answered", "searched"]
    more = f"; {len(rows) - len(body)} more in {FILE}" if len(rows) > len(body) else ""
    return table(head, body, f"% of the calibration set; the taken one first{more}")


def _here(material: Material, path: Path, made: Calibration) -> str:
    """The risk of this report's answers, where they were given by this calibration and it is of errors."""
    named = material.run.setting("data", "source", "rule", "calibration")
    mine = named is not None and Path(str(named)).parts[-2:] == path.parts[-2:]
    if not mine:
        return "these answers were not given by it"
    answers = [p for p in material.main if p.answer_type is AnswerType.CLOSED and p.gold is not None]
    if made.risk != "error" or not answers:
        return "not computed: told for errors in closed questions alone"
    lost: dict[str, list[float]] = {}
    for p, unit in zip(answers, material.clusters([p.query_id for p in answers]), strict=True):
        lost.setdefault(unit, []).append(float(not item_correct(p)))
    risk = float(np.mean([np.mean(each) for each in lost.values()]))
    word = "within" if risk <= made.alpha else "ABOVE"
    return f"risk {100 * risk:.1f} % of {len(lost)} {made.told['unit']}, {len(answers)} questions: {word} alpha"


def _is_taken(row: Row, made: Calibration) -> bool:
    return made.policy is not None and Policy(**row["policy"]) == made.policy


def _radius(row: Row, made: Calibration) -> float:
    return 6.5 if _is_taken(row, made) else 3.5


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"
