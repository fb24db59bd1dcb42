"""Facts by a medical model, where its package is installed; where it is not, it says so, and nothing takes its place."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.facts.negation import DENIED
from medrag_lightning.records import Document

ModelName = Literal["radgraph", "chexbert"]
CHEXBERT: tuple[str, ...] = (
    "enlarged mediastinum",
    "cardiomegaly",
    "lung opacity",
    "lung lesion",
    "edema",
    "consolidation",
    "pneumonia",
)
CHEXBERT += ("atelectasis", "pneumothorax", "pleural effusion", "pleural other", "fracture", "support device", "normal")
_TROUBLE = (ImportError, OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError)


class ModelFacts:
    """What RadGraph or CheXbert reads in a report (FactMM-RAG, Section 3.1). Neither is a dependency of ours.

    Args:
        model: ``radgraph`` (entities, absent ones denied; package `radgraph`) or ``chexbert`` (fourteen observations; package
            `f1chexbert`). Both fetch weights of their own when they are first used.
    """

    def __init__(self, model: ModelName) -> None:
        if model not in _PACKAGES:
            raise ValueError(f"facts: model must be one of {', '.join(_PACKAGES)}, got {model!r}")
        self.model = model

    def facts(self, documents: Sequence[Document]) -> list[frozenset[str]]:
        """What the model reads. ValueError that names the package where it is missing or fails."""
        package, read = _PACKAGES[self.model]
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"facts: unavailable: {package} is not installed (pip install {package}); "
                "medrag_lightning.data.facts.TermFacts needs no model"
            )
        try:
            found = read(importlib.import_module(package), [document.text for document in documents])
        except _TROUBLE as error:
            raise ValueError(f"facts: unavailable: {package} fails: {type(error).__name__}: {str(error)[:200]}") from error
        if len(found) != len(documents):
            raise ValueError(f"facts: unavailable: {package} told of {len(found)} texts, not of {len(documents)}")
        return found

    def fingerprint(self) -> str:
        """sha256 over the model's name: its weights are its package's affair."""
        return fingerprint("model facts", self.model)


def _radgraph(module: Any, texts: Sequence[str]) -> list[frozenset[str]]:
    """Entities by their words; those that are definitely absent are denied."""
    told = module.RadGraph()(list(texts))
    return [frozenset(_entity(one) for one in told[str(place)]["entities"].values()) for place in range(len(texts))]


def _entity(entity: Any) -> str:
    return (DENIED if "absent" in entity["label"].casefold() else "") + str(entity["tokens"]).casefold()


def _chexbert(module: Any, texts: Sequence[str]) -> list[frozenset[str]]:
    """Observations that are positive or uncertain; the package does not tell denied ones apart from those not mentioned."""
    labeller = module.F1CheXbert()
    return [
        frozenset(name for name, stated in zip(CHEXBERT, labeller.get_label(text), strict=True) if stated) for text in texts
    ]


_PACKAGES: dict[str, tuple[str, Callable[[Any, Sequence[str]], list[frozenset[str]]]]] = {
    "radgraph": ("radgraph", _radgraph),
    "chexbert": ("f1chexbert", _chexbert),
}
