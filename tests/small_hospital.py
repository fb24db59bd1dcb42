"""A small hospital as a reader of the README would have it: two files of rows, one picture a patient, six words a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": 16, "val": 6, "test": 6}  # patients; each has a picture, a question with choices and one without
SIDE_PX, FIELD_PX = 48, 6
TOLD = """
    heart lung left right upper lower lobe clear dense small large round sharp vague margin apex base rib shadow line chalky
    stable new old mild marked catheter wire vessel hilum pleura fluid air level tilt bone soft node scar patch streak
"""
WORDS = TOLD.split()


def write_hospital(folder: Path) -> Path:
    """Writes ``questions.jsonl``, ``reports.jsonl``, ``rows.jsonl`` (an export to look at) and the pictures.

    Args:
        folder: made if it is not there.

    Returns:
        The picture of a test patient.
    """
    folder.mkdir(parents=True, exist_ok=True)
    questions: list[dict[str, object]] = []
    reports: list[dict[str, object]] = []
    for number, split in enumerate(split for split, count in SPLITS.items() for _ in range(count)):
        patient = {"image": f"film{number}.png", "patient_id": f"P{number}", "study_id": f"S{number}"}
        effusion = number % 2 == 1
        _picture(number, effusion).save(folder / f"film{number}.png")
        questions += _questions(number, split, effusion, patient)
        if split == "train":
            text = " ".join(np.random.default_rng(number).choice(WORDS, 6, replace=False))
            told = f"{text}, {'an effusion' if effusion else 'no effusion'}"
            reports.append({"id": f"r{number}", "text": told, "source": "ward (synthetic)", "license": "CC0-1.0", **patient})
    for name, rows in {"questions": questions, "reports": reports, "rows": questions}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / f"film{number}.png"


def _questions(number: int, split: str, effusion: bool, patient: dict[str, str]) -> list[dict[str, object]]:
    closed = {"question": "is there an effusion?", "answer": "yes" if effusion else "no", "choices": ["yes", "no"]}
    opened = {"question": "what stands in the middle?", "answer": WORDS[number % 4]}
    return [{"id": f"q{number}{kind}", "split": split, **row, **patient} for kind, row in (("a", closed), ("b", opened))]


def _picture(number: int, bright: bool) -> Image.Image:
    """A smooth random field of the patient's own, so that no two pictures are alike; brighter below with an effusion."""
    field = np.random.default_rng(1000 + number).uniform(0, 200, (FIELD_PX, FIELD_PX))
    field[-1] += 55.0 * bright
    return Image.fromarray(field.astype(np.uint8)).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).convert("RGB")
