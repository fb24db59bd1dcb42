"""Some traces to look at: JSON lines, and one page. Words only; questions and documents are named by id."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import counter_rng, write_bytes, write_jsonl
from medrag_lightning.data.tracing.counting import is_right
from medrag_lightning.data.tracing.draft import Draft

LINES, PAGE = "samples.jsonl", "samples.html"
_STYLE = (
    "body{font-family:sans-serif;max-width:75em;margin:2em auto;padding:0 1em}table{border-collapse:collapse;width:100%}"
    "td,th{border:1px solid #999;padding:.4em;vertical-align:top;text-align:left;overflow-wrap:anywhere}"
    ".kept{background:#eef6ee}.left{background:#f8eeee}pre{white-space:pre-wrap;margin:.3em 0}small{color:#555}"
)


def write_samples(folder: Path, drafts: Sequence[Draft], gold_aware: bool, count: int, seed: int) -> None:
    """Writes `count` questions, drawn, to ``samples.jsonl`` and ``samples.html``; nothing for 0."""
    if count == 0:
        return
    shown = sorted(drafts, key=lambda one: counter_rng(seed, "sample", one.query.id).random())[:count]
    rows = [_told(one) for one in shown]
    write_jsonl(folder / LINES, rows)
    write_bytes(folder / PAGE, _page(rows, gold_aware).encode())


def _told(draft: Draft) -> dict[str, Any]:
    query, kept = draft.query, {one.number: one.text for one in draft.kept or ()}
    evidence = [
        {"number": number, "id": document.id, "text": document.text, "image": document.image is not None}
        for number, document in enumerate(draft.documents, 1)
    ]
    return {
        "query": query.id,
        "split": str(query.split),
        "question": query.question,
        "choices": list(query.choices),
        "gold": query.answer,
        "image": query.image is not None,
        "evidence": evidence,
        "kept": None if draft.kept is None else [[number, text] for number, text in kept.items()],
        **{step: draft.texts.get(step) for step in ("initial", "rethink", "final")},
        "final_is_right": None if draft.reason or not query.answer else is_right(query, draft.texts["final"]),
        "no_trace_because": draft.reason or None,
        "faults": draft.faults,
    }


def _page(rows: Sequence[Mapping[str, Any]], gold_aware: bool) -> str:
    title = "Traces: a sample"
    told = "was told the right answer for the last step" if gold_aware else "was never told the right answer"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1><p>{len(rows)} questions, drawn: what was retrieved, what the teacher kept, its first answer, "
        f"what it said of that, and its last answer. The teacher {told}.</p>{''.join(map(_block, rows))}</body></html>\n"
    )


def _block(row: Mapping[str, Any]) -> str:
    told = html.escape
    choices = f" <small>({told(', '.join(row['choices']))})</small>" if row["choices"] else ""
    kept = dict(row["kept"] or ())
    evidence = "".join(_row(one, kept) for one in row["evidence"])
    order = ", ".join(str(number) for number in kept) or "none"
    steps = "".join(f"<dt>{name}</dt><dd><pre>{told(row[name] or '-')}</pre></dd>" for name in ("initial", "rethink", "final"))
    faults = "".join(f"<li>{told(fault)}</li>" for fault in row["faults"])
    why = "" if row["no_trace_because"] is None else f"<p><b>no trace: {told(row['no_trace_because'])}</b></p>"
    return (
        f"<h2>{told(row['question'])}{choices}</h2><p>right: <b>{told(str(row['gold']))}</b> <small>{told(row['split'])}, "
        f"{told(row['query'])}, {'with' if row['image'] else 'without'} an image</small></p>"
        f"<table><tr><th>number</th><th>retrieved</th><th>kept</th></tr>{evidence}</table><p>in the order: {order}</p>"
        f"<dl>{steps}</dl>{why}{f'<p>faults of replies:</p><ul>{faults}</ul>' if faults else ''}"
    )


def _row(one: Mapping[str, Any], kept: Mapping[int, str]) -> str:
    told, number = html.escape, one["number"]
    image = " <small>with an image</small>" if one["image"] else ""
    mine = (told(kept[number]) or "<small>its image alone</small>") if number in kept else "-"
    return (
        f'<tr class="{"kept" if number in kept else "left"}"><td>{number}</td><td>{told(one["text"])}{image}<br>'
        f"<small>{told(one['id'])}</small></td><td>{mine}</td></tr>"
    )
