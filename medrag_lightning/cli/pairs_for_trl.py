"""The switch ``--trl FOLDER`` of the verb `pairs`: the pairs in the format of trl's own trainer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.cli.outcome import tell

SWITCH = "--trl"


def split_trl(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The folder that ``--trl`` names, if it is there, and the other arguments. ValueError without a folder, or for two."""
    folders, rest, words = list[str](), list[str](), iter(arguments)
    for word in words:
        name, given, value = word.partition("=")
        if name != SWITCH:
            rest.append(word)
            continue
        folder = value if given else next(words, "")
        if not folder or folder.startswith("-"):
            raise ValueError(f"{SWITCH} needs a folder: {SWITCH} runs/pairs_trl")
        folders.append(folder)
    if len(folders) > 1:
        raise ValueError(f"{SWITCH} is given {len(folders)} times: {', '.join(folders)}")
    return (folders[0] if folders else None), rest


def write_trl(stage: Any, world: Any, pairs: Any, folder: str) -> None:
    """Writes `pairs` (by split) with the stage's prompt template, and says what was left out; ValueError without a template."""
    from medrag_lightning.data.trl_format import write_trl_dataset

    template = getattr(stage, "template", None)
    if template is None:
        raise ValueError(f"{SWITCH}: the stage has no prompt template; add -c stages/reader_preference")
    queries = {query.id: query for of_split in world.queries.values() for query in of_split}
    documents = {document.id: document for document in world.documents}
    made = write_trl_dataset(pairs, queries, documents, template, world.open_image, Path(folder))
    tell(str(made), sys.stdout)
