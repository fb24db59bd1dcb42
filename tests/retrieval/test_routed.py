"""A query goes to the part of its modality, given or predicted; what has none is refused or goes where it was told to."""

from dataclasses import replace

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from medrag_lightning.interfaces import CandidateSource, ModalityRouter, Refreshable, SimilaritySource, VectorSource
from medrag_lightning.models.linear_router import LinearRouter
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Channel, Document, Query, shares_identity
from medrag_lightning.retrieval.candidates import Remembered
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.routed import RoutedSearch
from medrag_lightning.retrieval.source import LiveSearch

MODALITIES = ["CT", "MR", "x-ray"]


@pytest.fixture
def hospital(world):
    """Sixty pictures whose look is their modality; nine queries with an image, three of each."""
    pictures = world.pictures
    world.documents = [
        Document(f"d{n}", f"report {n}", pictures.put(f"d{n}.png", n % 3, n), f"p{n}", modality=MODALITIES[n % 3])
        for n in range(60)
    ]
    world.queries = [
        Query(f"q{n}", f"report {n} ?", pictures.put(f"q{n}.png", n % 3, 900 + n), modality=MODALITIES[n % 3]) for n in range(9)
    ]
    return world


class Scripted:
    """Tells what it is told to tell, by the mean colour of an image; counts the images that it sees."""

    def __init__(self, told, sure=1.0):
        self.told, self.sure, self.seen, self.taught = told, sure, 0, []

    def prepare(self, documents, open_image, folder):
        self.taught = [document.modality for document in documents]

    def load(self, documents, open_image, folder):
        pass

    def modalities(self, images):
        self.seen += len(images)
        return [(self.told, self.sure)] * len(images)

    def fingerprint(self):
        return f"scripted {self.told}"


def parts(encoder, count=2):
    return {"ct": look(encoder, count), "MR": look(encoder, count), "X-ray": look(encoder, count)}


def look(encoder, count=2):
    return LiveSearch(encoder, {"image_to_image": count})


def ready(world, source, folder):
    source.prepare(world.documents, world.pictures, folder)
    source.load(world.documents, world.pictures, folder)
    return source


def kinds(found):
    return [{candidate.document.modality for candidate in one.candidates} for one in found]


def test_given_modalities_choose_the_part_and_its_folder(hospital, encoder, tmp_path):
    source = ready(hospital, RoutedSearch(parts(encoder)), tmp_path)
    assert all(isinstance(source, kind) for kind in (CandidateSource, SimilaritySource, VectorSource, Refreshable))
    found = source.retrieve(hospital.queries)
    assert kinds(found) == [{MODALITIES[n % 3]} for n in range(9)]
    assert [one.query_id for one in found] == [query.id for query in hospital.queries]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MR", "X-ray", "ct"]
    alone = look(encoder)
    mine = [document for document in hospital.documents if document.modality == "MR"]
    alone.prepare(mine, hospital.pictures, tmp_path / "alone")
    alone.load(mine, hospital.pictures, tmp_path / "alone")
    assert found[1].candidates == alone.retrieve(hospital.queries[1:2])[0].candidates
    assert source.retrieve([]) == []


def test_a_router_that_learns_from_the_corpus_finds_the_same(hospital, encoder, tmp_path, caplog):
    given = ready(hospital, RoutedSearch(parts(encoder)), tmp_path / "given")
    router = LinearRouter(encoder)
    assert isinstance(router, ModalityRouter)
    source = ready(hospital, RoutedSearch(parts(encoder), "predicted", router), tmp_path / "predicted")
    unnamed = [replace(query, modality=None) for query in hospital.queries]
    with caplog.at_level("INFO"):
        found = source.retrieve(unnamed)
        source.retrieve(hospital.queries)
    assert [one.candidates for one in found] == [one.candidates for one in given.retrieve(hospital.queries)]
    assert "queries by modality (predicted): 3 to MR, 3 to X-ray, 3 to ct" in caplog.text
    assert "9 of 9 as their modality says" in caplog.text
    assert given.fingerprint() != source.fingerprint()


