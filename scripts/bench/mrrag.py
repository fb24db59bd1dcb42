"""Runs the recipe `mrrag` on data sets with several seeds and prints its ablation and what spoilt evidence costs.

    MEDRAG_DATA=../shared/data python scripts/bench/mrrag.py --data retinamnist ham10000_28 vqa_rad_closed
    python scripts/bench/mrrag.py --data minihospital

Each (data set, seed) is one run of the recipe in its own folder; finished steps are reused, so an interrupted call goes on.
One reader reads for all systems of a seed; they differ in which documents it is shown and how its attention is steered:

    direct concatenation   the channels in turn             image to text, ...   the nearest by a single similarity
    plain sum              equal weights                    mcr published        MR-RAG's weights: InfoNCE, the same for all
    mcr                    weights by question, learned by the likelihood of answers; `mcr global`: its shared weights
    mcr + POLICY           with attention steering          mcr K=N              another number of documents

A number is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, lesions, images) of that mean.
`loss at 50 %`: how far closed accuracy falls when half of the documents are spoilt, and the share of what direct concatenation
loses that a system loses, over the same questions. Ends with one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.metrics import Unit, cluster_of
from medrag_lightning.metrics.bootstrap import Floats
from medrag_lightning.records import Query

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import (  # type: ignore[import-not-found]
    FLOORS,
    Rows,
    cell,
    constant_rows,
    interval,
    macro_f1,
    over,
    predictions,
    right,
    tell_recipe,
    test_queries,
)

DIRECT = "direct concatenation"
OWN = {"retrieved": DIRECT, "none": "no retrieval", "random": "random retrieval", "oracle": "known evidence"}
SINGLE = ("image to text", "image to image", "text to text")
COMPARED = [*(("mcr", name) for name in (DIRECT, "plain sum", *SINGLE, "mcr global")), ("mcr published", DIRECT)]
HALF = 0.5
Noisy = dict[tuple[str, str, float], Rows]
"""Predictions by system, kind of noise and share."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints Markdown tables, then the JSON line."""
    tell_recipe("mrrag", __doc__, report, argv)


