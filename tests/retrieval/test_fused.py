"""Re-ranked search: similarities are the search's own scores, order by f, the leak rule (R05), fingerprints, refusals."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from medrag_lightning.interfaces import CandidateSource, SimilaritySource, VectorSource
from medrag_lightning.models.similarity_fusion import FixedFusion
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Channel
from medrag_lightning.retrieval.fused import FusedSearch
from medrag_lightning.retrieval.source import LiveSearch

ALL = ("image_to_text", "image_to_image", "text_to_text", "text_to_image")
POOL = {"image_to_text": 5, "image_to_image": 5, "text_to_text": 5}


class OneSpace(TinyDualEncoder):
    """Claims that images and texts may be compared, and counts the images that it embeds."""

    embedded = 0

    @property
    def shared_space(self):
        return True

    def embed_images(self, images):
        self.embedded += len(images)
        return super().embed_images(images)


class Headed(OneSpace):
    """Asks the text side with its own vectors turned round, at half their length."""

    def embed_queries(self, images, side):
        vectors = self.embed_images(images)
        return 0.5 * (vectors[:, ::-1].copy() if side == "text" else vectors)

    def query_fingerprint(self):
        return "turned"


def ready(world, folder, made):
    made.prepare(world.documents, world.pictures, folder)
    made.load(world.documents, world.pictures, folder)
    return made


def search(world, folder, encoder=None, per_channel=POOL, **settings):
    return ready(world, folder, LiveSearch(encoder or OneSpace(64), dict(per_channel), **settings))


@pytest.mark.parametrize("kind", [OneSpace, Headed])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_similarities_are_the_scores_of_the_search(world, tmp_path, kind, dtype):
    """Also those of query heads; NaN where the document or the query lacks the side."""
    world.queries[3] = dataclasses.replace(world.queries[3], image=None)
    world.queries[4] = dataclasses.replace(world.queries[4], question=" ")
    per_channel = dict.fromkeys(ALL, 40)
    source = search(world, tmp_path, kind(64), per_channel, distinct_documents=False, dtype=dtype)
    assert isinstance(source, SimilaritySource)
    channels = [Channel(name) for name in ALL]
    ids = [[document.id for document in world.documents]] * len(world.queries)
    found = source.similarities(world.queries, ids, channels)
    for place, one in enumerate(source.retrieve(world.queries)):
        told = {(c.id, c.channel): c.score for c in one.candidates}
        for k, name in enumerate(ids[0]):
            for m, channel in enumerate(channels):
                if (name, channel) in told:
                    assert found[place][k, m] == pytest.approx(told[name, channel], abs=1e-6)
    assert np.isnan(found[3][:, :2]).all()
    assert np.isnan(found[4][:, 2:]).all()
    assert np.isnan(found[0][3, 0])  # d3 has no text
    assert np.isnan(found[0][7, 1])  # d7 has no image
    assert source.similarities([], [], channels) == []
    assert source.similarities(world.queries[:1], [[]], channels)[0].shape == (0, 4)


def test_channels_that_are_not_searched_may_be_compared_but_not_across_spaces(world, tmp_path):
    source = search(world, tmp_path, TinyDualEncoder(64), {"image_to_image": 3})
    assert np.isfinite(source.similarities(world.queries, [["d0"]] * 12, [Channel.TEXT_TO_TEXT])).all()
    with pytest.raises(ValueError, match="separate spaces"):
        source.similarities(world.queries, [["d0"]] * 12, [Channel.IMAGE_TO_TEXT])
    source.refresh(TinyDualEncoder(64, seed=5))
    with pytest.raises(ValueError, match="no channel of per_channel searches texts"):
        source.similarities(world.queries, [["d0"]] * 12, [Channel.TEXT_TO_TEXT])


def test_order_is_by_the_weighted_sum_of_standardised_similarities(world, tmp_path):
    weights = {"image_to_text": 0.5, "image_to_image": 0.3, "text_to_text": 0.2}
    source = ready(world, tmp_path, FusedSearch(LiveSearch(OneSpace(64), POOL), FixedFusion(weights), top=6))
    assert all(isinstance(source, kind) for kind in (CandidateSource, SimilaritySource, VectorSource))
    pool = search(world, tmp_path)
    for query, one, union in zip(world.queries, source.retrieve(world.queries), pool.retrieve(world.queries), strict=True):
        names = [c.id for c in union.candidates]
        (cosine,) = pool.similarities([query], [names], [Channel(name) for name in weights])
        scaled = np.nan_to_num((cosine - np.nanmean(cosine, 0)) / np.nanstd(cosine, 0))
        score = scaled @ np.array(list(weights.values()))
        first = np.argsort(-score, kind="stable")[:6]
        assert [c.id for c in one.candidates] == [names[k] for k in first]
        np.testing.assert_allclose([c.score for c in one.candidates], score[first], atol=1e-4)
        assert {c.channel for c in one.candidates} == {Channel.FUSED}


def test_a_document_put_in_by_hand_is_scored_beside_the_pool_and_not_beside_its_likes_alone(world, tmp_path):
    weights = {"image_to_text": 0.5, "image_to_image": 0.3, "text_to_text": 0.2}
    source = ready(world, tmp_path, FusedSearch(LiveSearch(OneSpace(64), {"image_to_image": 2}), FixedFusion(weights), top=2))
    everything = [d.id for d in world.documents]
    for query, one in zip(world.queries, source.retrieve(world.queries), strict=True):
        known = [c.id for c in one.candidates]
        np.testing.assert_allclose(source.fused_scores([query], [known])[0], [c.score for c in one.candidates], atol=1e-5)
        others = [name for name in everything if name not in known][:2]
        (cosine,) = source.similarities([query], [[*known, *others]], [Channel(name) for name in weights])
        spread = np.nanstd(cosine, 0)
        scaled = np.nan_to_num((cosine - np.nanmean(cosine, 0)) / np.where(spread > 0, spread, 1))
        by_name = dict(zip([*known, *others], scaled @ np.array(list(weights.values())), strict=True))
        (told,) = source.fused_scores([query], [others])
        np.testing.assert_allclose(told, [by_name[name] for name in others], atol=1e-4)


def test_one_similarity_alone_ranks_the_pool_as_its_channel_would(world, tmp_path):
    channel = "text_to_text"
    pool = LiveSearch(OneSpace(64), {channel: 8})
    fused = ready(world, tmp_path, FusedSearch(pool, FixedFusion({channel: 1.0}), top=8)).retrieve(world.queries)
    plain = search(world, tmp_path, per_channel={channel: 8}).retrieve(world.queries)
    assert [[c.id for c in one.candidates] for one in fused] == [[c.id for c in one.candidates] for one in plain]


def test_pools_with_repeats_are_ranked_once_and_only_the_first_candidates_where_asked(world, tmp_path):
    fusion = FixedFusion(dict.fromkeys(POOL, 1.0))
    pool = LiveSearch(OneSpace(64), POOL, distinct_documents=False)
    for one in ready(world, tmp_path, FusedSearch(pool, fusion, top=15)).retrieve(world.queries):
        assert len({c.id for c in one.candidates}) == len(one.candidates) <= 15
    few = ready(world, tmp_path, FusedSearch(LiveSearch(OneSpace(64), POOL), fusion, top=2, candidates=4))
    for one, union in zip(few.retrieve(world.queries), search(world, tmp_path).retrieve(world.queries), strict=True):
        assert {c.id for c in one.candidates} <= {c.id for c in union.candidates[:4]}
        assert len(one.candidates) == 2


def test_a_candidate_that_the_fusion_cannot_compare_is_left_out(world, tmp_path):
    pool = LiveSearch(OneSpace(64), {"image_to_image": 36, "text_to_text": 2})
    found = ready(world, tmp_path, FusedSearch(pool, FixedFusion({"text_to_text": 1.0}), top=30)).retrieve(world.queries)
    assert all(not c.id.endswith("3") for one in found for c in one.candidates)


def test_query_images_are_embedded_once(world, tmp_path):
    encoder = OneSpace(64)
    source = ready(world, tmp_path, FusedSearch(LiveSearch(encoder, POOL), FixedFusion(dict.fromkeys(POOL, 1.0)), top=3))
    encoder.embedded = 0
    source.retrieve(world.queries)
    assert encoder.embedded == len(world.queries)


def test_no_evidence_shares_study_patient_or_image_with_its_query(world, tmp_path):
    """R05: the query's own study is by far the most similar document, and never found."""
    twin = world.documents[5]
    query = dataclasses.replace(world.queries[5], image=world.pictures.put("copy.png", 5, 5), question=twin.text)
    cases = {
        "image": dataclasses.replace(query, image=twin.image),
        "study_id": dataclasses.replace(query, study_id=twin.study_id),
        "patient_id": dataclasses.replace(query, patient_id=twin.patient_id),
        "pixels": query,
    }
    source = ready(world, tmp_path, FusedSearch(LiveSearch(OneSpace(64), POOL), FixedFusion(dict.fromkeys(POOL, 1.0)), top=15))
    for name, asked in cases.items():
        (one,) = source.retrieve([asked])
        assert twin.id not in [c.id for c in one.candidates], name
        assert len(one.candidates) == 15
    (free,) = source.retrieve([dataclasses.replace(query, image=world.queries[5].image)])
    assert free.candidates[0].id == twin.id


