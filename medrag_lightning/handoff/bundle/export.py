"""Writes a bundle from a run, proves that it answers as the run does, and only then puts it in its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from medrag_lightning import __version__
from medrag_lightning.answering import Answerer
from medrag_lightning.artifacts import fingerprint, sha256_file, write_bytes, write_json
from medrag_lightning.handoff.bundle import card, layout
from medrag_lightning.handoff.bundle.candidate_rerankers import check_candidate_reranker, save_candidate_reranker
from medrag_lightning.handoff.bundle.corpus import write_corpus
from medrag_lightning.handoff.bundle.generator import check_generator, how_of, save_generator
from medrag_lightning.handoff.bundle.guarantee import refuse_another_reader, words_of
from medrag_lightning.handoff.bundle.identities import Identities
from medrag_lightning.handoff.bundle.merging import cast_reader
from medrag_lightning.handoff.bundle.probes import (
    Told,
    answers_of,
    choose_probes,
    differences,
    largest_delta_nats,
    write_probes,
)
from medrag_lightning.handoff.bundle.proof import ask_in_clean_process
from medrag_lightning.handoff.bundle.quiet import no_progress_bars
from medrag_lightning.handoff.bundle.reader_files import check_reader, save_reader, save_weights
from medrag_lightning.handoff.bundle.request import Run, Settings, check_settings
from medrag_lightning.handoff.bundle.rewriters import check_rewriter
from medrag_lightning.handoff.bundle.source_checks import check_source
from medrag_lightning.handoff.bundle.sources import extras_of, load_source, save_source, searches, vector_searches
from medrag_lightning.handoff.bundle.sums import write_sums
from medrag_lightning.handoff.bundle.swap import put_in_place, refuse_existing, working_folder
from medrag_lightning.handoff.bundle.system import describe_system, system_schema
from medrag_lightning.handoff.bundle.verify import verify_bundle
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.records import WrittenSearches

MERGE_TOLERANCE_NATS = layout.TOLERANCE_NATS["float32"]


Say = Callable[[str], None]
Report = Callable[[str, int, int], None]


def export_bundle(run: Run, settings: Settings, say: Say, report: Report) -> dict[str, Any]:
    """Exports a run and gives what ``bundle.json`` says.

    Everything is written to a hidden folder beside `output`, which takes that name when the proof is done.

    Raises:
        ValueError: the run cannot be handed on so, `output` is there, or the bundle does not answer as the run does.
    """
    _check(run.answerer, settings)
    corpus_output = settings.output.with_name(settings.output.name + layout.CORPUS_SUFFIX)
    pointed = settings.corpus == "pointer"
    for target in (settings.output, *([corpus_output] if pointed else [])):
        refuse_existing(target, settings.overwrite)
    bundle = working_folder(settings.output)
    root = working_folder(corpus_output) if pointed else bundle
    try:
        with no_progress_bars():
            told = _Writing(run, settings, bundle, root, say, report).write()
        if pointed:
            put_in_place(root, corpus_output, settings.overwrite)
        put_in_place(bundle, settings.output, settings.overwrite)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{settings.output} could not be written: {error}; nothing of it is kept, and what was there is as it was. Free "
            "space or give another --output"
        ) from error
    finally:
        for folder in {bundle, root}:
            shutil.rmtree(folder, ignore_errors=True)
    return told


def _check(answerer: Answerer, settings: Settings) -> None:
    check_reader(answerer.reader, settings.reader)
    if answerer.generator is not None:
        check_generator(answerer.generator, settings.reader)
        if answerer.generator.reader is answerer.reader:
            raise ValueError("the query generator and the answering reader are one object; a bundle writes each by itself")
    check_candidate_reranker(answerer.batch_reader.weigher)
    check_source(answerer.source)
    check_rewriter(answerer.dialogues.rewriter)
    check_settings(settings, bool(searches(answerer.source)))


class _Writing:
    """One export: its parts in order."""

    def __init__(self, run: Run, settings: Settings, bundle: Path, root: Path, say: Say, report: Report) -> None:
        self.run, self.settings, self.bundle, self.root, self.say, self.report = run, settings, bundle, root, say, report
        self.answerer, self.identities = run.answerer, Identities()
        reader = run.answerer.reader
        assert isinstance(reader, HfReader), "checked before"
        self.reader = reader
        probes = choose_probes(run.queries, settings.probes)
        self.generator = run.answerer.generator
        self.probes = probes if self.generator is None else [replace(probe, searches=None) for probe in probes]
        half = reader.compute_dtype == torch.bfloat16
        self.dtype = settings.dtype or ("bfloat16" if half else "float32")

    def write(self) -> dict[str, Any]:
        """All files, the proof, the sums."""
        self.say(f"asking the run {len(self.probes)} probe questions")
        as_trained = self._answers()
        fingerprints = {"reader": self.reader.fingerprint(), "source": self.answerer.source.fingerprint()}
        generator, in_its_type = self._write_generator(as_trained)
        fingerprints |= {} if generator is None else {"query generator": generator.pop("fingerprint")}
        self.say("writing the reader")
        spec, expected = self._write_reader(in_its_type)
        self.say("writing encoders, evidence and images")
        source = save_source(self.answerer.source, self.bundle)
        made = load_source(source, self.bundle, self.settings.device)
        evidence = write_corpus(self.answerer.source, made, self.root, self.identities, self.answerer.open_image, self.report)
        self.identities.write(self.root / layout.KEY)
        write_probes(self.root, self.probes, expected, self.identities, self.answerer._open)
        weigher = save_candidate_reranker(self.answerer.batch_reader.weigher, self.bundle)
        system = describe_system(self.answerer, spec, source, generator, weigher)
        system |= {"abstain_below": self.settings.abstain_below}
        write_json(self.bundle / layout.SYSTEM, system)
        write_json(self.bundle / layout.SYSTEM_SCHEMA, system_schema())
        fingerprints |= {
            f"encoder {place or 'of the source'}": one.encoder.fingerprint() for place, one in vector_searches(made)
        }
        fingerprints |= {"evidence": fingerprint([one.fingerprint for one in evidence])}
        fingerprints |= {"questions": self.run.queries_fingerprint}
        corpora = [one.corpus for one in evidence if one.corpus is not None]
        if self.root != self.bundle:
            self._point(fingerprints["evidence"], sum(corpus["documents"] for corpus in corpora))
        onnx = self._write_onnx(vector_searches(made))
        self.say("asking the bundle the same in a clean process")
        parity = self._prove(expected, as_trained)
        refuse_another_reader(self.answerer.calibration, parity)
        told = self._describe(fingerprints, parity, onnx, corpora, system)
        write_sums(self.bundle)
        if faults := verify_bundle(self.bundle, None if self.root == self.bundle else self.root).faults:
            raise ValueError(f"the bundle that was written is not sound: {'; '.join(faults[:3])}")
        return told

    def _answers(self) -> list[Told]:
        for reader in (self.reader, None if self.generator is None else self.generator.reader):
            if isinstance(reader, HfReader):
                reader.to(self.settings.device)
        return answers_of(self.answerer, self.probes, self.identities)

    def _write_generator(self, as_trained: list[Told]) -> tuple[dict[str, Any] | None, list[Told]]:
        """The generator's entry in ``system.json``, and what the run answers to searches of the generator that is exported."""
        if self.generator is None:
            return None, as_trained
        self.say("writing the query generator")
        whole, how = self.generator.identity()["generator"], how_of(self.generator, self.settings.reader)
        spec = save_generator(self.generator, self.settings.reader, self.settings.dtype, self.bundle, self._searches)
        return spec | {"fingerprint": whole}, as_trained if how == "adapter" else self._answers()

    def _searches(self) -> list[WrittenSearches]:
        assert self.generator is not None
        images = [None if probe.image is None else self.answerer.open_image(probe.image) for probe in self.probes]
        asked = zip(self.probes, images, strict=True)  # one by one, as they will be
        return [self.generator.write([probe], [image])[0] for probe, image in asked]

    def _write_reader(self, as_trained: list[Told]) -> tuple[dict[str, Any], list[Told]]:
        """The reader's entry in ``system.json``, and what it answers in the type that is exported.

        Adapters are merged in float32, and must not change an answer there; only then is the type the one that was asked for.
        """
        if self.settings.reader == "adapter":
            dtype = str(self.reader.compute_dtype).removeprefix("torch.")
            return save_reader(self.reader, "adapter", self.bundle) | {"dtype": dtype}, as_trained
        was = self.reader.compute_dtype
        cast_reader(self.reader, torch.float32)
        expected = as_trained if was == torch.float32 else self._answers()
        spec = save_reader(self.reader, self.settings.reader, self.bundle) | {"dtype": self.dtype}
        if self.dtype == "bfloat16":
            delta = largest_delta_nats(expected, self._answers())
            if delta > MERGE_TOLERANCE_NATS:
                raise ValueError(f"merging the adapter changed log-probabilities by {delta:.1e} nats; give --reader adapter")
            cast_reader(self.reader, torch.bfloat16)
            expected = self._answers()
        save_weights(self.reader, self.bundle / layout.READER)
        return spec, expected

    def _write_onnx(self, made: list[Any]) -> dict[str, float]:
        """The least cosine of each ONNX model; says of which encoders there is none, and why."""
        if not self.settings.onnx:
            return {}
        from medrag_lightning.handoff.bundle.onnx_towers import unwritten, write_onnx

        self.say("writing ONNX models")
        for place, search in made:
            if why := unwritten(search.encoder):
                self.say(f"--onnx: no model of the encoder {place or 'of the source'}: {why}")
        if not made:
            self.say("--onnx: nothing to write: no part of the source has an encoder")
        return write_onnx(made, self.bundle)

    def _point(self, evidence: str, documents: int) -> None:
        """Sums of the corpus, and the pointer to it; the corpus is finished then."""
        write_sums(self.root)
        name = f"{self.settings.output.name}{layout.CORPUS_SUFFIX}"
        where = f"a folder {name} beside the bundle, or any place that load_bundle(corpus=...) and verify --corpus name"
        pointer = {"fingerprint": evidence, "documents": documents, "sums_sha256": sha256_file(self.root / layout.SUMS)}
        write_json(self.bundle / layout.POINTER, {**pointer, "where": where})

    def _prove(self, expected: list[Told], as_trained: list[Told]) -> dict[str, Any]:
        tolerance = layout.TOLERANCE_NATS.get(self.dtype, 1e-5)
        with_peft = self.settings.reader == "adapter"
        found = ask_in_clean_process(self.bundle, self.root, self.settings.device, with_peft)
        delta, faults = largest_delta_nats(expected, found), differences(expected, found)
        if delta > tolerance or faults:
            raise ValueError(
                f"the bundle does not answer as the run does, and is not kept: log-probabilities differ by {delta:.2e} nats "
                f"(allowed: {tolerance:.0e}){'; ' if faults else ''}{'; '.join(faults[:3])}"
            )
        changed = sum(one["answer"] != other["answer"] for one, other in zip(as_trained, found, strict=True))
        return {
            "probes": len(found),
            "tolerance_nats": tolerance,
            "max_abs_delta_logp_nats": delta,
            "max_abs_delta_as_trained_nats": largest_delta_nats(as_trained, found),
            "answers_changed_as_trained": changed,
            "device": self.settings.device,
        }

    def _inside(self, onnx: dict[str, float], corpora: Sequence[Mapping[str, Any]], system: Told) -> dict[str, Any]:
        """What is in the bundle, and what it needs, for people."""
        extras = ",".join(["runtime", *extras_of(system["source"])])
        return {
            "system": self.run.system or "retrieved",
            "reader": card.reader_told(self.settings.reader, self.dtype),
            **card.searches_told(system),
            **({"calibrated": words_of(system["calibration"])} if "calibration" in system else {}),
            "evidence": "in the bundle" if self.root == self.bundle else "pointed to",
            "documents": sum(corpus["documents"] for corpus in corpora),
            "onnx": f"{len(onnx)} models, least cosine {min(onnx.values()):.6f}" if onnx else "none",
            "needs": f"medrag-lightning[{extras}]",
        }

    def _describe(
        self,
        fingerprints: dict[str, str],
        parity: dict[str, Any],
        onnx: dict[str, float],
        corpora: Sequence[Mapping[str, Any]],
        system: Told,
    ) -> dict[str, Any]:
        """Writes ``bundle.json``, ``metadata.json`` and the card."""
        inside = self._inside(onnx, corpora, system)
        results = card.read_results(self.run.result_folders)
        sources = _added(corpus["sources"] for corpus in corpora)
        data = {**self.run.counts, "documents": inside["documents"], "sources": sources}
        data |= {"licenses": _added(corpus["licenses"] for corpus in corpora)}
        data |= {"synthetic": any("synthetic" in name.casefold() for name in sources)}
        told: dict[str, Any] = {
            "schema": layout.SCHEMA,
            "class": layout.CLASS,
            "name": self.settings.output.name,
            "version": __version__,
            "versions": card.versions(),
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": self.run.seed,
            "inside": inside,
            "fingerprints": fingerprints,
            "parity": parity,
            "onnx_cosines": onnx,
            "data": data,
            "metrics": card.metrics_of(results),
        }
        told |= {"lacks": card.LACKS_GENERATOR} if self.run.lacks_generator else {}
        write_json(self.bundle / layout.BUNDLE, told)
        write_json(self.bundle / layout.METADATA, card.metadata(told))
        write_bytes(self.bundle / layout.CARD, card.model_card(told, results, system.get("calibration")).encode())
        return told


def _added(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total
