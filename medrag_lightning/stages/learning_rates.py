"""Which parts of a reader are trained, each at a rate of its own (MIRA: the projector first, then the language tower too)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from medrag_lightning.interfaces import PartedReader, Reader, ReaderPartName


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class LearningRates:
    """The peak learning rate of each part of a reader; null freezes the part. They take the place of the optimizer's own.

    Args:
        projector: of what joins the towers.
        language_model: of the language tower, its head and its adapter.
        vision: of the vision tower.
    """

    projector: float | None = None
    language_model: float | None = None
    vision: float | None = None

    def __post_init__(self) -> None:
        rates = self.by_part()
        if not rates or not all(0 < rate < math.inf for rate in rates.values()):
            raise ValueError(f"learning_rates are positive, or null to freeze a part, and not all null; got {asdict(self)}")

    def by_part(self) -> dict[ReaderPartName, float]:
        """The rates of the parts that are trained."""
        rates: dict[ReaderPartName, float | None] = {
            "projector": self.projector, "language_model": self.language_model, "vision": self.vision
        }  # fmt: skip
        return {part: rate for part, rate in rates.items() if rate is not None}


def train_parts(reader: Reader, rates: LearningRates | None) -> None:
    """Freezes the parts of a reader that have no rate; ValueError where it knows no parts."""
    if rates is None:
        return
    if not isinstance(reader, PartedReader):
        raise ValueError(f"learning_rates need a reader whose parts are known, and {type(reader).__name__} tells none")
    reader.train_only(tuple(rates.by_part()))


def groups_of(reader: Reader, rates: LearningRates | None, trainable: list[nn.Parameter]) -> Any:
    """What an optimizer is made over: a group a part, at its rate, then what belongs to none, at the optimizer's own."""
    if rates is None:
        return trainable
    assert isinstance(reader, PartedReader), "checked when it was made"
    parts = reader.trained_parts()
    groups: list[dict[str, Any]] = [
        {"params": parts[part], "lr": rate, "name": part} for part, rate in rates.by_part().items() if part in parts
    ]
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    if rest := [parameter for parameter in trainable if id(parameter) not in grouped]:
        groups.append({"params": rest, "name": "others"})
    return groups
