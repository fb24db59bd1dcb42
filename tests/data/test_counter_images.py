"""Counter-images: the least similar one is the brute-force argmin, and none is ever of the query's own case."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from knowledge_world import Similar, documents, open_image, query, vector, world_of

from medrag_lightning.batches import pixel_sha256
from medrag_lightning.data import counter_images
from medrag_lightning.data.conditions import ConditionExamples
from medrag_lightning.data.counter_images import CounterImages
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Document, ImageRef, ImageShown, Split, shares_identity
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence


def brute_force(one, corpus):
    """The legal image of the query's modality with the lowest cosine; of all, where there is none."""
    mine = pixel_sha256(open_image(one.image))
    legal = [d for d in corpus if d.image and shares_identity(one, d) is None and pixel_sha256(open_image(d.image)) != mine]
    same = [d for d in legal if one.modality is not None and d.modality == one.modality] or legal
    return min(same, key=lambda d: np.float32(vector(d.image) @ vector(one.image))).id if same else None


def asked(world):
    return [one for split in world.queries.values() for one in split]


@pytest.mark.parametrize("at_once", [1, 30, 10**6])
def test_the_least_similar_is_that_of_brute_force(monkeypatch, at_once):
    monkeypatch.setattr(counter_images, "PAIRS", at_once)
    copies = [Document(f"copy{n}", "", ImageRef(f"q{n}.copy"), f"other{n}", modality="CT") for n in (1, 2, 4)]
    odd = [query(n, Split.VAL, modality=told) for n, told in ((20, None), (21, "US"), (22, "MR"))]
    odd += [query(30, image=ImageRef("q4.png"), patient_id="p4"), query(31, image=ImageRef("q4.png"), modality="MR")]
    world = world_of(queries=[query(n) for n in range(8)] + odd, corpus=documents() + copies)
    images = CounterImages(world, asked(world))
    for one in asked(world):
        found = images.of(one)
        if one.image is None:
            assert found is None
            continue
        assert (found.evidence_ids, found.image) == ((), ImageShown.OTHER)
        assert found.image_of == brute_force(one, world.documents)
    different = {(one.image, one.modality) for one in asked(world) if one.image is not None}
    assert world.source.queries_asked == len(different)  # each image once a modality; US has none: all are compared
    if at_once == 10**6:
        assert world.source.calls == 3  # two modalities, and those without


def test_where_nothing_is_legal_there_is_none():
    own = [Document("r", "", ImageRef("r.png"), "p1"), Document("q1", "", ImageRef("s.png")), Document("text", "words")]
    copy = Document("c", "", ImageRef("q1.copy"))
    one = query(1)
    world = world_of(queries=[one], corpus=[*own, copy])
    assert CounterImages(world, [one]).of(one) is None
    assert CounterImages(world_of(corpus=[own[2]], queries=[one]), [one]).of(one) is None


def test_an_unrelated_image_is_another_patients_and_does_not_depend_on_what_is_asked():
    plan = KnowledgePlan(counter_image="unrelated")
    copy = query(40, image=ImageRef("q1.copy"))  # another patient's under the same pixels
    world = world_of(plan, queries=[query(n) for n in (0, 1, 2)] + [copy] + [query(n, Split.VAL) for n in (8, 9)])
    images, by_id = CounterImages(world, asked(world)), {one.id: one for one in asked(world)}
    for one in asked(world):
        owner = by_id[images.of(one).image_of]
        assert owner.split is one.split
        assert owner.patient_id != one.patient_id
        assert pixel_sha256(open_image(owner.image)) != pixel_sha256(open_image(one.image))
        assert CounterImages(world, [one]).of(one) == images.of(one)
    drawn = {CounterImages(replace(world, seed=seed), [query(0)]).of(query(0)).image_of for seed in range(9)}
    assert len(drawn) > 1
    alone = world_of(plan, queries=[query(1)])
    assert CounterImages(alone, asked(alone)).of(query(1)) is None


@pytest.mark.parametrize(("kind", "name"), [("noise", "replace"), ("blank", "blank")])
def test_noise_and_blank_leave_nothing_of_the_image(kind, name):
    world = world_of(KnowledgePlan(counter_image=kind), source=NoEvidence())
    one, without = world.queries["train"][1], world.queries["train"][3]
    images = CounterImages(world, [one, without])
    shown = images.of(one)
    assert (shown.image, shown.corruption, shown.evidence_ids) == (ImageShown.CORRUPTED, name, ())
    assert images.of(without) is None
    other = replace(one, image=ImageRef("another.png"))
    shows = ConditionExamples({}, {}, open_image)
    made = [np.asarray(shows.build([(question, shown)])[0].query_image) for question in (one, other)]
    np.testing.assert_array_equal(*made)
    if kind == "noise":
        assert 0.35 < (made[0] == 0).mean() < 0.65  # N(0, 1) clipped to [0, 1]
        assert 0.05 < (made[0] == 255).mean() < 0.3


def test_what_cannot_be_told_is_an_error():
    world = world_of(source=NoEvidence())
    with pytest.raises(ValueError, match=r"counter_image: least_similar needs .* give one, or .*; NoEvidence cannot tell"):
        CounterImages(world, world.queries["train"])
    blind = Similar(world.documents)
    blind.similarities = lambda queries, ids, channels: [np.full((len(names), 1), np.nan, np.float32) for names in ids]
    with pytest.raises(ValueError, match=r"least_similar needs .*; Similar compares no images \(query 'q1'\)"):
        CounterImages(world_of(source=blind), [query(1)])
    with pytest.raises(ValueError, match=r"set data\.knowledge"):
        CounterImages(replace(world, knowledge=None), [])
    with pytest.raises(ValueError, match="'q5' is not among those"):
        CounterImages(world_of(), [query(1)]).of(query(5))
    both = ConditionExamples({"x": query(1)}, {"x": Document("x", "", ImageRef("x.png"))}, open_image)
    shown = CounterImages(world_of(), [query(2)]).of(query(2))
    with pytest.raises(ValueError, match="a query and a document, with different images"):
        both.build([(query(2), replace(shown, image_of="x"))])


def test_a_real_search_tells_the_same(tmp_path):
    corpus = documents()
    for ref in {one.image for one in [*corpus, query(1), query(2)] if one.image is not None}:
        open_image(ref).resize((24, 24)).save(tmp_path / ref.path)

    def placed(one):
        return one if one.image is None else replace(one, image=ImageRef(str(tmp_path / one.image.path)))

    store, encoder = ImageStore([Path(tmp_path)]), TinyDualEncoder(dim=64)
    source = LiveSearch(encoder, {"image_to_image": 2})
    corpus, questions = [placed(d) for d in corpus], [placed(query(1)), placed(query(2))]
    for open_ in (source.prepare, source.load):
        open_(corpus, store, tmp_path / "store")
    world = world_of(queries=questions, corpus=corpus, source=source, open_image=store)
    images = CounterImages(world, questions)
    for one in questions:
        legal = [d for d in corpus if d.image and d.modality == one.modality and shares_identity(one, d) is None]
        cosine = encoder.embed_images([store(d.image) for d in legal]) @ encoder.embed_images([store(one.image)])[0]
        assert images.of(one).image_of == legal[int(cosine.argmin())].id
