"""Classification sets as closed questions: MedMNIST files, and an image folder with a metadata table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from table_files import image_at, jsonl

from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.tables import ImageFolderMetadata, MedMnist
from medrag_lightning.data.tables.medmnist_tasks import TASKS
from medrag_lightning.interfaces import Table
from medrag_lightning.records import Split, shares_identity

SIZES = {"train": 4, "val": 2, "test": 3}


def medmnist_file(path: Path, classes: int, labels_each: int = 1, colour: bool = False, **changes: Any) -> str:
    arrays: dict[str, Any] = {}
    for split, n in SIZES.items():
        arrays[f"{split}_images"] = np.full((n, 8, 8, 3) if colour else (n, 8, 8), 7, np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n * labels_each) % classes).astype(np.uint8).reshape(n, labels_each)
    np.savez_compressed(path, **(arrays | changes))
    return str(path)


def test_breast_label_0_is_malignant(tmp_path: Path) -> None:
    table = MedMnist(medmnist_file(tmp_path / "breastmnist_64.npz", 2))
    assert isinstance(table, Table)
    queries = table.queries()
    assert [q.id for q in queries[:2]] == ["breastmnist-train-0", "breastmnist-train-1"]
    assert queries[0].choices == ("malignant", "normal or benign")
    assert [q.answer for q in queries[:2]] == ["malignant", "normal or benign"]
    assert [sum(q.split == split for q in queries) for split in Split] == [4, 2, 3]
    documents = table.documents()
    assert [d.text for d in documents[:2]] == ["diagnosis: malignant", "diagnosis: normal or benign"]
    assert shares_identity(queries[1], documents[1]) == "id"
    assert ImageStore(table.roots())(queries[8].image).size == (8, 8)  # type: ignore[arg-type]


def test_chest_asks_for_each_label(tmp_path: Path) -> None:
    path = medmnist_file(tmp_path / "chestmnist.npz", 2, labels_each=14)
    table = MedMnist(path, labels=["mass", "hernia"])
    queries = table.queries()
    assert len(queries) == 2 * 9
    assert queries[0].question == "does this chest X-ray show mass?"
    assert [q.answer for q in queries[:2]] == ["no", "yes"]
    assert queries[1].id == "chestmnist-train-0-hernia"
    document = table.documents()[0]
    assert document.text.startswith("findings: cardiomegaly, infiltration, nodule")
    assert shares_identity(queries[0], document) == "image"
    with pytest.raises(ValueError, match="unknown class names"):
        MedMnist(path, labels=["flu"])


def test_the_twelve_sets_have_different_names_and_read(tmp_path: Path) -> None:
    assert len(TASKS) == 12
    for flag, task in TASKS.items():
        assert len(set(task.class_names)) == len(task.class_names) >= 2
        classes, labels_each = (2, 14) if task.multi_label else (len(task.class_names), 1)
        path = medmnist_file(tmp_path / f"{flag}.npz", classes, labels_each, colour=True)
        queries = MedMnist(path).queries()
        assert len(queries) == 9 * (14 if task.multi_label else 1)


def test_names_for_other_sets(tmp_path: Path) -> None:
    path = medmnist_file(tmp_path / "mine.npz", 2)
    with pytest.raises(ValueError, match="unknown set 'mine'; give class_names"):
        MedMnist(path)
    (tmp_path / "info.json").write_text('{"label": {"0": "cat", "1": "dog, wolf"}}')
    assert MedMnist(path).queries()[0].choices == ("cat", "dog or wolf")
    table = MedMnist(path, class_names=["a", "b"], question="which?", finding="kind", modality="CT")
    assert (table.queries()[1].question, table.queries()[1].answer, table.documents()[1].text) == ("which?", "b", "kind: b")
    with pytest.raises(ValueError, match="two or more different names"):
        MedMnist(path, class_names=["a", "a"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_labels": np.array([[0], [2]], np.uint8)}, r"breastmnist\.npz#val_labels/1: label \[2\] is not in 0\.\.1"),
        ({"val_labels": np.zeros((5, 1), np.uint8)}, r"val_labels is uint8 \(5, 1\) for 2 images"),
        ({"test_images": np.zeros((3, 8, 8, 8), np.uint8)}, "3D sets are not read"),
        ({"test_labels": np.zeros((3, 1))}, "test_labels is float64"),
    ],
)
def test_medmnist_faults(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = medmnist_file(tmp_path / "breastmnist.npz", 2, **changes)
    with pytest.raises(ValueError, match=said):
        MedMnist(path).queries()


def test_medmnist_without_a_split_or_readable_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "breastmnist.npz", train_images=np.zeros((1, 8, 8), np.uint8), train_labels=np.zeros((1, 1), np.uint8))
    with pytest.raises(ValueError, match=r"(?s)no array val_images or val_labels.*no array test_images"):
        MedMnist(str(tmp_path / "breastmnist.npz")).queries()
    with pytest.raises(ValueError, match=r"breastmnist_28\.npz: no such file"):
        MedMnist(str(tmp_path / "breastmnist_28.npz")).queries()
    with pytest.raises(ValueError, match="only for multi-label sets"):
        MedMnist(medmnist_file(tmp_path / "breastmnist.npz", 2), labels=["malignant"]).queries()


HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset\n"


def test_ham10000_csv(tmp_path: Path) -> None:
    for name in ("ISIC_1", "ISIC_2", "ISIC_3"):
        image_at(tmp_path / "images" / f"{name}.jpg")
    lines = "L1,ISIC_1,nv,histo,80,male,scalp,x\nL1,ISIC_2,nv,histo,80,male,scalp,x\nL2,ISIC_3,mel,histo,,female,back,x\n"
    (tmp_path / "HAM10000_metadata.csv").write_text(HAM + lines)
    table = ImageFolderMetadata(
        str(tmp_path / "HAM10000_metadata.csv"),
        image_root=str(tmp_path / "images"),
        id_column="image_id",
        image_column="image_id",
        image_extension="jpg",
        label_column="dx",
        class_names={"mel": "melanoma", "nv": "melanocytic nevi"},
        split_column=None,
        split="train",
        study_column="lesion_id",
    )
    assert isinstance(table, Table)
    first, _, third = table.queries()
    assert (first.answer, first.choices, third.answer) == ("melanocytic nevi", ("melanoma", "melanocytic nevi"), "melanoma")
    assert shares_identity(first, table.documents()[1]) == "study_id"
    assert table.documents()[2].text == "diagnosis: melanoma"
    assert table.roots() == [tmp_path / "images"]


def folder_rows(tmp_path: Path) -> list[dict[str, Any]]:
    rows = []
    for n, split in enumerate(["train", "val", "train", "test", "train"]):
        image_at(tmp_path / f"{n}.jpg")
        rows.append({"id": f"i{n}", "image": f"{n}.jpg", "label": "mel" if n % 3 else "nv", "split": split})
    return rows


def test_images_from_an_npz_file_in_table_order(tmp_path: Path) -> None:
    rows = folder_rows(tmp_path)
    path = str(jsonl(tmp_path / "m.jsonl", rows))
    number = {"mel": 4, "nv": 5}
    arrays: dict[str, Any] = {}
    for split in Split:
        mine = [row for row in rows if row["split"] == split]
        arrays[f"{split}_images"] = np.zeros((len(mine), 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.array([[number[row["label"]]] for row in mine], np.uint8)
    np.savez(tmp_path / "a.npz", **arrays)
    table = ImageFolderMetadata(path, npz=str(tmp_path / "a.npz"))
    assert [str(q.image).rsplit("#")[1] for q in table.queries()] == [
        *("train_images/0", "val_images/0", "train_images/1", "test_images/0", "train_images/2")
    ]
    np.savez(tmp_path / "b.npz", **(arrays | {"train_labels": arrays["train_labels"][::-1]}))
    with pytest.raises(ValueError, match=r"(?s)b\.npz#train_labels/2: label 5, but .* says 'mel' there.*not in the same order"):
        ImageFolderMetadata(path, npz=str(tmp_path / "b.npz")).queries()
    np.savez(tmp_path / "c.npz", **(arrays | {"val_images": np.zeros((2, 8, 8, 3), np.uint8)}))
    with pytest.raises(ValueError, match=r"val_images holds 2 images, .* has 1 val rows"):
        ImageFolderMetadata(path, npz=str(tmp_path / "c.npz")).queries()
    with pytest.raises(ValueError, match="with npz the images come from that file"):
        ImageFolderMetadata(path, npz=str(tmp_path / "a.npz"), image_root=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": None}, "key 'label' is empty"),
        ({"image": "x.jpg"}, "image 'x.jpg' is not there"),
        ({"id": "i0"}, "id 'i0' was already used"),
        ({"split": "fold1"}, "'split' is 'fold1'"),
    ],
)
def test_folder_faults(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = folder_rows(tmp_path)
    path = jsonl(tmp_path / "m.jsonl", [rows[0], rows[1] | change, *rows[2:]])
    with pytest.raises(ValueError, match=rf"m\.jsonl:2: {said}"):
        ImageFolderMetadata(str(path)).queries()


def test_unknown_labels_and_unused_settings(tmp_path: Path) -> None:
    path = str(jsonl(tmp_path / "m.jsonl", folder_rows(tmp_path)))
    with pytest.raises(ValueError, match=r"m\.jsonl:1: key 'label' is 'nv'; class_names has mel, bcc"):
        ImageFolderMetadata(path, class_names={"mel": "melanoma", "bcc": "carcinoma"}).queries()
    with pytest.raises(ValueError, match="give either split_column"):
        ImageFolderMetadata(path, split="train")
