"""How much of a head asks is chosen on validation: a head that unlearnt asks not at all."""

from functools import partial

import numpy as np
import pytest
import torch
from distill_world import ClosedTable, heads, score_table, stage, towers
from test_retriever_kl import fit

from medrag_lightning.models.headed_encoder import HeadedEncoder
from medrag_lightning.stages.totals import Totals

RUINOUS = partial(torch.optim.AdamW, lr=1e-2, maximize=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    table = ClosedTable(str(folder), 96)
    return folder, table, score_table(folder / "scores", table)


def test_a_ruined_head_asks_as_the_frozen_encoder_did(world, tmp_path):
    _folder, _table, _ = world
    module = stage(heads(["text"]), optimizer=RUINOUS, t_score=0.1)
    found = fit(world, module, keep=tmp_path / "head.ckpt")
    assert found["val/head_share"] < 1
    assert found["val/loss"] <= found["val/frozen_loss"] + 1e-6
    kept = torch.load(tmp_path / "head.ckpt", weights_only=True)["medrag"]["description"]["heads"]
    assert kept["share"] == found["val/head_share"]
    images = [_image(n) for n in range(3)]
    headed, plain = HeadedEncoder(towers(), text_head=str(tmp_path / "head.ckpt")), towers()
    mixed = kept["share"] * kept["query_mix"]
    asked, frozen = headed.embed_queries(images, "text"), plain.embed_images(images)
    if mixed == 0:
        np.testing.assert_allclose(asked, frozen, atol=1e-6)
    assert np.linalg.norm(asked - frozen, axis=1).max() <= 2 * mixed + 1e-6


def test_without_the_choice_all_of_the_head_asks(world):
    module = stage(heads(["text"]), optimizer=RUINOUS, t_score=0.1, choose_share=False)
    found = fit(world, module)
    assert found["val/head_share"] == 1
    assert found["val/loss"] > found["val/frozen_loss"]


def test_totals_are_means_over_what_is_known():
    totals = Totals()
    totals.add({"a": torch.tensor([1.0, float("nan"), 3.0]), "b": torch.tensor([float("nan")])})
    totals.add({"a": torch.tensor([5.0])})
    assert totals.means(1) == {"a": 3.0}
    assert totals.means(1) == {}


def _image(number):
    from PIL import Image

    return Image.fromarray(np.full((32, 32, 3), 40 + 60 * number, np.uint8))
