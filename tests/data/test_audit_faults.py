"""One look finds every fault of a data set, each with file and line, and quotes nothing of a row."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_files import picture

from medrag_lightning.data.audit.faults import Faults, find_faults
from medrag_lightning.data.audit.findings import Finding
from medrag_lightning.data.audit.table_reading import NamedTable, Role
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.tables import ImageFolderMetadata, JsonlCorpus, JsonlQueries, MedMnist, VqaRad
from medrag_lightning.records import Split

CANARY = "CANARY_Doe_1970"


def row(number: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    """A sound question; every tenth image is another one."""
    told = {"id": f"{CANARY}-{split}-{number}", "image": f"{CANARY}/{split}{number % 10}.png", "split": split}
    told |= {"question": f"is there an effusion {number}?", "patient_id": f"{CANARY}-{number}"}
    told |= {"answer": ("yes", "no")[number % 2], "choices": ["yes", "no"], "answer_type": "closed"}
    return {**told, **changes}


def hospital(folder: Path, rows: Sequence[dict[str, Any] | bytes], name: str = "all.jsonl") -> Path:
    """Writes rows (or lines as they are) and the images of `row`."""
    for split in Split:
        for number in range(10):
            (folder / CANARY).mkdir(parents=True, exist_ok=True)
            picture(number).save(folder / CANARY / f"{split}{number}.png")
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in rows]
    (folder / name).write_bytes(b"".join(lines))
    return folder / name


def sound_rows() -> list[dict[str, Any]]:
    return [row(n, split) for split, count in (("train", 60), ("val", 100), ("test", 100)) for n in range(count)]


def look(*tables: Any, roles: Sequence[Role] = ("tables",), **options: Any) -> Faults:
    named = [NamedTable(table, "my.yaml:3", frozenset(roles), (table.path,)) for table in tables]
    return find_faults(named, workers=0, **options)


def of_kind(findings: Sequence[Finding], kind: str) -> list[str]:
    return [one.where.removeprefix(f"{Path(one.where.split('#')[0]).parent}/") for one in findings if one.kind == kind]


def test_a_sound_hospital_has_no_faults(tmp_path: Path) -> None:
    found = look(JsonlQueries(str(hospital(tmp_path, sound_rows())), check_images=False), roles=["tables", "corpus"])
    assert [one.kind for one in found.findings] == ["image_reused"]
    assert {str(split): len(mine) for split, mine in found.queries.items()} == {"train": 60, "val": 100, "test": 100}
    assert len(found.corpus) == 60
    assert len(found.facts) == 30
    assert found.counts == {"questions": 260, "documents": 60, "images": 30}


BAD_ROWS: list[tuple[str, dict[str, Any] | bytes]] = [
    ("id_repeated", row(0)),
    ("answer_outside_choices", row(1000, answer="Yes " + CANARY)),
    ("choices_missing", row(1001, choices=[], answer=CANARY)),
    ("choices_missing", row(1002, choices=["yes"], answer="yes")),
    ("choices_repeat", row(1003, choices=["yes", "yes"])),
    ("choices_unused", row(1004, answer_type="open")),
    ("text_empty", row(1005, question="  ")),
    ("text_empty", row(1006, id="")),
    ("key_missing", {key: value for key, value in row(1007).items() if key != "question"}),
    ("key_misspelt", {("patient" if key == "patient_id" else key): value for key, value in row(1008).items()}),
    ("not_utf8", b'{"id": "' + CANARY.encode() + b'", "question": "M\xfcller?"}\n'),
    ("row_broken", b'{"id": "' + CANARY.encode() + b'", \n'),
    ("row_broken", b'["' + CANARY.encode() + b'"]\n'),
    ("row_broken", b'{"id": "a", "id": "' + CANARY.encode() + b'"}\n'),
    ("split_unknown", row(1009, split=CANARY)),
    ("image_outside", row(1010, image=f"https://example.org/{CANARY}.png")),
    ("image_outside", row(1011, image=f"../../{CANARY}.png")),
    ("row_refused", row(1012, question=[CANARY])),
    ("row_refused", row(1013, answer_type=CANARY)),
    ("image_missing", row(1014, image=f"{CANARY}/gone.png")),
]


def test_every_bad_row_is_found_with_its_line_beside_the_others(tmp_path: Path) -> None:
    path = hospital(tmp_path, [*sound_rows(), *(bad for _, bad in BAD_ROWS)])
    found = look(JsonlQueries(str(path), check_images=False))
    of_line = {one.where.rsplit(":", 1)[-1]: one for one in found.findings if one.severity == "error"}
    assert {line: one.kind for line, one in of_line.items()} == {str(261 + n): kind for n, (kind, _) in enumerate(BAD_ROWS)}
    assert all(one.where.startswith(f"{path}:") and one.remedy for one in of_line.values())
    assert of_line["261"].what == f"the id was already used at {path}:1"
    assert of_line["273"].what.startswith("a list where")
    assert CANARY not in "".join(f"{one.kind}{one.what}{one.remedy}" for one in found.findings)
    assert len(found.queries[Split.TRAIN]) == 61  # the good ones, and the one whose image is missing


def test_more_bad_rows_than_a_message_shows(tmp_path: Path) -> None:
    bad = [row(2000 + n, question="") for n in range(120)]
    found = look(JsonlQueries(str(hospital(tmp_path, [*sound_rows(), *bad])), check_images=False))
    assert len(of_kind(found.findings, "text_empty")) == 120


def test_a_table_that_cannot_be_read_does_not_hide_another(tmp_path: Path) -> None:
    good = JsonlQueries(str(hospital(tmp_path, sound_rows())), check_images=False)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a"}\n' * 999)[:-20])
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "a.npz").write_bytes(b"PK no")
    others = [JsonlQueries(str(tmp_path / name)) for name in ("gone.jsonl", "empty.jsonl", "cut.jsonl.gz", "a.parquet")]
    found = look(*others, MedMnist(str(tmp_path / "a.npz"), class_names=["a", "b"]), good)
    kinds = [one.kind for one in found.findings if one.severity == "error"]
    assert kinds.count("table_missing") == kinds.count("table_empty") == 1
    assert kinds.count("table_unreadable") >= 3
    assert len(found.queries[Split.TRAIN]) == 60


def test_labels_of_arrays(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {}
    for split in Split:
        arrays[f"{split}_images"] = np.random.default_rng(0).integers(0, 256, (120, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(120).reshape(-1, 1) % 2
    arrays["train_labels"][60:, 0] = 7
    np.savez(tmp_path / "a.npz", **arrays)
    found = look(MedMnist(str(tmp_path / "a.npz"), class_names=["a", "b"]))
    assert len(of_kind(found.findings, "label_unknown")) == 60
    assert of_kind(found.findings, "label_unknown")[0] == "a.npz#train_labels/60"
    arrays["train_labels"] %= 2
    arrays["test_images"][3] = 5
    np.savez(tmp_path / "a.npz", **arrays)
    found = look(MedMnist(str(tmp_path / "a.npz"), class_names=["a", "b"]))
    assert [(one.kind, one.where) for one in found.findings] == [("image_blank", "a.npz#test_images/3")]


def test_ids_across_tables_and_roles(tmp_path: Path) -> None:
    one = hospital(tmp_path, sound_rows())
    other = hospital(tmp_path, [row(5), row(3000)], "more.jsonl")
    found = look(JsonlQueries(str(one), check_images=False), JsonlQueries(str(other), check_images=False))
    assert of_kind(found.findings, "id_repeated") == ["more.jsonl:1"]
    told = next(finding.what for finding in found.findings if finding.kind == "id_repeated")
    assert told == f"the id was already used at {one}:6, in another table of data.tables"


def test_bytes_of_files(tmp_path: Path) -> None:
    lines = [json.dumps(one).encode() + b"\r\n" for one in sound_rows()]
    lines[0] = b"\xef\xbb\xbf" + lines[0]
    lines[4] = lines[4].replace(b"effusion", b"\xef\xbb\xbfeffusion")
    found = look(JsonlQueries(str(hospital(tmp_path, lines)), check_images=False))
    assert [(one.kind, one.severity, one.where.rsplit(":", 1)[-1]) for one in found.findings] == [
        ("byte_order_mark", "note", "1"),
        ("byte_order_mark", "warning", "5"),
        ("line_ends", "note", "1"),
        ("image_reused", "note", "61"),
    ]
    path = tmp_path / "captions.csv"
    path.write_bytes(b"id,text\n1,caf\xe9\n2,b\n3,na\xefve\n")
    found = look(JsonlCorpus(str(path)), roles=["corpus"])
    assert of_kind(found.findings, "not_utf8") == ["captions.csv:2", "captions.csv:4"]  # the parser stops at the first
    assert "WINDOWS-1252" in found.findings[0].what
    path.write_bytes("id,text\n1,a\n".encode("utf-16"))
    found = look(JsonlCorpus(str(path)), roles=["corpus"])
    assert [(one.kind, "UTF-16" in one.what) for one in found.findings] == [("not_utf8", True)]


def test_damaged_texts(tmp_path: Path) -> None:
    texts = ["sound: naïve, 5 µm, “quoted”", "lost: caf\ufffd", "twice: cafÃ©", "twice: itâ€™s", "control \x07"]
    rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    path = hospital(tmp_path, rows, "corpus.jsonl")
    found = look(JsonlCorpus(str(path)), roles=["corpus"])
    assert of_kind(found.findings, "text_damaged") == ["corpus.jsonl:2", "corpus.jsonl:3", "corpus.jsonl:4"]
    assert of_kind(found.findings, "control_characters") == ["corpus.jsonl:5"]


def test_splits_and_answers(tmp_path: Path) -> None:
    rows = [row(n, answer="yes") for n in range(30)] + [row(n, "test", answer="no") for n in range(25)]
    rows += [row(100, "test", answer=None), row(0, "train", id="again", answer="yes"), row(1, "train", id="other", answer="no")]
    path = hospital(tmp_path, rows)
    found = look(JsonlQueries(str(path), check_images=False)).findings
    told = {(one.kind, one.where.rsplit("/", 1)[-1]): one for one in found}
    assert told["split_empty", "split val"].severity == "warning"
    assert {("split_tiny", "split train"), ("split_tiny", "split test"), ("answer_missing", "split test")} <= set(told)
    assert "+- 20 points" in told["split_tiny", "split test"].what
    assert told["answer_constant", "split test"].what.startswith("all 25 questions with 2 choices")
    assert ("answer_constant", "split train") not in told
    assert told["question_repeated", "all.jsonl:1"].what.endswith(f"stands 2 times: {path}:1, {path}:57")
    assert told["answers_conflict", "all.jsonl:2"].severity == "warning"
    found = look(JsonlQueries(str(path), check_images=False), only="open").findings
    assert [one.severity for one in found if one.kind == "split_empty"] == ["error", "warning", "warning"]


def test_a_class_that_training_never_shows(tmp_path: Path) -> None:
    choices = ["a", "b", "c"]
    rows = [row(n, "train", answer=choices[n % 2], choices=choices) for n in range(60)]
    rows += [row(n, "test", answer=choices[n % 3], choices=choices) for n in range(30)]
    found = look(JsonlQueries(str(hospital(tmp_path, rows)), check_images=False)).findings
    (told,) = [one for one in found if one.kind == "class_not_in_train"]
    assert told.what == "'c' is the answer of 10 questions of test, and of none of train"


def test_arrays_that_lost_rows_are_not_blamed_for_it(tmp_path: Path) -> None:
    rows = [{"id": str(n), "label": "ab"[n % 2], "split": "train"} for n in range(60)]
    rows[7]["split"] = "nowhere"
    np.savez(tmp_path / "a.npz", train_images=np.zeros((60, 8, 8), np.uint8))
    path = hospital(tmp_path, rows, "meta.jsonl")
    found = look(ImageFolderMetadata(str(path), npz=str(tmp_path / "a.npz"))).findings
    assert [one.kind for one in found if one.severity == "error"] == ["split_unknown"]


def test_what_a_parser_says_in_the_log_is_told_without_ids(tmp_path: Path) -> None:
    rows = [row(n, case=str(n), answer="left" if n == 3 else "yes") for n in range(60)]
    found = look(VqaRad(str(hospital(tmp_path, rows)), check_images=False)).findings
    (told,) = [one for one in found if one.kind == "parser_says"]
    assert told.what.endswith("kept as open questions")
    assert CANARY not in told.what


def test_the_shipped_hospital_is_sound(tmp_path: Path) -> None:
    table = MiniHospital(seed=1, size=96, folder=str(tmp_path), texts=True)
    found = find_faults([NamedTable(table, "a.yaml:1", frozenset(["tables", "corpus"]))], workers=0)
    assert {one.kind for one in found.findings} <= {"image_reused", "split_tiny"}


@pytest.mark.parametrize("heavy", ["torch,lightning,jsonargparse,transformers,faiss,sklearn,peft,trl,pandas"])
def test_a_look_needs_nothing_heavy(tmp_path: Path, heavy: str) -> None:
    path = hospital(tmp_path, [*sound_rows(), row(1000, answer="maybe")])
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy.split(",")}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Refuse())
from medrag_lightning.cli import main
main(["check", {str(path)!r}, "--only", "data", "--workers", "2", "--json", {str(tmp_path / "found.json")!r}])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    told = json.loads((tmp_path / "found.json").read_text())
    assert [one["kind"] for one in told["findings"] if one["severity"] == "error"] == ["answer_outside_choices"]
    assert CANARY not in ended.stdout + json.dumps(told)
