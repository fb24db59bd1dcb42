"""A frozen reader with the weights of a `reader_raft` checkpoint: how stages that only read begin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch

from medrag_lightning.interfaces import Reader
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.stages.base import checked_description


def load_reader(stage: L.LightningModule, reader: Reader, init_from: str, template: PromptTemplate | None) -> dict[str, Any]:
    """Puts the trained weights of checkpoint `init_from` into `stage`, whose attribute ``reader`` is `reader`.

    Args:
        stage: what the weights' names are relative to.
        reader: restored first.
        init_from: a checkpoint of stage `reader_raft`.
        template: that of this run; None accepts a reader that was trained with another.

    Returns:
        The checkpoint's description.

    Raises:
        ValueError: the checkpoint is of another stage, template or reader.
    """
    checkpoint = torch.load(init_from, map_location="cpu", weights_only=True)
    description = checked_description(checkpoint, "reader_raft", init_from)
    if template is not None and description["template"] != template.fingerprint():
        raise ValueError(
            f"the reader was trained with prompt order {description['prompt_order']!r} and another template than this "
            "run's. Give its template (model.init_args.template of its config.yaml), or "
            "--model.init_args.allow_prompt_change true."
        )
    reader.restore(description["reader"])
    lacking, unknown = stage.load_state_dict(checkpoint["state_dict"], strict=False)
    _check(stage, init_from, lacking, unknown)
    return description


def _check(stage: L.LightningModule, init_from: str, lacking: Iterable[str], unknown: Iterable[str]) -> None:
    unknown = sorted(unknown)
    missing = sorted({name for name, p in stage.named_parameters() if p.requires_grad}.intersection(lacking))
    if missing or unknown:
        raise ValueError(
            f"{init_from} does not fit this reader: it lacks {len(missing)} trained weights {missing[:3]} and "
            f"holds {len(unknown)} unknown ones {unknown[:3]}. Give the reader that it was trained with."
        )
