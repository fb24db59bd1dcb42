"""A calibration on disk: the policy that was taken, all that it was chosen among, and when its guarantee holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import read_manifest, write_manifest
from medrag_lightning.calibration.choosing import Calibrated
from medrag_lightning.calibration.outcomes import Policy

SCHEMA = 1
AGAIN = "make it anew: python -m medrag_lightning calibrate --help"
COMPARED = ("reader", "template", "corpus", "source", "evidence", "fusion")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibration as it is kept.

    Attributes:
        policy: how questions are answered; None abstains from all.
        guaranteed: whether its risk is known to be at most `alpha`.
        alpha, delta, risk: what is guaranteed: the risk of that name is at most alpha, with probability 1 - delta.
        of: what the guarantee is about, by name: reader, template, corpus, source, evidence, fusion, calibration_set.
        told: the whole file.
    """

    policy: Policy | None
    guaranteed: bool
    alpha: float
    delta: float
    risk: str
    of: Mapping[str, Any]
    told: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Reads what `write` wrote; ValueError where it is missing, damaged, or of another version."""
        if not Path(path).is_file():
            raise ValueError(f"the calibration {path} is not there; {AGAIN}")
        told = read_manifest(path, AGAIN)
        if told.get("schema") != SCHEMA:
            raise ValueError(f"{path}: schema {told.get('schema')!r}, this version reads {SCHEMA}; {AGAIN}")
        read = cls.from_json(told)
        if missing := [name for name in (*COMPARED, "calibration_set") if name not in read.of]:
            raise ValueError(f"{path}: does not say of which {' and '.join(missing)} it is; {AGAIN}")
        return read

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Calibration:
        """From the values of a file; ValueError where some are missing."""
        try:
            policy = None if told["policy"] is None else Policy(**told["policy"])
            alpha, delta, risk = float(told["alpha"]), float(told["delta"]), str(told["risk"])
            return cls(policy, bool(told["guaranteed"]), alpha, delta, risk, dict(told["of"]), dict(told))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a calibration ({error}); {AGAIN}") from error

    def check(self, **mine: Any) -> None:
        """ValueError that names what differs from what was calibrated; only names in `of` and in `mine` are compared.

        Args:
            mine: some of `COMPARED`, as of this system.
        """
        assert set(mine) <= set(COMPARED), mine
        wrong = [name for name, value in mine.items() if name in self.of and self.of[name] != value]
        if wrong:
            raise ValueError(
                f"the calibration is of another {' and '.join(wrong)}, so its guarantee says nothing here; calibrate this one "
                f"({AGAIN}), or go back to the one that was calibrated"
            )

    @property
    def sentence(self) -> str:
        """What is guaranteed, in a sentence."""
        n = self.told["units"]
        if not self.guaranteed:
            return (
                f"no guarantee: no choice was shown to keep the risk ({self.risk}) at or below {self.alpha:g} with probability "
                f"{1 - self.delta:g} (n = {n})"
            )
        return (
            f"risk ({self.risk}) of what is answered at most {self.alpha:g}, with probability {1 - self.delta:g} "
            f"(n = {n} {self.told['unit']}; questions like those of the calibration set)"
        )


def write(path: str | Path, found: Calibrated, risk: str, unit: str, of: Mapping[str, Any], **more: Any) -> Calibration:
    """Writes a calibration, and gives it as it will be read.

    Args:
        path: of the file.
        found: what came out.
        risk: name of the loss.
        unit: what was independent, in the plural: patients, questions.
        of: what the guarantee is about; see `Calibration`.
        more: further entries of the file.
    """
    settings = found.settings
    told = {
        "schema": SCHEMA,
        "kind": "calibrated selection",
        "policy": None if found.chosen is None else asdict(found.chosen.policy),
        "guaranteed": found.guaranteed,
        "risk": risk,
        "alpha": settings.alpha,
        "delta": settings.delta,
        "unit": unit,
        "units": found.units,
        "questions": found.questions,
        "ordering_units": found.ordering_units,
        "settings": asdict(settings),
        "of": dict(of),
        "validity": validity(found, risk, unit),
        "chosen": None if found.chosen is None else _plain(asdict(found.chosen)),
        "tested": [_plain(asdict(row)) for row in found.tested],
        **more,
    }
    write_manifest(path, told)
    return Calibration.read(path)


def validity(found: Calibrated, risk: str, unit: str) -> str:
    """When the guarantee holds, and when not."""
    settings = found.settings
    if not found.guaranteed:
        return (
            f"No guarantee. None of {len(found.tested)} choices was shown to keep the risk ({risk}) at or below "
            f"{settings.alpha:g} with probability {1 - settings.delta:g} on {found.units} {unit}"
        )
    return (
        f"With probability at least {1 - settings.delta:g} over the draw of the calibration set ({found.units} {unit}), every "
        f"choice marked `holds` has a risk ({risk}) of at most {settings.alpha:g} among the new questions that it answers, on "
        f"average over {unit}. This needs calibration and new {unit} to be exchangeable: drawn alike, the same kind of "
        "patients, images and questions, with the same reader, prompt, corpus and search. It says nothing of a subgroup, nor "
        "of a single answer, and ends with any change of these. Questions that trained the system, or chose its checkpoint or "
        "its settings, are not drawn alike: calibrate on others where there are some."
    )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
