"""Live search: exactness, the leak rule, growing fetches, several channels, refusals."""

import dataclasses
import logging

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from medrag_lightning.interfaces import CandidateSource
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Channel, Document, ImageRef, shares_identity
from medrag_lightning.retrieval.index import IndexConfig
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence
from medrag_lightning.retrieval.store import EvidenceStore

BOTH = {"image_to_image": 2, "text_to_text": 2}


class OneSpace(TinyDualEncoder):
    """A stand-in for a trained dual encoder: claims that images and texts may be compared."""

    @property
    def shared_space(self):
        return True


def ready(world, encoder, folder, per_channel, **settings):
    source = LiveSearch(encoder, per_channel, **settings)
    source.prepare(world.documents, world.pictures, folder)
    source.load(world.documents, world.pictures, folder)
    return source


def ids(found):
    return [[candidate.id for candidate in one.candidates] for one in found]


def best(world, vectors, query, side, k, legal=lambda document: True):
    """The reference: every document scored by numpy, best first, lower number first among equals."""
    rows = [n for n, d in enumerate(world.documents) if (d.image is not None if side == "image" else d.text) and legal(d)]
    scores = np.array([np.float32(vectors[row].astype(np.float64) @ query.astype(np.float64)) for row in rows])
    return [world.documents[rows[at]].id for at in np.argsort(-scores, kind="stable")[:k]]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_one_channel_equals_numpy(world, encoder, tmp_path, kind):
    source = ready(world, encoder, tmp_path, {"image_to_image": 3}, index=IndexConfig(kind))
    found = source.retrieve(world.queries)
    vectors = {n: encoder.embed_images([world.pictures(d.image)])[0] for n, d in enumerate(world.documents) if d.image}
    for query, names in zip(world.queries, ids(found), strict=True):
        assert names == best(world, vectors, encoder.embed_images([world.pictures(query.image)])[0], "image", 3)
    assert all(c.channel is Channel.IMAGE_TO_IMAGE for one in found for c in one.candidates)
    assert [one.query_id for one in found] == [query.id for query in world.queries]
    looks = [{int(name[1:]) % 8 for name in names} for names in ids(found)]
    assert looks == [{number % 8} for number in range(12)]  # it finds what looks alike


def test_channels_take_turns_without_repeats(world, encoder, tmp_path):
    found = ready(world, encoder, tmp_path, BOTH).retrieve(world.queries)
    for one in found:
        assert [c.channel for c in one.candidates] == [Channel.IMAGE_TO_IMAGE, Channel.TEXT_TO_TEXT] * 2
        assert len({c.id for c in one.candidates}) == 4
    alone = {name: ready(world, encoder, tmp_path, {name: 8}).retrieve(world.queries) for name in BOTH}
    for place, names in enumerate(ids(found)):
        pictured, written = (ids(alone[name])[place] for name in BOTH)
        expected = [pictured[0]]
        expected.append(next(n for n in written if n not in expected))
        expected.append(next(n for n in pictured if n not in expected))
        expected.append(next(n for n in written if n not in expected))
        assert names == expected


def test_absent_sides_are_never_found(world, encoder, tmp_path):
    pictured = ready(world, encoder, tmp_path, {"image_to_image": 40}).retrieve(world.queries)
    written = ready(world, encoder, tmp_path, {"text_to_text": 40}).retrieve(world.queries)
    assert all(len(names) == 36 and not any(name.endswith("7") for name in names) for names in ids(pictured))
    assert all(len(names) == 36 and not any(name.endswith("3") for name in names) for names in ids(written))


def test_a_query_without_image_is_served_by_text(world, encoder, tmp_path):
    query = dataclasses.replace(world.queries[0], image=None)
    (one,) = ready(world, encoder, tmp_path, BOTH).retrieve([query])
    assert [c.channel for c in one.candidates] == [Channel.TEXT_TO_TEXT] * 4
    (none,) = ready(world, encoder, tmp_path, {"image_to_image": 2}).retrieve([query])
    assert none.candidates == ()


