"""Learned weights for people: direction and length, shared, by modality, and over queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medrag_lightning.batches import FusionBatch
from medrag_lightning.interfaces import LearnedFusion

NOTE = "Only the direction decides the order of candidates; the norm acts as 1/tau, so norm / tau is the sharpness."
UNKNOWN = "modality not told"
METRICS = ("confidence", "mrr", "recall@1")


@torch.no_grad()
def readable_weights(fusion: LearnedFusion, batches: Iterable[FusionBatch]) -> dict[str, Any]:
    """The weights as plain JSON.

    ``shared`` are the published method's. ``by_modality`` are weights that go by modality alone; ``over_queries``, where each
    query has its own, are the mean direction and its standard deviation over the queries of `batches`, by modality.
    """
    taus = [float(tau) for tau in fusion.temperatures()]
    names = [str(channel) for channel in fusion.channels]
    told: dict[str, Any] = {"note": NOTE, "settings": fusion.describe()}
    told["shared"] = _told(names, fusion.shared_weights(), taus[0])
    of_modality = fusion.modality_weights()
    if of_modality:
        told["by_modality"] = {name: _told(names, weight_M, taus[1]) for name, weight_M in of_modality.items()}
    elif not fusion.is_shared:
        told["over_queries"] = _over_queries(fusion, names, batches)
    return told


def one_line(told: dict[str, Any]) -> str:
    """The same in a line for the log."""
    parts = [f"shared {_line(told['shared'])} norm {told['shared']['norm']:.3g}, tau {told['shared']['tau']:.3g}"]
    for kind in ("by_modality", "over_queries"):
        parts += [f"{name} {_line(one)}" for name, one in told.get(kind, {}).items()]
    return "; ".join(parts)


def comparison(means: Mapping[str, float], channels: Sequence[str]) -> dict[str, dict[str, float]]:
    """What a test found, a row a system: the learned fusion first, then what it is compared with."""
    rows: dict[str, dict[str, float]] = {}
    for system in ("fusion", "global", "uniform", *channels, "random", "oracle"):
        prefix = "" if system == "fusion" else f"{system}_"
        row = {metric: means[f"{prefix}{metric}"] for metric in METRICS if f"{prefix}{metric}" in means}
        if row:
            rows[system] = row
    return rows


def as_text(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The same as lines of text."""
    head = f"{'order of the pool by':<22}" + "".join(f"{metric:>12}" for metric in METRICS)
    lines = [
        f"{system:<22}" + "".join(f"{row[metric]:>12.4f}" if metric in row else f"{'-':>12}" for metric in METRICS)
        for system, row in rows.items()
    ]
    return "\n".join([head, *lines])


def _line(one: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:+.2f}" for name, value in one["direction"].items())


def _told(names: Sequence[str], weight_M: Tensor, tau: float) -> dict[str, Any]:
    norm = float(weight_M.norm())
    direction = (weight_M / max(norm, 1e-30)).tolist()
    weights = dict(zip(names, weight_M.tolist(), strict=True))
    return {"direction": dict(zip(names, direction, strict=True)), "norm": norm, "tau": tau, "weights": weights}


def _over_queries(fusion: LearnedFusion, names: Sequence[str], batches: Iterable[FusionBatch]) -> dict[str, Any]:
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        weight_BM = torch.nn.functional.normalize(fusion.query_weights(batch.similarity_BKM, batch.modality), dim=-1)
        for weight_M, modality in zip(weight_BM.cpu(), batch.modality, strict=True):
            found.setdefault(modality or UNKNOWN, []).append(weight_M)
    told = {}
    for modality, weights in sorted(found.items()):
        weight_BM = torch.stack(weights).double()
        mean, deviation = weight_BM.mean(0).tolist(), weight_BM.std(0, correction=0).tolist()
        told[modality] = {
            "queries": len(weights),
            "direction": dict(zip(names, mean, strict=True)),
            "standard_deviation": dict(zip(names, deviation, strict=True)),
        }
    return told
