"""A search for each kind of knowledge: equal to brute force over its own documents, and routed to the right part."""

import dataclasses

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from medrag_lightning.interfaces import CandidateSource, Refreshable, SimilaritySource, VectorSource
from medrag_lightning.models.similarity_fusion import FixedFusion
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Channel, Document, shares_identity
from medrag_lightning.retrieval.fused import FusedSearch
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence

II, TT = Channel.IMAGE_TO_IMAGE, Channel.TEXT_TO_TEXT


@pytest.fixture
def library(world):
    """The world of the other tests with twelve texts more: sixteen documents have no image, four of them a patient."""
    words = ["effusion", "fracture", "nodule", "opacity"]
    texts = [Document(f"t{n}", f"guideline {n}: {words[n % 4]} in patient {n}", source="guidelines") for n in range(12)]
    world.documents = [*world.documents[:20], *texts, *world.documents[20:]]
    return world


def knowledge(encoder, reports=None, documents=None):
    return KnowledgeSearch(
        reports or LiveSearch(encoder, {"image_to_image": 3}), documents or LiveSearch(encoder, {"text_to_text": 2})
    )


def ready(world, source, folder):
    source.prepare(world.documents, world.pictures, folder)
    source.load(world.documents, world.pictures, folder)
    return source


def test_it_is_what_it_says(encoder):
    source = knowledge(encoder)
    assert all(isinstance(source, kind) for kind in (CandidateSource, SimilaritySource, VectorSource, Refreshable))


def test_candidates_equal_brute_force_reports_first(library, encoder, tmp_path):
    source = ready(library, knowledge(encoder), tmp_path)
    pictured = [d for d in library.documents if d.image is not None]
    written = [d for d in library.documents if d.image is None and d.text]
    image_ND = encoder.embed_images([library.pictures(d.image) for d in pictured]).astype(np.float64)
    text_ND = encoder.embed_texts([d.text for d in written]).astype(np.float64)
    for query, one in zip(library.queries, source.retrieve(library.queries), strict=True):
        by_image = np.float32(image_ND @ encoder.embed_images([library.pictures(query.image)])[0].astype(np.float64))
        by_text = np.float32(text_ND @ encoder.embed_texts([query.question])[0].astype(np.float64))
        expected = [pictured[at].id for at in np.argsort(-by_image, kind="stable")[:3]]
        expected += [written[at].id for at in np.argsort(-by_text, kind="stable")[:2]]
        assert [candidate.id for candidate in one.candidates] == expected
        assert [candidate.channel for candidate in one.candidates] == [II] * 3 + [TT] * 2
        assert one.query_id == query.id


def test_each_part_has_a_store_of_its_own(library, encoder, tmp_path):
    source = ready(library, knowledge(encoder), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"reports", "documents"}
    assert ready(library, knowledge(encoder), tmp_path).fingerprint() == source.fingerprint()
    other = ready(library, knowledge(encoder, documents=LiveSearch(encoder, {"text_to_text": 1})), tmp_path)
    assert other.fingerprint() != source.fingerprint()
    first = next(at for at, document in enumerate(library.documents) if document.image is None)
    library.documents[first] = dataclasses.replace(library.documents[first], text="other words")
    with pytest.raises(ValueError, match=r"documents was built with another corpus"):
        source.prepare(library.documents, library.pictures, tmp_path)


def test_leak_rule_in_both_parts(library, encoder, tmp_path):
    source = ready(library, knowledge(encoder), tmp_path)
    patient = next(d.patient_id for d in library.documents if d.image is None and d.patient_id)
    image = library.documents[0].image
    queries = [dataclasses.replace(query, image=image, patient_id=patient) for query in library.queries]
    for query, one in zip(queries, source.retrieve(queries), strict=True):
        assert len(one.candidates) == 5
        assert all(shares_identity(query, candidate.document) is None for candidate in one.candidates)


def test_a_query_without_image_gets_documents_alone(library, encoder, tmp_path):
    (one,) = ready(library, knowledge(encoder), tmp_path).retrieve([dataclasses.replace(library.queries[0], image=None)])
    assert [candidate.channel for candidate in one.candidates] == [TT] * 2


def test_similarities_are_those_of_the_part_that_has_the_document(library, encoder, tmp_path):
    source = ready(library, knowledge(encoder), tmp_path)
    whole = ready(library, LiveSearch(encoder, {"image_to_image": 1, "text_to_text": 1}), tmp_path / "whole")
    rng = np.random.default_rng(0)
    ids = [[library.documents[at].id for at in rng.permutation(52)[: n % 5]] for n in range(12)]
    ids[1] = ["t0", "d0", "t1"]
    for one, other in zip(
        source.similarities(library.queries, ids, [II, TT]), whole.similarities(library.queries, ids, [II, TT]), strict=True
    ):
        assert one.shape == other.shape
        assert np.array_equal(one, other, equal_nan=True)
    (mixed,) = source.similarities(library.queries[:1], [["t0", "d0", "never heard of"]], [II])
    assert np.isnan(mixed[[0, 2]]).all()
    assert not np.isnan(mixed[1]).any()
    assert source.similarities([], [], [II]) == []


