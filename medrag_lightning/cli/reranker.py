"""The verb `reranker`: a small re-ranker of texts, fitted to training questions whose right documents are known."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.cli.outcome import tell

USAGE = "usage: reranker -c DATA [--output FILE] [--candidates N] [--overwrite]; see reranker --help"
CANDIDATES = 20


def run_reranker(arguments: Sequence[str]) -> None:
    """Fits the re-ranker that a configuration's source names, writes it, and prints what it does on held-out questions."""
    told, rest = _parse(arguments)
    from medrag_lightning.cli.reranker_lessons import asked_of, fitted_to, held_out, right_ids
    from medrag_lightning.cli.verbs import build_data

    data = build_data(rest)
    place = _place(data.source)
    output = _output(told, place)
    pool = data.source if place is None else place.pool
    data.prepare_data()
    data.source.load(data.documents(), data.world().open_image, data.evidence_folder())
    right = right_ids(data)
    taught = asked_of(data, "train", right)
    if not taught:
        raise ValueError(
            "reranker: no training question names the documents that answer it (relevant_ids), so there is nothing to learn "
            "from; data with known documents are tables.PubmedQa and MiniHospital with texts: true"
        )
    depth = told.candidates or (CANDIDATES if place is None else place.candidates) or CANDIDATES
    fitted = fitted_to(pool, taught, right, depth, data.documents())
    fitted.save(output)
    keep = min(depth, 10 if place is None else place.keep)
    figures = {split: held_out(pool, fitted, asked_of(data, split, right), right, depth) for split in ("val", "test")}
    _print(figures, keep)
    count = fitted.told["questions"]
    tell(f"{output}: fitted to {count} of {len(taught)} training questions, {depth} candidates each", sys.stdout)
    tell(json.dumps({"output": str(output), "questions": count, "candidates": depth, **figures}), sys.stdout)


def _parse(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """The verb's own arguments, and those of the configuration."""
    parser = argparse.ArgumentParser(prog="medrag_lightning reranker", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--output")
    parser.add_argument("--candidates", type=int)
    parser.add_argument("--overwrite", action="store_true")
    try:
        told, rest = parser.parse_known_args(arguments)
    except (argparse.ArgumentError, SystemExit) as error:
        raise ValueError(f"reranker: {error}; {USAGE}") from error
    if told.candidates is not None and told.candidates < 2:
        raise ValueError(f"reranker: --candidates must be at least 2, got {told.candidates}: of one text none can be preferred")
    if not any(word in ("-c", "--config") or word.startswith("--config=") for word in rest):
        raise ValueError(f"reranker needs -c: the data, such as -c data/pubmedqa; {USAGE}")
    return told, rest


def _place(source: Any) -> Any:
    """The one search that is to be re-ranked by words; None where the source itself is the pool. ValueError where several."""
    from medrag_lightning.retrieval.reranked import RerankedSearch
    from medrag_lightning.retrieval.word_reranker import WordReranker

    found: list[Any] = []
    waiting = [source]
    while waiting:
        one = waiting.pop()
        if isinstance(one, RerankedSearch) and isinstance(one.reranker, WordReranker):
            found.append(one)
        inner = [getattr(one, name, None) for name in ("source", "pool")]
        waiting += [*getattr(one, "parts", {}).values(), *(part for part in inner if part is not None)]
    if len(found) > 1:
        files = ", ".join(sorted(str(one.reranker.path) for one in found))
        raise ValueError(
            f"reranker: data.source has {len(found)} searches with a WordReranker ({files}); fit each with a configuration of "
            "its own, in which data.source is that one"
        )
    return found[0] if found else None


def _output(told: Any, place: Any) -> Path:
    """Where the file goes: what is named, or what the configuration will read."""
    if told.output is None and place is None:
        raise ValueError(f"reranker: --output FILE is missing: data.source names no WordReranker's file; {USAGE}")
    output = Path(told.output) if told.output is not None else Path(place.reranker.path)
    if output.exists() and not told.overwrite:
        raise ValueError(f"reranker: {output} is there already; give --overwrite to replace it, or another --output")
    return output


def _print(figures: Mapping[str, Mapping[str, Any]], keep: int) -> None:
    """A table a split; a split without such questions is said to have none."""
    from rich.console import Console
    from rich.table import Table

    for split, told in figures.items():
        if not told["questions"]:
            tell(f"{split}: no question names the documents that answer it: nothing measured", sys.stdout)
            continue
        table = Table(title=f"{split}: {told['questions']} questions, not fitted on")
        for name in ("", "pool", "re-ranked", "difference"):
            table.add_column(name, justify="left" if not name else "right")
        for name in [name for name in told if name != "questions"]:
            cells = [_cell(told[name][key]) for key in ("pool", "reranked", "difference")]
            table.add_row(f"{name} (kept)" if name == f"R@{keep}" else name, *cells)
        Console(width=100).print(table)


def _cell(metric: Mapping[str, Any]) -> str:
    if metric["low"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
