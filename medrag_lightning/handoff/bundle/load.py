"""A system that answers, from a bundle: no Lightning, no training code, nothing that is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medrag_lightning.answering import Answerer
from medrag_lightning.batches import Steering
from medrag_lightning.data.images import ImageStore
from medrag_lightning.handoff.bundle.candidate_rerankers import load_candidate_reranker
from medrag_lightning.handoff.bundle.corpus import read_documents
from medrag_lightning.handoff.bundle.generator import load_generator
from medrag_lightning.handoff.bundle.guarantee import load_calibration
from medrag_lightning.handoff.bundle.identities import HiddenIdentities, Identities
from medrag_lightning.handoff.bundle.layout import CORPUS_SUFFIX, IMAGES, INDEX, KEY, POINTER, PROBE_IMAGES, SUMS
from medrag_lightning.handoff.bundle.quiet import no_progress_bars
from medrag_lightning.handoff.bundle.reader_files import load_reader
from medrag_lightning.handoff.bundle.rewriters import load_rewriter
from medrag_lightning.handoff.bundle.sources import load_source, searches
from medrag_lightning.handoff.bundle.system import read_system
from medrag_lightning.handoff.bundle.verify import verify_bundle
from medrag_lightning.mixture import Fusion
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.trace_writer import TraceWriter


def load_bundle(folder: str | Path, device: str = "cpu", corpus: str | Path | None = None, verify: bool = True) -> Answerer:
    """The answerer of a bundle, with the answers of the run that was exported.

    Args:
        folder: the bundle.
        device: where reader and encoders compute: ``cpu``, ``cuda``, ...
        corpus: where the evidence lies if the bundle only points to it; null for the folder ``NAME-corpus`` beside it.
        verify: whether every file is compared with its sum first; a large reader takes some seconds for it.

    Raises:
        ValueError: the folder is no bundle of this version, a file has changed, or the evidence is not there.
    """
    bundle = Path(folder)
    if verify and (faults := verify_bundle(bundle, corpus).faults):
        more = f", and {len(faults) - 3} more; python -m medrag_lightning verify {bundle}" if len(faults) > 3 else ""
        raise ValueError(f"{bundle} is not as it was exported: {'; '.join(faults[:3])}{more}")
    with no_progress_bars():
        return _assembled(bundle, corpus_folder(bundle, corpus), device)


def _assembled(bundle: Path, root: Path, device: str) -> Answerer:
    told = read_system(bundle)
    source = load_source(told["source"], bundle, device)
    documents = read_documents(root, searches(source))
    settings: dict[str, Any] = {} if told["abstain_below"] is None else {"abstain_below": told["abstain_below"]}
    reader, template = load_reader(told["reader"], bundle, device), PromptTemplate(**told["template"])
    if "tracer" in told:
        settings["tracer"] = TraceWriter(reader, template, told["tracer"]["max_new_tokens"])
    return Answerer(
        HiddenIdentities(source, Identities.read(root / KEY)) if documents else source,
        reader,
        documents,
        ImageStore([root / IMAGES, root / PROBE_IMAGES]),
        root / INDEX,
        template,
        Fusion(**told["fusion"]),
        told["evidence"],
        told["max_new_tokens"],
        told["closed_answers"],
        told["low_margin"],
        None if told["steering"] is None else Steering(**told["steering"]),
        generator=load_generator(told.get("generator"), bundle, device),
        rewriter=load_rewriter(told.get("rewriter")),
        calibration=load_calibration(told.get("calibration")),
        candidate_reranker=load_candidate_reranker(told.get("candidate_reranker"), bundle),
        **settings,
    )


def corpus_folder(bundle: Path, corpus: str | Path | None) -> Path:
    """Where the evidence lies: in the bundle, or where it was mounted; ValueError where it is not there."""
    if not (bundle / POINTER).is_file():
        if corpus is not None:
            raise ValueError(f"corpus={str(corpus)!r} would be ignored: {bundle} holds its evidence; leave it out")
        return bundle
    root = bundle.with_name(bundle.name + CORPUS_SUFFIX) if corpus is None else Path(corpus)
    if not (root / SUMS).is_file():
        fingerprint = json.loads((bundle / POINTER).read_text(encoding="utf-8"))["fingerprint"]
        raise ValueError(
            f"{bundle} points to a corpus (fingerprint {fingerprint[:12]}) that is not at {root}; mount it and give its place: "
            "load_bundle(folder, corpus=PLACE)"
        )
    return root
