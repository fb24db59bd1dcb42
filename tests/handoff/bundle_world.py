"""A small trained system of coloured squares and texts, whose answers depend on everything that a bundle holds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
from reader_world import tiny

from medrag_lightning.answering import Answerer
from medrag_lightning.batches import Steering
from medrag_lightning.data.images import ImageStore
from medrag_lightning.handoff.bundle.export import export_bundle
from medrag_lightning.handoff.bundle.merging import cast_reader
from medrag_lightning.handoff.bundle.request import Run, Settings
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.models.similarity_fusion import FixedFusion, WeightedSimilarities
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.records import AnswerType, Document, ImageRef, Query, Split
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.fused import FusedSearch
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence
from medrag_lightning.selection import Selection

COLOURS = ("red", "green", "blue", "grey")
CANARY = "Zaphod-Quux"  # stands in every patient id, study id and file name
TEXTS = ["which colour is it?", "name the colour", *COLOURS, "report: it is red", "entry: blue is cold, grey is dull", "p1 q2"]
MIXED = {"image_to_image": 2, "image_to_text": 1, "text_to_text": 1}


class World:
    """Pictures on disk, documents with and without them, questions about others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"ward-{CANARY}"
        self.folder.mkdir()
        self.open = ImageStore([self.folder])
        self.documents = [self._report(n) for n in range(12)] + [self._entry(n) for n in range(6)]
        self.queries = [self._query(n) for n in range(8)]

    def picture(self, name: str, seed: int) -> ImageRef:
        rng = np.random.default_rng(seed)
        base = rng.integers(30, 220, 3)
        pixels = np.clip(base + rng.normal(0, 25, (40, 36, 3)), 0, 255).astype(np.uint8)
        path = self.folder / f"{CANARY}-{name}.png"
        Image.fromarray(pixels).save(path)
        return ImageRef(str(path))

    def _report(self, n: int) -> Document:
        image, patient = self.picture(f"d{n}", n), f"{CANARY}-p{n}"
        told = {"source": "ward (synthetic)", "license": "CC0", "modality": "ct"}
        return Document(f"{CANARY}-d{n}", f"report {n}: it is {COLOURS[n % 4]}", image, patient, f"{CANARY}-s{n}", **told)

    def _entry(self, n: int) -> Document:
        return Document(f"entry{n}", f"entry {n}: {COLOURS[n % 4]} is {'cold' if n % 2 else 'warm'}", source="book", license="")

    def _query(self, n: int) -> Query:
        closed = n % 3 != 2
        return Query(
            f"{CANARY}-q{n}", "which colour is it?" if closed else "name the colour", self.picture(f"q{n}", 100 + n % 5),
            COLOURS[n % 4], COLOURS if closed else (), AnswerType.CLOSED if closed else AnswerType.OPEN, Split.TEST,
            f"{CANARY}-p{n}", f"{CANARY}-s{n}", "ct" if n % 2 else None,
        )  # fmt: skip


def encoder() -> TinyTowers:
    """Towers whose trained parts differ from those of the seed."""
    made = TinyTowers(32, 16)
    with torch.no_grad():
        for n, parameter in enumerate(made.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n)))
    return made.requires_grad_(False).eval()


def live(per_channel: dict[str, int], **settings: Any) -> LiveSearch:
    return LiveSearch(encoder(), dict(per_channel), **settings)


def fused() -> FusedSearch:
    made = WeightedSimilarities(list(MIXED), scope="per_query")
    made.prepare(["ct", "mri"])
    with torch.no_grad():
        for n, parameter in enumerate(made.parameters()):
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n)))
    return FusedSearch(live(MIXED), made.requires_grad_(False).eval(), top=3)


def knowledge() -> KnowledgeSearch:
    by_hand = FusedSearch(live({"image_to_image": 3}), FixedFusion({"image_to_image": 1.0, "image_to_text": 0.5}), top=2)
    return KnowledgeSearch(by_hand, LiveSearch(TinyDualEncoder(64), {"text_to_text": 2}))


def corpora() -> CorpusSearch:
    """An adaptive number of reports, and the book."""
    reports = SelectedSearch(live({"image_to_image": 6}), Selection(cut=0.01, k=3))
    texts = LiveSearch(TinyDualEncoder(64), {"text_to_text": 2}, corpus="texts")
    return CorpusSearch({"texts": texts, "reports": reports}, of={"texts": ["book"]})


SOURCES = {"live": lambda: live(MIXED), "fused": fused, "knowledge": knowledge, "corpora": corpora, "none": NoEvidence}


def reader(adapter: bool = False, family: str = "llava", dtype: torch.dtype = torch.float32, **settings: Any) -> HfReader:
    """A reader whose base and adapter both matter."""
    lora = LoraSettings(rank=2, alpha=8, vision=True, projector=True) if adapter else None
    made = HfReader(tiny(family), lora, **settings)
    made.prepare(TEXTS)
    with torch.no_grad():
        for n, (name, parameter) in enumerate(sorted(made.named_parameters())):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n))
            if "lora_B" in name or "steering" in name:
                parameter.add_(0.2 * noise)
            elif "lora_" not in name and parameter.dim() > 1:
                parameter.mul_(4.0)
    cast_reader(made, dtype)
    return made.eval()


def answerer(world: World, folder: Path, made: HfReader, source: Any, **settings: Any) -> Answerer:
    documents: Sequence[Document] = [] if isinstance(source, NoEvidence) else world.documents
    if documents:
        source.prepare(documents, world.open, folder / "store")
    settings = {"template": PromptTemplate(evidence_prefix="report {number}: "), "max_new_tokens": 3, **settings}
    return Answerer(source, made, documents, world.open, folder / "store", **settings)


def run_of(world: World, made: Answerer, folder: Path) -> Run:
    return Run(made, world.queries, {"train": 3, "val": 2, "test": len(world.queries)}, 7, [folder], "0" * 64)


STEERED = {"evidence": "all_in_one_prompt", "steering": Steering("mass_preserving", "all", gain=2.0)}


def export(world: World, made: Answerer, folder: Path, **settings: Any) -> dict[str, Any]:
    """Exports to ``folder/bundle`` and gives what ``bundle.json`` says."""
    chosen = Settings(**{"output": folder / "bundle", "probes": 4, **settings})
    return export_bundle(run_of(world, made, folder), chosen, lambda text: None, lambda what, done, count: None)


def in_this_process(bundle: Path, corpus: Path, device: str, with_peft: bool) -> list[dict[str, Any]]:
    """Stands for the clean process, in a second less."""
    from medrag_lightning.handoff.bundle.identities import Identities
    from medrag_lightning.handoff.bundle.load import load_bundle
    from medrag_lightning.handoff.bundle.probes import answers_of, read_probes

    made = load_bundle(bundle, device, None if bundle == corpus else corpus, verify=False)
    return answers_of(made, read_probes(corpus)[0], Identities.read(corpus / "identities.key"))