def test_a_wrong_router_sends_to_the_wrong_part(hospital, encoder, tmp_path):
    router = Scripted("MR")
    source = ready(hospital, RoutedSearch(parts(encoder), "predicted", router), tmp_path)
    asked = [*hospital.queries, replace(hospital.queries[0], id="again")]
    assert kinds(source.retrieve(asked)) == [{"MR"}] * 10
    assert router.seen == 9  # an image of two questions is looked at once
    assert set(router.taught) == {"ct", "MR", "X-ray"}  # it learns the names of the parts
    source.router.told = "PET"
    source.load(hospital.documents, hospital.pictures, tmp_path)
    with pytest.raises(ValueError, match="told 'PET'; its parts are ct, MR, X-ray"):
        source.retrieve(asked)


def test_an_unknown_modality_is_refused_by_name(hospital, encoder, tmp_path):
    source = ready(hospital, RoutedSearch(parts(encoder)), tmp_path)
    lost = [hospital.queries[0], replace(hospital.queries[1], id="lost", modality="PET"), Query("words", "where ?")]
    with pytest.raises(
        ValueError, match=r"2 of 3 queries tell no modality .* such as 'lost' \(modality 'PET'\); the parts are"
    ):
        source.retrieve(lost)


def test_an_unknown_modality_goes_to_the_named_part_and_is_counted(hospital, encoder, tmp_path, caplog):
    source = ready(hospital, RoutedSearch(parts(encoder), other="X-ray"), tmp_path)
    lost = [replace(query, modality="PET") for query in hospital.queries[:4]]
    assert kinds(source.retrieve(lost)) == [{"x-ray"}] * 4
    assert "4 of 4 queries tell no modality that a part searches: they go to X-ray" in caplog.text


def test_all_parts_in_turn_give_as_many_as_one(hospital, encoder, tmp_path):
    source = ready(hospital, RoutedSearch(parts(encoder, 3), other="all"), tmp_path)
    (found,) = source.retrieve([replace(hospital.queries[0], modality=None)])
    assert [candidate.document.modality for candidate in found.candidates] == ["CT", "MR", "x-ray"]
    each = [source.parts[name].retrieve(hospital.queries[:1])[0].candidates[0] for name in source.parts]
    assert list(found.candidates) == each


def test_a_router_that_is_not_sure_does_not_know(hospital, encoder, tmp_path):
    settings = {"route": "given_else_predicted", "min_probability": 0.6}
    source = ready(hospital, RoutedSearch(parts(encoder), router=Scripted("MR", 0.5), **settings), tmp_path)
    assert kinds(source.retrieve(hospital.queries[:1])) == [{"CT"}]
    with pytest.raises(ValueError, match=r"1 of 1 queries tell no modality .*, and the router is not sure"):
        source.retrieve([replace(hospital.queries[0], modality=None)])
    source = ready(hospital, RoutedSearch(parts(encoder), router=Scripted("MR", 0.6), **settings), tmp_path)
    assert kinds(source.retrieve([replace(hospital.queries[0], modality=None)])) == [{"MR"}]


def test_a_query_without_an_image_cannot_be_predicted(hospital, encoder, tmp_path):
    source = ready(hospital, RoutedSearch(parts(encoder), "predicted", Scripted("MR"), other="ct"), tmp_path)
    assert source.routes([Query("words", "where ?"), hospital.queries[0]]) == ["ct", "MR"]


def test_leak_rule_in_every_part(hospital, encoder, tmp_path):
    source = ready(hospital, RoutedSearch(parts(encoder, 25), other="all"), tmp_path)
    mine = hospital.documents[3]
    asked = [replace(hospital.queries[0], patient_id="p3"), replace(hospital.queries[1], image=mine.image, modality=None)]
    for query, found in zip(asked, source.retrieve(asked), strict=True):
        assert found.candidates
        assert mine.id not in {candidate.id for candidate in found.candidates}
        assert not [candidate for candidate in found.candidates if shares_identity(query, candidate.document)]


def test_documents_that_no_part_searches_are_told(hospital, encoder, tmp_path, caplog):
    of = {"tomography": ["CT", "mr"], "rest": [""]}
    hospital.documents[2] = replace(hospital.documents[2], modality=None)
    source = ready(
        hospital, RoutedSearch({"tomography": look(encoder, 60), "rest": look(encoder)}, other="rest", of=of), tmp_path
    )
    assert "modalities that no part of RoutedSearch searches give no evidence: x-ray (19)" in caplog.text
    assert kinds(source.retrieve(hospital.queries[:3])) == [{"CT", "MR"}, {"CT", "MR"}, {None}]


