"""What parsers say of a row becomes a kind of fault, and nothing of the row is quoted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medrag_lightning.data.audit.row_kinds import row_finding, without_values
from medrag_lightning.data.audit.table_reading import NamedTable, read_table
from medrag_lightning.data.tables import CaptionPairs, ImageFolderMetadata, IuXray, JsonlCorpus, MessagesRows, Slake, VqaRad

CANARY = "CANARY_Doe"
TALK = [{"role": "user", "content": f"{CANARY}?"}, {"role": "assistant", "content": "yes"}]
CASES: dict[str, tuple[type[Any], str, dict[str, Any], dict[str, Any], str]] = {
    "two images": (MessagesRows, "train", {"image_root": "."}, {"messages": TALK, "images": [CANARY, "b"]}, "row_refused"),
    "role": (MessagesRows, "train", {"image_root": "."}, {"messages": [{"role": CANARY, "content": "a"}]}, "row_refused"),
    "turns": (MessagesRows, "train", {"image_root": "."}, {"messages": TALK * 2}, "row_refused"),
    "empty message": (
        MessagesRows,
        "train",
        {"image_root": "."},
        {"messages": [TALK[0], {"role": "assistant", "content": ""}]},
        "text_empty",
    ),
    "no talk": (MessagesRows, "train", {"image_root": "."}, {"messages": []}, "key_missing"),
    "mark": (VqaRad, "path", {}, {"id": CANARY, "image": CANARY, "question": "?", "answer_type": CANARY}, "row_refused"),
    "no answer": (
        VqaRad,
        "path",
        {},
        {"id": CANARY, "image": CANARY, "question": "?", "answer_type": "open", "split": "train"},
        "key_missing",
    ),
    "split": (JsonlCorpus, "path", {}, {"id": CANARY, "text": CANARY, "split": CANARY}, "split_not_chosen"),
    "nothing": (JsonlCorpus, "path", {}, {"id": CANARY}, "text_empty"),
    "mapped": (JsonlCorpus, "path", {"fields": {"text": "report"}}, {"id": CANARY}, "key_missing"),
    "label": (
        ImageFolderMetadata,
        "metadata",
        {"class_names": {"a": "a", "b": "b"}},
        {"id": CANARY, "image": CANARY, "label": CANARY, "split": "train"},
        "label_unknown",
    ),
    "column": (
        ImageFolderMetadata,
        "metadata",
        {},
        {"id": CANARY, "image": CANARY, "split": "train"},
        "key_missing",
    ),
    "caption": (CaptionPairs, "path", {"image_root": "."}, {"ID": f"../{CANARY}", "Caption": CANARY}, "image_outside"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_parsers_refuse_has_a_kind(case: str, tmp_path: Path) -> None:
    table, file, settings, row, kind = CASES[case]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    named = {key: str(tmp_path) if value == "." else value for key, value in settings.items()}
    made = table(**{file: str(tmp_path / "rows.jsonl")}, **named)
    read = read_table(NamedTable(made, "my.yaml:3", frozenset(["tables", "corpus"])))
    (found,) = [one for one in read.findings if one.severity == "error"]
    assert (found.kind, found.where) == (kind, f"{tmp_path / 'rows.jsonl'}:1")
    assert CANARY not in found.what + found.remedy
    assert len(found.what) > 15


def test_other_layouts(tmp_path: Path) -> None:
    (tmp_path / "annotation.json").write_text(json.dumps({"train": [{"id": CANARY, "report": "", "image_path": ["a.png"]}]}))
    read = read_table(NamedTable(IuXray(str(tmp_path / "annotation.json")), "my.yaml:3", frozenset(["corpus"])))
    assert [one.kind for one in read.findings] == ["text_empty"]
    read = read_table(NamedTable(Slake(str(tmp_path)), "my.yaml:3", frozenset(["tables"])))
    assert [(one.kind, one.where) for one in read.findings] == [("table_missing", "my.yaml:3")]


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("key 'answer' is 'Doe'; expected x", "key 'answer' is '...'; expected x"),
        ("key 'text' holds ['Doe', 'Ja..., a list; expected a text", "key 'text' holds a list; expected a text"),
        ("there is no file /data/Doe/a.png (Doe)", "there is no file (a file) (Doe)"),
        ("cut 'Doe and so on", "cut '...'"),
    ],
)
def test_values_are_masked(message: str, kept: str) -> None:
    assert without_values(message) == kept


def test_places_keep_their_colons() -> None:
    found = row_finding("C:/my data: new/a.jsonl:12: id 'x' was already used at C:/a.jsonl:3; ids must be unique")
    assert (found.where, found.what) == ("C:/my data: new/a.jsonl:12", "the id was already used at C:/a.jsonl:3")
    assert row_finding("/d/a.npz#test_labels/5: label [9] is not in 0..1").where == "/d/a.npz#test_labels/5"
    assert row_finding("/d/a.npz: there is no array train_labels; it holds none").where == "/d/a.npz"
