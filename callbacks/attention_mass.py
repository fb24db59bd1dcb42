"""Where the question's tokens look: attention by segment and by document in every layer, for each system of an evaluation."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from callbacks.attention_plot import draw_mass
from callbacks.evaluated import run_folder
from medrag_lightning.artifacts import write_bytes, write_json
from medrag_lightning.batches import SEGMENTS, Example, ReaderBatch, Steering
from medrag_lightning.interfaces import AttentionReader, Reader
from medrag_lightning.metrics import Unit, cluster_of
from medrag_lightning.metrics.systems import SYSTEM_NAMES
from medrag_lightning.records import Noise

Floats = NDArray[np.float64]


@runtime_checkable
class MarkingStage(Protocol):
    """A stage that reads prompts, and marks which of their tokens is what where it is told to."""

    reader: Reader
    mark_roles: bool


@dataclass
class SystemMass:
    """What was seen of one system: for each question the attention of its prompts on segments (L, S) and documents (L, K)."""

    name: str
    noise: Noise | None = None
    steering: Steering | None = None
    seen: dict[str, list[tuple[Floats, Floats]]] = field(default_factory=lambda: defaultdict(list))
    cluster: dict[str, str] = field(default_factory=dict)
    batches: int = 0


class AttentionMassWriter(L.Callback):
    """After `test`: ``attention_mass.json`` and ``.csv`` in the run folder, and ``plots/attention_mass.png`` (after `validate`:
    ``attention_mass_val``). They tell which share of the attention of the question's tokens, in each decoder layer, falls on
    evidence, the query's image, the question itself and the rest, and on each document.

    Each prompt of the looked-at batches is read once more; nothing else changes, least of all predictions. A question with
    several prompts counts once, with their mean. Does not run within `fit`. Process 0 writes.

    Args:
        batches: the first so many of each system, on each process; null for all.
        folder: where to; by default the run folder.
        systems: those that are looked at, as results tables call them (``retrieved``, ``no retrieval``, names of rivals); null
            for all.
    """

    def __init__(self, batches: int | None = 4, folder: str | None = None, systems: list[str] | None = None) -> None:
        if batches is not None and batches < 1:
            raise ValueError(f"batches must be at least 1, or null for all, got {batches}")
        self.batches, self.folder, self.systems = batches, folder, systems
        self._systems: dict[str, SystemMass] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Asks the stage for prompts that tell which token is what, before they are made."""
        if not isinstance(pl_module, MarkingStage):
            raise ValueError(
                f"AttentionMassWriter looks at how a stage reads, and {type(pl_module).__name__} has no `mark_roles`; use it "
                "with stage reader_raft, or remove it from trainer.callbacks"
            )
        pl_module.mark_roles = stage in ("test", "validate")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets what was seen before; refuses a reader whose attention cannot be looked at."""
        self._begin(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As before a test."""
        if trainer.state.fn == "validate":
            self._begin(pl_module)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Looks at one of the first batches of a system."""
        self._look(pl_module, batch)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """As in a test."""
        if trainer.state.fn == "validate":
            self._look(pl_module, batch)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers from all processes and writes."""
        self._write(trainer, "test")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As after a test."""
        if trainer.state.fn == "validate":
            self._write(trainer, "val")

    def _begin(self, stage: L.LightningModule) -> None:
        self._systems = {}
        reader = cast(MarkingStage, stage).reader
        if not isinstance(reader, AttentionReader):
            raise ValueError(f"AttentionMassWriter: a {type(reader).__name__} does not tell where it looks (attention_mass)")

    def _look(self, stage: L.LightningModule, batch: ReaderBatch) -> None:
        of_example = [self._system_of(example) for example in batch.examples]  # noise comes mixed within a batch
        found = {id(system): system for system in of_example if system is not None}
        looked_at = set()
        for number, system in found.items():
            system.batches += 1
            if self.batches is None or system.batches <= self.batches:
                looked_at.add(number)
                mine = [e.query for e, of in zip(batch.examples, of_example, strict=True) if of is system]
                system.cluster |= cluster_of(mine, Unit.PATIENT)
        if not looked_at:
            return
        reader = cast(AttentionReader, cast(MarkingStage, stage).reader)
        for part in batch.parts:
            mass = reader.attention_mass(part.prompts)
            segment_PLS = mass.segment_PLS.double().cpu().numpy()
            document_PLK = mass.document_PLK.double().cpu().numpy()
            for prompt, place in enumerate(part.query_of_prompt):
                of = of_example[place]
                if of is not None and id(of) in looked_at:
                    of.steering = part.prompts.steering or of.steering
                    of.seen[batch.examples[place].query.id].append((segment_PLS[prompt], document_PLK[prompt]))

    def _system_of(self, example: Example) -> SystemMass | None:
        name = example.system or SYSTEM_NAMES[example.regime]
        if example.variant is not None or (self.systems is not None and name not in self.systems):
            return None  # with another image or less evidence it is no system of its own
        key = f"{name} {example.noise}"
        return self._systems.setdefault(key, SystemMass(name, example.noise))

    def _write(self, trainer: L.Trainer, split: Literal["test", "val"]) -> None:
        gathered: list[dict[str, SystemMass]] = [self._systems]
        if trainer.world_size > 1:
            gathered = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self._systems)
        self._systems = {}
        table = mass_table(_merged(gathered), split)
        if trainer.is_global_zero:
            _tell_unknown(self.systems or [], [system["name"] for system in table["systems"]])
        if not trainer.is_global_zero or not table["systems"]:
            return
        folder = Path(self.folder) if self.folder else run_folder(trainer)
        name = "attention_mass" + ("_val" if split == "val" else "")
        write_json(folder / f"{name}.json", table)
        write_bytes(folder / f"{name}.csv", as_csv(table))
        write_bytes(folder / "plots" / f"{name}.png", draw_mass(table))
        rank_zero_info(f"attention mass of {len(table['systems'])} systems, layer by layer: {folder / name}.json")


def _tell_unknown(asked: Sequence[str], found: Sequence[str]) -> None:
    if unknown := sorted(set(asked) - set(found)):
        rank_zero_warn(f"AttentionMassWriter: systems names {', '.join(unknown)}, which this run does not have")


def mass_table(systems: Sequence[SystemMass], split: str) -> dict[str, Any]:
    """Mean and standard error of every share by layer, as plain JSON; null where there are too few questions.

    The standard error is over questions, robust to those of one patient being alike:
    sqrt(G / (G - 1) * sum over the G patients of (sum of their deviations)^2) / N.
    """
    rows = [_system_row(system) for system in systems if system.seen]
    layers = len(rows[0]["segments"][SEGMENTS[0]]["mean"]) if rows else 0
    return {"split": split, "layers": layers, "segments": list(SEGMENTS), "systems": rows}


def mean_and_error(values_NL: Floats, clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Mean over N questions and its standard error, robust to clusters; NaN with fewer than two clusters."""
    mean_L = values_NL.mean(0)
    names, group_N = np.unique(np.array(clusters), return_inverse=True)
    count = len(names)
    if count < 2:
        return mean_L, np.full_like(mean_L, np.nan)
    sums_GL = np.zeros((count, values_NL.shape[1]))
    np.add.at(sums_GL, group_N, values_NL - mean_L)
    return mean_L, np.sqrt(count / (count - 1) * np.square(sums_GL).sum(0)) / len(values_NL)


