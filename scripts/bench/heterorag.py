"""Runs the recipe `heterorag` with several seeds: the whole system, without parts of its evidence, and with other searches.

    python scripts/bench/heterorag.py --data minihospital_five
    python scripts/bench/heterorag.py --data minihospital_five --compared --more --updates 600

`--compared` runs `heterorag_compared`: beside FactMM-RAG-, MMed-RAG- and RULE-style systems on the same store, and with the
ablations of the query generator; to finished runs of `heterorag` it adds the rest. A (data set, seed) is one run in its own
folder; finished steps are reused, so an interrupted call goes on. Tables tell the steps that are there.

Closed test questions. A number is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, lesions,
images) of that mean; differences are paired. MD, KUD, KID and over-reliance (lower is better): see `hkpt`.

- Parts of the evidence: accuracy of HeteroRAG's reader when all evidence of a corpus is taken away (H27).
- Searches: share of the questions that a text answers for which it is among what was found, two of a corpus at most (hit@2),
  with the same reader behind each: the question itself, a dual encoder's image-to-text and text-to-text rankings fused (CLIP),
  the generator after DPO alone, SFT alone, and both (H17, H18). Where a world does not know such texts, accuracy alone is told.
- Source selection: the share of corpora that the generator does not ask, the texts that are then read, and accuracy, by what a
  question needs (H19).

Ends with one line of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.data.minihospital_texts import is_text
from medrag_lightning.metrics import Unit, cluster_of
from medrag_lightning.metrics.bootstrap import Floats, Statistic
from medrag_lightning.records import ABLATED, Query
from medrag_lightning.search_files import read_searches

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import (  # type: ignore[import-not-found]
    FLOORS,
    Rows,
    cell,
    constant_rows,
    interval,
    mean_of,
    over,
    predictions,
    right,
    tell_recipe,
    test_queries,
)
from reliance import (  # type: ignore[import-not-found]
    SHOWN,
    asked,
    minus,
    print_accuracy,
    print_differences,
    print_reliance,
)

OURS = "HeteroRAG"
STEPS = {
    "Original": "test_before",
    "SFT without knowledge": "test_sft_bare",
    "SFT with knowledge": "test_sft",
    "FactMM-RAG-style": "test_factmm",
    "MMed-RAG-style": "test_mmed",
    "RULE-style": "test_rule",
    OURS: "test",
}
SEARCHES = {
    "question": "test_question",
    "CLIP, fused": "test_clip",
    "DPO without SFT": "test_search_dpo_alone",
    "SFT": "test_search_sft",
    "SFT + DPO": "test",
}
WHOLE, ALL = "all evidence", "all"


@dataclass(frozen=True)
class Tested:
    """The test questions of a data set, those that were answered in every run, and what a bootstrap draws together."""

    queries: Mapping[str, Query]
    ids: Sequence[str]
    units: Sequence[str]

    def needs(self) -> dict[str, Floats]:
        """(N,) 1 for the questions that need something, by what it is; `ALL` last."""
        names = [self.queries[name].need for name in self.ids]
        found = {need: np.array([float(need == one) for one in names]) for need in sorted({one for one in names if one})}
        return {**found, ALL: np.ones(len(names))}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints Markdown tables, then the JSON line."""
    tell_recipe("heterorag", __doc__, report, argv, compared="heterorag_compared")


