"""Live search with query heads, with pools of each channel's own, and after an index refresh."""

from dataclasses import replace

import numpy as np
import pytest

from medrag_lightning.interfaces import QueryEncoder, Refreshable, VectorSource
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Channel
from medrag_lightning.retrieval.source import LiveSearch

POOLS = {"image_to_image": 5, "image_to_text": 3}


class OneSpace(TinyDualEncoder):
    """Claims that images and texts may be compared."""

    @property
    def shared_space(self):
        return True


class Headed(OneSpace):
    """Asks the text side with its own vectors turned round, and notes which sides were asked."""

    def __init__(self, dim, turn=True):
        super().__init__(dim)
        self.turn, self.sides = turn, set()

    def embed_queries(self, images, side):
        self.sides.add(side)
        vectors = self.embed_images(images)
        return 0.5 * (vectors[:, ::-1].copy() if side == "text" and self.turn else vectors)

    def query_fingerprint(self):
        return f"turn {self.turn}"


def ready(world, encoder, folder, per_channel, **settings):
    source = LiveSearch(encoder, per_channel, **settings)
    source.prepare(world.documents, world.pictures, folder)
    source.load(world.documents, world.pictures, folder)
    return source


def of_channel(found, channel):
    return [[c.id for c in one.candidates if c.channel is channel] for one in found]


def test_each_head_asks_its_own_side_on_the_frozen_encoders_store(world, tmp_path):
    """J12: the right tower on the right index. The store that the plain encoder built serves the headed one."""
    plain = ready(world, OneSpace(64), tmp_path, POOLS, distinct_documents=False)
    headed = Headed(64)
    source = ready(world, headed, tmp_path, POOLS, distinct_documents=False)
    assert isinstance(headed, QueryEncoder)
    found = source.retrieve(world.queries)
    assert headed.sides == {"image", "text"}
    before = plain.retrieve(world.queries)
    assert of_channel(found, Channel.IMAGE_TO_IMAGE) == of_channel(before, Channel.IMAGE_TO_IMAGE)
    turned = headed.embed_images([world.pictures(q.image) for q in world.queries])[:, ::-1]
    texts = {d.id: headed.embed_texts([d.text])[0] for d in world.documents if d.text}
    for query, one, vector in zip(world.queries, found, turned, strict=True):
        legal = [d for d in world.documents if d.id in texts and d.id != query.id]
        best = sorted(legal, key=lambda d: -float(texts[d.id] @ vector))[:3]
        mine = [c for c in one.candidates if c.channel is Channel.IMAGE_TO_TEXT]
        assert {c.id for c in mine} == {d.id for d in best}
        assert mine[0].score == pytest.approx(0.5 * float(texts[mine[0].id] @ vector), abs=1e-5)
    assert source.fingerprint() != plain.fingerprint()
    assert source.fingerprint() != ready(world, Headed(64, turn=False), tmp_path, POOLS, distinct_documents=False).fingerprint()


def test_pools_of_each_channels_own_may_share_documents(world, tmp_path):
    own = ready(world, OneSpace(64), tmp_path, POOLS, distinct_documents=False).retrieve(world.queries)
    for channel, count in POOLS.items():
        alone = ready(world, OneSpace(64), tmp_path, {channel: count}).retrieve(world.queries)
        assert of_channel(own, Channel(channel)) == [[c.id for c in one.candidates] for one in alone]
    assert [c.channel for c in own[0].candidates[:4]] == [Channel.IMAGE_TO_IMAGE, Channel.IMAGE_TO_TEXT] * 2


def test_document_vectors_are_the_stored_ones(world, tmp_path):
    source = ready(world, OneSpace(64), tmp_path, POOLS)
    assert isinstance(source, VectorSource)
    vectors = source.document_vectors("text", ["d5", "d2"])
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, OneSpace(64).embed_texts([world.documents[5].text, world.documents[2].text]), atol=1e-6)
    assert source.document_vectors("image", []).shape == (0, 64)
    with pytest.raises(ValueError, match="'d3' has no text vector"):
        source.document_vectors("text", ["d3"])


def test_a_refresh_searches_with_the_new_vectors_and_leaves_the_store_alone(world, tmp_path):
    source = ready(world, OneSpace(64), tmp_path, POOLS)
    assert isinstance(source, Refreshable)
    before, files = source.fingerprint(), {p: p.read_bytes() for p in tmp_path.iterdir()}
    trained = OneSpace(64, seed=7)
    source.refresh(trained)
    source.load(world.documents, world.pictures, tmp_path)
    other = tmp_path / "other"
    expected = ready(world, trained, other, POOLS).retrieve(world.queries)
    found = source.retrieve(world.queries)
    assert [[c.id for c in one.candidates] for one in found] == [[c.id for c in one.candidates] for one in expected]
    fourth = trained.embed_images([world.pictures(world.documents[4].image)])
    assert np.allclose(source.document_vectors("image", ["d4"]), fourth)
    assert source.fingerprint() != before
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == files


def test_a_text_that_many_documents_say_is_found_once(world, tmp_path):
    """Label texts: without it the nearest label fills every place of the channel."""
    world.documents = [replace(d, text="one" if n % 3 else "two") if d.text else d for n, d in enumerate(world.documents)]
    plain = ready(world, OneSpace(64), tmp_path, POOLS, distinct_documents=False)
    source = ready(world, OneSpace(64), tmp_path, POOLS, distinct_documents=False, distinct_texts=True)
    for many, few in zip(plain.retrieve(world.queries), source.retrieve(world.queries), strict=True):
        texts = [c.document.text for c in few.candidates if c.channel is Channel.IMAGE_TO_TEXT]
        assert sorted(texts) == ["one", "two"]
        images = [[c.id for c in found.candidates if c.channel is Channel.IMAGE_TO_IMAGE] for found in (many, few)]
        assert images[0] == images[1]
    assert plain.fingerprint() != source.fingerprint()
