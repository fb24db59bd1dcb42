"""The query generator of a bundle: a reader of its own, and what it is told; it writes searches before corpora are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from medrag_lightning.handoff.bundle.encoders import Spec
from medrag_lightning.handoff.bundle.layout import GENERATOR, READER
from medrag_lightning.handoff.bundle.merging import cast_reader
from medrag_lightning.handoff.bundle.reader_files import How, check_reader, load_reader, save_reader, save_weights
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.search_writer import SearchWriter
from medrag_lightning.records import WrittenSearches


def how_of(writer: SearchWriter, wanted: How) -> How:
    """How its reader is written, where the answering one is written as `wanted`: merged if it trained no adapter."""
    return wanted if getattr(writer.reader, "adapter", None) is not None else "merged"


def check_generator(writer: SearchWriter, wanted: How) -> None:
    """ValueError where this generator cannot be handed on so."""
    try:
        check_reader(writer.reader, how_of(writer, wanted))
    except ValueError as error:
        raise ValueError(f"the query generator: {error}") from error


def save_generator(
    writer: SearchWriter, wanted: How, dtype: str | None, bundle: Path, written: Callable[[], list[WrittenSearches]]
) -> Spec:
    """Writes a checked generator below ``generator/``; gives its entry in ``system.json``.

    Afterwards it is as the bundle has it, or (``adapter``) without its adapter, so that it can be asked no more.

    Args:
        writer: the generator.
        wanted: how the answering reader is written.
        dtype: of a merged one; None for what it computed in (float16: float32).
        bundle: where to write.
        written: what it writes now for the probe questions; a merged one must write the same.

    Raises:
        ValueError: merging changed what it writes.
    """
    reader, how = writer.reader, how_of(writer, wanted)
    assert isinstance(reader, HfReader), "checked before"
    computed, within = str(reader.compute_dtype).removeprefix("torch."), f"{GENERATOR}/"
    told = {"template": asdict(writer.template), "corpora": list(writer.corpora), "max_new_tokens": writer.max_new_tokens}
    if how == "adapter":
        return {"reader": save_reader(reader, how, bundle, within) | {"dtype": computed}, **told}
    cast_reader(reader, torch.float32)
    before, chosen = written(), dtype or ("bfloat16" if computed == "bfloat16" else "float32")
    spec = save_reader(reader, how, bundle, within) | {"dtype": chosen}
    if changed := sum(one != other for one, other in zip(before, written(), strict=True)):
        raise ValueError(
            f"merging the query generator's adapter changed {changed} of {len(before)} texts; give --reader adapter"
        )
    cast_reader(reader, getattr(torch, chosen))
    save_weights(reader, bundle / within / READER)
    return {"reader": spec, **told}


def load_generator(spec: Mapping[str, Any] | None, bundle: Path, device: str) -> SearchWriter | None:
    """The generator of an entry in ``system.json``; None for a bundle without one."""
    if spec is None:
        return None
    reader = load_reader(spec["reader"], bundle, device)
    return SearchWriter(reader, PromptTemplate(**spec["template"]), spec["corpora"], spec["max_new_tokens"])