@pytest.mark.parametrize("field", ["id", "patient_id", "study_id", "image"])
def test_leak_rule_on_identity(world, encoder, tmp_path, field):
    """The nearest documents are the query's own; as many others are still found, in the right order."""
    target = world.documents[10]
    query = dataclasses.replace(world.queries[0], image=target.image)
    if field == "image":
        world.documents.append(dataclasses.replace(target, id="twin", patient_id="x", study_id="x"))
    else:
        query = dataclasses.replace(query, **{field: getattr(target, field)}, image=world.pictures.put("own.png", 2, 10))
    (one,) = ready(world, encoder, tmp_path, BOTH).retrieve([query])
    assert len(one.candidates) == 4
    assert all(shares_identity(query, c.document) is None for c in one.candidates)
    assert target.id not in ids([one])[0]


def test_leak_rule_on_pixels(world, encoder, tmp_path, caplog):
    query = world.queries[0]
    world.pictures.pixels["copy.png"] = world.pictures.pixels[query.image.path]
    world.documents.append(Document("planted", "a copied image", ImageRef("copy.png")))
    with caplog.at_level(logging.WARNING):
        found = ready(world, encoder, tmp_path, BOTH).retrieve(world.queries)
    assert "planted" not in ids(found)[0]
    assert len(found[0].candidates) == 4
    assert "not evidence for the queries whose image they copy: 1 documents (planted)" in caplog.text
    nearest = ready(world, encoder, tmp_path, {"text_to_text": 1})
    assert ids(nearest.retrieve([dataclasses.replace(query, question="a copied image?")])) != [["planted"]]
    assert ids(nearest.retrieve([dataclasses.replace(query, question="a copied image?", image=None)])) == [["planted"]]


def test_fetch_grows_until_enough_legal_documents_are_found(world, encoder, tmp_path):
    """30 of 40 documents, and the nearest, belong to the patient: the 10 others are found nevertheless."""
    mine = [dataclasses.replace(document, patient_id="me") for document in world.documents]
    world.documents = [*mine[:30], *world.documents[30:]]
    queries = [dataclasses.replace(query, patient_id="me") for query in world.queries]
    found = ready(world, encoder, tmp_path, {"text_to_text": 9}).retrieve(queries)
    legal = {d.id for d in world.documents[30:] if d.text}
    assert all(set(names) == legal and len(names) == 9 for names in ids(found))
    world.documents = mine
    assert ids(ready(world, encoder, tmp_path / "all", BOTH).retrieve(queries)) == [[]] * 12


def test_tied_documents_come_in_corpus_order(world, encoder, tmp_path):
    world.documents = [dataclasses.replace(d, text="the same words") for d in world.documents]
    found = ready(world, encoder, tmp_path, {"text_to_text": 30}).retrieve(world.queries)
    assert ids(found) == [[f"d{number}" for number in range(30)]] * 12


def test_company_and_batch_size_do_not_matter(world, encoder, tmp_path):
    source = ready(world, encoder, tmp_path, BOTH)
    together = source.retrieve(world.queries)
    assert together == [source.retrieve([query])[0] for query in world.queries]
    assert together == ready(world, encoder, tmp_path / "b", BOTH, batch_size=3).retrieve(world.queries)


def test_each_image_is_opened_once(world, encoder, tmp_path):
    source = ready(world, encoder, tmp_path, BOTH)
    told = []
    source.on_progress = lambda done, count: told.append((done, count))
    world.pictures.opened = 0
    source.retrieve([dataclasses.replace(world.queries[0], id=f"again{n}", question=f"why {n}?") for n in range(50)])
    assert world.pictures.opened == 1
    assert told == [(1, 1)]


def test_one_space_compares_images_with_texts(world, tmp_path):
    encoder = OneSpace(64)
    (one,) = ready(world, encoder, tmp_path, {"image_to_text": 2, "text_to_image": 1}).retrieve(world.queries[:1])
    assert [c.channel for c in one.candidates] == [Channel.IMAGE_TO_TEXT, Channel.TEXT_TO_IMAGE, Channel.IMAGE_TO_TEXT]


def test_separate_spaces_are_not_compared(encoder):
    with pytest.raises(ValueError, match="image_to_text compares images with texts, but the encoder keeps them in separate"):
        LiveSearch(encoder, {"image_to_text": 2})