def test_candidates_have_the_score_that_similarities_tell(library, encoder, tmp_path):
    source = ready(library, knowledge(encoder), tmp_path)
    found = source.retrieve(library.queries)
    told = source.similarities(library.queries, [[c.id for c in one.candidates] for one in found], [II, TT])
    for one, similarity_KM in zip(found, told, strict=True):
        by_channel = [similarity_KM[at, [II, TT].index(c.channel)] for at, c in enumerate(one.candidates)]
        assert [c.score for c in one.candidates] == pytest.approx(by_channel, abs=1e-6)


def test_a_part_without_similarities_or_vectors(library, encoder, tmp_path):
    source = ready(library, knowledge(encoder, documents=NoEvidence()), tmp_path)
    (told,) = source.similarities(library.queries[:1], [["t0", "d0"]], [TT])
    assert np.isnan(told[0]).all()
    assert not np.isnan(told[1]).any()
    assert source.document_vectors("image", ["d0"]).shape == (1, 64)
    with pytest.raises(ValueError, match="documents of KnowledgeSearch: NoEvidence knows no vectors"):
        source.document_vectors("text", ["d0", "t0"])
    with pytest.raises(ValueError, match="documents of KnowledgeSearch: NoEvidence cannot have its vectors made anew"):
        source.refresh(encoder)


def test_vectors_come_in_the_order_asked(library, encoder, tmp_path):
    source = ready(library, knowledge(encoder), tmp_path)
    text_of = {document.id: document.text for document in library.documents}
    names = ["t3", "d0", "d7", "t0", "d0"]
    assert np.array_equal(source.document_vectors("text", names), encoder.embed_texts([text_of[name] for name in names]))
    assert len(source.document_vectors("text", [])) == 0
    with pytest.raises(ValueError, match="'t0' has no image vector"):
        source.document_vectors("image", ["d0", "t0"])
    with pytest.raises(ValueError, match="'nobody' is not in the corpus"):
        source.document_vectors("text", ["nobody"])
    other = LiveSearch(TinyDualEncoder(dim=32), {"text_to_text": 2})
    unlike = ready(library, knowledge(encoder, documents=other), tmp_path / "unlike")
    with pytest.raises(ValueError, match="different widths"):
        unlike.document_vectors("text", ["d0", "t0"])


def test_refresh_reaches_both_parts(library, encoder, tmp_path):
    source = ready(library, knowledge(encoder), tmp_path)
    before, other = source.fingerprint(), TinyDualEncoder(dim=64, seed=5)
    source.refresh(other)
    source.load(library.documents, library.pictures, tmp_path)
    assert source.fingerprint() != before
    fresh = ready(library, knowledge(other), tmp_path / "fresh")
    names = [[[c.id for c in one.candidates] for one in s.retrieve(library.queries)] for s in (source, fresh)]
    assert names[0] == names[1]


def test_a_part_may_fuse(library, encoder, tmp_path):
    pool = LiveSearch(encoder, {"image_to_image": 4, "text_to_text": 4})
    fused = FusedSearch(pool, FixedFusion({"image_to_image": 1.0, "text_to_text": 0.5}), top=3)
    source = ready(library, knowledge(encoder, reports=fused), tmp_path)
    found = source.retrieve(library.queries)
    assert {c.channel for one in found for c in one.candidates} == {Channel.FUSED, TT}
    scores = source.fused_scores(library.queries, [[c.id for c in one.candidates] for one in found])
    for one, mine in zip(found, scores, strict=True):
        assert [c.score for c in one.candidates[:3]] == pytest.approx(mine[:3], abs=1e-6)
        assert np.isnan(mine[3:]).all()


def test_an_empty_part_is_told_with_its_remedy(library, encoder, tmp_path):
    everything = library.documents
    library.documents = [document for document in everything if document.image is not None]
    with pytest.raises(ValueError, match=r"no documents to search.*texts: true"):
        ready(library, knowledge(encoder), tmp_path)
    library.documents = [document for document in everything if document.image is None]
    with pytest.raises(ValueError, match=r"no reports to search.*image-report pairs"):
        ready(library, knowledge(encoder), tmp_path)


def test_it_can_be_named_in_a_config(tmp_path):
    parser = ArgumentParser()
    parser.add_argument("--source", type=CandidateSource)
    encoder = {"class_path": "medrag_lightning.models.tiny_dual_encoder.TinyDualEncoder"}
    parts = {
        name: {
            "class_path": "medrag_lightning.retrieval.source.LiveSearch",
            "init_args": {"encoder": encoder, "per_channel": {channel: 2}},
        }
        for name, channel in (("reports", "image_to_image"), ("documents", "text_to_text"))
    }
    told = {"source": {"class_path": "medrag_lightning.retrieval.knowledge_search.KnowledgeSearch", "init_args": parts}}
    source = parser.instantiate(parser.parse_object(told)).source
    assert isinstance(source, KnowledgeSearch)
