"""The arguments of the verb `calibrate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medrag_lightning.calibration import CalibrationSettings
    from medrag_lightning.data.calibrating import Reading

USAGE = "usage: calibrate -c DATA [--table FOLDER] --ks K [K ...] --alpha A --delta D --output FILE [...]; see calibrate --help"
PROCEDURES = ("bonferroni", "fixed_sequence", "graphical", "learned_sequence")
RISKS = ("error", "hallucinated_finding", "missed_finding", "doubt", "lost_words")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command asks for."""

    settings: CalibrationSettings
    reading: Reading
    table: str | None
    split: str
    output: Path
    plot: Path | None


def parse(arguments: Sequence[str]) -> tuple[Asked, list[str]]:
    """The verb's own arguments, and those of the configuration; ValueError for every mistake in them."""
    try:
        told, rest = _parser().parse_known_args(arguments)
    except (argparse.ArgumentError, SystemExit) as error:
        raise ValueError(f"calibrate: {error}; {USAGE}") from error
    if not any(word in ("-c", "--config") or word.startswith("--config=") for word in rest):
        raise ValueError(f"calibrate needs -c: the data, such as -c data/minihospital; {USAGE}")
    for name in ("ks", "thresholds", "without_from"):
        if getattr(told, name) is not None:
            setattr(told, name, [value for part in getattr(told, name) for value in part])
    missing = [f"--{name}" for name in ("ks", "alpha", "delta", "output") if getattr(told, name) is None]
    if missing:
        raise ValueError(
            f"calibrate: {', '.join(missing)} missing; what risk is tolerable (alpha), and how surely (delta), only you can "
            f"say, such as --alpha 0.3 --delta 0.1; {USAGE}"
        )
    output = Path(told.output)
    if output.exists() and told.overwrite != "true":
        raise ValueError(f"calibrate: {output} is there already; give --overwrite to replace it, or another --output")
    plot = None if told.plot == "none" else output.with_suffix(".png") if told.plot is None else Path(told.plot)
    return Asked(_settings(told), _reading(told), told.table, told.split, output, plot), rest


def _settings(told: Any) -> CalibrationSettings:
    from medrag_lightning.calibration import CalibrationSettings

    chosen = {name: getattr(told, name) for name in ("alpha", "delta", "procedure", "objective", "fallback")}
    if told.ordering_share is not None and told.procedure != "learned_sequence":
        raise ValueError("calibrate: --ordering_share would be ignored: only --procedure learned_sequence has one")
    if told.ordering_share is not None:
        chosen["ordering_share"] = told.ordering_share
    bare = (None,) if told.without_from is None else (None, *told.without_from)
    grid: dict[str, Any] = {"ks": tuple(told.ks), "thresholds": tuple(told.thresholds or (0.0,)), "without_from": bare}
    try:
        return CalibrationSettings(**grid, seed=told.calibration_seed, **chosen)
    except ValueError as error:
        raise ValueError(f"calibrate: {error}; {USAGE}") from error


def _reading(told: Any) -> Reading:
    from medrag_lightning.data.calibrating import Reading
    from medrag_lightning.data.risks import RiskSettings

    risk = RiskSettings(told.risk, tuple(told.positive), told.open_metric, told.open_threshold)
    if told.fusion is not None and told.evidence != "one_per_prompt":
        raise ValueError("calibrate: --fusion would be ignored: it mixes candidates that are read --evidence one_per_prompt")
    return Reading(told.evidence, risk=risk) if told.fusion is None else Reading(told.evidence, _fusion(told.fusion), risk)


def _fusion(path: str) -> Any:
    """The fusion of a file that `validate` wrote."""
    import yaml

    from medrag_lightning.mixture import Fusion

    if not Path(path).is_file():
        raise ValueError(f"calibrate: --fusion {path} is not there")
    try:
        return Fusion(**yaml.safe_load(Path(path).read_text(encoding="utf-8"))["model"]["init_args"]["fusion"])
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"calibrate: {path} holds no fusion as `validate` writes it ({error})") from error


def _values(kind: type[int] | type[float]) -> Callable[[str], list[float]]:
    """``3``, or a list, as a recipe writes it: ``[1, 2, 3]``."""

    def values(text: str) -> list[float]:
        return [kind(part) for part in text.strip().removeprefix("[").removesuffix("]").split(",")]

    values.__name__ = "whole number" if kind is int else "number"
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medrag_lightning calibrate", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--table")
    parser.add_argument("--output")
    parser.add_argument("--plot")
    parser.add_argument("--overwrite", nargs="?", const="true", default="false", choices=("true", "false"))
    parser.add_argument("--split", default="val", choices=("val", "test", "train"))
    for name, kind in (("ks", int), ("thresholds", float), ("without_from", float)):
        parser.add_argument(f"--{name}", nargs="+", type=_values(kind))
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--delta", type=float)
    parser.add_argument("--risk", default="error", choices=RISKS)
    parser.add_argument("--positive", nargs="+", default=["yes"])
    parser.add_argument("--open_metric", default="exact_match", choices=("exact_match", "token_f1", "rouge_l"))
    parser.add_argument("--open_threshold", type=float, default=1.0)
    parser.add_argument("--evidence", default="all_in_one_prompt", choices=("all_in_one_prompt", "one_per_prompt"))
    parser.add_argument("--fusion")
    parser.add_argument("--procedure", default="bonferroni", choices=PROCEDURES)
    parser.add_argument("--objective", choices=("risk", "coverage", "fewest"))
    parser.add_argument("--fallback", default="least_risk", choices=("least_risk", "abstain"))
    parser.add_argument("--ordering_share", type=float)
    parser.add_argument("--calibration_seed", type=int, default=0)
    return parser
