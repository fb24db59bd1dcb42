"""Some preference pairs to look at: JSON lines, and one page. Words only; nobody and nothing is named by id but the pair."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import counter_rng, write_bytes, write_jsonl
from medrag_lightning.data.feeds import World
from medrag_lightning.records import (
    Condition,
    Document,
    ImageShown,
    PairKind,
    Preference,
    PreferenceSide,
    Query,
    Split,
    knowledge_of,
)

LINES, PAGE = "samples.jsonl", "samples.html"
_STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto}table{border-collapse:collapse;width:100%}"
    "td,th{border:1px solid #999;padding:.4em;vertical-align:top;text-align:left}td{width:50%}"
    ".chosen{background:#eef6ee}.rejected{background:#f8eeee}small{color:#555}"
)


def write_samples(folder: Path, world: World, pairs: Mapping[Split, Sequence[Preference]], count: int) -> None:
    """Writes `count` pairs, drawn, the kinds in turn, to ``samples.jsonl`` and ``samples.html``; nothing for 0."""
    if count == 0:
        return
    rows = samples(world, pairs, count)
    write_jsonl(folder / LINES, rows)
    write_bytes(folder / PAGE, _page(rows).encode())


def samples(world: World, pairs: Mapping[Split, Sequence[Preference]], count: int) -> list[dict[str, Any]]:
    """The pairs that are shown, as plain JSON."""
    every = [(split, pair) for split, mine in pairs.items() for pair in mine]
    every.sort(key=lambda one: counter_rng(world.seed, "sample", one[1].id).random())
    turns = zip_longest(*([one for one in every if one[1].kind is kind] for kind in PairKind))
    shown = [one for turn in turns for one in turn if one is not None][:count]
    queries = {query.id: query for mine in world.queries.values() for query in mine}
    documents = {document.id: document for document in world.documents}
    return [_told(split, pair, queries, documents) for split, pair in shown]


def _told(split: Split, pair: Preference, queries: Mapping[str, Query], documents: Mapping[str, Document]) -> dict[str, Any]:
    query = queries[pair.query_id]
    told: dict[str, Any] = {"pair": pair.id, "split": str(split), "kind": str(pair.kind)}
    told |= {"knowledge": None if pair.knowledge is None else str(pair.knowledge), "weight": pair.weight}
    told |= {"question": query.question, "choices": list(query.choices), "gold": query.answer}
    return told | {name: _side(getattr(pair, name), query, documents) for name in ("chosen", "rejected")}


def _side(side: PreferenceSide, query: Query, documents: Mapping[str, Document]) -> dict[str, Any]:
    shown = [documents[name] for name in side.condition.evidence_ids]
    return {
        "image": _image(side.condition, query, documents),
        "evidence": [{"kind": str(knowledge_of(document)), "text": document.text} for document in shown],
        "answer": side.answer,
        "reference_nats": side.reference_nats,
        "tokens": side.tokens,
    }


def _image(condition: Condition, query: Query, documents: Mapping[str, Document]) -> str:
    if condition.image is ImageShown.OTHER:
        owner = documents.get(str(condition.image_of))
        return "another question's" if owner is None else f"another, whose report says: {owner.text or '(nothing)'}"
    if condition.image is ImageShown.CORRUPTED:
        return f"its own, spoilt: {condition.corruption}"
    return "its own" if condition.image is ImageShown.OWN and query.image is not None else "none"


def _page(rows: Sequence[Mapping[str, Any]]) -> str:
    body = "".join(_block(row) for row in rows)
    title = "Preference pairs: a sample"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1><p>{len(rows)} pairs, drawn, the kinds in turn. Left: preferred. Right: what it is preferred "
        f"to.</p>{body}</body></html>\n"
    )


def _block(row: Mapping[str, Any]) -> str:
    told = html.escape
    about = f" of {row['knowledge']}" if row["knowledge"] else ""
    choices = f" <small>({told(', '.join(row['choices']))})</small>" if row["choices"] else ""
    cells = "".join(f'<td class="{name}">{_cell(row[name])}</td>' for name in ("chosen", "rejected"))
    return (
        f"<h2>{told(row['kind'])}{told(about)}</h2><p>{told(row['question'])}{choices}<br>right: "
        f"<b>{told(str(row['gold']))}</b> <small>{told(row['split'])}, weight {row['weight']:g}, pair {told(row['pair'])}"
        f"</small></p><table><tr>{cells}</tr></table>"
    )


def _cell(side: Mapping[str, Any]) -> str:
    told = html.escape
    evidence = "".join(f"<li><small>{told(one['kind'])}</small> {told(one['text'])}</li>" for one in side["evidence"])
    nats = "not scored" if side["reference_nats"] is None else f"{side['reference_nats']:.3f} nats, {side['tokens']} tokens"
    shown = f"<ol>{evidence}</ol>" if evidence else "<p>no evidence</p>"
    said = f"<p>answer: <b>{told(side['answer']) or '(no words)'}</b> <small>{nats}</small></p>"
    return f"{said}<p>image: {told(side['image'])}</p>{shown}"