def as_csv(table: dict[str, Any]) -> bytes:
    """One row for each system, layer (from 0) and segment or document (from 1)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["system", "noise_kind", "noise_share", "part", "layer", "mean", "standard_error", "questions"])
    for system in table["systems"]:
        noise = system["noise"] or {"kind": "", "share": ""}
        parts = [(name, curve, system["questions"]) for name, curve in system["segments"].items()]
        parts += [(f"document {d['number']}", d, d["questions"]) for d in system["documents"]]
        for name, curve, questions in parts:
            for layer, (mean, error) in enumerate(zip(curve["mean"], curve["standard_error"], strict=True)):
                told = "" if error is None else f"{error:.6g}"
                writer.writerow([system["name"], noise["kind"], noise["share"], name, layer, f"{mean:.6g}", told, questions])
    return stream.getvalue().encode()


def _system_row(system: SystemMass) -> dict[str, Any]:
    ids = sorted(system.seen)
    clusters = [system.cluster[name] for name in ids]
    segment_NLS = np.stack([np.mean([segment for segment, _ in system.seen[name]], axis=0) for name in ids])
    documents = []
    for k in range(max(document.shape[1] for rows in system.seen.values() for _, document in rows)):
        # Mean over the prompts that show the document: all of them, or, read one a prompt, its own.
        of_k = [[d[:, k] for _, d in system.seen[name] if k < d.shape[1] and np.isfinite(d[:, k]).all()] for name in ids]
        shown = [n for n, rows in enumerate(of_k) if rows]
        if shown:
            values_NL = np.stack([np.mean(of_k[n], axis=0) for n in shown])
            curve = _curve(values_NL, [clusters[n] for n in shown])
            documents.append({"number": k + 1, "questions": len(shown), **curve})
    return {
        "name": system.name,
        "noise": None if system.noise is None else {"kind": str(system.noise.kind), "share": system.noise.share},
        "steering": None if system.steering is None else asdict(system.steering),
        "questions": len(ids),
        "patients": len(set(clusters)),
        "segments": {name: _curve(segment_NLS[:, :, s], clusters) for s, name in enumerate(SEGMENTS)},
        "documents": documents,
    }


def _curve(values_NL: Floats, clusters: Sequence[str]) -> dict[str, list[float | None]]:
    mean_L, error_L = mean_and_error(values_NL, clusters)
    return {"mean": mean_L.tolist(), "standard_error": [e if np.isfinite(e) else None for e in error_L.tolist()]}


def _merged(gathered: Sequence[dict[str, SystemMass]]) -> list[SystemMass]:
    """What all processes saw, systems in the order of process 0."""
    merged: dict[str, SystemMass] = {}
    for of_process in gathered:
        for key, system in of_process.items():
            into = merged.setdefault(key, SystemMass(system.name, system.noise))
            into.steering = into.steering or system.steering
            into.seen.update(system.seen)
            into.cluster |= system.cluster
    return list(merged.values())
