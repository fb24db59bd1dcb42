"""Embedding by `predict`: the same store as one built in-process, on 1 or 2 processes; runs cut short; refusals."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from embed_script import Corpus, corpus, open_image, trainer

from callbacks.embedding_writer import EmbeddingWriter
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.retrieval.building import build_store
from medrag_lightning.retrieval.index import IndexConfig, build_index
from medrag_lightning.retrieval.shards import merge_shards, shards_complete
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.store import EvidenceStore
from medrag_lightning.stages.embed import Embed


def embed(folder, **settings):
    writer = EmbeddingWriter(str(folder), rows_per_chunk=6)
    trainer(callbacks=[writer], **settings).predict(Embed(TinyDualEncoder(32)), Corpus())


def same(first, second):
    """Everything but the bytes of vectors, which may differ in the last bits."""
    one, other = ({key: told for key, told in store.manifest.items() if key != "files"} for store in (first, second))
    assert one == other
    assert first.documents() == second.documents()
    assert first.image_sha256 == second.image_sha256
    for side in ("image", "text"):
        np.testing.assert_allclose(first.vectors[side], second.vectors[side], atol=1e-6)


@pytest.fixture
def reference(tmp_path):
    return build_store(tmp_path / "reference", corpus(), open_image, TinyDualEncoder(32), "float32", 8)


def test_predict_on_two_processes_gives_the_same_store(tmp_path, reference):
    script = Path(__file__).with_name("embed_script.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])}
    command = [sys.executable, str(script), str(tmp_path / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    names = {path.name[:6] for path in (tmp_path / "store" / "shards").glob("r*.json")}
    assert names == {f"r{rank:05d}" for rank in range(2)}
    store = merge_shards(tmp_path / "store", corpus())
    same(store, reference)
    assert not (tmp_path / "store" / "shards").exists()


def test_search_merges_what_predict_left(tmp_path, reference):
    embed(tmp_path / "store")
    source = LiveSearch(TinyDualEncoder(32), {"text_to_text": 1})

    def closed(ref):
        raise AssertionError("no image is opened again")

    source.prepare(corpus(), closed, tmp_path / "store")
    same(EvidenceStore.open(tmp_path / "store"), reference)


def test_index_merges_what_predict_left(tmp_path):
    embed(tmp_path)
    with pytest.raises(ValueError, match="not merged yet: run `fit` or `test` with this corpus"):
        build_index(tmp_path, IndexConfig())
    assert len(build_index(tmp_path, IndexConfig(), corpus(), "float16")) == 2
    assert EvidenceStore.open(tmp_path).vectors["text"].dtype == np.float16


def test_a_run_cut_short_is_not_merged_and_can_be_repeated(tmp_path):
    class Killed(EmbeddingWriter):
        def on_predict_end(self, trainer, pl_module):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(callbacks=[Killed(str(tmp_path), 4)]).predict(Embed(TinyDualEncoder(32)), Corpus())
    assert list((tmp_path / "shards").glob("r*.json"))
    assert not shards_complete(tmp_path)
    with pytest.raises(ValueError, match="did not finish; run it again"):
        merge_shards(tmp_path, corpus())
    embed(tmp_path)  # leftovers, in smaller chunks, are gone
    merge_shards(tmp_path, corpus()).verify()


def test_shards_of_another_corpus_or_encoder_or_too_few_are_refused(tmp_path):
    embed(tmp_path)
    with pytest.raises(ValueError, match="vectors of another encoder"):
        LiveSearch(TinyDualEncoder(32, seed=1), {"text_to_text": 1}).prepare(corpus(), open_image, tmp_path)
    with pytest.raises(ValueError, match="delete it and embed this corpus again"):
        merge_shards(tmp_path, corpus(24))
    with pytest.raises(ValueError, match="vectors of another corpus"):
        merge_shards(tmp_path, corpus()[::-1])
    assert not EvidenceStore.exists(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    embed(tmp_path / "part", limit_predict_batches=2)
    with pytest.raises(ValueError, match="documents have no image vector yet"):
        merge_shards(tmp_path / "part", corpus())


def test_refusals(tmp_path, reference):
    with pytest.raises(ValueError, match="already holds an evidence store"):
        embed(tmp_path / "reference")
    with pytest.raises(ValueError, match="the data module names none; give it a folder"):
        trainer(callbacks=[EmbeddingWriter()]).predict(Embed(TinyDualEncoder(32)), Corpus().predict_dataloader())
    with pytest.raises(ValueError, match="rows_per_chunk must be at least 1"):
        EmbeddingWriter(rows_per_chunk=0)
    with pytest.raises(ValueError, match="only predicts; `test` was asked"):
        Embed(TinyDualEncoder(32)).setup("test")
