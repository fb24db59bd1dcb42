"""A search for each corpus: each part sees its own documents alone, in the order of the parts."""

from dataclasses import replace

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from medrag_lightning.interfaces import CandidateSource, Refreshable, SimilaritySource, VectorSource
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Channel, Document, Query, shares_identity
from medrag_lightning.retrieval.candidates import Remembered
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence
from medrag_lightning.selection import Selection

WORDS = ["effusion", "fracture", "nodule", "opacity"]


@pytest.fixture
def library(world):
    """Thirty-six reports with images, and three corpora of eight texts; the world's own texts have the source ``world``."""
    for name in ("wiki", "book", "guideline"):
        world.documents += [Document(f"{name}{n}", f"{name} {n}: {WORDS[n % 4]} in patient {n}", source=name) for n in range(8)]
    return world


def texts(encoder, corpus="", count=2):
    return LiveSearch(encoder, {"text_to_text": count}, corpus=corpus)


def three(encoder):
    return {
        "wiki": texts(encoder, "wiki"),
        "book": texts(encoder, "book"),
        "reports": LiveSearch(encoder, {"image_to_image": 3}),
    }


def ready(world, source, folder):
    source.prepare(world.documents, world.pictures, folder)
    source.load(world.documents, world.pictures, folder)
    return source


def test_each_part_finds_its_own_in_the_order_of_the_parts(library, encoder, tmp_path):
    source = ready(library, CorpusSearch(three(encoder)), tmp_path)
    assert all(isinstance(source, kind) for kind in (CandidateSource, SimilaritySource, VectorSource, Refreshable))
    for query, one in zip(library.queries, source.retrieve(library.queries), strict=True):
        assert [candidate.corpus for candidate in one.candidates] == ["wiki"] * 2 + ["book"] * 2 + ["reports"] * 3
        assert one.query_id == query.id
        alone = ready_alone(library, encoder, "wiki", tmp_path / "alone").retrieve([query])[0]
        assert one.candidates[:2] == alone.candidates
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "alone") == ["book", "reports", "wiki"]


def ready_alone(world, encoder, corpus, folder):
    source = texts(encoder)
    mine = [document for document in world.documents if document.corpus == corpus]
    source.prepare(mine, world.pictures, folder)
    source.load(mine, world.pictures, folder)
    return source


def test_a_query_generator_chooses_corpora_and_words(library, encoder, tmp_path):
    source = ready(library, CorpusSearch(three(encoder)), tmp_path)
    plain = library.queries[0]
    said = replace(plain, searches=(("book", "book 5: fracture in patient 5"), ("wiki", "")))
    (found,) = source.retrieve([said])
    assert [candidate.corpus for candidate in found.candidates] == ["book"] * 2 + ["reports"] * 3
    assert found.candidates[0].id == "book5"
    (usual,) = source.retrieve([plain])
    assert found.candidates[2:] == usual.candidates[4:]  # reports, which no generator writes for, are searched as ever


def test_kept_candidates_are_found_again_by_what_was_asked(library, encoder, tmp_path):
    source = ready(library, Remembered(CorpusSearch(three(encoder))), tmp_path)
    plain = library.queries[0]
    said = replace(plain, searches=(("book", "book 5: fracture in patient 5"),))
    first, second = source.retrieve([plain]), source.retrieve([said])
    assert first != second
    again = ready(library, Remembered(CorpusSearch(three(encoder))), tmp_path)
    assert again.retrieve([said])[0].candidates == second[0].candidates
    assert len(list(tmp_path.glob("candidates.*.arrow"))) == 2


def test_several_corpora_in_one_part(library, encoder, tmp_path, caplog):
    source = CorpusSearch({"books": texts(encoder, "books", 16)}, of={"books": ["book", "guideline"]})
    ready(library, source, tmp_path)
    (found,) = source.retrieve([Query("q", "fracture")])
    assert {candidate.corpus for candidate in found.candidates} == {"book", "guideline"}
    assert len(found.candidates) == 16
    assert "no part of CorpusSearch searches give no evidence: reports (36), wiki (8), world (4)" in caplog.text


def test_leak_rule_in_every_part(library, encoder, tmp_path):
    library.documents.append(Document("mine", "fracture", source="wiki", patient_id="p3"))
    query = Query("q", "fracture", library.pictures.put("q.png", 1, 9), patient_id="p3")
    source = ready(library, CorpusSearch({"wiki": texts(encoder, count=9), "reports": three(encoder)["reports"]}), tmp_path)
    (found,) = source.retrieve([query])
    assert len(found.candidates) == 8 + 3
    assert not [candidate.id for candidate in found.candidates if shares_identity(query, candidate.document)]


