"""Train multimodal medical retrieval-augmented generation with PyTorch Lightning. A research tool, not a medical device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medrag_lightning.handoff.bundle.load import load_bundle as load_bundle

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_bundle`, imported when it is first named: nothing heavy comes with the package itself."""
    if name == "load_bundle":
        from medrag_lightning.handoff.bundle.load import load_bundle

        return load_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
