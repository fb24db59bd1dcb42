"""Train multimodal medical retrieval-augmented generation with PyTorch Lightning. A research tool, not a medical device."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_bundle`, imported when it is first named: nothing heavy comes with the package itself."""
    if name == "load_bundle":
        return import_module("medrag_lightning.handoff.bundle.load").load_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
