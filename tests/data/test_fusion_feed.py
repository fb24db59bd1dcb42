"""The feed of learned fusion: pools, similarities, confidences, what is kept on disk, the leak rule (R05), refusals."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from distill_world import ClosedTable, believing, score_table, towers
from fusion_world import stage
from toy import ToySource, ToyTable, trainer

from medrag_lightning import score_files
from medrag_lightning.artifacts import write_json
from medrag_lightning.data.fusion_feed import FusionItems, FusionPlan, ranked
from medrag_lightning.data.module import MedragData
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.records import Channel, Condition, Score, Split
from medrag_lightning.retrieval.source import LiveSearch

POOL = {"image_to_text": 4, "image_to_image": 4, "text_to_text": 4}


class ByModality(ClosedTable):
    """Every second question is about a CT; the others do not tell."""

    def queries(self):
        return [replace(q, modality="CT" if n % 2 else None) for n, q in enumerate(super().queries())]


def served(folder, table=None, scores=None, plan=None, search=None):
    table = table or ByModality(str(folder))
    scores = scores or score_table(folder / "scores", table)
    plan = FusionPlan(scores, **{"cache": str(folder / "kept"), **(plan or {})})
    made = MedragData(
        [table], [table], search or LiveSearch(towers(), dict(POOL)), batch_size=8, cache_folder=str(folder / "e"), fusion=plan
    )
    fitter = trainer(folder, fast_dev_run=True)
    fitter.strategy._lightning_module = stage()
    made.trainer = fitter
    made.prepare_data()
    made.setup("fit")
    return table, made


def test_a_pool_has_the_similarities_of_the_source_and_the_readers_confidence(tmp_path):
    table, made = served(tmp_path)
    items = made._feed().training()
    queries = [q for q in table.queries() if q.split is Split.TRAIN]
    assert len(items) == len(queries)
    batch = items[[SampleKey(0, 5), SampleKey(0, 0)]]
    assert batch.channels == tuple(Channel(name) for name in POOL)
    texts = {d.id: d.text for d in table.documents()}
    for row, place in enumerate((5, 0)):
        query = queries[place]
        assert batch.modality[row] == query.modality
        names = [c.id for c in made._retrieved[query.id].candidates]
        (expected,) = made.source.similarities([query], [names], [Channel(name) for name in POOL])
        np.testing.assert_allclose(batch.similarity_BKM[row], expected, atol=1e-6)
        confidence = [believing(query, texts[name], query.gold_index)[query.gold_index] for name in names]
        np.testing.assert_allclose(batch.log_confidence_BK[row], confidence, atol=1e-6)
        assert batch.rank_BK[row].tolist() == np.argsort(np.argsort(-np.array(confidence), kind="stable")).tolist()
    assert batch.valid.all()


def test_open_answers_count_by_token(tmp_path):
    """The closed table's rows by choice; an open question's confidence is its likelihood a token."""
    table = ToyTable(str(tmp_path))
    rows = []
    for q in table.queries():
        answers = q.choices or (q.answer,)
        logp, counts = (-1.5,) * len(answers), (3,) * len(answers)
        rows += [Score(q.id, Condition((d.id,)), answers, logp, counts, max(0, q.gold_index)) for d in table.documents()]
    corpus = score_files.documents_fingerprint(table.documents())
    write_json(tmp_path / "s" / score_files.IDENTITY, {"schema": 1, "reader": "r", "template": "t", "corpus": corpus})
    told = {q.id: score_files.query_fingerprint(q) for q in table.queries()}
    score_files.write_shard(tmp_path / "s", 0, 0, score_files.to_table(rows, told))
    score_files.merge(tmp_path / "s")
    _, made = served(tmp_path, table, str(tmp_path / "s"))
    (items,) = made._feed().validation(alone=False)
    closed = [bool(q.choices) for q in table.queries() if q.split is Split.VAL]
    assert len(set(closed)) == 2
    for at, is_closed in enumerate(closed):
        expected = np.log(0.25) if is_closed else -0.5
        np.testing.assert_allclose(items.log_confidence_NK[at], expected, atol=1e-6)


def test_pools_of_a_source_with_repeats_hold_each_document_once(tmp_path):
    _, made = served(tmp_path, search=LiveSearch(towers(), dict(POOL), distinct_documents=False))
    items = made._feed().training()
    sizes = [len({c.id for c in made._retrieved[q.id].candidates}) for q in made.split_queries("train")]
    assert (~np.isnan(items.log_confidence_NK)).sum(1).tolist() == sizes
    assert max(sizes) == items.log_confidence_NK.shape[1]
    assert min(sizes) < 12


def test_similarities_are_kept_by_what_they_depend_on(tmp_path):
    """A second run embeds and reads nothing; another plan, table or a damaged file is made anew."""
    _, made = served(tmp_path)
    first = made._feed().training()
    similarity = np.array(first.similarity_NKM)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert sorted(name.split("-")[0] for name in kept) == ["confidences"] * 2 + ["similarities"] * 2
    _, again = served(tmp_path, scores=str(tmp_path / "scores"))
    again.source.similarities = None
    second = again._feed().training()
    assert isinstance(second.similarity_NKM, np.memmap)
    np.testing.assert_array_equal(second.similarity_NKM, similarity)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == kept
    _, other = served(tmp_path, scores=str(tmp_path / "scores"), plan={"channels": ("text_to_text", "text_to_image")})
    assert other._feed().training().similarity_NKM.shape[2] == 2
    (similarities,) = [tmp_path / "kept" / name for name in kept if name.startswith("similarities") and name.endswith("npy")]
    whole = similarities.read_bytes()
    similarities.write_bytes(whole[:-4] + b"\0\0\0\0")
    _, third = served(tmp_path, scores=str(tmp_path / "scores"))
    np.testing.assert_array_equal(third._feed().training().similarity_NKM, similarity)
    assert similarities.read_bytes() == whole
    _, bare = served(tmp_path, scores=str(tmp_path / "scores"), plan={"cache": None})
    np.testing.assert_array_equal(bare._feed().training().similarity_NKM, similarity)


def test_training_pools_never_hold_what_belongs_to_the_query(tmp_path):
    """R05: every question's own image is in the corpus as a document of its patient; no pool holds it, and a source that
    offers it is refused."""
    table, made = served(tmp_path)
    documents = table.documents()
    own = {q.id: {d.id for d in documents if d.patient_id == q.patient_id or d.image == q.image} for q in table.queries()}
    assert all(own.values())
    made._feed()
    for query in made.split_queries("train"):
        assert not own[query.id] & {c.id for c in made._retrieved[query.id].candidates}

    class Leaking(ToySource):
        def _candidates(self, n):
            return [replace(c, document=self.documents[n]) for c in super()._candidates(n)]

    with pytest.raises(ValueError, match="shares its"):
        served(tmp_path, search=Leaking())


def test_ranks_are_stable_and_padding_is_last():
    confidence = np.array([[-0.5, -0.1, np.nan, -0.5, -0.1], [np.nan] * 5], np.float32)
    assert ranked(confidence)[0].tolist() == [2, 0, 4, 3, 1]
    similarity = np.zeros((1, 3, 2), np.float32)
    similarity[0, 1] = np.nan
    items = FusionItems([Channel.IMAGE_TO_TEXT, Channel.TEXT_TO_TEXT], similarity, np.array([[-2, -1, -3]], np.float32), [None])
    batch = items[[SampleKey(0, 0)]]
    assert batch.valid.tolist() == [[True, False, True]]
    assert batch.rank_BK.tolist() == [[0, 2, 1]]
    similarity[0, 0, 1] = np.nan
    assert items[[SampleKey(0, 0)]].only((Channel.TEXT_TO_TEXT,)).valid.tolist() == [[False, False, True]]
    with pytest.raises(ValueError, match=r"weighs text_to_image, data.fusion.channels has"):
        batch.only((Channel.TEXT_TO_IMAGE,))


def test_what_cannot_be_served_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ToySource tells no similarities"):
        served(tmp_path, search=ToySource())[1]._feed()
    table = ByModality(str(tmp_path))
    few = score_table(tmp_path / "few", table, documents=table.documents()[:5])
    with pytest.raises(ValueError, match=r"rows are missing in all"):
        served(tmp_path, table, few)[1]._feed().training()
    with pytest.raises(ValueError, match="predicts nothing"):
        served(tmp_path, table)[1]._feed().prediction()
    with pytest.raises(ValueError, match=r"fusion.channels"):
        FusionPlan(channels=())
