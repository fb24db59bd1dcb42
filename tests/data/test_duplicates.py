"""A duplicate is a question whose own report, or picture, another patient's document repeats."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from toy import ToySource, ToyTable

from medrag_lightning.artifacts import atomic_write
from medrag_lightning.data.duplicates import duplicated_queries
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.module import MedragData
from medrag_lightning.records import Document, ImageRef, Query

NORMAL = "The heart is normal. No acute disease."


@pytest.fixture
def pictures(tmp_path):
    """Eight pictures; the last is a copy of the first, the one before it is of another size in a file of its own."""
    values = np.random.default_rng(0).integers(0, 255, (8, 6, 5, 3)).astype(np.uint8)
    values[7] = values[0]
    with atomic_write(tmp_path / "a.npz") as stream:
        np.savez(stream, images=values, other=np.zeros((1, 9, 9, 3), np.uint8))
    return ImageStore([tmp_path]), lambda n, array="images": ImageRef(str(tmp_path / "a.npz"), array, n)


def test_a_report_that_another_patient_has_word_for_word(pictures):
    images, _ = pictures
    corpus = [
        Document("other", "the heart is  normal; no ACUTE disease", patient_id="p9", study_id="s9"),
        Document("own", "A fracture.", patient_id="p1", study_id="s1b"),
    ]
    own = [Document(f"r{n}", text, study_id=f"s{n}") for n, text in enumerate([NORMAL, "A fracture.", "Effusion."])]
    queries = [Query(f"q{n}", "?", patient_id=f"p{n}", study_id=f"s{n}") for n in range(4)]
    found = duplicated_queries(queries, corpus, own, images)
    assert found == {"q0": True, "q1": False, "q2": False}  # q1: only its own patient says so; q3: no report is known


def test_pixels_decide_where_no_report_is_known(pictures):
    images, ref = pictures
    corpus = [Document("copy", "b", ref(7), patient_id="p9"), Document("large", "b", ref(0, "other")), Document("text", "c")]
    queries = [Query("same", "?", ref(0), patient_id="p0"), Query("another", "?", ref(1)), Query("blind", "?")]
    assert duplicated_queries(queries, corpus, [], images) == {"same": True, "another": False}
    own = [Document("r", "unlike any", ref(0))]
    assert duplicated_queries(queries, corpus, own, images) == {"same": False, "another": False}
    mine = [Query("same", "?", ref(0), patient_id="p9")]
    assert duplicated_queries(mine, corpus, [], images) == {"same": False}


def test_the_data_module_judges_its_splits(tmp_path):
    class Reports(ToyTable):
        """What the test studies' own reports say: one as a document does, one otherwise."""

        def documents(self):
            asked = [query for query in super().queries() if query.split == "test"][:2]
            texts = ("it is red", "odd")
            return [Document(f"r{n}", text, asked[n].image) for n, text in enumerate(texts)]

    table = ToyTable(str(tmp_path))
    served = MedragData([table], [table], ToySource(), own_reports=[Reports(str(tmp_path))])
    without = MedragData([table], [table], ToySource())
    asked = [query.id for query in served.split_queries("test")]
    told, judged = served.duplicated("test"), without.duplicated("test")
    assert set(told) == set(judged) == set(asked)
    assert told[asked[0]]
    assert "r0" not in {document.id for document in served.documents()}
