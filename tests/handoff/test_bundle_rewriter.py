"""Rules that rewrite follow-ups travel in the bundle; any other rewriter is refused before anything is written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from bundle_world import World, answerer, export, in_this_process, reader

from medrag_lightning.data.cached_rewriter import CachedRewriter
from medrag_lightning.data.rules_rewriter import RulesRewriter
from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.handoff.bundle.load import load_bundle
from medrag_lightning.handoff.bundle.probes import read_probes
from medrag_lightning.handoff.bundle.verify import verify_bundle
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.source import LiveSearch

HISTORY = (("is entry 4 of the book right?", "yes"),)


class Other(RulesRewriter.__base__):
    def rewrite(self, tasks):
        return [None for _ in tasks]

    def fingerprint(self):
        return "o" * 64


def system(folder, rewriter):
    world = World(folder)
    world.queries = [replace(query, question="and is it cold?" if query.choices else "and why?", history=HISTORY)
                     for query in world.queries]  # fmt: skip
    searches = [LiveSearch(TinyDualEncoder(64), {channel: 2}) for channel in ("image_to_image", "text_to_text")]
    return world, answerer(world, folder, reader(), KnowledgeSearch(*searches), rewriter=rewriter)


def test_it_rewrites_the_same_in_a_bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)
    world, made = system(tmp_path, CachedRewriter(RulesRewriter(["entry 4", "entry 5"])))
    before = [made.answer(query) for query in world.queries[:3]]
    assert before[0].rewritten == "is entry 4 cold?"
    told = export(world, made, tmp_path, probes=6)
    bundle = tmp_path / "bundle"
    assert told["inside"]["query rewriter"].startswith("rules; ")
    assert json.loads((bundle / "system.json").read_text())["rewriter"] == {"kind": "rules", "names": ["entry 4", "entry 5"]}
    assert verify_bundle(bundle).faults == []
    loaded = load_bundle(bundle)
    assert {query.history for query in read_probes(bundle)[0]} == {HISTORY}
    probe = next(query for query in read_probes(bundle)[0] if query.choices)
    assert loaded.answer(probe).rewritten == "is entry 4 cold?"
    assert loaded.ask("and why?", history=HISTORY).rewritten == "entry 4 , why?"


def test_another_rewriter_is_refused_and_none_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)
    world, made = system(tmp_path, Other())
    with pytest.raises(ValueError, match="cannot hold a rewriter of class Other; it knows RulesRewriter"):
        export(world, made, tmp_path)
    assert not (tmp_path / "bundle").exists()
    (tmp_path / "plain").mkdir()
    world, made = system(tmp_path / "plain", None)
    export(world, made, tmp_path / "plain")
    assert "rewriter" not in json.loads((tmp_path / "plain" / "bundle" / "system.json").read_text())
