"""A query generator travels in the bundle: it writes the same searches there, tells them, and what differs is found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from bundle_world import World, answerer, export, in_this_process, reader
from writing_world import CORPORA, WORDS, question, searches_for, writer

import medrag_lightning
from medrag_lightning.batches import Steering
from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.handoff.bundle.load import load_bundle
from medrag_lightning.handoff.bundle.probes import read_probes
from medrag_lightning.handoff.bundle.sums import write_sums
from medrag_lightning.handoff.bundle.verify import verify_bundle
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Document, WrittenSearches
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.source import LiveSearch

READ = {"evidence": "all_in_one_prompt", "steering": Steering("mass_preserving", "all", gain=2.0)}


def source():
    """Two corpora of texts, each asked by its name."""
    parts = {name: LiveSearch(TinyDualEncoder(64), {"text_to_text": 2}, corpus=name) for name in CORPORA}
    return CorpusSearch(parts)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("world"))
    entries = [replace(document, image=None, source="book") for document in made.documents]
    made.documents = entries + [Document(f"g{n}", f"{word} is a colour", source="graph") for n, word in enumerate(WORDS)]
    told = enumerate(made.queries)
    made.queries = [replace(query, question=question(WORDS[n % 4]), searches=(("graph", "of the table"),)) for n, query in told]
    return made


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)


def system(world, folder, adapter=False, generator=None, **settings):
    chosen = {**READ, "generator": generator or writer(adapter), **settings}
    return answerer(world, folder, reader(adapter), source(), **chosen)


@pytest.mark.parametrize(
    ("how", "adapter", "dtype"),
    [
        ("merged", False, None),
        pytest.param("merged", True, None, marks=pytest.mark.slow),
        ("merged", True, "bfloat16"),
        ("adapter", True, None),
        pytest.param("both", True, None, marks=pytest.mark.slow),
    ],
)
def test_it_writes_the_same_searches_in_a_bundle(world, tmp_path, here, monkeypatch, how, adapter, dtype):
    if how == "merged" and not adapter:  # once in a process where no training package can be imported
        monkeypatch.undo()
    made = system(world, tmp_path, adapter)
    asked = world.queries[:4]
    before = [made.answer(query) for query in asked]
    assert [answer.searches for answer in before] == [searches_for(word) for word in WORDS]
    told = export(world, made, tmp_path, probes=8, reader=how, dtype=dtype)
    bundle = tmp_path / "bundle"
    assert told["parity"]["max_abs_delta_logp_nats"] <= told["parity"]["tolerance_nats"]
    assert told["inside"]["query generator"].endswith("; writes what to ask book, graph")
    assert "query generator" in told["fingerprints"]
    assert verify_bundle(bundle).faults == []
    assert ("query generator", told["inside"]["query generator"]) in verify_bundle(bundle).inside
    assert "the searches that are written" in (bundle / "MODEL_CARD.md").read_text()
    queries, expected = read_probes(bundle)
    assert all(query.searches is None for query in queries), "a probe that brings searches proves nothing of the generator"
    loaded = load_bundle(bundle)
    after = {query.question: loaded.answer(query).searches for query in queries}
    assert after == {question(word): searches_for(word) for word in WORDS}
    assert {json.dumps(one["searches"]) for one in expected} == {json.dumps(searches_for(word)) for word in WORDS}
    assert (bundle / "generator" / ("adapter" if how == "adapter" else "reader")).is_dir()


def test_the_adapter_of_the_generator_matters(world):
    with_it, without = writer(True), writer(True)
    for name, parameter in without.reader.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    asked = world.queries[:4]
    assert with_it.write(asked, [None] * 4) != without.write(asked, [None] * 4)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    folder, patch = tmp_path_factory.mktemp("whole"), pytest.MonkeyPatch()
    patch.setattr(exporting, "ask_in_clean_process", in_this_process)
    export(world, system(world, folder), folder, probes=2)
    patch.undo()
    return folder / "bundle"


def test_an_answer_tells_what_was_asked_and_how_long_writing_took(whole):
    system = medrag_lightning.load_bundle(whole)
    answer = system.ask(question("blue"), choices=["red", "blue"])
    told = answer.to_json()
    assert (told["searches"], told["search_faults"]) == ({"book": "blue is"}, [])
    assert {citation.source for citation in answer.citations} == {"book"}
    assert list(told["seconds"]) == ["write", "retrieve", "encode", "read"]
    assert "searches:\n  book: blue is\n" in str(answer)
    nothing = system.ask(question("crimson"), choices=["red", "blue"])
    assert nothing.to_json()["searches"] == {}
    assert nothing.citations == ()
    assert "searches: no corpus was asked for texts" in str(nothing)


class Broken:
    """Writes a text that is not as it should be."""

    def __init__(self, written):
        self.written, self.reader = written, None

    def write(self, queries, images):
        return [self.written] * len(queries)


def test_faults_of_a_text_are_told(world, tmp_path):
    half = WrittenSearches({"book": ("red",)}, ("<graph> is missing",))
    lost = WrittenSearches({}, ("<book> is missing", "<graph> is missing"))
    told = {}
    for written in (half, lost):
        made = system(world, tmp_path / str(len(told)), generator=Broken(written))
        told[written.faults] = made.ask(question("red"), choices=["red", "blue"])
    first, second = told.values()
    assert first.warnings[0] == "what the query generator wrote is not as it should be: <graph> is missing"
    assert first.search_faults == ("<graph> is missing",)
    assert first.searches == (("book", "red"),)
    assert second.warnings[0].endswith("so every corpus was asked with the question itself")
    assert second.searches is None
    assert second.to_json()["searches"] is None
    assert {c.source for c in second.citations} == {"book", "graph"}


def test_one_flipped_bit_in_the_generator_is_found(whole):
    rng = np.random.default_rng(0)
    files = sorted(path for path in (whole / "generator").rglob("*") if path.is_file())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in files}
    for path in files:
        data = path.read_bytes()
        for bit in sorted({0, len(data) * 8 - 1, int(rng.integers(len(data) * 8))}):
            spoilt = bytearray(data)
            spoilt[bit // 8] ^= 1 << bit % 8
            path.write_bytes(spoilt)
            assert verify_bundle(whole).faults, f"bit {bit} of {path.name}"
        path.write_bytes(data)
    assert verify_bundle(whole).faults == []


def test_the_schema_knows_the_generator_and_bundles_without_one_still_load(whole, tmp_path, world, here):
    path, sums = whole / "system.json", (whole / "SHA256SUMS").read_bytes()
    data = path.read_bytes()
    for key, value, words in (
        ("corpora", [], r"\$\.generator\.corpora: fewer than 1"),
        ("max_new_tokens", 0, r"\$\.generator\.max_new_tokens: 0 is out of range"),
        ("class_path", "os.system", r"\$\.generator: 'class_path' is not known"),
    ):
        told = json.loads(data)
        told["generator"][key] = value
        path.write_text(json.dumps(told))
        write_sums(whole)
        with pytest.raises(ValueError, match=words):
            medrag_lightning.load_bundle(whole)
    path.write_bytes(data)
    (whole / "SHA256SUMS").write_bytes(sums)
    made = answerer(world, tmp_path, reader(), source(), **READ)
    told = export(world, made, tmp_path, probes=2)
    assert "generator" not in json.loads((tmp_path / "bundle" / "system.json").read_text())
    assert "query generator" not in told["inside"]
    assert medrag_lightning.load_bundle(tmp_path / "bundle").generator is None


def _fewer_tokens(told):
    told["generator"]["max_new_tokens"] = 3


def _another_prompt(told):
    told["generator"]["template"]["closing"] = "red red red red"


def _none(told):
    del told["generator"]


@pytest.mark.parametrize("change", [_fewer_tokens, _another_prompt, _none])
def test_a_bundle_that_writes_other_searches_is_not_kept(world, tmp_path, monkeypatch, change):
    def spoilt(bundle, corpus, *rest):
        told = json.loads((bundle / "system.json").read_text())
        change(told)
        (bundle / "system.json").write_text(json.dumps(told))
        return in_this_process(bundle, corpus, *rest)

    monkeypatch.setattr(exporting, "ask_in_clean_process", spoilt)
    with pytest.raises(ValueError, match=r"the searches \[.*\] became "):
        export(world, system(world, tmp_path), tmp_path, probes=8)
    assert not (tmp_path / "bundle").exists()


def test_a_generator_that_a_bundle_cannot_hold_is_refused(world, tmp_path):
    made = system(world, tmp_path)
    made.generator.reader = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="the query generator: a bundle holds readers of class HfReader, not Linear"):
        export(world, made, tmp_path)
    made.generator.reader = made.reader
    with pytest.raises(ValueError, match="one object"):
        export(world, made, tmp_path)
