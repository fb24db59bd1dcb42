"""Which parser a bare file or folder is probably meant for, by its columns: for a first look before there is a config."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrag_lightning.data.arrays import read_headers
from medrag_lightning.data.audit.table_reading import Role
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import SPLITS

LOOKED_AT = 200  # rows
LABELS = ("label", "dx", "class", "diagnosis")
IMAGES = ("image", "image_id", "file", "filename", "file_name", "path")


@dataclass(frozen=True, slots=True)
class Guess:
    """A parser with settings, what it is used for, and why it was chosen."""

    parser: str
    settings: dict[str, Any]
    role: Role
    why: str

    def __str__(self) -> str:
        told = ", ".join(f"{key}={value!r}" for key, value in self.settings.items())
        return f"read as {self.parser}({told}), because {self.why}"


def guess_table(path: Path) -> Guess:
    """The parser of a file or folder. ValueError says what was seen and asks for a config."""
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise ValueError(f"check: {path}: no such file or folder; give a table, or -c CONFIG")
    if path.suffix == ".npz":
        named = read_headers(path)
        return Guess("MedMnist", {"path": str(path)}, "tables", f"it holds the arrays {', '.join(named)}")
    rows = list(itertools.islice(read_rows(path), LOOKED_AT))
    good = [row for row in rows if not row.problem]
    if not good:
        raise ValueError(
            f"check: {path}: none of the first {len(rows)} rows can be read; " + (rows[0].problem if rows else "it is empty")
        )
    columns = list(dict.fromkeys(key for row in good for key in row.values))
    guess = _of_columns(path, set(columns), {row.group for row in good} - {""})
    if guess is None:
        raise ValueError(
            f"check: {path}: no parser is known for the columns {', '.join(columns)}; name one in a config file, such as a "
            "copy of configs/data/vqa_rad.yaml (README lists the parsers)"
        )
    if "splits" in guess.settings:
        guess.settings["splits"] = sorted({str(row.values.get("split")) for row in good if row.values.get("split") is not None})
    return guess


def _of_folder(path: Path) -> Guess:
    for names, parser, key in (
        (("train.json", "validate.json", "test.json"), "Slake", "root"),
        (("mimic-cxr-2.0.0-metadata.csv",), "MimicCxrReports", "root"),
        (("mimic-cxr-2.0.0-metadata.csv.gz",), "MimicCxrReports", "root"),
        (("qas",), "PathVqa", "root"),
    ):
        if all((path / name).exists() for name in names):
            role: Role = "corpus" if parser == "MimicCxrReports" else "tables"
            return Guess(parser, {key: str(path)}, role, f"the folder holds {', '.join(names)}")
    if (path / "annotation.json").is_file():
        return Guess("IuXray", {"annotation": str(path / "annotation.json")}, "corpus", "the folder holds annotation.json")
    raise ValueError(f"check: {path} is a folder of no known layout; name its table file, or give -c CONFIG")


def _of_columns(path: Path, columns: set[str], groups: set[str]) -> Guess | None:
    """By the names of the columns; the more special layouts first."""
    file: dict[str, Any] = {"path": str(path)}
    split = {} if "split" in columns else {"split": _split_of(path)}
    if groups and groups <= set(SPLITS) and "report" in columns:
        return Guess("IuXray", {"annotation": str(path)}, "corpus", "it is an object of splits whose rows have `report`")
    if columns & {"messages", "conversations"}:
        settings = {"image_root": str(path.parent), _split_of(path): str(path)}
        return Guess("MessagesRows", settings, "tables", "its rows have `messages` or `conversations`")
    if columns >= {"question", "answer_type"} and columns & {"phrase_type", "image_name", "case"}:
        return Guess("VqaRad", file, "tables", "it has the columns of VQA-RAD")
    if "question" in columns:
        why = "it has a column `question`" + ("" if "split" in columns else " (and none for the split)")
        return Guess("JsonlQueries", {**file, **split}, "tables", why)
    labels, images = [name for name in LABELS if name in columns], [name for name in IMAGES if name in columns]
    if labels and images and "text" not in columns:
        name = "id" if "id" in columns else images[0]
        told: dict[str, Any] = {"metadata": str(path), "id_column": name, "image_column": images[0], "label_column": labels[0]}
        told |= {} if "split" in columns else {"split_column": None, "split": _split_of(path)}
        return Guess("ImageFolderMetadata", told, "tables", f"it has `{images[0]}` and `{labels[0]}`")
    if columns >= {"ID", "Caption"}:
        return Guess("CaptionPairs", {**file, "image_root": str(path.parent)}, "corpus", "it has `ID` and `Caption`")
    if "id" in columns and "image" in columns:
        named: dict[str, Any] = {**file, **({"splits": []} if "split" in columns else {})}
        if "patient" in columns and "patient_id" not in columns:
            named["fields"] = {"patient_id": "patient"}
        return Guess("JsonlCorpus", named, "corpus", "it has `id` and `image`, and no `question`")
    if columns >= {"id", "text"}:
        return Guess("TextCorpus", file, "corpus", "it has `id` and `text`, and no `image`")
    return None


def _split_of(path: Path) -> str:
    """The split that the file's name tells, else train."""
    words = path.name.lower().replace("-", "_").replace(".", "_").split("_")
    return next((str(SPLITS[word]) for word in words if word in SPLITS), "train")