def test_similarities_vectors_and_refresh_are_those_of_the_part(hospital, encoder, tmp_path):
    source = ready(hospital, RoutedSearch(parts(encoder)), tmp_path)
    ii = Channel.IMAGE_TO_IMAGE
    (found,) = source.retrieve(hospital.queries[:1])
    ids = [candidate.id for candidate in found.candidates]
    (told,) = source.similarities(hospital.queries[:1], [[*ids, "d1", "nowhere"]], [ii])
    assert told[:2, 0].tolist() == [np.float32(candidate.score) for candidate in found.candidates]
    assert np.isfinite(told[2, 0])
    assert np.isnan(told[3, 0])
    assert source.document_vectors("image", ["d1", "d0"]).shape == (2, 64)
    before = source.fingerprint()
    source.refresh(TinyDualEncoder(64, seed=1))
    source.load(hospital.documents, hospital.pictures, tmp_path)
    assert source.fingerprint() != before


def test_it_may_be_the_reports_of_a_corpus_search(hospital, encoder, tmp_path):
    hospital.documents += [Document(f"w{n}", f"article {n}", source="wiki") for n in range(4)]
    wiki = LiveSearch(encoder, {"text_to_text": 1})
    source = ready(hospital, CorpusSearch({"wiki": wiki, "reports": RoutedSearch(parts(encoder))}), tmp_path)
    for query, found in zip(hospital.queries, source.retrieve(hospital.queries), strict=True):
        assert [candidate.document.modality for candidate in found.candidates] == [None, query.modality, query.modality]


def test_kept_candidates_know_the_modality_that_was_asked(hospital, encoder, tmp_path):
    source = ready(hospital, Remembered(RoutedSearch(parts(encoder))), tmp_path)
    plain = hospital.queries[0]
    assert kinds(source.retrieve([plain])) == [{"CT"}]
    assert kinds(source.retrieve([replace(plain, modality="mr")])) == [{"MR"}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"route": "predicted"}, "route predicted needs a router"),
        ({"router": Scripted("MR")}, "route given would never ask its router"),
        ({"route": "guess", "router": Scripted("MR")}, "route is one of given, predicted, given_else_predicted"),
        ({"other": "PET"}, r"other is refuse, all or a part \(ct, MR, X-ray\), got 'PET'"),
        ({"min_probability": 0.5}, "min_probability is a number from 0 to 1 for a router"),
        ({"of": {"PET": ["PET"]}}, "of.PET would be ignored"),
        ({"of": {"MR": ["MR", "CT"]}}, "modality 'ct' is searched by several parts"),
    ],
)
def test_settings_that_make_no_sense_are_refused(encoder, settings, message):
    with pytest.raises(ValueError, match=message):
        RoutedSearch(parts(encoder), **settings)


def test_parts_that_make_no_sense_are_refused(hospital, encoder, tmp_path):
    with pytest.raises(ValueError, match="no part may be called 'all'"):
        RoutedSearch({"all": look(encoder)})
    with pytest.raises(ValueError, match="part 'CT' has corpus: wiki"):
        RoutedSearch({"CT": LiveSearch(encoder, {"image_to_image": 1}, corpus="wiki")})
    with pytest.raises(ValueError, match=r"no document of modality 'PET', which part 'PET' is to search; it holds 'CT', 'MR'"):
        RoutedSearch({"PET": look(encoder)}).prepare(hospital.documents, hospital.pictures, tmp_path)


def test_it_can_be_named_in_a_config():
    live = "class_path: medrag_lightning.retrieval.source.LiveSearch"
    tiny = "class_path: medrag_lightning.models.tiny_dual_encoder.TinyDualEncoder"
    part = f"{{{live}, init_args: {{encoder: {{{tiny}}}, per_channel: {{image_to_image: 1}}}}}}"
    router = f"{{class_path: medrag_lightning.models.linear_router.LinearRouter, init_args: {{encoder: {{{tiny}}}}}}}"
    parser = ArgumentParser()
    parser.add_argument("--source", type=CandidateSource)
    text = f"{{parts: {{CT: {part}, MR: {part}}}, route: predicted, router: {router}, other: all, of: {{MR: [MR, MRI]}}}}"
    chosen = f"{{class_path: medrag_lightning.retrieval.routed.RoutedSearch, init_args: {text}}}"
    made = parser.instantiate(parser.parse_args(["--source", chosen])).source
    assert isinstance(made, RoutedSearch)
    assert isinstance(made.router, LinearRouter)
    assert made.of == {"CT": ["CT"], "MR": ["MR", "MRI"]}
