"""Other runs beside this one: their headline numbers, and differences on the same questions."""

from __future__ import annotations

from collections.abc import Mapping

from medrag_lightning.handoff.report.cells import NOTHING, percent, words
from medrag_lightning.handoff.report.markup import joined, table, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.predictions import read_predictions
from medrag_lightning.handoff.report.run_files import Run
from medrag_lightning.handoff.report.section import Section, note
from medrag_lightning.handoff.report.sections.metrics import headline_of
from medrag_lightning.metrics import RETRIEVED, by_system, item_scores, paired_bootstrap

METRICS = ("closed_accuracy", "closed_macro_f1", "closed_ece", "open_token_recall")
PAIRED = ("closed_accuracy", "open_token_recall")
COMPARE = "python -m medrag_lightning report FOLDER --compare OTHER_RUN ..."


def comparison_section(material: Material) -> Section:
    """The retrieved system of every run, and this run's minus theirs, paired by question."""
    title = "Comparison with other runs"
    tested = [run for run in material.found.steps if (run.folder / "results.json").is_file()]
    others = [*tested, *material.compared]
    if not others:
        return Section.absent("comparison", title, "no other run was named", COMPARE)
    runs = (material.run, *others)
    at = {(run.name, metric): headline_of(run.results or {}, RETRIEVED, metric) for run in runs for metric in METRICS}
    shown = [metric for metric in METRICS if any(at[run.name, metric] for run in runs)]
    rows = [
        [tag("b", run.name) if run is material.run else run.name, *(percent(at[run.name, metric]) for metric in shown)]
        for run in runs
    ]
    told = table(["run", *map(words, shown)], rows, f"system “{RETRIEVED}” of each run (%), with its own interval")
    mine = {metric: scores for metric in PAIRED if (scores := item_scores(material.main, metric))}
    pairs = [[run.name, *_differences(material, mine, run)] for run in others]
    head = [f"{material.run.name} minus", *(column for metric in mine for column in (words(metric), "questions"))]
    paired = table(head, pairs, "paired differences on the questions that both answered (points of %), by patient")
    return Section(
        "comparison", title, joined([told, paired, note("An interval that excludes 0 is a difference; others are not.")])
    )


def _differences(material: Material, mine: Mapping[str, Mapping[str, float]], run: Run) -> list[object]:
    if run.split is None:
        return [NOTHING, NOTHING] * len(mine)
    theirs = by_system(read_predictions(run.predictions(run.split))).get(RETRIEVED, [])
    cells: list[object] = []
    for metric in mine:
        other = item_scores(theirs, metric)
        both = [name for name in mine[metric] if name in other]
        if not both:
            cells += [NOTHING, 0]
            continue
        a, b = [mine[metric][name] for name in both], [other[name] for name in both]
        cells += [percent(paired_bootstrap(a, b, material.clusters(both)).as_json(), signed=True), len(both)]
    return cells
