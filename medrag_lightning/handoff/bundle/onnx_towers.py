"""Towers and heads of encoders as ONNX, each compared with torch by onnxruntime before it is believed."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from medrag_lightning.handoff.bundle.layout import RETRIEVER
from medrag_lightning.handoff.bundle.query_heads import BundledHeads
from medrag_lightning.models.sentence_encoder import SentenceEncoder
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.retrieval.source import LiveSearch

OPSET = 18
LEAST_COSINE = 1 - 1e-4
_AS_LONG_AS_THE_TEXT = ("input_ids", "attention_mask", "buckets", "weights")
_TEXTS = ["Right lower-lobe opacity, no effusion.", "normal", "is there a nodule in the left upper lobe?"]


class _Tower(nn.Module):
    """Named inputs in a fixed order, which is what ONNX knows."""

    def __init__(self, vectors: Any, names: list[str], holds: nn.Module) -> None:
        super().__init__()
        self.vectors, self.names, self.holds = vectors, names, holds

    def forward(self, *inputs: Tensor) -> Tensor:
        made: Tensor = self.vectors(dict(zip(self.names, inputs, strict=True)))
        return made


def check_onnx_installed() -> None:
    """ValueError that says what to install."""
    if lacking := [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"--onnx needs {' and '.join(lacking)}: pip install onnx onnxruntime")


def unwritten(encoder: Any) -> str:
    """In words, why there is no ONNX model of an encoder; empty where there is."""
    if isinstance(encoder, TinyDualEncoder):
        return "TinyDualEncoder computes without weights, so that there is nothing to write"
    if isinstance(encoder, SentenceEncoder):
        return "SentenceEncoder is a text model of transformers, which its own tools export (optimum-cli export onnx)"
    return ""


def write_onnx(searches: list[tuple[str, LiveSearch]], bundle: Path) -> dict[str, float]:
    """Writes every tower and head below ``retriever/`` and gives the least cosine with torch's vectors, by file.

    Some encoders have none to write: `unwritten` says why.

    Raises:
        ValueError: a written model gives vectors of cosine below 1 - 1e-4.
    """
    found: dict[str, float] = {}
    for place, search in searches:
        name, encoder = place.replace("/", "_") or "encoder", search.encoder
        for part, vectors, inputs, holds in _parts(encoder):
            path = bundle / RETRIEVER / f"{name}_{part}.onnx"
            found[path.name] = _write(vectors, inputs, holds, path)
            if found[path.name] < LEAST_COSINE:
                raise ValueError(
                    f"--onnx: {path.name} gives vectors of cosine {found[path.name]:.6f} with torch's, below {LEAST_COSINE}; "
                    "leave --onnx out, and report the model"
                )
    return found


def _parts(encoder: Any) -> list[tuple[str, Any, dict[str, Tensor], nn.Module]]:
    """Name, function, probe inputs and module of each tower and head."""
    if unwritten(encoder):
        return []
    frozen = encoder.encoder if isinstance(encoder, BundledHeads) else encoder
    pictures = [Image.fromarray(_noise(seed)) for seed in range(3)]
    images, texts = frozen.image_inputs(pictures), frozen.text_inputs(_TEXTS)
    parts: list[tuple[str, Any, dict[str, Tensor], Any]] = [
        ("image", frozen.image_vectors, images, frozen),
        ("text", frozen.text_vectors, texts, frozen),
    ]
    if isinstance(encoder, BundledHeads):
        for side, head in encoder.heads.items():
            parts.append((f"{side}_query", _query(frozen, head, encoder.mixes[side]), images, encoder))
    return parts


def _query(frozen: Any, head: nn.Module, mix: float) -> Any:
    def vectors(inputs: Mapping[str, Tensor]) -> Tensor:
        frozen_BD = frozen.image_vectors(inputs)
        made: Tensor = mix * head(inputs, frozen_BD) + (1 - mix) * frozen_BD
        return made

    return vectors


def _write(vectors: Any, inputs: dict[str, Tensor], holds: nn.Module, path: Path) -> float:
    import onnxruntime

    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(inputs)
    axes = {name: {axis: f"{name}_{axis}" for axis in ((0, 1) if name in _AS_LONG_AS_THE_TEXT else (0,))} for name in names}
    first = tuple(value[:2] for value in inputs.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's: what it fixes is compared below, on another batch
        torch.onnx.export(
            _Tower(vectors, names, holds).eval(), first, str(path), dynamo=False, opset_version=OPSET,
            input_names=names, output_names=["vectors"], dynamic_axes={**axes, "vectors": {0: "batch"}},
        )  # fmt: skip
        expected = vectors(inputs).cpu().numpy()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about its own graph rewriting
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return float(_cosines(made, expected).min())


def _cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.asarray((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)), np.float64)


def _noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
