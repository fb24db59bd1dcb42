"""Identifiers of patients, planted wherever a hospital's files hold them, and looked for in every byte that a run leaves.

A small world: DICOM films whose tags, file names and folder name people, tables with patient and study ids. Commands of
their own check, train, test, report and export it; then every file they wrote and all they printed is searched, and what is
packed in them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CANARIES = ("CANARYNAME", "CANARYMRN", "CANARYSTUDY", "19770707", "CANARYFILE", "CANARYFOLDER")
COUNT = 24
COLOURS = ("dark", "bright")


def world(folder: Path) -> Path:
    """Writes films, a table of questions and a corpus; gives the config that reads them."""
    place = folder / "CANARYFOLDER^JANE"
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    questions, corpus = [], []
    for n in range(COUNT):
        split = ("train", "val", "test")[n % 3]
        name = f"CANARYFILE_{n}.dcm"
        _film(place / name, np.asarray(rng.integers(0, 60, (40, 40)) + 160 * (n % 2), np.uint8), n)
        ids = {"patient_id": f"CANARYMRN{n}", "study_id": f"CANARYSTUDY{n}", "image": name}
        questions.append({"id": f"q{n}", "question": "dark or bright?", "answer": COLOURS[n % 2], "choices": COLOURS,
                          "split": split, **ids})  # fmt: skip
        if split == "train":
            corpus.append({"id": f"d{n}", "text": f"the film is {COLOURS[n % 2]}", "license": "CC0", **ids})
    for file, rows in (("questions.jsonl", questions), ("corpus.jsonl", corpus)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = "medrag_lightning.data.tables.our_jsonl"
    told = {
        "tables": [{"class_path": f"{tables}.JsonlQueries", "init_args": {"path": "${CANARY_WORLD}/questions.jsonl",
                    "image_root": "${CANARY_IMAGES}", "dataset": "hospital"}}],
        "corpus": [{"class_path": f"{tables}.JsonlCorpus", "init_args": {"path": "${CANARY_WORLD}/corpus.jsonl",
                    "image_root": "${CANARY_IMAGES}", "dataset": "hospital"}}],
    }  # fmt: skip
    config = folder / "world.yaml"
    config.write_text(json.dumps({"data": {"init_args": {**told, "regimes": ["retrieved", "none"], "batch_size": 8}}}))
    return config


def _film(path: Path, pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]], number: int) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.PatientName, data.PatientID = f"CANARYNAME^Jane{number}", f"CANARYMRN{number}"
    data.PatientBirthDate, data.AccessionNumber, data.StudyDate = "19770707", f"CANARYSTUDY{number}", "20200101"
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "DX", "MONOCHROME2", 1
    (data.Rows, data.Columns), data.BitsAllocated, data.BitsStored, data.HighBit = pixels.shape, 8, 8, 7
    data.PixelRepresentation, data.PixelData = 0, pixels.tobytes()
    data.WindowCenter, data.WindowWidth = 128, 256
    data.save_as(path, enforce_file_format=True)


def commands(config: Path, run: Path) -> Iterator[list[str]]:
    """The verbs that are tried, in order; those that this version lacks are passed over by the caller."""
    small = ["--trainer.max_epochs", "1", "--trainer.default_root_dir", str(run)]
    yield [
        "check",
        "-c",
        "data/minihospital",
        "-c",
        str(config),
        "--only",
        "data",
        "leaks",
        "--json",
        str(run.parent / "check.json"),
    ]
    yield ["fit", "-c", "data/minihospital", "-c", "smoke", "-c", str(config), *small]
    yield ["report", str(run), "--output", str(run.parent / "report.html")]
    yield ["export", str(run), "--ckpt_path", "best", "--output", str(run.parent / "bundle")]
    yield ["verify", str(run.parent / "bundle")]
    yield ["answer", str(run.parent / "bundle"), "--question", "dark or bright?", "--choices", "dark,bright"]


def canaries_found(folder: Path) -> dict[str, int]:
    """Runs every verb that is there on the world; how many ran, how many bytes were searched, how many canaries found."""
    from medrag_lightning.cli.help import VERB_HELP

    config, run = world(folder / "world"), folder / "out" / "run"
    run.parent.mkdir()
    images = folder / "world" / "CANARYFOLDER^JANE"
    environment = {**os.environ, "CANARY_WORLD": str(folder / "world"), "CANARY_IMAGES": str(images)}
    verbs, ran = list(commands(config, run)), 0
    for command in verbs:
        if command[0] not in VERB_HELP:
            continue
        done = subprocess.run([sys.executable, "-m", "medrag_lightning", *command], env=environment, capture_output=True,
                              cwd=folder / "out", check=False)  # fmt: skip
        (folder / "out" / f"{command[0]}.printed").write_bytes(done.stdout + done.stderr)
        print(f"canaries: {command[0]} ended with {done.returncode}", flush=True)
        ran += done.returncode == 0
    found, searched = search(folder / "out", folder)
    for name, words in found:
        print(f"FAILED   canary {words} in {name}")
    return {"canaries": len(found), "canary_verbs_run": ran, "canary_bytes_searched": searched}


def search(produced: Path, root: Path) -> tuple[list[tuple[str, str]], int]:
    """(file, canary) for every canary in a file's name or bytes, or in what is packed in it; and how many bytes were read.

    The evidence store under ``evidence`` is left out: the leak rule compares patients there, so it is patient data, as its
    documentation says, and is never handed on.
    """
    found, searched = [], 0
    for path in sorted(produced.rglob("*")):
        if not path.is_file() or path.name == "documents.arrow":
            continue
        contents = [path.relative_to(root).as_posix().encode(), path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for content in contents:
            searched += len(content)
            for canary in CANARIES:
                if canary.encode() in content or canary.encode("utf-16-le") in content:
                    found.append((path.relative_to(produced).as_posix(), canary))
    return found, searched
