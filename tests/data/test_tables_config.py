"""Every parser is built from YAML by its class path, and a misspelt or mistyped setting is refused there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from medrag_lightning.data import tables
from medrag_lightning.interfaces import Table

SETTINGS: dict[str, dict[str, Any]] = {
    "CaptionPairs": {"path": "c.csv", "image_root": "i", "missing_images": "skip"},
    "CaptionedImages": {"folder": "f", "captions": "c.csv", "fields": {"caption": "words"}},
    "CaptionsAsQuestions": {
        "tables": [{"class_path": "medrag_lightning.data.tables.TextCorpus", "init_args": {"path": "t.jsonl"}}],
        "max_chars": 400,
    },
    "DistinctCorpus": {
        "tables": [{"class_path": "medrag_lightning.data.tables.TextCorpus", "init_args": {"path": "t.jsonl"}}],
        "texts": True,
    },
    "ImageFolderMetadata": {"metadata": "m.csv", "class_names": {"nv": "melanocytic nevi"}},
    "IuXray": {"annotation": "a.json", "images_per_study": "first"},
    "JsonlCorpus": {"path": "c.jsonl", "fields": {"patient_id": "patient"}, "splits": ["train"]},
    "JsonlQueries": {"path": "q.jsonl", "split": "test"},
    "MedMnist": {"path": "breastmnist.npz"},
    "MessagesRows": {"image_root": "i", "train": "t.jsonl", "turns": "split"},
    "MimicCxrReports": {"root": "mimic", "views": ["PA"]},
    "Ontology": {"path": "terms.jsonl", "triples": "triples.tsv"},
    "Pages": {"folder": "wiki", "chunk_chars": 500, "overlap_chars": 100},
    "PathVqa": {"root": "p", "files": {"train": "a.jsonl"}},
    "PubMedQa": {"path": "q.jsonl", "val_share": 0.1, "test_share": 0.3},
    "Slake": {"root": "s", "language": None},
    "SummarisedPages": {
        "pages": {"class_path": "medrag_lightning.data.tables.Pages", "init_args": {"folder": "wiki"}},
        "summariser": {"class_path": "medrag_lightning.data.lead_summariser.LeadSentences", "init_args": {"sentences": 2}},
    },
    "TextCorpus": {"path": "t.jsonl", "fields": {"text": "contents"}, "limit": 5},
    "VqaRad": {"path": "v.jsonl", "val_share": 0.1},
}


def build(text: str) -> list[Table]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--tables", type=list[Table])
    return parser.instantiate(parser.parse_string(text)).tables  # type: ignore[no-any-return]


def entry(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"medrag_lightning.data.tables.{name}", "init_args": settings}


def test_all_parsers_build_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sorted(SETTINGS) == sorted(tables.__all__)
    built = build(yaml.safe_dump({"tables": [entry(name, settings) for name, settings in SETTINGS.items()]}))
    assert [type(table).__name__ for table in built] == list(SETTINGS)


@pytest.mark.parametrize("wrong", [{"pathh": "a"}, {"path": "a", "check_images": "perhaps"}, {"path": "a", "val_share": "x"}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        build(yaml.safe_dump({"tables": [entry("VqaRad", wrong)]}))
