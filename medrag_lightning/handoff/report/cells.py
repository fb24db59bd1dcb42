"""Numbers as people read them in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOTHING = "–"


def percent(metric: Mapping[str, Any] | None, signed: bool = False) -> str:
    """``57.4 [53.9, 61.0]`` of a metric as its JSON tells it; a dash where there is no value."""
    if metric is None or metric.get("value") is None:
        return NOTHING
    form = "{:+.1f}" if signed else "{:.1f}"
    value = form.format(100 * metric["value"])
    if metric.get("low") is None or metric.get("high") is None:
        return value
    return f"{value} [{form.format(100 * metric['low'])}, {form.format(100 * metric['high'])}]"


def number(value: float | None, digits: int = 3) -> str:
    """A number in so many significant digits; a dash where there is none."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def change(value: float | None, digits: int = 2) -> str:
    """A change with its sign; a dash where it is not known. A change that rounds to nothing is 0."""
    if value is None or not math.isfinite(value):
        return NOTHING
    told = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(told) == 0 else told


def not_a_number(value: float | None) -> float:
    """NaN for null."""
    return math.nan if value is None else float(value)


def words(name: str) -> str:
    """``closed_macro_f1`` as ``closed macro-F1``."""
    told = {"closed_ece": "calibration error (ECE)", "closed_invalid": "invalid", "open_invalid": "empty"}.get(name)
    return told or name.replace("macro_f1", "macro-F1").replace("_f1", " F1").replace("_", " ")
