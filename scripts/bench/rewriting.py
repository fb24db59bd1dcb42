"""How often a follow-up finds the gold document: asked as it is, rewritten by rules, and in the best rewording.

    python scripts/bench/rewriting.py                                   three worlds, seeds 0, 1 and 2
    python scripts/bench/rewriting.py --model NAME                      one more row: a language model of the hub, or a folder

Test questions of the mini-hospital's dialogues (`data.minihospital_dialogues`) that a text answers; gold hit@3: the gold text
is among the first three that BM25 finds in all texts. Rows:

- ``raw``: the newest question alone;
- ``rules``: `data.rules_rewriter.RulesRewriter`, which takes the entity that was named last: wrong after a comparison;
- ``model``: `models.lm_rewriter.LmRewriter`, if one is named;
- ``oracle``: the question of the same world without dialogues: the most that a rewriter can reach.

Means over worlds, which count alike by their questions; 95 % bootstrap intervals over entities, and paired differences to the
row before. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.data.cached_rewriter import CachedRewriter
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.minihospital_texts import is_text
from medrag_lightning.data.rules_rewriter import RulesRewriter
from medrag_lightning.interfaces import Rewriter, RewriteTask
from medrag_lightning.records import Query, Split
from medrag_lightning.retrieval.lexical import LexicalSearch

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import cell, interval, over  # type: ignore[import-not-found]

TOP = 3
KINDS = ("plain", "changed subject", "comparison")
ALL = "all"


@dataclasses.dataclass(frozen=True)
class World:
    """Follow-ups of one hospital: the questions, their best rewordings, the kind of each dialogue, and the entity of each."""

    hospital: MiniHospital
    queries: list[Query]
    best: list[str]
    kinds: list[str]
    entities: list[str]


def world(seed: int, size: int, folder: Path) -> World:
    """The test follow-ups of a seed that a text answers."""
    told = seed, size, str(folder / "images")
    hospital = MiniHospital(*told, texts=True, dialogues=True)
    best = {query.id: query.question for query in MiniHospital(*told, texts=True).queries()}
    asked = [query for query in hospital.queries() if query.split is Split.TEST and query.history]
    asked = [query for query in asked if any(map(is_text, query.relevant_ids))]
    entity_of = {study.id: study.patient.entity.name for study in hospital.studies}
    names = [entity_of[str(query.study_id)] for query in asked]
    kinds = [kind_of(query, name) for query, name in zip(asked, names, strict=True)]
    return World(hospital, asked, [best[query.id] for query in asked], kinds, [f"{seed} {name}" for name in names])


def kind_of(query: Query, entity: str) -> str:
    """Which of the three kinds of dialogue the question ends."""
    if len(query.history) == 1:
        return KINDS[0]
    return KINDS[1] if query.history[-1][0].startswith(entity) else KINDS[2]


def hits(one: World, source: LexicalSearch, texts: Sequence[str | None]) -> list[float]:
    """1 for each question whose gold text is among the first three that its rewording finds; None: the question itself."""
    asked = [dataclasses.replace(query, rewritten=text) for query, text in zip(one.queries, texts, strict=True)]
    found = source.retrieve(asked)
    return [
        float(any(candidate.id in query.relevant_ids for candidate in told.candidates[:TOP]))
        for query, told in zip(asked, found, strict=True)
    ]


def rows(seed: int, asked: argparse.Namespace, rewriters: Mapping[str, Rewriter]) -> tuple[World, dict[str, list[float]]]:
    """The hits of every row in the world of a seed."""
    one = world(seed, asked.size, asked.folder)
    source = LexicalSearch(TOP)
    place = (
        [document for document in one.hospital.documents() if document.image is None],
        ImageStore(one.hospital.roots()),
        asked.folder / f"words-seed{seed}",
    )
    source.prepare(*place)
    source.load(*place)
    tasks = [RewriteTask(query.question, query.history) for query in one.queries]
    told = {"raw": hits(one, source, [None] * len(tasks))}
    for name, rewriter in rewriters.items():
        told[name] = hits(one, source, rewriter.rewrite(tasks))
    return one, told | {"oracle": hits(one, source, one.best)}


def report(worlds: Sequence[World], told: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Prints hit@3 of every row by kind and in all; gives the figures with those of the differences to the row before."""
    kinds = np.array([kind for one in worlds for kind in one.kinds])
    units = [name for one in worlds for name in one.entities]
    figures: dict[str, Any] = {"questions": len(units), "entities": len(set(units)), "worlds": len(worlds)}
    before = None
    for row in told[0]:
        hit_N = np.array([value for one in told for value in one[row]])
        figures[row] = {}
        for kind in (*KINDS, ALL):
            counted_N = np.ones(len(units)) if kind == ALL else (kinds == kind).astype(np.float64)
            value = interval(over(hit_N * counted_N, counted_N), units)
            gain = None if before is None else interval(over((hit_N - before) * counted_N, counted_N), units)
            figures[row][kind] = {"hit@3": value, "above the row before": gain}
            print(f"{row:8} {kind:16} {cell(value)}   {cell(gain, signed=True)}")
        before = hit_N
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the worlds")
    parser.add_argument("--size", type=int, default=1152, help="patients of a world")
    parser.add_argument("--folder", type=Path, default=Path("runs/rewriting"))
    parser.add_argument("--model", help="hub name or folder of a language model")
    asked = parser.parse_args(argv)
    rewriters: dict[str, Rewriter] = {"rules": RulesRewriter()}
    if asked.model:
        from medrag_lightning.models.lm_rewriter import LmRewriter

        rewriters["model"] = CachedRewriter(LmRewriter(asked.model), str(asked.folder / "rewritten"), timeout_seconds=600)
    measured = [rows(seed, asked, rewriters) for seed in asked.seeds]
    print(json.dumps(report([one for one, _ in measured], [told for _, told in measured])))


if __name__ == "__main__":
    main()
