"""Learned weights for people: direction and length, shared, by modality, and over queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from medrag_lightning.batches import FusionBatch
from medrag_lightning.interfaces import LearnedFusion

NOTE = "Only the direction decides the order of candidates; the norm acts as 1/tau, so norm / tau is the sharpness."
UNKNOWN = "modality not told"


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
