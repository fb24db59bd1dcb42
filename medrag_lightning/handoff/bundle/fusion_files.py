"""How a bundle weighs similarities: by numbers in ``system.json``, or by trained weights in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from medrag_lightning.handoff.bundle.encoders import Spec, plain_state
from medrag_lightning.handoff.bundle.layout import RETRIEVER
from medrag_lightning.interfaces import SimilarityFusion
from medrag_lightning.models.similarity_fusion import FixedFusion, TrainedFusion, WeightedSimilarities


def save_fusion(fusion: SimilarityFusion, bundle: Path, name: str) -> Spec:
    """Writes trained weights below ``retriever/``; gives the entry in ``system.json``; ValueError for an unknown class."""
    if isinstance(fusion, FixedFusion):
        weights = dict(zip(map(str, fusion.channels), fusion.weight_M.tolist(), strict=True))
        return {"kind": "fixed", "weights": weights, "standardise": fusion.standardise}
    made = fusion._loaded() if isinstance(fusion, TrainedFusion) else fusion
    if not isinstance(made, WeightedSimilarities):
        raise ValueError(
            f"a bundle cannot hold a fusion of class {type(fusion).__name__}; it knows TrainedFusion and FixedFusion"
        )
    file = f"{RETRIEVER}/{name}_fusion.safetensors"
    save_file(plain_state(made), bundle / file)
    return {"kind": "weighted", "settings": made.settings(), "modalities": list(made.modalities), "file": file}


def load_fusion(spec: Mapping[str, Any], bundle: Path) -> SimilarityFusion:
    """The fusion of an entry in ``system.json``."""
    if spec["kind"] == "fixed":
        return FixedFusion(dict(spec["weights"]), spec["standardise"])
    made = WeightedSimilarities(**spec["settings"])
    made.prepare(spec["modalities"])
    made.load_state_dict(load_file(bundle / spec["file"]))
    return made.requires_grad_(False).eval()
