"""The verb `trace`: what a reader learns to rearrange and rethink from, by a teacher."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from medrag_lightning.cli import config_files
from medrag_lightning.cli.outcome import INTERRUPTED, tell
from medrag_lightning.cli.shown_table import metric_row, show_table


def run_trace(arguments: Sequence[str]) -> None:
    """Has traces written as a configuration describes, or reads what is there; says how they came about and where they lie."""
    names, _ = config_files.split_arguments(arguments)
    if not names:
        raise ValueError("trace needs -c: the data and who writes, such as -c DATA -c stages/trace")
    from medrag_lightning.cli.verbs import build_data
    from medrag_lightning.data.searching import Searching
    from medrag_lightning.data.tracing.building import Ground, trace_or_read

    data = build_data(arguments)
    plan = getattr(getattr(data, "exploration", None), "traces", None)
    if plan is None:
        raise ValueError("trace: data.exploration.traces is not set; add -c stages/trace, or set it")
    data.prepare_data()
    world = data.world()
    searching = Searching(world.documents, world.open_image, data.evidence_folder())
    try:
        made = trace_or_read(Ground(world.queries, world.source, searching, world.seed), plan)
    except KeyboardInterrupt:
        tell("\ntrace: stopped; every reply so far is kept, and the same command goes on", sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    _print(made.statistics)
    if made.asked == 0:
        tell("the teacher was not asked: all of its replies were known", sys.stdout)
    for path in sorted(made.folder.iterdir()):
        tell(str(path), sys.stdout)


def _print(told: Mapping[str, Any]) -> None:
    """All of `statistics.json` that a person wants to see."""
    gold = "was told the right answer for the last step" if told["gold"] == "aware" else "was never told a right answer"
    tell(f"gold-{told['gold']}: the teacher {gold}", sys.stdout)
    columns = ("known_before", "asked_now", "asked_again", "failed", "unusable", "excluded")
    rows = [[step, *(str(one[column]) for column in columns)] for step, one in told["steps"].items()]
    show_table(["step", *(column.replace("_", " ") for column in columns)], rows)
    for step, one in told["steps"].items():
        for fault, count in one["faults"].items():
            tell(f"  {step}: {count} x {fault}", sys.stdout)
    for split, one in told["splits"].items():
        _print_split(split, one)


def _print_split(split: str, told: Mapping[str, Any]) -> None:
    why = "".join(f"; {count} without: {reason}" for reason, count in told["excluded"].items())
    tell(f"\n{split}: {told['traces']} of {told['questions']} questions have a trace{why}", sys.stdout)
    rows = []
    for name, one in told["kept"].items():
        counts = ", ".join(f"{kept}: {times}" for kept, times in one["traces_by_kept"].items())
        rows.append([name, str(one["traces"]), f"{one['mean_retrieved']:.1f}", f"{one['mean_kept']:.1f}", counts])
    show_table(["question", "traces", "retrieved", "kept", "traces that keep so many"], rows)
    _print_answers(told["answers"])
    _print_keep_rates(told["keep_rates"])


def _print_answers(told: Mapping[str, Any] | None) -> None:
    if told is None:
        tell("how often answers are right is not known: no traced question has a gold answer", sys.stdout)
        return
    rows = [metric_row(name, told[key]) for name, key in _ANSWERS.items()]
    show_table([f"{told['questions']} questions with gold", "value", "95 % interval", "note"], rows)
    tell(f"rethinking: {told['right_to_wrong']} from right to wrong, {told['wrong_to_right']} from wrong to right", sys.stdout)


_ANSWERS = {"first answer right": "initial", "last answer right": "final", "last less first": "difference"}


def _print_keep_rates(told: Mapping[str, Any] | None) -> None:
    if told is not None:
        rows = [[*metric_row(name, one["rate"])[:3], f"{one['kept']} of {one['retrieved']}"] for name, one in told.items()]
        show_table(["evidence that is", "share kept", "95 % interval", "kept"], rows)
