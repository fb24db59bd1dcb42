"""Scores of reports by medical models, where their packages are installed; where they are not, they say so and give nothing.

None is a dependency: each brings a model of its own, whose weights it fetches when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medrag_lightning.metrics.bootstrap import Floats

_TROUBLE = (ImportError, OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError)


class UnavailableError(Exception):
    """A score cannot be computed here; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class PlugIn:
    """A score of reports from another package.

    Attributes:
        package: the module to import.
        install: what installs it.
        use: from the module, gold reports and answers to one score in [0, 1] each.
    """

    package: str
    install: str
    use: Callable[[Any, list[str], list[str]], Sequence[float]]

    def scores(self, gold: Sequence[str], answers: Sequence[str | None]) -> Floats:
        """(N,) scores; an empty answer has 0 without being shown to the model.

        Raises:
            UnavailableError: the package is not installed, or does not work here.
        """
        if importlib.util.find_spec(self.package) is None:
            raise UnavailableError(f"unavailable: {self.package} is not installed ({self.install})")
        said = [place for place, answer in enumerate(answers) if (answer or "").strip()]
        found = np.zeros(len(gold))
        if not said:
            return found
        try:
            module = importlib.import_module(self.package)
            told = self.use(module, [gold[k] for k in said], [str(answers[k]) for k in said])
        except _TROUBLE as error:
            raise UnavailableError(f"unavailable: {self.package} fails: {type(error).__name__}: {str(error)[:200]}") from error
        values = np.asarray(told, np.float64).reshape(-1)
        if len(values) != len(said) or not np.isfinite(values).all():
            raise UnavailableError(
                f"unavailable: {self.package} gave {len(values)} scores for {len(said)} reports, or no numbers"
            )
        found[said] = values
        return found


def _ratescore(module: Any, gold: list[str], answers: list[str]) -> Sequence[float]:
    """RaTEScore (Zhao et al., 2024): medical entities compared by their embeddings."""
    found: Sequence[float] = module.RaTEScore().compute_score(answers, gold)
    return found


def _radgraph(module: Any, gold: list[str], answers: list[str]) -> Sequence[float]:
    """RadGraph-F1 (Delbrouck et al., 2022), entities with or without relations ("partial")."""
    found: Sequence[float] = module.F1RadGraph(reward_level="partial")(hyps=answers, refs=gold)[1]
    return found


def _chexbert(module: Any, gold: list[str], answers: list[str]) -> Sequence[float]:
    """1 where CheXbert reads the CheXpert competition's five findings alike in both, else 0 (Smit et al., 2020)."""
    found: Sequence[float] = module.F1CheXbert()(hyps=answers, refs=gold)[1]
    return found


PLUG_INS: dict[str, PlugIn] = {
    "ratescore": PlugIn("RaTEScore", "pip install RaTEScore", _ratescore),
    "radgraph": PlugIn("radgraph", "pip install radgraph", _radgraph),
    "chexbert": PlugIn("f1chexbert", "pip install f1chexbert", _chexbert),
}
