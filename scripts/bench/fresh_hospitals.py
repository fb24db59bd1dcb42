"""Carries what runs of the recipe `mrrag` learned on the mini-hospital to generated hospitals that they have never seen.

    python scripts/bench/mrrag.py --data minihospital --only_run --more --set reader.trainer.max_epochs=6
    python scripts/bench/fresh_hospitals.py --runs runs/mrrag/minihospital-seed0 runs/mrrag/minihospital-seed1

Encoder and fusion weights stay as they are; hospital, patients and facts are new. Asked are the closed questions with known
right documents, of every split, about disease variants that stood in the test split where the runs learned. For each similarity
alone, the plain sum and learned fusion: how often a right document comes first, the share of right ones among K, and nDCG@K,
means over runs with intervals over patients, and what learned fusion is above it. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.metrics.bootstrap import Floats
from medrag_lightning.records import Query, Retrieved, Split

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import cell, interval, over  # type: ignore[import-not-found]

SYSTEMS = ("image to text", "image to image", "text to text", "plain sum", "mcr published", "mcr global", "mcr")
MEASURES = ("first", "share of K", "nDCG@K")
Measured = dict[str, dict[str, tuple[float, float, float]]]
"""By system and question the three measures."""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="folders of finished runs of the recipe mrrag")
    parser.add_argument("--worlds", nargs="+", type=int, default=[2, 3, 4], help="seeds of the new hospitals")
    parser.add_argument("--folder", type=Path, default=Path("runs/fresh_hospitals"), help="for evidence stores and images")
    asked = parser.parse_args(argv)
    runs: list[Measured] = []
    units: dict[str, str] = {}
    for run in asked.runs:
        measured: Measured = {}
        for world in asked.worlds:
            found, patients = search(run, world, asked.folder)
            units |= patients
            for system, values in found.items():
                measured.setdefault(system, {}).update(values)
        runs.append(measured)
    print(json.dumps(report(runs, units)))


def search(run: Path, world: int, folder: Path) -> tuple[Measured, dict[str, str]]:
    """The measures of one run's systems in one new hospital, and the patient of each question."""
    config = yaml.safe_load(os.path.expandvars((run / "test" / "config.yaml").read_text(encoding="utf-8")))["data"]
    settings = config["init_args"]
    trained_in = settings["tables"][0]["init_args"]
    held_out = {p.entity.name for p in MiniHospital(**trained_in).patients if p.entity.split is Split.TEST}
    for table in (*settings["tables"], *settings["corpus"]):
        table["init_args"] |= {"seed": world, "folder": str(folder / "images")}
    rivals = {name: source for name, source in settings["rivals"].items() if name in SYSTEMS}
    settings |= {"rivals": {}, "noise": None, "only": "closed", "cache_folder": str(folder / run.name)}
    data, sources = _built(config, rivals)
    data.prepare_data()
    of_patient = {p.id: p.entity.name for p in MiniHospital(**settings["tables"][0]["init_args"]).patients}
    queries = [q for split in Split for q in data.split_queries(split)]
    queries = [q for q in queries if q.relevant_ids and of_patient[str(q.patient_id)] in held_out]
    measured: Measured = {}
    for name, source in sources.items():
        place = data.documents(), data.world().open_image, data.evidence_folder()
        source.prepare(*place)
        source.load(*place)
        found = zip(queries, source.retrieve(queries), strict=True)
        measured[name] = {f"{world} {query.id}": measures(query, of) for query, of in found}
    return measured, {f"{world} {query.id}": f"{world} {query.patient_id}" for query in queries}


def measures(query: Query, found: Retrieved) -> tuple[float, float, float]:
    """Whether a right document comes first, the share of right ones, and nDCG with binary relevance."""
    hit_K = np.array([candidate.id in query.relevant_ids for candidate in found.candidates], float)
    discount_K = 1 / np.log2(np.arange(2, 2 + len(hit_K)))
    ideal = discount_K[: min(len(query.relevant_ids), len(hit_K))].sum()
    return float(hit_K[0]), float(hit_K.mean()), float(discount_K @ hit_K / ideal)


def report(runs: Sequence[Measured], patients: Mapping[str, str]) -> dict[str, Any]:
    """Prints a row a system and gives the figures."""
    ids = sorted(patients)
    units, once = [patients[name] for name in ids], np.ones(len(ids))
    print(f"{len(ids)} questions, {len(set(units))} patients, {len(runs)} runs\n")
    print("| system | " + " | ".join(f"{name} | mcr minus it" for name in MEASURES) + " |\n|---|" + "---|" * 2 * len(MEASURES))
    mean = {name: _mean(runs, name, ids) for name in runs[0]}
    told: dict[str, Any] = {"questions": len(ids), "patients": len(set(units))}
    for name, value_N3 in mean.items():
        told[name] = {}
        for place, measure in enumerate(MEASURES):
            own = interval(over(value_N3[:, place], once), units)
            above = None if name == "mcr" else interval(over(mean["mcr"][:, place] - value_N3[:, place], once), units)
            told[name][measure] = {"value": own, "mcr_minus": above}
        cells = [(cell(one["value"]), cell(one["mcr_minus"], True)) for one in told[name].values()]
        print(f"| {name} | " + " | ".join(text for pair in cells for text in pair) + " |")
    return told


def _mean(runs: Sequence[Measured], name: str, ids: Sequence[str]) -> Floats:
    """(N, 3), the mean over runs."""
    value_N3: Floats = np.mean([[run[name][query] for query in ids] for run in runs], axis=0)
    return value_N3


def _built(config: Mapping[str, Any], rivals: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The data module of a run's configuration, and its rivals apart."""
    from jsonargparse import ArgumentParser

    from medrag_lightning.data.module import MedragData
    from medrag_lightning.interfaces import CandidateSource

    parser = ArgumentParser()
    parser.add_subclass_arguments(MedragData, "data")
    parser.add_argument("--rivals", type=dict[str, CandidateSource])
    built = parser.instantiate(parser.parse_object({"data": dict(config), "rivals": dict(rivals)}))
    return built.data, built.rivals


if __name__ == "__main__":
    main()
