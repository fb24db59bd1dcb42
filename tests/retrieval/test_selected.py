"""As many candidates as a rule keeps, of any source."""

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from medrag_lightning.interfaces import CandidateSource, Refreshable, SimilaritySource, VectorSource
from medrag_lightning.models.similarity_fusion import FixedFusion
from medrag_lightning.records import Candidate, Channel, Query, Retrieved
from medrag_lightning.retrieval.fused import FusedSearch
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence
from medrag_lightning.selection import Selection


class Scripted(NoEvidence):
    """Gives the world's first documents with scores by hand."""

    def __init__(self, documents, scores, channels=None):
        self.documents, self.scores = documents, scores
        self.channels = channels or [Channel.TEXT_TO_TEXT] * len(scores)

    def retrieve(self, queries):
        found = zip(self.documents, self.scores, self.channels, strict=False)
        return [Retrieved(query.id, tuple(Candidate(*one) for one in found), "by hand") for query in queries]


def ready(world, source, folder):
    source.prepare(world.documents, world.pictures, folder)
    source.load(world.documents, world.pictures, folder)
    return source


def test_the_spec_s_example_keeps_three(world):
    source = SelectedSearch(Scripted(world.documents, (0.9, 0.8, 0.5, 0.2, -0.1, -0.3)))
    (found,) = source.retrieve([Query("q", "?")])
    assert [candidate.id for candidate in found.candidates] == ["d0", "d1", "d2"]
    assert found.provenance == source.fingerprint()


def test_channels_are_lists_of_their_own_in_the_pool_s_order(world):
    one, other = Channel.IMAGE_TO_IMAGE, Channel.TEXT_TO_TEXT
    pool = Scripted(world.documents, (0.9, 0.1, 0.85, 0.09, -0.9), [one, other, one, other, other])
    (found,) = SelectedSearch(pool).retrieve([Query("q", "?")])
    assert [candidate.id for candidate in found.candidates] == ["d0", "d1", "d2", "d3"]


def test_first_k_counts_through_all_channels(world):
    one, other = Channel.IMAGE_TO_IMAGE, Channel.TEXT_TO_TEXT
    pool = Scripted(world.documents, (0.1, 0.9, 0.5, 0.7), [one, other, other, one])
    (found,) = SelectedSearch(pool, Selection("first_k", 3)).retrieve([Query("q", "?")])
    assert [candidate.id for candidate in found.candidates] == ["d0", "d1", "d2"]


def test_nothing_found_is_nothing_kept_and_an_unordered_pool_is_refused(world):
    assert SelectedSearch(NoEvidence()).retrieve([Query("q", "?")])[0].candidates == ()
    with pytest.raises(ValueError, match=r"query 'q', channel text_to_text: scores rise"):
        SelectedSearch(Scripted(world.documents, (0.1, 0.9))).retrieve([Query("q", "?")])


def test_it_is_the_pool_but_for_the_number(world, encoder, tmp_path):
    pool = LiveSearch(encoder, {"image_to_image": 6})
    source = ready(world, SelectedSearch(pool, Selection(cut=0.05)), tmp_path)
    assert all(isinstance(source, kind) for kind in (CandidateSource, SimilaritySource, VectorSource, Refreshable))
    counts = []
    for kept, all_ in zip(source.retrieve(world.queries), pool.retrieve(world.queries), strict=True):
        assert kept.candidates == all_.candidates[: len(kept.candidates)]
        counts.append(len(kept.candidates))
    assert min(counts) >= 1
    assert len(set(counts)) > 1  # it adapts
    ids = [["d1", "d2"]]
    same = [one.similarities(world.queries[:1], ids, [Channel.IMAGE_TO_IMAGE])[0] for one in (source, pool)]
    np.testing.assert_array_equal(*same)
    np.testing.assert_array_equal(source.document_vectors("image", ["d1"]), pool.document_vectors("image", ["d1"]))
    before = source.fingerprint()
    assert before not in (pool.fingerprint(), SelectedSearch(pool).fingerprint())
    source.refresh(encoder)
    assert source.fingerprint() != before


def test_fused_scores_go_through(world, encoder, tmp_path):
    pool = FusedSearch(LiveSearch(encoder, {"image_to_image": 4}), FixedFusion({"image_to_image": 1.0}), top=3)
    source = ready(world, SelectedSearch(pool), tmp_path)
    queries = world.queries[:2]
    found = source.retrieve(queries)
    told = source.fused_scores(queries, [[c.id for c in one.candidates] for one in found])
    assert told == [[c.score for c in one.candidates] for one in found]
    assert np.isnan(SelectedSearch(NoEvidence()).fused_scores(queries, [["d0"], []])[0]).all()


def test_what_the_pool_cannot_do_is_told():
    source = SelectedSearch(NoEvidence())
    assert np.isnan(source.similarities([Query("q", "?")], [["d0"]], [Channel.TEXT_TO_TEXT])[0]).all()
    with pytest.raises(ValueError, match="NoEvidence knows no vectors"):
        source.document_vectors("text", ["d0"])
    with pytest.raises(ValueError, match="NoEvidence cannot have"):
        source.refresh(None)


def test_it_can_be_named_in_a_config():
    parser = ArgumentParser()
    parser.add_argument("--source", type=CandidateSource)
    pool = {"class_path": "medrag_lightning.retrieval.source.NoEvidence"}
    where = "medrag_lightning.retrieval.selected.SelectedSearch"
    told = {"class_path": where, "init_args": {"pool": pool, "rule": {"rule": "ratio", "cut": 1.3}}}
    source = parser.instantiate(parser.parse_object({"source": told})).source
    assert source.rule == Selection("ratio", 10, 1.3)


def test_it_serves_a_part_of_knowledge_search(world, encoder, tmp_path):
    reports = SelectedSearch(LiveSearch(encoder, {"image_to_image": 6}), Selection(cut=0.02))
    source = ready(world, KnowledgeSearch(reports, LiveSearch(encoder, {"text_to_text": 2})), tmp_path)
    found = source.retrieve(world.queries)
    assert {len(one.candidates) for one in found} <= set(range(3, 9))
    assert len({len(one.candidates) for one in found}) > 1
    assert all(one.candidates[-1].corpus == "world" for one in found)  # the texts stand last
