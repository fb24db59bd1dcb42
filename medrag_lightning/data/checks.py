"""Settings of the data module that contradict each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.noise import OWN, NoisePlan
from medrag_lightning.interfaces import Table
from medrag_lightning.records import ABLATED, Regime


def check_names(
    tables: Sequence[Table],
    regimes: Sequence[str],
    rivals: Collection[str],
    noise: NoisePlan | None,
    knowledge: KnowledgePlan | None = None,
) -> None:
    """Raises ValueError for a repeated regime, a rival called like one, and a system that is spoilt or asked again and is not
    there.
    """
    if not tables:
        raise ValueError("data.tables is empty: name at least one table with questions")
    if len(set(regimes)) != len(regimes):
        raise ValueError(f"data.regimes repeats a regime: {regimes}")
    if named := set(rivals) & {str(regime) for regime in Regime}:
        raise ValueError(f"data.rivals: {sorted(named)} are names of regimes; give other names")
    if noise is not None:
        noise.check([Regime(name) for name in regimes], list(rivals))
    if alike := [name for name in rivals if knowledge is not None and knowledge.leave_out and name.startswith(ABLATED)]:
        raise ValueError(f"data.rivals: {alike[0]!r} could be the name of a knowledge ablation; give another name")
    if knowledge is not None:
        check_asked_again(knowledge, [Regime(name) for name in regimes], list(rivals))


def check_asked_again(plan: KnowledgePlan, regimes: Sequence[Regime], rivals: Sequence[str]) -> None:
    """Raises ValueError for a system that this data module does not have, or whose ordinary answers would be lacking.

    Without the regime ``none`` MD can be told, KUD and KID cannot; their table says so.
    """
    if unknown := [name for name in plan.systems if name not in (OWN, *rivals)]:
        raise ValueError(f"data.knowledge.systems names {unknown[0]!r}; there are {[OWN, *rivals]}")
    if len(set(plan.systems)) != len(plan.systems):
        raise ValueError(f"data.knowledge.systems repeats a system: {list(plan.systems)}")
    if OWN in plan.systems and Regime.RETRIEVED not in regimes:
        raise ValueError(
            f"data.knowledge asks {OWN!r} again, and needs the regime retrieved among data.regimes to compare with. "
            "Add it, or name other data.knowledge.systems ([] for none)"
        )