def report(data: str, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Prints the tables of a data set and gives their figures."""
    places = [folder / f"{data}-seed{seed}" for seed in seeds]
    queries = test_queries(places[0] / "test" / "config.yaml")
    read = [read_closed(place / "test") for place in places]
    runs, noisy = [plain for plain, _ in read], [spoilt for _, spoilt in read]
    clusters = cluster_of(queries.values(), Unit.PATIENT)
    ids = sorted(runs[0][DIRECT])
    print(f"\n### {data}: {len(ids)} closed test questions, seeds {', '.join(map(str, seeds))}\n")
    told: dict[str, Any] = {"systems": _print_systems(runs, ids, clusters)}
    for name, value in (constant_rows(places[0] / "test") | FLOORS.get(data, {})).items():
        print(f"| floor: {name} | {value:.3f} | |")
    steered = [(name, "mcr") for name in runs[0] if name.startswith("mcr + ")]
    told["differences"] = _print_differences(runs, [*COMPARED, *steered], ids, clusters)
    told["relevance"] = _print_relevance(runs, queries, clusters)
    told["noise"] = _print_noise(runs, noisy, clusters)
    told["weights"] = [_weights(place) for place in places]
    print("\nPublished weights by seed: " + "; ".join(map(_words, told["weights"])) + ".")
    return told


def read_closed(place: Path) -> tuple[dict[str, Rows], Noisy]:
    """The closed, answered test predictions of a run: by system, and those under noise apart."""
    plain: dict[str, Rows] = {}
    noisy: Noisy = {}
    for row in predictions(place):
        if not row["choices"] or row["gold"] is None or row["regime"] not in OWN:
            continue
        name = row["system"] or OWN[row["regime"]]
        if row["noise"] is None:
            plain.setdefault(name, {})[row["query_id"]] = row
        else:
            noisy.setdefault((name, row["noise"]["kind"], row["noise"]["share"]), {})[row["query_id"]] = row
    return plain, noisy


def _print_systems(runs: Sequence[dict[str, Rows]], ids: Sequence[str], clusters: Mapping[str, str]) -> dict[str, Any]:
    print("| system | accuracy | macro-F1 |\n|---|---|---|")
    told: dict[str, Any] = {}
    for name in runs[0]:
        mine = [one[name] for one in runs]
        kept = [query for query in ids if query in mine[0]]
        units = [clusters[query] for query in kept]
        right_SN = right(mine, kept)
        told[name] = {
            "questions": len(kept),
            "accuracy": interval(over(right_SN.sum(axis=0), np.full(len(kept), float(len(runs)))), units),
            "macro-F1": macro_f1(mine, kept, units),
        }
        some = "" if len(kept) == len(ids) else f", on {len(kept)} questions"
        print(f"| {name}{some} | {cell(told[name]['accuracy'])} | {cell(told[name]['macro-F1'])} |")
    return told


def _print_differences(
    runs: Sequence[dict[str, Rows]], pairs: Sequence[tuple[str, str]], ids: Sequence[str], clusters: Mapping[str, str]
) -> dict[str, Any]:
    print("\n| paired difference, accuracy | |\n|---|---|")
    told: dict[str, Any] = {}
    for mine, theirs in pairs:
        if mine not in runs[0] or theirs not in runs[0]:
            continue
        gained_N = (right([o[mine] for o in runs], ids) - right([o[theirs] for o in runs], ids)).mean(axis=0)
        told[f"{mine} - {theirs}"] = interval(over(gained_N, np.ones(len(ids))), [clusters[query] for query in ids])
        print(f"| {mine} minus {theirs} | {cell(told[f'{mine} - {theirs}'], signed=True)} |")
    return told


def _print_relevance(
    runs: Sequence[dict[str, Rows]], queries: Mapping[str, Query], clusters: Mapping[str, str]
) -> dict[str, Any]:
    """Generated worlds know which documents are right: how often one comes first, their share of the K, `mcr` against all."""
    ids = [query for query in sorted(runs[0][DIRECT]) if queries[query].relevant_ids]
    if not ids:
        return {}
    units = [clusters[query] for query in ids]
    searched = [name for name in runs[0] if name not in OWN.values() or name == DIRECT]
    share = {name: np.mean([[_relevant(one[name][q], queries[q]) for q in ids] for one in runs], axis=0) for name in searched}
    told: dict[str, Any] = {"questions": len(ids)}
    print(f"\n| documents known to be right, {len(ids)} questions | first | minus, of mcr | share of K | minus, of mcr |")
    print("|---|---|---|---|---|")
    for name in searched:
        if name.startswith("mcr + "):
            continue
        cells: list[list[float] | None] = []
        for part in (0, 1):
            cells.append(interval(over(share[name][:, part], np.ones(len(ids))), units))
            gained_N = share["mcr"][:, part] - share[name][:, part]
            cells.append(interval(over(gained_N, np.ones(len(ids))), units) if name != "mcr" else None)
        told[name] = cells
        print(f"| {name} | " + " | ".join(cell(each, bool(place % 2)) for place, each in enumerate(cells)) + " |")
    return told


def _relevant(row: Mapping[str, Any], query: Query) -> tuple[float, float]:
    """Whether the first document that was shown is right, and the share of right ones."""
    hits = [name in query.relevant_ids for name in row["cited"]]
    return float(hits[0]), float(np.mean(hits))


def _print_noise(runs: Sequence[dict[str, Rows]], noisy: Sequence[Noisy], clusters: Mapping[str, str]) -> dict[str, Any]:
    """Losses at half the documents, and each system's share of what direct concatenation loses."""
    told: dict[str, Any] = {}
    kinds = sorted({kind for _, kind, share in noisy[0] if share == HALF})
    for kind in kinds:
        systems = [name for name, of, share in noisy[0] if of == kind and share == HALF]
        asked = [sorted(set.intersection(*(set(one[name, kind, HALF]) for name in systems))) for one in noisy]
        ids = sorted(set().union(*asked))  # a seed may have drawn its own questions
        units = [clusters[query] for query in ids]
        count_N = np.array([float(sum(query in mine for mine in asked)) for query in ids])
        lost = {name: _lost(runs, noisy, name, kind, asked, ids) for name in systems}
        print(f"\n| {kind}, {len(ids)} questions | loss at 50 % | share of direct concatenation's loss | minus half of it |")
        print("|---|---|---|---|")
        told[kind] = {"questions": len(ids)}
        for name in systems:
            one = {"loss": interval(over(lost[name], count_N), units)}
            if name != DIRECT and DIRECT in lost:
                one["share"] = interval(over(lost[name], lost[DIRECT]), units)
                one["beyond_half"] = interval(over(lost[name] - HALF * lost[DIRECT], count_N), units)
            told[kind][name] = one
            print(f"| {name} | " + " | ".join(cell(one.get(k), k != "share") for k in ("loss", "share", "beyond_half")) + " |")
    return told


def _lost(
    runs: Sequence[dict[str, Rows]],
    noisy: Sequence[Noisy],
    name: str,
    kind: str,
    asked: Sequence[Sequence[str]],
    ids: Sequence[str],
) -> Floats:
    """(N,) fall from ordinary evidence, summed over the seeds that asked; positive where noise hurts."""
    place, fall_N = {query: n for n, query in enumerate(ids)}, np.zeros(len(ids))
    for one, spoilt, mine in zip(runs, noisy, asked, strict=True):
        change = right([one[name]], mine)[0] - right([spoilt[name, kind, HALF]], mine)[0]
        fall_N[[place[query] for query in mine]] += change
    return fall_N


def _weights(place: Path) -> dict[str, float]:
    """The published method's direction, by channel."""
    (path,) = (place / "published").rglob("fusion_weights.json")
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: float(value) for name, value in told["shared"]["direction"].items()}


def _words(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in weights.items())


if __name__ == "__main__":
    main()
