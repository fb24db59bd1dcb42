"""A corpus in which nothing stands twice: every copy goes, no look-alike does, and what went is told."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from medrag_lightning.data.copies import text_copies
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.tables import DistinctCorpus
from medrag_lightning.records import Document, ImageRef

LONG = "the chest film shows a small effusion on the left side beside an old scar of the upper lobe and clear bones"


class Given:
    """A table of given documents."""

    def __init__(self, documents, root="."):
        self.given, self.root = documents, Path(root)

    def queries(self):
        return []

    def documents(self):
        return list(self.given)

    def roots(self):
        return [self.root]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Generated images, many of which differ in noise alone."""
    folder = tmp_path_factory.mktemp("hospital")
    return MiniHospital(seed=3, size=120, folder=str(folder))


def saved(folder, image, name):
    image.save(folder / f"{name}.png")
    return ImageRef(str(folder / f"{name}.png"))


def pictures(hospital):
    hospital.roots()
    with np.load(hospital.image_file, allow_pickle=False) as arrays:
        return [Image.fromarray(item) for item in arrays["images"]]


def changed(image, how):
    changes = {
        "half": lambda: image.resize((32, 32), Image.Resampling.BICUBIC),
        "double": lambda: image.resize((128, 128), Image.Resampling.BICUBIC),
        "brighter": lambda: ImageEnhance.Brightness(image).enhance(1.1),
        "darker": lambda: ImageEnhance.Brightness(image).enhance(0.7),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(1.15),
    }
    return changes[how]()


def test_all_planted_copies_go_and_no_look_alike(hospital, tmp_path):
    """H02. The hospital's own images are the look-alikes: same template, another noise; mirrored ones say another side."""
    originals, planted, look_alikes = hospital.documents(), [], []
    shown = [int(document.image.index) for document in originals[:40]]  # others are not in the corpus
    images = pictures(hospital)
    for n in shown:
        image = images[n]
        for how in ("half", "double", "brighter", "darker", "contrast"):
            ref = saved(tmp_path, changed(image, how), f"{n}-{how}")
            planted.append(Document(f"{n}-{how}", f"copy {n} {how}", ref, source="planted"))
        look_alikes.append(Document(f"{n}-mirrored", "m", saved(tmp_path, ImageOps.mirror(image), f"{n}-m"), source="mirrored"))
    tables = [hospital, Given(planted, tmp_path), Given(look_alikes, tmp_path)]
    kept = DistinctCorpus(tables, folder=str(tmp_path / "kept")).documents()
    there = {document.source for document in kept}
    assert "planted" not in there, [document.id for document in kept if document.source == "planted"][:5]
    assert [document.id for document in kept[: len(originals)]] == [document.id for document in originals]
    assert len(kept) == len(originals) + len(look_alikes)


def test_what_went_is_told_and_a_second_run_reads_it(hospital, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    images = pictures(hospital)
    first = [Document(f"a{n}", f"said {n}", saved(tmp_path, images[n], f"a{n}"), source="ours") for n in range(5)]
    again = [
        Document(f"b{n}", "x", saved(tmp_path, changed(images[n], "half"), f"b{n}"), patient_id="p1", source="web")
        for n in range(3)
    ]
    texts = [Document("t1", LONG, source="book"), Document("t2", LONG.upper() + ".", source="book")]
    make = lambda: DistinctCorpus([Given(first, tmp_path), Given(again, tmp_path), Given(texts)], folder=str(tmp_path / "k"))  # noqa: E731
    kept = make().documents()
    assert [document.id for document in kept] == ["a0", "a1", "a2", "a3", "a4", "t1"]
    report = json.loads(next((tmp_path / "k").glob("removed-*.json")).read_text(encoding="utf-8"))
    assert [(row["id"], row["kept"]) for row in report["removed"]] == [("b0", "a0"), ("b1", "a1"), ("b2", "a2"), ("t2", "t1")]
    assert report["between"] == [
        {"removed_from": "book", "kept_in": "book", "because": "same text", "documents": 1},
        {"removed_from": "web", "kept_in": "ours", "because": "near picture", "documents": 3},
    ]
    assert (report["with_other_words"], report["identity_lost"], report["documents"], report["kept"]) == (3, 3, 10, 6)
    assert "p1" not in json.dumps(report)
    assert "web repeats ours: 3, near picture" in caplog.text
    assert "put the tables that name patients first" in caplog.text
    monkeypatch.setattr("medrag_lightning.data.tables.distinct.image_facts", None)
    began = time.perf_counter()
    assert make().documents() == kept
    assert time.perf_counter() - began < 0.2
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a4.png")
    with pytest.raises(TypeError):
        make().documents()  # a changed file is looked at again


def test_documents_about_one_image_stay_unless_they_say_the_same(hospital, tmp_path):
    image = saved(tmp_path, pictures(hospital)[0], "one")
    told = [
        Document("q1", "is it a scar? no", image),
        Document("q2", "which side? left", image),
        Document("q3", "Is it a scar?  No", image),
    ]
    kept = DistinctCorpus([Given(told, tmp_path)], folder=str(tmp_path / "k")).documents()
    assert [document.id for document in kept] == ["q1", "q2"]


def test_a_chain_of_copies_removes_none_that_is_unlike_what_stays():
    words = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(60)]
    chain = [" ".join(words[start : start + 40]) for start in (0, 3, 6, 9, 12)]
    found = text_copies([Document(f"t{n}", text) for n, text in enumerate(chain)])
    assert {copy.removed: copy.kept for copy in found} == {"t1": "t0", "t2": "t0", "t4": "t3"}


def test_words_that_tell_keep_texts_apart():
    others = [LONG.replace("left", "right"), LONG.replace("shows a", "shows no"), LONG + " in 2019"]
    assert text_copies([Document("t0", LONG), *(Document(f"u{n}", text) for n, text in enumerate(others))]) == []
    found = text_copies([Document("t0", LONG), Document("t1", LONG.replace("beside", "near")), Document("short", "scar")])
    assert [(copy.removed, copy.kept, copy.because) for copy in found] == [("t1", "t0", "near text")]


def test_broken_images_stay_and_senseless_settings_do_not(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = [Document(f"x{n}", "t", ImageRef(str(tmp_path / "bad.png"))) for n in range(1)]
    flat = [Document(f"f{n}", f"t{n}", saved(tmp_path, Image.new("RGB", (20 + n, 20), "grey"), f"f{n}")) for n in range(3)]
    kept = DistinctCorpus([Given([*bad, *flat], tmp_path)], folder=str(tmp_path / "k")).documents()
    assert len(kept) == 4
    for wrong, words in [({"distance": 0.7}, "distance"), ({"images": False, "texts": False}, "nothing is removed")]:
        with pytest.raises(ValueError, match=words):
            DistinctCorpus([Given([])], **wrong)
    with pytest.raises(ValueError, match="'x0' occurs more than once"):
        DistinctCorpus([Given(bad, tmp_path), Given(bad, tmp_path)], folder=str(tmp_path / "k")).documents()