def report(data: str, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Prints the tables of a data set and gives their figures."""
    places = [folder / f"{data}-seed{seed}" for seed in seeds]
    queries = test_queries(places[0] / "test" / "config.yaml")
    runs = {name: [asked(place / step) for place in places] for name, step in there(STEPS, places).items()}
    by_id, ids = cluster_of(queries.values(), Unit.PATIENT), sorted(runs[OURS][0]["own"])
    tested = Tested(queries, ids, [by_id[name] for name in ids])
    print(f"\n### {data}: {len(ids)} closed test questions, seeds {', '.join(map(str, seeds))}\n")
    told: dict[str, Any] = {"questions": len(ids), "systems": print_accuracy(runs, ids, by_id)}
    for name, value in (constant_rows(places[0] / "test") | FLOORS.get(data.removesuffix("_five"), {})).items():
        print(f"| floor: {name} | {value:.3f} | | | |")
    told["reliance"] = print_reliance(runs, SHOWN, ids, by_id)
    others = [(OURS, name) for name in runs if name != OURS]
    told["differences"] = print_differences(runs, others, ["accuracy", *SHOWN], ids, by_id)
    told["parts"] = _print_parts([place / STEPS[OURS] for place in places], tested)
    told["searches"] = _print_searches(places, tested)
    told["selection"] = _print_selection(places, tested)
    return told


def there(steps: Mapping[str, str], places: Sequence[Path]) -> dict[str, str]:
    """The steps that all runs have finished."""
    return {
        name: step
        for name, step in steps.items()
        if all((place / step / "predictions" / "test.jsonl").is_file() for place in places)
    }


def _own(place: Path) -> Rows:
    own: Rows = asked(place)["own"]
    return own


def by_part(place: Path) -> dict[str, Rows]:
    """The closed predictions of a test, with all evidence and without each of its parts."""
    found: dict[str, Rows] = {WHOLE: _own(place)}
    for row in predictions(place):
        if row["system"].startswith(ABLATED) and row["choices"] and row["gold"] is not None and not row["noise"]:
            found.setdefault(row["system"], {})[row["query_id"]] = row
    return found


def _mean(values_SN: Floats, counted_N: Floats) -> Statistic:
    """The mean over seeds and over the questions that count."""
    mean: Statistic = mean_of([over(row * counted_N, counted_N) for row in values_SN])
    return mean


def _beside(values_SN: Floats, others_SN: Floats | None, counted_N: Floats, units: Sequence[str]) -> dict[str, Any]:
    """A mean, and by how much it is above that of the others, where there are some."""
    mine = _mean(values_SN, counted_N)
    gain = None if others_SN is None else interval(minus(mine, _mean(others_SN, counted_N)), units)
    return {"value": interval(mine, units), "above": gain}


def _print_parts(places: Sequence[Path], tested: Tested) -> dict[str, Any]:
    runs = [by_part(place) for place in places]
    whole_SN, told = right([run[WHOLE] for run in runs], tested.ids), {}
    print(f"\n| evidence of {OURS} | accuracy | minus {WHOLE} |\n|---|---|---|")
    for name in runs[0]:
        right_SN = right([run[name] for run in runs], tested.ids)
        found = _beside(right_SN, None if name == WHOLE else whole_SN, np.ones(len(tested.ids)), tested.units)
        told[name] = {"accuracy": found["value"], "minus_whole": found["above"]}
        print(f"| {name} | {cell(found['value'])} | {cell(found['above'], True)} |")
    return told


def hits(rows: Rows, tested: Tested) -> Floats:
    """(N,) 1 where a text that answers the question was found, be it dropped from a prompt that was too long."""
    found = ({*rows[name]["cited"], *rows[name]["dropped"]} & set(_gold(tested.queries[name])) for name in tested.ids)
    return np.array([float(bool(one)) for one in found])


def _gold(query: Query) -> list[str]:
    return [name for name in query.relevant_ids if is_text(name)]


def _print_searches(places: Sequence[Path], tested: Tested) -> dict[str, Any]:
    """Texts found and accuracy with each way to search, and how far both are above the row before."""
    known_N = np.array([float(bool(_gold(tested.queries[name]))) for name in tested.ids])
    kinds = {need: mask_N * known_N for need, mask_N in tested.needs().items() if (mask_N * known_N).any()}
    titles = [f"hit@2, {need} ({int(mask_N.sum())})" for need, mask_N in kinds.items()]
    print(
        "\n| texts searched with | " + " | ".join([*titles, "above the row before", "accuracy", "above the row before"]) + " |"
    )
    print("|---" * (len(titles) + 4) + "|")
    told: dict[str, Any] = {}
    before: tuple[Floats, Floats] | None = None
    for name, step in there(SEARCHES, places).items():
        runs = [_own(place / step) for place in places]
        hit_SN, right_SN = np.array([hits(run, tested) for run in runs]), right(runs, tested.ids)
        last = (None, None) if before is None else before
        found = {need: _beside(hit_SN, last[0], mask_N, tested.units) for need, mask_N in kinds.items()}
        accuracy = _beside(right_SN, last[1], np.ones(len(tested.ids)), tested.units)
        told[name], before = {"hit@2": found, "accuracy": accuracy}, (hit_SN, right_SN)
        cells = [cell(one["value"]) for one in found.values()] + [cell(found[ALL]["above"], True) if ALL in found else ""]
        print("| " + " | ".join([name, *cells, cell(accuracy["value"]), cell(accuracy["above"], True)]) + " |")
    return told


def empty_tags(folder: Path, ids: Sequence[str]) -> Floats:
    """(N,) of the corpora that searches are written for, the share that each question leaves out.

    A text that could not be read asks every corpus, with the question itself: it leaves out none.
    """
    table = read_searches(folder)
    corpora, rows = len(table.identity["corpora"]), table.by_query()
    named = [rows[name].searches for name in ids]
    return np.array([0.0 if one is None else 1 - sum(bool(words.strip()) for _, words in one) / corpora for one in named])


def _texts(rows: Rows, ids: Sequence[str]) -> Floats:
    """(N,) candidates that were not found by their images: texts, where reports are searched by the image."""
    return np.array([sum(not one.startswith("image_to") for one in rows[name]["channels"]) for name in ids], np.float64)


def _print_selection(places: Sequence[Path], tested: Tested) -> dict[str, Any]:
    """By need: corpora left out, texts read, accuracy; each with the generator's searches beside the question itself."""
    if "question" not in there(SEARCHES, places):
        return {}
    ours, theirs = ([_own(place / SEARCHES[name]) for place in places] for name in ("SFT + DPO", "question"))
    empty_SN = np.array([empty_tags(place / "searches", tested.ids) for place in places])
    texts = [np.array([_texts(run, tested.ids) for run in runs]) for runs in (ours, theirs)]
    rights = [right(runs, tested.ids) for runs in (ours, theirs)]
    columns = ["empty tags", "texts", "with the question", "accuracy", "minus the question's"]
    print("\n| questions that need | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    told: dict[str, Any] = {}
    for need, mask_N in tested.needs().items():
        accuracy = _beside(rights[0], rights[1], mask_N, tested.units)
        means = [interval(_mean(values_SN, mask_N), tested.units) for values_SN in (empty_SN, *texts)]
        told[need] = {"questions": int(mask_N.sum()), "accuracy": accuracy}
        told[need] |= dict(zip(("empty_tags", "texts", "texts_of_question"), means, strict=True))
        cells = [*map(cell, means), cell(accuracy["value"]), cell(accuracy["above"], True)]
        print(f"| {need} ({int(mask_N.sum())}) | " + " | ".join(cells) + " |")
    return told


if __name__ == "__main__":
    main()
