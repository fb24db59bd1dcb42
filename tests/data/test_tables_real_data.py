"""The public medical data as it lies on disk: counts as its README states them, and every image opens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.tables import ImageFolderMetadata, JsonlCorpus, MedMnist, VqaRad
from medrag_lightning.interfaces import Table
from medrag_lightning.records import AnswerType, Query, shares_identity

pytestmark = pytest.mark.data


def counts(queries: list[Query]) -> list[int]:
    found = Counter(query.split for query in queries)
    return [found["train"], found["val"], found["test"]]  # type: ignore[index]


def opens(table: Table, step: int) -> None:
    """Opens every `step`-th image of a table."""
    store = ImageStore(table.roots())
    items = [*table.queries(), *table.documents()]
    refs = {str(item.image): item.image for item in items if item.image is not None}
    for ref in list(refs.values())[::step]:
        assert store(ref).mode == "RGB"


@pytest.mark.parametrize(
    ("name", "sizes", "train"),
    [("breastmnist", [546, 78, 156], [147, 399]), ("retinamnist", [1080, 120, 400], [486, 128, 206, 194, 66])],
)
def test_medmnist(medrag_data: Path, name: str, sizes: list[int], train: list[int]) -> None:
    table = MedMnist(str(medrag_data / name / f"{name}.npz"))
    assert counts(table.queries()) == sizes
    assert len(table.documents()) == sizes[0]
    answers = Counter(query.gold_index for query in table.queries()[: sizes[0]])
    assert [answers[label] for label in range(len(train))] == train
    opens(table, 20)


def test_ham10000_as_files_and_as_npz(medrag_data: Path) -> None:
    folder = medrag_data / "ham10000"
    settings = {"label_column": "dx_name", "study_column": "lesion_id"}
    files = ImageFolderMetadata(str(folder / "metadata.jsonl"), **settings)  # type: ignore[arg-type]
    arrays = ImageFolderMetadata(str(folder / "metadata.jsonl"), npz=str(folder / "ham10000_28.npz"), **settings)  # type: ignore[arg-type]
    assert counts(files.queries()) == counts(arrays.queries()) == [1774, 253, 506]
    assert [(q.id, q.answer) for q in files.queries()] == [(q.id, q.answer) for q in arrays.queries()]
    assert len({q.study_id for q in files.queries()}) == 2533
    assert files.queries()[0].choices[5:] == ("melanoma", "vascular lesions")
    opens(files, 40)
    opens(arrays, 40)


def test_vqa_rad(medrag_data: Path) -> None:
    table = VqaRad(str(medrag_data / "vqa_rad" / "vqa.jsonl"))
    queries = table.queries()
    assert counts(queries) == [1248, 212, 331]
    # The data set marks 1,030 questions closed; the rule of tables/answers.py keeps 23 of them as open ones.
    assert len(table._marked_closed) == 1030
    closed = [query for query in queries if query.answer_type is AnswerType.CLOSED]
    assert len(closed) == 1007
    assert sum(query.choices == ("yes", "no") for query in closed) == 956
    assert len(table.documents()) == 1248
    train_cases = {document.patient_id for document in table.documents()}
    assert not any(query.patient_id in train_cases for query in queries if query.split != "train")
    assert counts(VqaRad(str(table.path), split_key="official_split").queries())[1] == 0
    opens(table, 5)


def test_evidence_pairs(medrag_data: Path) -> None:
    cxr = JsonlCorpus(str(medrag_data / "cxr_pairs" / "corpus.jsonl"), fields={"patient_id": "patient"})
    roco = JsonlCorpus(str(medrag_data / "roco_pairs" / "corpus.jsonl"), splits=["train", "valid"])
    assert (len(cxr.documents()), len(roco.documents())) == (290, 700)
    assert len({document.patient_id for document in cxr.documents()}) == 126
    assert all(document.license and document.source for document in [*cxr.documents(), *roco.documents()])
    opens(cxr, 10)
    opens(roco, 20)


def test_no_training_document_is_evidence_for_its_own_question(medrag_data: Path) -> None:
    table = MedMnist(str(medrag_data / "breastmnist" / "breastmnist.npz"))
    documents = {document.id: document for document in table.documents()}
    assert all(shares_identity(query, documents[query.id]) for query in table.queries() if query.split == "train")


def test_whole_image_set_of_vqa_rad_opens_below_the_pixel_limit(medrag_data: Path) -> None:
    table = VqaRad(str(medrag_data / "vqa_rad" / "vqa.jsonl"))
    store = ImageStore(table.roots())
    sizes = {store.size_px(query.image) for query in table.queries() if query.image is not None}
    assert max(max(size) for size in sizes) <= 256
