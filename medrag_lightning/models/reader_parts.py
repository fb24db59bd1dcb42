"""The parts of a reader: its language tower, its vision tower, and the projector that joins them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from medrag_lightning.interfaces import ReaderPartName
from medrag_lightning.models.families import Family


def part_of(name: str, family: Family) -> ReaderPartName:
    """The part that the parameter of a dotted name belongs to; what is neither vision nor projector is language."""
    parts = name.split(".")
    if set(parts) & set(family.projectors):  # before vision: Qwen's merger lies inside the vision tower
        return "projector"
    return "vision" if family.vision in parts else "language_model"


def trained_by_part(model: nn.Module, family: Family) -> Mapping[ReaderPartName, list[nn.Parameter]]:
    """The parameters that are trained, by part, in the model's order; a part of which nothing is trained is left out."""
    found: dict[ReaderPartName, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(part_of(name, family), []).append(parameter)
    return found


def freeze_all_but(model: nn.Module, family: Family, parts: Collection[ReaderPartName]) -> None:
    """Freezes what belongs to no part of `parts`.

    Raises:
        ValueError: nothing of a part is trained, as adapter and freeze say; the message names it and the remedy.
    """
    trained = trained_by_part(model, family)
    if missing := [part for part in parts if part not in trained]:
        raise ValueError(
            f"learning_rates.{missing[0]}: nothing of the reader's {missing[0]} is trainable (trainable: "
            f"{', '.join(sorted(trained)) or 'nothing'}). Set it to null, or change the reader's freeze and adapter: an "
            "adapter adapts a tower by `language` and `vision`, and keeps the projector beside it by `projector: true`"
        )
    for part, parameters in trained.items():
        if part not in parts:
            for parameter in parameters:
                parameter.requires_grad_(False)
