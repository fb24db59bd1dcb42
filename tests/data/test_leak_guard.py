"""Training on a leak is refused unless the user says otherwise, and a second look costs nothing."""

import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from toy import ToySource, ToyTable, stage, trainer

from medrag_lightning.data import leak_guard
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.leak_guard import LeakGuard
from medrag_lightning.data.module import MedragData
from medrag_lightning.records import Document, ImageRef, Query, Split


class Leaky(ToyTable):
    """The first test question is about a training patient."""

    def queries(self):
        asked = super().queries()
        first = next(n for n, query in enumerate(asked) if query.split == "test")
        asked[first] = replace(asked[first], patient_id=asked[1].patient_id)
        return asked


def served(folder, table=Leaky, **settings):
    made = table(str(folder))
    return MedragData([made], [made], ToySource(), cache_folder=str(folder / "evidence"), batch_size=6, **settings)


def test_fit_refuses_and_says_how_to_go_on(tmp_path):
    with pytest.raises(ValueError, match="training is refused") as told:
        trainer(tmp_path, max_steps=1).fit(stage(), datamodule=served(tmp_path))
    for words in (
        "same_patient: 1 patient of train is also in test",
        "--data.init_args.leaks warn",
        "check -c YOUR_CONFIG",
        "remedy",
    ):
        assert words in str(told.value)
    assert not list((tmp_path / "evidence").glob("*/manifest.json"))  # before anything is embedded


def test_warn_trains_and_tells(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "medrag_lightning.data.leak_guard"):
        trainer(tmp_path, max_steps=1).fit(stage(), datamodule=served(tmp_path, leaks="warn"))
    assert "same_patient" in caplog.text
    caplog.clear()
    trainer(tmp_path, max_steps=1).fit(stage(), datamodule=served(tmp_path, leaks="ignore"))
    assert "same_patient" not in caplog.text


def test_a_clean_table_trains_and_testing_looks_for_nothing(tmp_path, monkeypatch):
    trainer(tmp_path, max_steps=1).fit(stage(), datamodule=served(tmp_path, ToyTable))
    (kept,) = (tmp_path / "evidence").glob("leaks-*.json")
    assert '"leaks": []' in kept.read_text()
    monkeypatch.setattr(leak_guard, "find_leaks", lambda *_, **__: pytest.fail("only training is guarded"))
    trainer(tmp_path).test(stage(), datamodule=served(tmp_path))


def test_a_second_look_opens_no_image_until_a_file_changes(tmp_path, monkeypatch):
    table = Leaky(str(tmp_path))
    queries = {split: [query for query in table.queries() if query.split is split] for split in Split}
    images, opened = ImageStore(table.roots()), []
    looking = leak_guard.image_facts
    monkeypatch.setattr(leak_guard, "image_facts", lambda refs, *rest: opened.append(len(refs)) or looking(refs, *rest))
    guard = LeakGuard("warn", tmp_path / "kept")
    first = guard.check(queries, images)
    assert guard.check(queries, images) == first
    assert opened == [24]
    os.utime(table.path, ns=(1, 1))
    assert guard.check(queries, images) == first
    assert opened == [24, 24]
    queries[Split.TRAIN] = queries[Split.TRAIN][2:]  # the patient in question leaves
    assert guard.check(queries, images) == []


def test_a_missing_image_is_not_the_audits_business(tmp_path):
    gone = ImageRef(str(tmp_path / "gone.png"))
    queries = {Split.TRAIN: [Query("a", "?", gone)], Split.TEST: [Query("b", "?", gone, split=Split.TEST)]}
    with pytest.raises(ValueError, match="same_image: 1 image of train is also in test"):
        LeakGuard("refuse", tmp_path / "kept").check(queries, ImageStore([tmp_path]))


def test_ten_thousand_known_images_are_looked_up_at_once(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    refs = [ImageRef(f"{tmp_path}/./{'/' * (n % 9)}x.png") for n in range(10_000)]
    queries = {Split.TRAIN: [Query(f"q{n}", "?", ref, patient_id=f"p{n}") for n, ref in enumerate(refs)]}
    guard, images = LeakGuard("refuse", tmp_path / "kept"), ImageStore([tmp_path])
    guard.check(queries, images)
    began = time.perf_counter()
    guard.check(queries, images)
    assert time.perf_counter() - began < 1.0  # 0.1 s on a quiet machine


class Fair(ToyTable):
    """The corpus holds training patients alone."""

    def documents(self):
        trained = {query.patient_id for query in self.queries() if query.split is Split.TRAIN}
        return [document for document in super().documents() if document.patient_id in trained]


class WithTestImage(Fair):
    """One of its image-text pairs shows a test question's image, under another name and patient."""

    def documents(self):
        asked = next(query for query in self.queries() if query.split is Split.TEST)
        return [*super().documents(), Document("copy", "it is told here", asked.image)]


def learns_pairs(folder, pair_table, **settings):
    made = ToyTable(str(folder))
    data = MedragData(
        [made], [made], ToySource(), cache_folder=str(folder / "evidence"), pair_tables=[pair_table(str(folder))], **settings
    )
    stage = SimpleNamespace(feed="pairs", collator=lambda training: None)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), local_rank=0, lightning_module=stage)
    return data


def test_a_retriever_does_not_learn_from_pairs_of_held_out_questions(tmp_path, caplog):
    with pytest.raises(ValueError, match="same_image: 1 image of the image-text pairs is also in test, in 1 question") as told:
        learns_pairs(tmp_path, WithTestImage).prepare_data()
    assert "image-text pair 13 ('copy')" in str(told.value)
    assert "name those of others in data.pair_tables" in str(told.value)
    with pytest.raises(ValueError, match="same_patient: 4 patients of the image-text pairs are also in val"):
        learns_pairs(tmp_path, ToyTable).prepare_data()
    learns_pairs(tmp_path, WithTestImage, leaks="warn").prepare_data()
    assert "image-text pairs" in caplog.text
    caplog.clear()
    learns_pairs(tmp_path, Fair).prepare_data()
    assert not caplog.text