def test_the_fingerprint_covers_pool_fusion_and_counts(world, tmp_path):
    def made(per_channel=POOL, weight=1.0, top=3, candidates=None):
        fusion = FixedFusion({"image_to_text": weight, "text_to_text": 1.0})
        return ready(world, tmp_path, FusedSearch(LiveSearch(OneSpace(64), per_channel), fusion, top, candidates)).fingerprint()

    different = [made(), made({**POOL, "text_to_text": 6}), made(weight=2.0), made(top=4), made(candidates=9)]
    assert len(set(different)) == 5
    assert made() == different[0]


def test_settings_that_cannot_be_are_refused(world, tmp_path):
    fusion = FixedFusion({"image_to_text": 1.0})
    for wrong in ({"top": 0}, {"top": 16}, {"top": 5, "candidates": 4}, {"top": 1, "candidates": 16}):
        with pytest.raises(ValueError, match="1 <= top <= candidates <= 15"):
            FusedSearch(LiveSearch(OneSpace(64), POOL), fusion, **wrong)
    apart = FusedSearch(LiveSearch(TinyDualEncoder(64), {"text_to_text": 3}), fusion, 1)
    apart.prepare(world.documents, world.pictures, Path(tmp_path))
    with pytest.raises(ValueError, match="separate spaces"):
        apart.load(world.documents, world.pictures, Path(tmp_path))
