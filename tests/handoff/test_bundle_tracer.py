"""A reader of traces travels in a bundle: it writes the same there; bundles without one are as they were."""

from __future__ import annotations

import json

import pytest
from bundle_world import World, answerer, export, fused, in_this_process, reader

from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.handoff.bundle.load import load_bundle
from medrag_lightning.handoff.bundle.probes import read_probes
from medrag_lightning.handoff.bundle.verify import verify_bundle
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.trace_writer import TraceWriter

NUMBERED = PromptTemplate(evidence_prefix="[{number}] ")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def system(world, folder, adapter=False, **settings):
    made = reader(adapter)
    tracer = TraceWriter(made, NUMBERED, 12)
    chosen = {"template": NUMBERED, "evidence": "all_in_one_prompt", "tracer": tracer, **settings}
    return answerer(world, folder, made, fused(), **chosen)


@pytest.mark.parametrize("adapter", [False, True])
def test_it_writes_the_same_traces_in_a_bundle(world, tmp_path, monkeypatch, adapter):
    if adapter:  # the other runs in a process where no training package can be imported
        monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)
    made = system(world, tmp_path, adapter)
    told = export(world, made, tmp_path, probes=4)
    bundle = tmp_path / "bundle"
    assert told["parity"]["max_abs_delta_logp_nats"] <= told["parity"]["tolerance_nats"]
    assert verify_bundle(bundle).faults == []
    assert json.loads((bundle / "system.json").read_text())["tracer"] == {"max_new_tokens": 12}
    queries, expected = read_probes(bundle)
    assert any(one["trace"] for one in expected)
    loaded = load_bundle(bundle)
    assert loaded.tracer.max_new_tokens == 12
    assert [loaded.answer(query).trace.text for query in queries] == [one["trace"] for one in expected]


def test_a_bundle_without_one_says_nothing_of_it(world, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)
    export(world, answerer(world, tmp_path, reader(), fused(), evidence="all_in_one_prompt"), tmp_path, probes=2)
    assert "tracer" not in json.loads((tmp_path / "bundle" / "system.json").read_text())
    assert load_bundle(tmp_path / "bundle").tracer is None
