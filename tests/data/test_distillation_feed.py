"""The feed of retriever distillation: which queries, which pools, what the table says of them, what is refused."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from distill_world import ClosedTable, believing, data, score_table, source, stage, towers, trainer
from toy import ToySource, ToyTable

from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.distillation_feed import DistillationPlan, _Balanced
from medrag_lightning.data.sampler import SampleKey, TrainSampler
from medrag_lightning.records import AnswerType, Channel, Split
from medrag_lightning.retrieval.source import LiveSearch

RETINA = ["0"] * 486 + ["1"] * 128 + ["2"] * 206 + ["3"] * 194 + ["4"] * 66


def served(folder, table=None, scores="", plan=None, **settings):
    table = table or ClosedTable(str(folder))
    made = data(folder, table, scores or score_table(folder / "scores", table), plan, **settings)
    fitter = trainer(folder, fast_dev_run=True)
    fitter.strategy._lightning_module = stage()
    made.trainer = fitter
    made.prepare_data()
    made.setup("fit")
    return table, made


def test_a_pool_is_what_its_channel_finds_with_the_tables_numbers(tmp_path):
    table, made = served(tmp_path)
    items = made._feed().training()
    (example,) = items[[SampleKey(0, 3)]]
    texts = {d.id: d.text for d in table.documents()}
    found = made._retrieved[example.query.id].candidates
    for side, channel in (("text", Channel.IMAGE_TO_TEXT), ("image", Channel.IMAGE_TO_IMAGE)):
        pool = example.pools[side]
        assert pool.ids == tuple(c.id for c in found if c.channel is channel)
        expected = [believing(example.query, texts[name], example.query.gold_index) for name in pool.ids]
        assert np.allclose(pool.logp_KC, expected, atol=1e-6)
        assert (pool.token_count_C.tolist(), pool.gold) == ([2, 2, 2, 2], example.query.gold_index)
    assert np.allclose(example.pools["text"].passage_KD, towers().embed_texts([texts[n] for n in example.pools["text"].ids]))
    assert example.readings == {}
    assert example.pools["text"].passages == ()


def test_every_query_that_can_teach_comes_once_an_epoch(tmp_path):
    """Open questions, and those without gold answer or image, teach a retriever nothing."""

    class Mixed(ToyTable):
        def queries(self):
            made = super().queries()
            return [replace(made[0], image=None), replace(made[1], answer=None), *made[2:]]

    table, made = served(tmp_path, Mixed(str(tmp_path), 48))
    wanted = [q for q in table.queries() if q.answer_type is AnswerType.CLOSED and q.answer and q.image]
    drawn = [e.query.id for batch in made.train_dataloader().sampler for e in made._feed().training()[batch]]
    assert Counter(drawn) == Counter(q.id for q in wanted if q.split is Split.TRAIN)
    (validation,) = made._feed().validation(alone=False)
    assert [q.id for q, _ in validation.items] == [q.id for q in wanted if q.split is Split.VAL]


@pytest.mark.parametrize("balance", [True, False])
def test_twenty_epochs_of_retina_see_all_images(balance):
    """J07 (trap 1: JOMED's code sees 330 of 1,080 images, forever)."""
    items = _Balanced(RETINA, seed=10)
    sampler = TrainSampler(len(items) if balance else len(RETINA), 2, seed=10)
    seen: Counter = Counter()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        drawn = [items.item(key) if balance else key.place for batch in sampler for key in batch]
        seen.update(drawn)
        if balance:
            assert len({Counter(RETINA[n] for n in drawn)[c] for c in "01234"}) == 1
    assert len(seen) == 1080
    for grade in "01234":
        counts = [seen[n] for n in range(1080) if RETINA[n] == grade]
        assert max(counts) - min(counts) <= 1


def test_what_was_not_scored_is_told_before_training_with_the_command(tmp_path):
    table = ClosedTable(str(tmp_path))
    some = score_table(tmp_path / "some", table, documents=table.documents()[:5])
    _, made = served(tmp_path, table, some)
    with pytest.raises(ValueError, match=r"rows are missing in all.*predict -c DATA -c stages/score"):
        made.train_dataloader()
    _, kept = served(tmp_path, table, some, {"pool": "scored"})
    pools = [pool for _, pools in kept._feed().training().items for pool in pools.values()]
    assert {c.id for pool in pools for c in pool.candidates} <= {d.id for d in table.documents()[:5]}
    assert any(pool.candidates for pool in pools)


def test_scores_of_other_data_are_refused(tmp_path):
    table = ClosedTable(str(tmp_path))
    more = ClosedTable(str(tmp_path / "more"), 28)
    scores = score_table(tmp_path / "scores", more)
    with pytest.raises(ValueError, match="another corpus"):
        served(tmp_path, table, scores)[1].train_dataloader()
    turned = [replace(q, answer="red" if q.answer != "red" else "blue") for q in table.queries()]
    wrong = score_table(tmp_path / "wrong", table, queries=turned)
    with pytest.raises(ValueError, match="gold answer number"):
        served(tmp_path, table, wrong)[1].train_dataloader()


def test_augmentation_changes_what_the_retriever_sees_alone(tmp_path):
    _, plain = served(tmp_path)
    _, changed = served(tmp_path, augmentation=Augmentation())
    key = [SampleKey(0, 1)]
    one, other = plain._feed().training()[key][0], changed._feed().training()[key][0]
    assert np.asarray(one.image).tobytes() != np.asarray(other.image).tobytes()
    assert np.array_equal(one.pools["text"].logp_KC, other.pools["text"].logp_KC)
    assert np.array_equal(np.asarray(changed._feed().training()[key][0].image), np.asarray(other.image))
    assert np.asarray(changed._feed().validation(False)[0][key][0].image).tobytes() == (
        np.asarray(plain._feed().validation(False)[0][key][0].image).tobytes()
    )


def test_a_live_reader_is_served_examples_of_one_candidate(tmp_path):
    table = ClosedTable(str(tmp_path))
    made = data(tmp_path, table, None, {"open_passages": True}, search=source(count=3))
    fitter = trainer(tmp_path, fast_dev_run=True)
    fitter.strategy._lightning_module, made.trainer = stage(), fitter
    made.prepare_data()
    made.setup("fit")
    (example,) = made._feed().training()[[SampleKey(0, 0)]]
    pool = example.pools["text"]
    assert pool.logp_KC is None
    assert [e.candidates[0].id for e in example.readings["text"]] == list(pool.ids)
    assert all(e.query_image is not None and e.candidate_images[0] is not None for e in example.readings["text"])
    assert [item.text for item in pool.passages] == [e.candidates[0].document.text for e in example.readings["text"]]


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="pool: scored needs a score table"):
        DistillationPlan(None, pool="scored")
    with pytest.raises(ValueError, match="ToySource knows no vectors"):
        served(tmp_path, search=ToySource())[1].train_dataloader()
    with pytest.raises(ValueError, match=r"has candidates of channel image_to_image or image_to_text"):
        served(tmp_path, search=LiveSearch(towers(), {"text_to_text": 2}))[1].train_dataloader()
    with pytest.raises(ValueError, match="predicts nothing"):
        served(tmp_path)[1].predict_dataloader()