def test_similarities_and_vectors_come_from_the_part_that_has_the_document(library, encoder, tmp_path):
    source = ready(library, CorpusSearch({**three(encoder), "guideline": NoEvidence()}), tmp_path)
    tt = Channel.TEXT_TO_TEXT
    query = replace(library.queries[0], searches=(("book", "nodule"),))
    (told,) = source.similarities([query], [["book1", "wiki1", "guideline1", "d3"]], [tt])
    assert np.isfinite(told[0, 0])
    assert np.isnan(told[1:, 0]).all()  # not searched; tells none; has no text
    (candidate,) = [c for c in source.retrieve([query])[0].candidates if c.corpus == "book"][:1]
    assert source.similarities([query], [[candidate.id]], [tt])[0][0, 0] == np.float32(candidate.score)
    assert source.document_vectors("text", ["wiki1", "book1"]).shape == (2, 64)
    with pytest.raises(ValueError, match=r"the guideline of CorpusSearch: NoEvidence knows no vectors"):
        source.document_vectors("text", ["guideline1"])
    with pytest.raises(ValueError, match=r"the guideline of CorpusSearch: NoEvidence cannot"):
        source.refresh(encoder)


def test_an_adaptive_number_of_reports_beside_texts(library, encoder, tmp_path):
    parts = three(encoder) | {"reports": SelectedSearch(LiveSearch(encoder, {"image_to_image": 6}), Selection(cut=0.02))}
    found = ready(library, CorpusSearch(parts), tmp_path).retrieve(library.queries)
    counts = {sum(candidate.corpus == "reports" for candidate in one.candidates) for one in found}
    assert len(counts) > 1
    assert min(counts) >= 1


def test_fingerprint_follows_parts_their_order_and_what_they_search(library, encoder, tmp_path):
    parts = three(encoder)
    source = ready(library, CorpusSearch(parts), tmp_path)
    other = CorpusSearch(dict(reversed(parts.items())))
    assert other.fingerprint() != source.fingerprint()
    assert CorpusSearch(parts, of={"wiki": ["guideline"]}).fingerprint() != source.fingerprint()
    assert CorpusSearch(three(encoder) | parts).fingerprint() == source.fingerprint()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"parts": {}}, "no parts"),
        ({"parts": {"../x": NoEvidence()}}, "cannot name a folder"),
        ({"parts": {"a": NoEvidence()}, "of": {"b": ["c"]}}, "of.b would be ignored"),
        ({"parts": {"a": NoEvidence(), "b": NoEvidence()}, "of": {"b": ["a"]}}, "several parts"),
    ],
)
def test_settings_that_make_no_sense(settings, told):
    with pytest.raises(ValueError, match=told):
        CorpusSearch(**settings)


def test_a_part_that_is_called_otherwise_or_has_nothing_to_search(library, encoder, tmp_path):
    with pytest.raises(ValueError, match=r"part 'wiki' has corpus: book"):
        CorpusSearch({"wiki": texts(encoder, "book")})
    with pytest.raises(ValueError, match=r"no document of corpus 'graph'.*'book', 'guideline', 'reports', 'wiki', 'world'"):
        CorpusSearch({"graph": NoEvidence()}).prepare(library.documents, library.pictures, tmp_path)


def test_knowledge_search_has_the_fingerprint_of_before():
    from medrag_lightning.artifacts import fingerprint

    both = [["reports", NoEvidence().fingerprint()], ["documents", NoEvidence().fingerprint()]]
    assert KnowledgeSearch(NoEvidence(), NoEvidence()).fingerprint() == fingerprint("knowledge", both)


def test_it_can_be_named_in_a_config():
    parser = ArgumentParser()
    parser.add_argument("--source", type=CandidateSource)
    encoder = {"class_path": "medrag_lightning.models.tiny_dual_encoder.TinyDualEncoder"}
    live = "medrag_lightning.retrieval.source.LiveSearch"
    parts = {
        name: {"class_path": live, "init_args": {"encoder": encoder, "per_channel": {"text_to_text": 2}, "corpus": name}}
        for name in ("wiki", "book")
    }
    told = {"class_path": "medrag_lightning.retrieval.corpus_search.CorpusSearch", "init_args": {"parts": parts}}
    source = parser.instantiate(parser.parse_object({"source": told})).source
    assert isinstance(source, CorpusSearch)
    assert list(source.parts) == ["wiki", "book"]
    assert isinstance(source.parts["wiki"].encoder, TinyDualEncoder)


def test_a_plan_knows_the_most_candidates_and_every_encoder(encoder):
    from medrag_lightning.cli.plan_store import _encoders, channels_of

    ii, tt = Channel.IMAGE_TO_IMAGE, Channel.TEXT_TO_TEXT
    source = CorpusSearch({"wiki": texts(encoder), "reports": SelectedSearch(LiveSearch(encoder, {"image_to_image": 6}))})
    assert channels_of(source) == [tt] * 2 + [ii] * 6
    assert list(_encoders(source)) == [encoder, encoder]
