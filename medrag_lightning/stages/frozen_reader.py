"""A frozen reader with the weights of a reader stage's checkpoint: how stages that only read begin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from medrag_lightning.interfaces import Reader
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.stages.base import read_checkpoint

READER_STAGES = ("reader_raft", "reader_preference", "joint")
"""Those that train a reader, and describe it alike."""


def load_reader(stage: nn.Module, reader: Reader, init_from: str, template: PromptTemplate | None) -> dict[str, Any]:
    """Puts the trained weights of checkpoint `init_from` into `stage`, whose attribute ``reader`` is `reader`.

    Args:
        stage: what the weights' names are relative to.
        reader: restored first.
        init_from: a checkpoint of stage `reader_raft`, `reader_preference` or `joint`.
        template: that of this run; None accepts a reader that was trained with another.

    Returns:
        The checkpoint's description.

    Raises:
        ValueError: the checkpoint is of another stage, template or reader.
    """
    description, weights = read_checkpoint(init_from, READER_STAGES, READER_STAGES[0])
    if template is not None and description["template"] != template.fingerprint():
        raise ValueError(
            f"{init_from}: the reader was trained with prompt order {description['prompt_order']!r} and another template than "
            "this run's. Give its template (model.init_args.template of its config.yaml); in stages that have it, "
            "--model.init_args.allow_prompt_change true reads on all the same."
        )
    reader.restore(description["reader"])
    lacking, unknown = stage.load_state_dict(weights, strict=False)
    _check(stage, init_from, lacking, unknown)
    return description


def _check(stage: nn.Module, init_from: str, lacking: Iterable[str], unknown: Iterable[str]) -> None:
    unknown = sorted(unknown)
    missing = sorted({name for name, p in stage.named_parameters() if p.requires_grad}.intersection(lacking))
    if missing or unknown:
        raise ValueError(
            f"{init_from} does not fit this reader: it lacks {len(missing)} trained weights {missing[:3]} and "
            f"holds {len(unknown)} unknown ones {unknown[:3]}. Give the reader that it was trained with."
        )
