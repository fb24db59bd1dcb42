"""How often one run's answers are preferred to another's: a judge sees each pair in both orders (MIRA's preference, M22).

    python scripts/bench/preferred.py runs/mine/predictions/test.jsonl runs/other/predictions/test.jsonl
    python scripts/bench/preferred.py A.jsonl A.jsonl --system_a mcr --system_b retrieved --measure rouge_l --kind open

Files are prediction files as `test` writes them; questions that both answered are compared. `--system_a` names a rival, or a
regime of the run's own (retrieved, none, random, oracle). The judge is a rule: the answer that shares more words with the right
one is preferred, so it judges no style. A model judges by interfaces.PairJudge: `metrics.preferred(judge, pairs)`.
Intervals are bootstrap over patients where `--config` (a config.yaml of either run) tells them, else over questions. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medrag_lightning.metrics import Metric, OverlapJudge, Pair, Unit, cluster_of, preferred

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import test_queries  # type: ignore[import-not-found]

SHOWN = ("win_rate", "win", "loss", "tie", "undecided", "swap_consistency", "first_share")
Row = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Reads both files, asks the judge, prints a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mine", type=Path)
    parser.add_argument("theirs", type=Path)
    parser.add_argument("--system_a", default="retrieved")
    parser.add_argument("--system_b", default="retrieved")
    parser.add_argument("--kind", choices=("all", "open", "closed"), default="all")
    parser.add_argument("--measure", choices=("token_f1", "rouge_l"), default="token_f1")
    parser.add_argument("--margin", type=float, default=0.0)
    parser.add_argument("--config", type=Path)
    asked = parser.parse_args(argv)
    mine, theirs = rows_of(asked.mine, asked.system_a), rows_of(asked.theirs, asked.system_b)
    kinds = {"all": (True, False), "open": (False,), "closed": (True,)}[asked.kind]
    ids = sorted(name for name in set(mine) & set(theirs) if bool(mine[name]["choices"]) in kinds)
    if not ids:
        raise SystemExit(f"no question ({asked.kind}) is answered in both files by {asked.system_a} and {asked.system_b}")
    told: dict[str, Any] = {"pairs": len(ids), **compared(mine, theirs, ids, asked)}
    print(f"{len(ids)} pairs; {len(set(mine) ^ set(theirs))} questions stand in one file alone\n")
    print("| of mine | share |\n|---|---|")
    for name in SHOWN:
        one = told[name]
        print(
            f"| {name.replace('_', ' ')} | " + (f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}] |" if one else "- |")
        )
    for note in told["notes"]:
        print(f"note: {note}")
    print(json.dumps(told))


def compared(
    mine: Mapping[str, Row], theirs: Mapping[str, Row], ids: Sequence[str], asked: argparse.Namespace
) -> dict[str, Any]:
    """The judge's shares as plain JSON."""
    queries = {} if asked.config is None else test_queries(asked.config)
    known = cluster_of([queries[name] for name in ids if name in queries], Unit.PATIENT)
    pairs = [
        Pair(
            queries[name].question if name in queries else "", mine[name]["gold"], mine[name]["answer"] or "",
            theirs[name]["answer"] or "", known.get(name, f"query:{name}"),
        )
        for name in ids
    ]  # fmt: skip
    found = preferred(OverlapJudge(asked.measure, asked.margin), pairs)
    shares = {name: _plain(getattr(found, name)) for name in SHOWN}
    return {**shares, "failed": found.failed, "notes": list(found.notes), "clusters": len({pair.cluster for pair in pairs})}


def rows_of(path: Path, system: str) -> dict[str, Row]:
    """A system's ordinary predictions, by question; ValueError where the file has none."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    plain = [row for row in rows if row.get("noise") is None and row.get("variant") is None]
    found = {row["query_id"]: row for row in plain if (row["system"] or row["regime"]) == system}
    if not found:
        there = ", ".join(sorted({row["system"] or row["regime"] for row in plain}))
        raise ValueError(f"{path}: no predictions of {system!r}; there are: {there}")
    return found


def _plain(one: Metric) -> dict[str, Any] | None:
    told = asdict(one)
    return None if told["value"] != told["value"] else {name: told[name] for name in ("value", "low", "high", "n")}


if __name__ == "__main__":
    main()
