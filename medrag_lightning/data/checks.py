"""Settings of the data module that contradict each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from medrag_lightning.data.noise import NoisePlan
from medrag_lightning.interfaces import Table
from medrag_lightning.records import Regime


def check_names(tables: Sequence[Table], regimes: Sequence[str], rivals: Collection[str], noise: NoisePlan | None) -> None:
    """Raises ValueError for a repeated regime, a rival called like one, and noise for a system that is not there."""
    if not tables:
        raise ValueError("data.tables is empty: name at least one table with questions")
    if len(set(regimes)) != len(regimes):
        raise ValueError(f"data.regimes repeats a regime: {regimes}")
    if named := set(rivals) & {str(regime) for regime in Regime}:
        raise ValueError(f"data.rivals: {sorted(named)} are names of regimes; give other names")
    if noise is not None:
        noise.check([Regime(name) for name in regimes], list(rivals))
