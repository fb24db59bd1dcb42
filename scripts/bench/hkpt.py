"""Runs the recipe `hkpt_compared` with several seeds: preference tuning beside its baselines and without its parts.

    python scripts/bench/hkpt.py --data minihospital_texts --more --set reader.trainer.max_epochs=6
    MEDRAG_DATA=../shared/data python scripts/bench/hkpt.py --data vqa_rad_texts ham10000_28_texts \\
        --more --reader readers/tiny --tuned readers/tiny_tuned

Each (data set, seed) is one run of the recipe in its own folder; finished steps are reused, so an interrupted call goes on.
One reader a seed is the start of all: an adapter on top of it is tuned for as many steps on right answers alone (SFT), on the
pairs of KB-PT, RAG-PT, HKPT v1 and v2, and on those of v2 without each of its three kinds.

Closed questions. A number is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, lesions,
images) of that mean. Lower is better for

    MD    right with another image, of those right with their own, the same evidence
    KUD   still wrong with evidence, of those wrong without any
    KID   wrong with reports, documents or both, of those right without any
    over-reliance   right without evidence, of those wrong with it

`irrelevant`, `contradicting`: how far accuracy falls when half of the evidence is spoilt. Ends with one line of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.metrics import Unit, cluster_of

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import FLOORS, constant_rows, tell_recipe, test_queries  # type: ignore[import-not-found]
from reliance import SHOWN, asked, print_accuracy, print_differences, print_reliance  # type: ignore[import-not-found]

STEPS = {
    "before tuning": "test_before",
    "SFT": "test_sft",
    "KB-PT": "test_kb_pt",
    "RAG-PT": "test_rag_pt",
    "HKPT v1": "test_hkpt_v1",
    "HKPT v2": "test",
    "no cross-modality": "test_no_cma",
    "no utilisation": "test_no_ku",
    "no robustness": "test_no_kr",
}
PAIRS = {"KB-PT": "tune_kb_pt", "RAG-PT": "tune_rag_pt", "HKPT v1": "tune_hkpt_v1", "HKPT v2": "pairs"}
SPOILT = ("irrelevant", "contradicting")
OWN_METRIC = {"no cross-modality": "MD", "no utilisation": "KUD", "no robustness": "KID"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints Markdown tables, then the JSON line."""
    tell_recipe("hkpt_compared", __doc__, report, argv)


def report(data: str, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Prints the tables of a data set and gives their figures."""
    places = [folder / f"{data}-seed{seed}" for seed in seeds]
    queries = test_queries(places[0] / "test" / "config.yaml")
    runs = {name: [asked(place / step) for place in places] for name, step in STEPS.items()}
    clusters = cluster_of(queries.values(), Unit.PATIENT)
    ids = sorted(runs["SFT"][0]["own"])
    print(f"\n### {data}: {len(ids)} closed test questions, seeds {', '.join(map(str, seeds))}\n")
    told: dict[str, Any] = {"questions": len(ids), "systems": print_accuracy(runs, ids, clusters)}
    for name, value in (constant_rows(places[0] / "test") | FLOORS.get(data.removesuffix("_texts"), {})).items():
        print(f"| floor: {name} | {value:.3f} | | | |")
    told["reliance"] = print_reliance(runs, [*SHOWN, *SPOILT], ids, clusters)
    told["differences"] = print_differences(runs, _compared(), ["accuracy", *SHOWN, *SPOILT], ids, clusters)
    told["pairs"] = _print_pairs(places)
    return told


def _compared() -> list[tuple[str, str]]:
    """Tuned minus SFT, HKPT minus the others, and each ablation minus the whole."""
    pairs = [("SFT", "before tuning"), *((name, "SFT") for name in ("KB-PT", "RAG-PT", "HKPT v1", "HKPT v2"))]
    pairs += [("HKPT v2", other) for other in ("before tuning", "KB-PT", "RAG-PT", "HKPT v1")]
    return [*pairs, *((name, "HKPT v2") for name in OWN_METRIC)]


def _print_pairs(places: Sequence[Path]) -> dict[str, Any]:
    """Training pairs of each kind by seed."""
    told: dict[str, Any] = {}
    print("\n| training pairs by seed | " + " | ".join(str(kind) for kind in _KINDS) + " |\n|---|" + "---|" * len(_KINDS))
    for name, step in PAIRS.items():
        counts = [_pairs_of(place / step / "pairs") for place in places]
        told[name] = counts
        print(f"| {name} | " + " | ".join(", ".join(str(one.get(kind, 0)) for one in counts) for kind in _KINDS) + " |")
    return told


_KINDS = ("cross_modality", "knowledge_utilisation", "knowledge_robustness")


def _pairs_of(folder: Path) -> dict[str, int]:
    from medrag_lightning.preference_files import read_preferences
    from medrag_lightning.records import Split

    counts: dict[str, int] = {}
    for pair in read_preferences(folder).pairs[Split.TRAIN]:
        counts[str(pair.kind)] = counts.get(str(pair.kind), 0) + 1
    return counts


if __name__ == "__main__":
    main()
