"""Bundles whose reports are searched by modality: the router travels, the same parts are asked, every change is found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from bundle_world import STEERED, World, answerer, encoder, export, in_this_process, live, reader

import medrag_lightning
from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.handoff.bundle.identities import Identities
from medrag_lightning.handoff.bundle.probes import choose_probes, read_probes
from medrag_lightning.handoff.bundle.source_checks import check_source
from medrag_lightning.handoff.bundle.sums import write_sums
from medrag_lightning.handoff.bundle.verify import verify_bundle
from medrag_lightning.models.linear_router import LinearRouter
from medrag_lightning.models.prompt_router import PromptRouter
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.retrieval.candidates import CachedTable, Remembered
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.routed import RoutedSearch
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.selection import Selection

PROMPTS = {"scans": ["report: it is red", "a scan"]}


def routed(router=None, **settings):
    """The part `films` is not called as its modality is."""
    parts = {"scans": live({"image_to_image": 2}), "films": LiveSearch(TinyDualEncoder(64), {"image_to_image": 1})}
    route = "given" if router is None else "predicted"
    return RoutedSearch(parts, route, router, **{"of": {"scans": ["ct", ""], "films": ["X-ray"]}, **settings})


def given():
    return routed(other="films")


def linear():
    return routed(LinearRouter(encoder(), seed=3))


def prompts():
    return routed(PromptRouter(encoder(), PROMPTS, temperature=0.5), min_probability=0.5, other="all")


def part():
    """HeteroRAG's: a part of a search of several corpora, whose number of reports is adaptive."""
    parts = routed(LinearRouter(TinyDualEncoder(64)), of={"scans": ["ct"], "films": ["X-ray"]})
    reports = SelectedSearch(Remembered(parts), Selection(cut=0.01, k=2))
    texts = LiveSearch(TinyDualEncoder(64), {"text_to_text": 2}, corpus="texts")
    return CorpusSearch({"reports": reports, "texts": texts}, of={"texts": ["book"]})


SOURCES = {made.__name__: made for made in (given, linear, prompts, part)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("world"))
    made.documents = [replace(d, modality="x-ray") if n % 2 and d.image else d for n, d in enumerate(made.documents)]
    made.queries = [replace(query, modality="CT" if n % 3 else "PET") for n, query in enumerate(made.queries)]
    return made


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)


def told_of(found, identities=None):
    def called(candidate):
        return candidate.id if identities is None else identities.of("record", candidate.id)

    return [[(called(c), pytest.approx(c.score, abs=1e-6), c.channel) for c in one.candidates] for one in found]


@pytest.mark.parametrize("name", SOURCES)
def test_the_bundle_asks_the_same_parts(world, tmp_path, here, monkeypatch, name):
    if name == "part":  # once in a process where no training package can be imported
        monkeypatch.undo()
    made = answerer(world, tmp_path, reader(), SOURCES[name](), **STEERED)
    told = export(world, made, tmp_path, probes=8)
    bundle = tmp_path / "bundle"
    assert told["parity"]["max_abs_delta_logp_nats"] <= 1e-5
    assert told["inside"]["documents"] == len(world.documents)
    assert told["inside"]["routes"].startswith("scans, films by modality, ")
    assert "- routes: scans, films by modality" in (bundle / "MODEL_CARD.md").read_text()
    assert verify_bundle(bundle).faults == []
    loaded = medrag_lightning.load_bundle(bundle)
    asked = choose_probes(world.queries, 8)
    expected = told_of(made.source.retrieve(asked), Identities.read(bundle / "identities.key"))
    assert told_of(loaded.source.retrieve(read_probes(bundle)[0])) == expected
    parts = {c.document.modality for one in made.source.retrieve(asked) for c in one.candidates}
    assert {"ct", "x-ray"} <= parts, "probes that all go to one part prove nothing"


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    folder, patch = tmp_path_factory.mktemp("whole"), pytest.MonkeyPatch()
    patch.setattr(exporting, "ask_in_clean_process", in_this_process)
    export(world, answerer(world, folder, reader(), linear()), folder, probes=2)
    patch.undo()
    return folder / "bundle"


def test_one_flipped_bit_of_the_router_is_found_and_a_changed_weight_even_with_right_sums(whole):
    path, rng = whole / "retriever" / "encoder_router.json", np.random.default_rng(0)
    data, sums = path.read_bytes(), (whole / "SHA256SUMS").read_bytes()
    for bit in (0, len(data) * 8 - 1, int(rng.integers(len(data) * 8))):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        assert verify_bundle(whole).faults, f"bit {bit}"
    told = json.loads(data)
    told["weights"][0][0] += 1.0
    path.write_text(json.dumps(told))
    write_sums(whole)
    with pytest.raises(ValueError, match=r"encoder_router\.json is damaged: not what was written"):
        medrag_lightning.load_bundle(whole)
    path.write_bytes(data)
    (whole / "SHA256SUMS").write_bytes(sums)
    assert verify_bundle(whole).faults == []


def test_a_bundle_that_asks_another_part_is_not_kept(world, tmp_path, monkeypatch):
    def spoilt(bundle, corpus, *rest):
        told = json.loads((bundle / "system.json").read_text())
        told["source"]["other"] = "scans"
        (bundle / "system.json").write_text(json.dumps(told))
        return in_this_process(bundle, corpus, *rest)

    monkeypatch.setattr(exporting, "ask_in_clean_process", spoilt)
    with pytest.raises(ValueError, match="other evidence was found"):
        export(world, answerer(world, tmp_path, reader(), given()), tmp_path, probes=8)


def test_a_modality_is_given_with_the_question(world, tmp_path):
    made = answerer(world, tmp_path, reader(), routed(), **STEERED)
    image = world.open(world.queries[1].image)
    by = {name: made.ask("which colour is it?", image, ["red", "blue"], modality=name) for name in ("ct", "X-Ray")}
    assert [len(answer.citations) for answer in by.values()] == [2, 1]
    with pytest.raises(ValueError, match="tell no modality that a part searches"):
        made.ask("which colour is it?", image, ["red", "blue"])


class Odd:
    """A router that no bundle knows."""


def test_what_a_bundle_cannot_hold_is_refused_with_a_remedy():
    for source, told in (
        (routed(Odd()), "cannot hold a router of class Odd; it knows LinearRouter and PromptRouter"),
        (RoutedSearch({"ct": CachedTable("t.arrow")}), "the part 'ct' of RoutedSearch is a CachedTable"),
        (CorpusSearch({"reports": routed(Odd())}), "cannot hold a router of class Odd"),
        (SelectedSearch(routed(LinearRouter(Odd()))), "cannot hold an encoder of class Odd"),
    ):
        with pytest.raises(ValueError, match=told):
            check_source(source)


def test_the_file_of_one_name_may_hold_another_image_later(world, tmp_path):
    made = answerer(world, tmp_path, reader(), linear(), **STEERED)
    scan, film = (next(d.image for d in world.documents if d.modality == name) for name in ("ct", "x-ray"))
    place, told = tmp_path / "upload.png", {}
    for name, image in (("ct", scan), ("x-ray", film)):
        world.open(image).save(place)
        told[name] = made.ask("which colour is it?", place, ["red", "blue"]).citations
    assert [len(citations) for citations in told.values()] == [2, 1]
