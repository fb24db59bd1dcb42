"""What a model of ours takes from the checkpoint of a stage: its description and its trained weights, nothing else."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from medrag_lightning.checkpoint_files import load_whole


def read_trained(path: str, stage: str | tuple[str, ...], prefix: str, who: str) -> tuple[Any, dict[str, Tensor]]:
    """What a checkpoint of `stage` says of one of its parts, and that part's trained weights (layout: `stages/base.py`).

    Tensors and plain JSON only are read.

    Args:
        path: the ``.ckpt`` file.
        stage: name of the stage that must have written it, or names of which one must be that of the stage.
        prefix: of the part's weights in the stage, with the dot; without it the part's name in the stage's description.
        who: reads it, for messages.

    Returns:
        The part's description, and its weights without the prefix.

    Raises:
        ValueError: there is no such file, it is damaged, or another stage or program wrote it.
    """
    stages = (stage,) if isinstance(stage, str) else stage
    try:
        checkpoint = load_whole(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such checkpoint; fit the stage {stages[0]} first") from error
    head = checkpoint.get("medrag")
    if head is None or head["stage"] not in stages:
        found = "not of medrag_lightning" if head is None else f"of stage {head['stage']!r}"
        raise ValueError(f"{path} is {found}; {who} needs a checkpoint of stage {' or '.join(map(repr, stages))}")
    weights = checkpoint["state_dict"].items()
    mine = {name.removeprefix(prefix): value for name, value in weights if name.startswith(prefix)}
    return head["description"][prefix.rstrip(".")], mine
