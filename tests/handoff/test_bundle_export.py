"""A bundle answers as the run did, whatever the run is made of; it holds no ids and no paths; it refuses what it must."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from bundle_world import (
    CANARY,
    SOURCES,
    STEERED,
    World,
    answerer,
    encoder,
    export,
    in_this_process,
    live,
    reader,
)  # fmt: skip

import medrag_lightning
from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.handoff.bundle.layout import NOT_AT_RUN_TIME
from medrag_lightning.handoff.bundle.verify import verify_bundle
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.retrieval.candidates import CachedTable

ALL = {"evidence": "all_in_one_prompt"}
KINDS = PromptTemplate(order="image_first", kinds="documents_first", closing="one word", max_prompt_tokens=130)
VARIANTS = {
    "merged, live": ({"adapter": True}, "live", {}, {}),
    "adapter, fused, one prompt": ({"adapter": True}, "fused", ALL, {"reader": "adapter"}),
    "both, knowledge, steered": ({"adapter": True}, "knowledge", STEERED, {"reader": "both"}),
    "no adapter, fused, steered": ({}, "fused", STEERED, {}),
    "no adapter, knowledge": ({}, "knowledge", {"closed_answers": "generated"}, {}),
    "corpora, kinds in order": ({}, "corpora", {**ALL, "template": KINDS}, {}),
    "no evidence": ({}, "none", {}, {}),
    "qwen": ({"adapter": True, "family": "qwen2_vl"}, "live", ALL, {}),
    "idefics3": ({"adapter": True, "family": "idefics3"}, "live", ALL, {}),
    "learned steering": ({"adapter": True, "learned_steering": True}, "live", STEERED, {"reader": "both"}),
    "bfloat16": ({"adapter": True}, "live", ALL, {"dtype": "bfloat16"}),
    "bfloat16 base": ({"adapter": True, "dtype": torch.bfloat16}, "live", {}, {}),
    "pointed to": ({}, "knowledge", {}, {"corpus": "pointer"}),
}


@pytest.fixture
def here(monkeypatch):
    """The proof in this process: the clean one is proved once."""
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_bundle_answers_as_the_run_did(world, tmp_path, here, name):
    of_reader, source, settings, how = VARIANTS[name]
    made = answerer(world, tmp_path, reader(**of_reader), SOURCES[source](), **settings)
    expected = [made.answer(query) for query in world.queries]
    told = export(world, made, tmp_path, **how)
    assert told["parity"]["probes"] == 4
    loaded = medrag_lightning.load_bundle(tmp_path / "bundle")
    half = "bfloat16" in name
    assert told["parity"]["max_abs_delta_logp_nats"] <= (1e-3 if half else 1e-5)
    assert told["parity"]["max_abs_delta_as_trained_nats"] <= (0.5 if half else 1e-5)
    for query, before in zip(world.queries, expected, strict=True):
        if query.modality is not None:
            continue  # `ask` cannot tell it, and a learned fusion may look at it; the probes have both kinds
        image = str(query.image)
        after = loaded.ask(query.question, image, query.choices, query.patient_id, query.study_id)
        assert np.allclose(before.logp_nats, after.logp_nats, atol=0.5 if half else 2e-5)
        assert [c.text for c in before.citations] == [c.text for c in after.citations]
        assert half or before.text == after.text
    spread = {tuple(np.round(answer.logp_nats, 3)) for answer in expected if answer.logp_nats}
    assert len(spread) > 1, "a reader that says the same of everything proves nothing"


def _no_steering(told):
    told["steering"]["gain"] = 0.0


def _another_prefix(told):
    told["template"]["evidence_prefix"] = "background: "


def _another_fusion(told):
    told["source"]["fusion"] = {"kind": "fixed", "weights": {"text_to_text": 1.0}, "standardise": True}


@pytest.mark.parametrize("change", [_no_steering, _another_prefix, _another_fusion])
def test_a_bundle_that_answers_otherwise_is_not_kept(world, tmp_path, monkeypatch, change):
    """The proof can fail: each part is spoilt after it was written."""

    def spoilt(bundle, corpus, *rest):
        told = json.loads((bundle / "system.json").read_text())
        change(told)
        (bundle / "system.json").write_text(json.dumps(told))
        return in_this_process(bundle, corpus, *rest)

    monkeypatch.setattr(exporting, "ask_in_clean_process", spoilt)
    with pytest.raises(ValueError, match="does not answer as the run does, and is not kept"):
        export(world, answerer(world, tmp_path, reader(True), SOURCES["fused"](), **STEERED), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", f"ward-{CANARY}"]


def test_the_proof_runs_where_training_packages_cannot_be_imported(world, tmp_path):
    """The real clean process."""
    told = export(world, answerer(world, tmp_path, reader(True), SOURCES["fused"]()), tmp_path)
    assert told["parity"]["max_abs_delta_logp_nats"] <= 1e-5


@pytest.mark.slow
def test_three_lines_answer_without_training_packages(world, tmp_path, here):
    export(world, answerer(world, tmp_path, reader(True), SOURCES["fused"]()), tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        f"for name in {(*NOT_AT_RUN_TIME, 'peft', 'accelerate')!r}: sys.modules[name] = None\n"
        "from medrag_lightning import load_bundle\n"
        "system = load_bundle(sys.argv[2])\n"
        "print(system.ask('which colour is it?', image=sys.argv[3], choices=['red', 'green']).text)\n"
    )
    root, asked = str(next(iter(medrag_lightning.__path__)) + "/.."), str(world.queries[0].image)
    command = [sys.executable, "-I", "-c", code, root, str(tmp_path / "bundle"), asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("red", "green")
    shutil.move(tmp_path / "bundle" / "system.json", tmp_path / "bundle" / "system.jso")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "system.json: missing" in done.stderr


def test_no_id_name_or_path_is_in_any_byte(world, tmp_path, here):
    export(world, answerer(world, tmp_path, reader(True), SOURCES["knowledge"]()), tmp_path, reader="both")
    needles = [CANARY.encode(), str(tmp_path).encode(), CANARY.encode("utf-16-le")]
    for path in (tmp_path / "bundle").rglob("*"):
        assert CANARY not in path.name
        if path.is_file():
            data = path.read_bytes()
            assert not [needle for needle in needles if needle in data], path
            assert path.stat().st_mode & 0o044, "who may read the bundle may read all of it"
    loaded = medrag_lightning.load_bundle(tmp_path / "bundle")
    assert all(c.document_id.startswith("h-") for c in loaded.ask("name the colour", str(world.queries[0].image)).citations)


def test_the_leak_rule_holds_through_the_hashes(world, tmp_path, here):
    export(world, answerer(world, tmp_path, reader(), live({"text_to_text": 12})), tmp_path)
    loaded = medrag_lightning.load_bundle(tmp_path / "bundle")
    texts = {c.text for c in loaded.ask("report 3", patient_id=f"{CANARY}-p3").citations}
    assert not any(text.startswith("report 3:") for text in texts)
    everyone = {c.text for c in loaded.ask("report 3").citations}
    assert any(text.startswith("report 3:") for text in everyone)


def test_the_reader_loads_without_anything_of_ours(world, tmp_path, here):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    made = answerer(world, tmp_path, reader(True), live({"image_to_image": 1}))
    export(world, made, tmp_path, reader="both")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "bundle" / "reader")
    processor = AutoProcessor.from_pretrained(tmp_path / "bundle" / "reader", backend="pil")
    assert processor.chat_template
    mine = made.reader.core.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in model.state_dict().items())
    config = json.loads((tmp_path / "bundle" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../base"
    assert sorted(path.name for path in (tmp_path / "bundle" / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors"]  # fmt: skip


def test_onnx_towers_give_the_same_vectors(world, tmp_path, here):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    told = export(world, answerer(world, tmp_path, reader(), live(MIXED_SPACE)), tmp_path, onnx=True)
    assert set(told["onnx_cosines"]) == {"encoder_image.onnx", "encoder_text.onnx"}
    assert min(told["onnx_cosines"].values()) >= 1 - 1e-4


class Odd:
    """An encoder that no bundle knows."""

    shared_space, dim = True, 32


MIXED_SPACE = {"image_to_text": 2}


def test_a_pointed_corpus_is_found_where_it_is_mounted_and_nowhere_else(world, tmp_path, here):
    export(world, answerer(world, tmp_path, reader(), live({"image_to_image": 2})), tmp_path, corpus="pointer")
    bundle, corpus = tmp_path / "bundle", tmp_path / "bundle-corpus"
    assert not (bundle / "images").exists()
    assert not (bundle / "probes.jsonl").exists()
    assert verify_bundle(bundle).faults == []
    mounted = corpus.rename(tmp_path / "mounted")
    assert verify_bundle(bundle).faults == []
    assert verify_bundle(bundle, corpus).faults
    with pytest.raises(ValueError, match=r"points to a corpus .* mount it"):
        medrag_lightning.load_bundle(bundle)
    question = str(world.queries[0].image)
    assert medrag_lightning.load_bundle(bundle, corpus=mounted).ask("name the colour", question).citations
    sums = mounted / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="not part of the bundle"):
        medrag_lightning.load_bundle(bundle, corpus=mounted)


def test_an_old_bundle_stays_until_the_new_one_stands(world, tmp_path, here, monkeypatch):
    def made():
        return answerer(world, tmp_path, reader(), live({"image_to_image": 1}))

    export(world, made(), tmp_path)
    first = (tmp_path / "bundle" / "SHA256SUMS").read_bytes()
    with pytest.raises(ValueError, match=r"is there already; .*--overwrite"):
        export(world, made(), tmp_path)
    monkeypatch.setattr(exporting, "ask_in_clean_process", lambda *_: [])
    with pytest.raises(ValueError):
        export(world, made(), tmp_path, overwrite=True)
    assert (tmp_path / "bundle" / "SHA256SUMS").read_bytes() == first
    assert verify_bundle(tmp_path / "bundle").faults == []
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)
    export(world, made(), tmp_path, overwrite=True)
    assert (tmp_path / "bundle" / "SHA256SUMS").read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "store", f"ward-{CANARY}"]


def test_what_cannot_be_handed_on_is_refused(world, tmp_path, here):
    plain = answerer(world, tmp_path, reader(), live({"image_to_image": 1}))
    for settings, words in [
        ({"reader": "adapter"}, "this run trained no adapter; give --reader merged"),
        ({"probes": 0}, "--probes must be at least 1"),
        ({"abstain_below": 1.5}, "--abstain must be a probability"),
    ]:
        with pytest.raises(ValueError, match=words):
            export(world, plain, tmp_path, **settings)
    adapted = answerer(world, tmp_path, reader(True), live({"image_to_image": 1}))
    with pytest.raises(ValueError, match="--dtype float32 would be ignored"):
        export(world, adapted, tmp_path, reader="adapter", dtype="float32")
    without = answerer(world, tmp_path, reader(), SOURCES["none"]())
    with pytest.raises(ValueError, match="--corpus pointer would be ignored"):
        export(world, without, tmp_path, corpus="pointer")
    without.source = CachedTable("table.arrow")
    with pytest.raises(ValueError, match="CachedTable, which answers only the questions in its table"):
        export(world, without, tmp_path)
    odd = live({"image_to_image": 1})
    odd.encoder = type(
        "Odd", (), {"fingerprint": encoder().fingerprint, "describe": encoder().describe, "shared_space": True}
    )()
    plain.source.encoder = odd.encoder
    with pytest.raises(ValueError, match="cannot hold an encoder of class Odd"):
        export(world, plain, tmp_path)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_at_any_moment_leaves_the_old_bundle(world, tmp_path, here, monkeypatch, call):
    """The n-th call fails, for several n; what was there stays whole, and nothing else is left."""

    def made():
        return answerer(world, tmp_path, reader(), live({"image_to_image": 1}))

    export(world, made(), tmp_path, probes=1)
    old, real = (tmp_path / "bundle" / "SHA256SUMS").read_bytes(), getattr(os, call)
    for n in (0, 2, 9):
        left = iter([True] * n)

        def failing(*arguments, left=left, **named):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **named)

        fresh = made()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            with pytest.raises(ValueError, match=r"could not be written: .*the disk is full.*Free space"):
                export(world, fresh, tmp_path, probes=1, overwrite=True)
        assert (tmp_path / "bundle" / "SHA256SUMS").read_bytes() == old
        assert verify_bundle(tmp_path / "bundle").faults == []
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "store", f"ward-{CANARY}"]


def test_a_stack_of_adapters_is_merged_from_the_inside_out(world, tmp_path, here):
    """An adapter kept beside half-precision weights (TrainedBackbone), and another one on top of it."""
    from medrag_lightning.models.lora import settle_adapter

    first = reader(True, dtype=torch.bfloat16)
    settle_adapter(first.model)
    lower = first.core.requires_grad_(False)
    assert any("kept_lora" in module.__dict__ for module in lower.modules())
    stacked = HfReader(first.backbone, LoraSettings(rank=2, seed=3))
    stacked._install(type(first._loaded)(lower, first.processor))
    with torch.no_grad():
        for name, parameter in stacked.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    made = answerer(world, tmp_path, stacked.eval(), live({"image_to_image": 2}), **ALL)
    with pytest.raises(ValueError, match="adapted reader in half precision"):
        export(world, made, tmp_path, reader="adapter")
    told = export(world, made, tmp_path, dtype="float32")
    assert told["parity"]["max_abs_delta_logp_nats"] <= 1e-5
    assert not [name for name, _ in stacked.core.named_buffers() if "kept_lora" in name]


def test_the_card_says_what_the_run_measured(world, tmp_path, here):
    one = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 40}
    rows = [{"system": name, "need": None, "metrics": {"closed_accuracy": one}} for name in ("retrieved", "no retrieval")]
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows, "notes": ["a note"]}))
    export(world, answerer(world, tmp_path, reader(), live({"image_to_image": 1})), tmp_path)
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    for words in (
        "0.700 [0.600, 0.800], n 40",
        "no retrieval",
        "a note",
        "SYNTHETIC",
        "CC0: 12",
        "not stated: 6",
        "not a medical",
    ):
        assert words in card
    catalogue = json.loads((tmp_path / "bundle" / "metadata.json").read_text())
    assert catalogue["authors"] is None
    assert set(catalogue["network_data_format"]) == {"inputs", "outputs"}
    assert catalogue["eval_metrics"]["retrieved"]["closed_accuracy"]["value"] == 0.7


def test_unknown_things_in_a_bundle_are_refused(world, tmp_path, here):
    export(world, answerer(world, tmp_path, reader(), live({"image_to_image": 1})), tmp_path)
    bundle = tmp_path / "bundle"
    told = json.loads((bundle / "system.json").read_text())
    for change in ({"source": {"kind": "os.system"}}, {"extra": 1}, {"max_new_tokens": "3"}, {"schema": 2}):
        (bundle / "system.json").write_text(json.dumps(told | change))
        with pytest.raises(ValueError, match=r"system\.json is not of schema 1"):
            medrag_lightning.load_bundle(bundle, verify=False)
        with pytest.raises(ValueError, match="not as it was exported"):
            medrag_lightning.load_bundle(bundle)
