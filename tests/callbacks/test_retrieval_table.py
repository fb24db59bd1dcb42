"""The table of a retriever's test: written, printed, refused where nothing is ranked."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from callbacks.retrieval_table import RetrievalTable
from medrag_lightning.metrics import rank_pairs


def ranks(order):
    vectors = np.eye(6, dtype=np.float32)
    return rank_pairs(vectors[order], vectors, np.repeat(np.arange(6)[:, None], 2, axis=1), [f"p{i}" for i in range(6)])


def test_numbers_are_written_and_printed(tmp_path, capsys):
    rankings = {"trained": ranks([0, 1, 2, 3, 4, 5]), "untrained": ranks([1, 0, 3, 2, 5, 4])}
    stage = SimpleNamespace(rankings=rankings, factual_rankings={})
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path))
    RetrievalTable(resamples=100).on_test_end(trainer, stage)
    printed = capsys.readouterr().out
    assert printed.count("trained - untrained") == 2
    assert "6 held-out pairs" in printed
    written = json.loads((tmp_path / "retrieval.json").read_text())
    assert [row["system"] for row in written["rows"]] == ["trained", "untrained", "chance"]
    assert written["rows"][0]["metrics"]["image_to_text_recall@1"]["value"] == 1
    assert written["rows"][2]["metrics"]["text_to_image_recall@1"]["value"] == pytest.approx(1 / 6)


def test_only_process_0_writes(tmp_path):
    stage = SimpleNamespace(rankings={"trained": ranks([0, 1, 2, 3, 4, 5])}, factual_rankings={})
    RetrievalTable(folder=str(tmp_path / "x")).on_test_end(SimpleNamespace(is_global_zero=False), stage)
    assert not (tmp_path / "x").exists()


def test_a_stage_that_ranks_nothing_is_refused():
    with pytest.raises(ValueError, match="keeps no `rankings`; remove the callback"):
        RetrievalTable().on_test_end(SimpleNamespace(is_global_zero=True), SimpleNamespace())
