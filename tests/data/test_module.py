"""The data module's own rules; what it serves is proved with the stages."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from toy import ToySource, ToyTable, Unanswered, data, stage, trainer

from medrag_lightning.data.module import MedragData
from medrag_lightning.records import Candidate, Channel, Retrieved


class LeakySource(ToySource):
    """Finds the query's own image."""

    def _candidates(self, n):
        return [Candidate(self.documents[n], 1.0, Channel.IMAGE_TO_IMAGE)]


def module(folder, table=ToyTable, source=ToySource, **settings):
    made = table(str(folder))
    return MedragData([made], [made], source(), cache_folder=str(folder / "evidence"), **settings)


def test_a_source_that_leaks_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"candidate 'd0' shares its patient_id with query 'q0'"):
        module(tmp_path, source=LeakySource).setup("fit")


def test_repeated_ids_are_refused(tmp_path):
    table = ToyTable(str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.tables: id 'q0'"):
        MedragData([table, table], [table], ToySource()).setup("fit")
    with pytest.raises(ValueError, match=r"data\.corpus: id 'd0'"):
        MedragData([table], [table, table], ToySource()).setup("fit")


def test_nothing_to_ask_is_refused():
    with pytest.raises(ValueError, match=r"data\.tables is empty"):
        MedragData([], [], ToySource())


def test_training_without_answers_is_refused(tmp_path):
    served = module(tmp_path, table=Unanswered)
    with pytest.raises(ValueError, match="no training question has an answer"):
        trainer(tmp_path).fit(stage(), datamodule=served)


def test_a_regime_that_the_data_do_not_know_is_refused(tmp_path):
    served = data(tmp_path, regimes=["retrieved", "poisoned"])
    with pytest.raises(ValueError, match="regime poisoned needs a generated world"):
        trainer(tmp_path).test(stage(), datamodule=served)


def test_limits_keep_file_order(tmp_path):
    served = module(tmp_path, max_train_queries=3, max_eval_queries=2)
    assert [query.id for query in served.split_queries("train")] == ["q0", "q1", "q2"]
    assert [len(served.split_queries(split)) for split in ("val", "test")] == [2, 2]


def test_each_corpus_has_a_store_of_its_own(tmp_path):
    whole = module(tmp_path)
    table = ToyTable(str(tmp_path), count=20)
    fewer = MedragData([table], [table], ToySource(), cache_folder=str(tmp_path / "evidence"))
    assert whole.evidence_folder() != fewer.evidence_folder()
    assert whole.evidence_folder() == module(tmp_path).evidence_folder()


def test_training_texts_leave_out_what_is_held_out(tmp_path):
    texts = module(tmp_path).training_texts()
    assert {"which colour?", "red", "it is red"} <= set(texts)
    assert len([text for text in texts if text == "which colour?"]) == 8


def test_no_source_of_candidates_is_asked_for_another_querys_order(tmp_path):
    class Short(ToySource):
        def retrieve(self, queries):
            return super().retrieve(queries)[:-1]

    with pytest.raises(ValueError, match="shorter"):
        module(tmp_path, source=Short).setup("fit")


def test_candidates_belong_to_their_query(tmp_path):
    class Shuffled(ToySource):
        def retrieve(self, queries):
            return [Retrieved("other", found.candidates, "toy") for found in super().retrieve(queries)]

    with pytest.raises(ValueError, match="'other'"):
        module(tmp_path, source=Shuffled).setup("fit")


@pytest.mark.parametrize("only", ["closed", "open", None])
def test_questions_of_one_type_alone(only, tmp_path):
    served = module(tmp_path, only=only)
    found = [query.answer_type for split in ("train", "val", "test") for query in served.split_queries(split)]
    assert set(found) == ({only} if only else {"closed", "open"})
    assert len(found) == {"closed": 16, "open": 8, None: 24}[only]


def test_pairs_may_come_from_other_tables(tmp_path):
    other = ToyTable(str(tmp_path / "other"), count=8)
    served = module(tmp_path, pair_tables=[other])
    served.split_queries("train")
    assert "it is red" in served.training_texts()
    assert (tmp_path / "other") in served._image_store().roots
    assert len(served.documents()) == 24


def test_loaders_share_a_feed_until_there_are_new_candidates(tmp_path):
    made = data(tmp_path)
    made.trainer = trainer(tmp_path)
    made.trainer.strategy._lightning_module = stage()
    made.prepare_data()
    made.setup("fit")
    first = made._feed()
    assert made._feed() is first
    made.search_again()
    second = made._feed()
    assert second is not first
    assert second.world.retrieved is made._retrieved
    made.setup("test")
    assert made._feed() is not second