def test_settings_are_checked(world, encoder, tmp_path):
    wrong = [({}, "is empty"), ({"given": 1}, "'given' is no channel"), ({"text_to_text": 0}, "at least 1, got 0")]
    for per_channel, told in wrong:
        with pytest.raises(ValueError, match=told):
            LiveSearch(encoder, per_channel)
    with pytest.raises(ValueError, match="batch_size"):
        LiveSearch(encoder, BOTH, batch_size=0)
    world.documents = [dataclasses.replace(d, text="") for d in world.documents if d.image]
    with pytest.raises(ValueError, match="text_to_text has nothing to find: the corpus has no texts"):
        LiveSearch(encoder, BOTH).prepare(world.documents, world.pictures, tmp_path)
    with pytest.raises(RuntimeError, match="before load"):
        LiveSearch(encoder, BOTH).fingerprint()


def test_a_store_is_built_once_and_refused_for_others(world, encoder, tmp_path):
    first = ready(world, encoder, tmp_path, BOTH)
    world.pictures.opened = 0
    again = ready(world, TinyDualEncoder(64), tmp_path, BOTH)
    assert world.pictures.opened <= 16  # the sample that is checked
    assert again.fingerprint() == first.fingerprint()
    with pytest.raises(ValueError, match="another encoder"):
        LiveSearch(TinyDualEncoder(64, seed=3), BOTH).prepare(world.documents, world.pictures, tmp_path)
    with pytest.raises(ValueError, match="another corpus"):
        LiveSearch(encoder, BOTH).prepare(world.documents[1:], world.pictures, tmp_path)
    with pytest.raises(ValueError, match="another corpus"):
        LiveSearch(encoder, BOTH).load(world.documents[1:], world.pictures, tmp_path)
    world.pictures.put("d0.png", 5, 99)
    with pytest.raises(ValueError, match="has changed since"):
        LiveSearch(encoder, BOTH).prepare(world.documents, world.pictures, tmp_path)


def test_an_interrupted_build_is_done_again(world, encoder, tmp_path):
    def failing(ref):
        if ref.path == "d30.png":
            raise ValueError("d30.png: broken image; remove it")
        return world.pictures(ref)

    with pytest.raises(ValueError, match="broken image"):
        LiveSearch(encoder, BOTH, batch_size=8).prepare(world.documents, failing, tmp_path)
    assert not EvidenceStore.exists(tmp_path)
    assert not list(tmp_path.iterdir())
    ready(world, encoder, tmp_path, BOTH)


def test_fingerprint_follows_what_candidates_depend_on(world, encoder, tmp_path):
    channels = [BOTH, {"text_to_text": 2, "image_to_image": 2}, {"text_to_text": 2}]
    prints = [ready(world, encoder, tmp_path, one).fingerprint() for one in channels]
    prints.append(ready(world, encoder, tmp_path, BOTH, index=IndexConfig("hnsw")).fingerprint())
    assert len(set(prints)) == 4


def test_is_configured_by_name(world, tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=CandidateSource)
    encoder = {"class_path": "medrag_lightning.models.tiny_dual_encoder.TinyDualEncoder", "init_args": {"dim": 32}}
    settings = {"encoder": encoder, "per_channel": {"text_to_text": 3}, "index": {"kind": "hnsw", "hnsw_links": 8}}
    live = {"class_path": "medrag_lightning.retrieval.source.LiveSearch", "init_args": settings}
    kept = {"class_path": "medrag_lightning.retrieval.candidates.Remembered", "init_args": {"source": live}}
    source = parser.instantiate(parser.parse_object({"source": kept})).source
    source.prepare(world.documents, world.pictures, tmp_path)
    source.load(world.documents, world.pictures, tmp_path)
    assert [len(names) for names in ids(source.retrieve(world.queries))] == [3] * 12
    settings["index"] = {"kind": "flat", "hnsw_links": 8}
    with pytest.raises(ValueError, match="would be ignored"):
        parser.instantiate(parser.parse_object({"source": live}))


def test_no_evidence(world, tmp_path):
    source = NoEvidence()
    assert isinstance(source, CandidateSource)
    source.prepare(world.documents, world.pictures, tmp_path)
    source.load(world.documents, world.pictures, tmp_path)
    assert ids(source.retrieve(world.queries)) == [[]] * 12
    assert source.fingerprint() == NoEvidence().fingerprint()
