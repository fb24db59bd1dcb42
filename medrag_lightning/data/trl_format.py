"""Preference pairs as a dataset that trl's own DPOTrainer runs on for a vision model, and that needs none of our code.

trl reads one prompt a pair: chosen and rejected answers follow the same input. Pairs whose sides differ in evidence or image
(all of kind cross_modality) cannot be said so. Written as if they could, they would show both sides one input, and where the
answers are equal, too, train nothing: the loss stays ln 2. They are left out, and counted.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from medrag_lightning.artifacts import fingerprint, write_bytes, write_jsonl
from medrag_lightning.batches import Prompt, Segment, pixel_sha256
from medrag_lightning.data.conditions import ConditionExamples
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.records import Document, Preference, Query, Split

SPLITS = {Split.TRAIN: "train", Split.VAL: "validation", Split.TEST: "test"}
ROWS, IMAGES, README = "metadata.jsonl", "images", "README.md"


@dataclass(frozen=True, slots=True)
class TrlExport:
    """What was written to `folder`: pairs by split, and of those left out by split and kind (their sides' inputs differ)."""

    folder: Path
    written: Mapping[str, int]
    left_out: Mapping[str, Mapping[str, int]]

    def __str__(self) -> str:
        kinds: Counter[str] = sum((Counter(of) for of in self.left_out.values()), Counter())
        lost = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items())) or "none"
        kept = ", ".join(f"{count} {split}" for split, count in self.written.items())
        return f"{self.folder}: pairs in trl's format: {kept}; left out, since the two sides are shown different input: {lost}"


def write_trl_dataset(
    preferences: Mapping[Split, Sequence[Preference]],
    queries: Mapping[str, Query],
    documents: Mapping[str, Document],
    template: PromptTemplate,
    open_image: OpenImage,
    folder: str | Path,
) -> TrlExport:
    """Writes the pairs whose sides are shown the same input: ``datasets.load_dataset(folder)`` reads them.

    Each split is a folder with ``metadata.jsonl`` (conversations, names of images) and its images, each once, as PNG named by
    their pixels. Prompts hold our template's segments in order. No query, patient or study ids.

    Args:
        preferences: the pairs by split.
        queries: every query whose image may be shown, by id.
        documents: the corpus by id.
        template: how a prompt is built.
        open_image: opens an image.
        folder: a new or empty folder; it is complete, or not there. What is there of the same pairs is left as it is.

    Raises:
        ValueError: the folder holds something else, or a pair names a query or document that is not given.
    """
    folder = Path(folder)
    kept = {SPLITS[split]: [pair for pair in pairs if _same_input(pair)] for split, pairs in preferences.items()}
    lost = {SPLITS[s]: Counter(str(p.kind) for p in pairs if not _same_input(p)) for s, pairs in preferences.items()}
    export = TrlExport(folder, {name: len(pairs) for name, pairs in kept.items()}, lost)
    names = [(split, [(pair.id, pair.weight) for pair in pairs]) for split, pairs in preferences.items()]
    readme = _readme(export, fingerprint(names, template.fingerprint()))
    if _is_there(folder, readme):
        return export
    examples = ConditionExamples(queries, documents, open_image)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch) / folder.name
        for name, pairs in kept.items():
            _write_rows(made / name, [_row(pair, template, examples, made / name) for pair in pairs])
        write_bytes(made / README, readme.encode())
        made.rename(folder)
    return export


def _is_there(folder: Path, readme: str) -> bool:
    """Whether the folder holds these very pairs; ValueError if it holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if (folder / README).is_file() and (folder / README).read_text(encoding="utf-8") == readme:
        return True
    raise ValueError(f"{folder} holds something else; give a new folder for the pairs in trl's format, or delete it")


def _same_input(pair: Preference) -> bool:
    return pair.chosen.condition == pair.rejected.condition


def _row(pair: Preference, template: PromptTemplate, examples: ConditionExamples, folder: Path) -> dict[str, Any]:
    if pair.query_id not in examples.queries:
        raise ValueError(f"pair {pair.id!r} is about query {pair.query_id!r}, which is not given")
    if template.max_prompt_tokens is not None:
        raise ValueError("template.max_prompt_tokens: what fits is counted by a reader, which trl's format has not; null")
    (example,) = examples.build([(examples.queries[pair.query_id], pair.chosen.condition)])
    prompt = template.build(example)
    return {
        "id": pair.id,
        "kind": str(pair.kind),
        "knowledge": "" if pair.knowledge is None else str(pair.knowledge),
        "weight": pair.weight,
        "images": [_saved(image, folder) for image in prompt.images],
        "prompt": conversation(prompt),
        "chosen": [_turn("assistant", [_text(pair.chosen.answer)])],
        "rejected": [_turn("assistant", [_text(pair.rejected.answer)])],
    }


def conversation(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt as messages, with a placeholder for each image; neighbouring texts are one, as the reader gets them."""
    parts: list[dict[str, Any]] = []
    for segment in prompt.segments:
        if segment.image is None and parts and parts[-1]["type"] == "text":
            parts[-1] = _text(parts[-1]["text"] + segment.text)
        else:
            parts.append(_part(segment))
    system = [_turn("system", [_text(prompt.system)])] if prompt.system else []
    return [*system, _turn("user", parts)]


def _part(segment: Segment) -> dict[str, Any]:
    return _text(segment.text) if segment.image is None else {"type": "image", "text": None}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _turn(role: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": role, "content": parts}


def _saved(image: Image, folder: Path) -> str:
    """Writes the image where it is not yet, and gives its name relative to the folder."""
    name = f"{IMAGES}/{pixel_sha256(image)}.png"
    if not (folder / name).exists():
        data = io.BytesIO()
        image.convert("RGB").save(data, "PNG")
        write_bytes(folder / name, data.getvalue())
    return name


def _write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """`datasets` opens the files that a column ``images_file_names`` names; a split without any image is plain JSON lines."""
    if not rows:
        return
    if any(row["images"] for row in rows):
        rows = [{**row, "images_file_names": row["images"]} for row in rows]
        for row in rows:
            del row["images"]
    write_jsonl(folder / ROWS, rows)


def _readme(export: TrlExport, identity: str) -> str:
    kept = [f"- {split}: {count} pairs" for split, count in export.written.items()]
    lost = [f"- {split}: {count} of {kind}" for split, of in export.left_out.items() for kind, count in sorted(of.items())]
    return _README.format(kept="\n".join(kept), lost="\n".join(lost) or "none", identity=identity)


_README = """---
pretty_name: Preference pairs
---
# Preference pairs for trl

{kept}

Columns: `prompt`, `chosen`, `rejected` (conversations), `images` (in reading order), `id`, `kind`, `knowledge`, `weight` (trl
counts every pair alike). Images and texts are those of the source data, and its licence and terms hold for them.

    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    data = load_dataset("PATH_OF_THIS_FOLDER")
    arguments = DPOConfig(output_dir="out", max_length=None)  # a limit would cut image tokens
    DPOTrainer(model, args=arguments, train_dataset=data["train"], processing_class=processor).train()

`model` must be the reader that is to be tuned: trl takes what it is given as the reference. A text that contains a special
token of the processor (such as `<image>`) is not escaped here, and would be taken for one.

## Left out

Pairs whose two sides are shown different input (image or evidence). trl has one prompt a pair: with it they would teach
something else, and where the answers are equal, too, nothing at all (a loss of ln 2 that stays).

{lost}

Made of pairs and template {identity}.
"""
