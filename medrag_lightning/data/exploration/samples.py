"""Some explored questions to look at: JSON lines, and one page. Words only; questions and documents are named by id."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import counter_rng, write_bytes, write_jsonl
from medrag_lightning.data.exploration.lessons import Lesson
from medrag_lightning.data.exploration.verdicts import Judged

LINES, PAGE = "samples.jsonl", "samples.html"
_STYLE = (
    "body{font-family:sans-serif;max-width:75em;margin:2em auto}table{border-collapse:collapse;width:100%}"
    "td,th{border:1px solid #999;padding:.4em;vertical-align:top;text-align:left}"
    ".yes{background:#eef6ee}.no{background:#f8eeee}pre{white-space:pre-wrap;margin:.3em 0}small{color:#555}"
)


def write_samples(
    folder: Path, lessons: Sequence[Lesson], judged: Mapping[str, Sequence[Judged]], count: int, seed: int
) -> None:
    """Writes `count` questions, drawn, to ``samples.jsonl`` and ``samples.html``; nothing for 0."""
    if count == 0:
        return
    shown = sorted(lessons, key=lambda one: counter_rng(seed, "sample", one.query.id).random())[:count]
    rows = [_told(one, judged[one.query.id]) for one in shown]
    write_jsonl(folder / LINES, rows)
    write_bytes(folder / PAGE, _page(rows).encode())


def _told(lesson: Lesson, judged: Sequence[Judged]) -> dict[str, Any]:
    query = lesson.query
    return {
        "query": query.id,
        "split": str(query.split),
        "question": query.question,
        "choices": list(query.choices),
        "gold": query.answer,
        "image": query.image is not None,
        "searches": [_search(one) for one in judged],
        "targets": [dict(row.searches or ()) for row in lesson.rows],
        "pairs": [{"chosen": pair.chosen.answer, "rejected": pair.rejected.answer} for pair in lesson.pairs],
        "no_pairs_because": lesson.told.lacks,
    }


def _search(one: Judged) -> dict[str, Any]:
    found = [{"id": document.id, "text": document.text} for document in one.documents]
    verdict = "found nothing" if one.reply is None else {True: "yes", False: "no", None: "unreadable"}[one.verdict]
    return {"corpus": one.corpus, "words": one.words, "found": found, "verdict": verdict, "reply": one.reply}


def _page(rows: Sequence[Mapping[str, Any]]) -> str:
    title = "Explored questions: a sample"
    body = "".join(_block(row) for row in rows)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1><p>{len(rows)} questions, drawn: what the expert asked each corpus, what was found, whether it "
        f"supports the right answer, and what a query generator is given to learn.</p>{body}</body></html>\n"
    )


def _block(row: Mapping[str, Any]) -> str:
    told = html.escape
    choices = f" <small>({told(', '.join(row['choices']))})</small>" if row["choices"] else ""
    searches = "".join(_row(one) for one in row["searches"])
    pairs = "".join(
        f'<tr><td class="yes"><pre>{told(one["chosen"])}</pre></td><td class="no"><pre>{told(one["rejected"])}</pre></td></tr>'
        for one in row["pairs"]
    )
    learnt = "".join(f"<li>{told('; '.join(f'{name}: {words}' for name, words in one.items()))}</li>" for one in row["targets"])
    sides = f"<table><tr><th>preferred</th><th>not preferred</th></tr>{pairs}</table>" if pairs else ""
    why = "" if row["no_pairs_because"] is None else f"<p>no pairs: {told(row['no_pairs_because'])}</p>"
    return (
        f"<h2>{told(row['question'])}{choices}</h2><p>right: <b>{told(str(row['gold']))}</b> <small>{told(row['split'])}, "
        f"{told(row['query'])}, {'with' if row['image'] else 'without'} an image</small></p>"
        f"<table><tr><th>corpus</th><th>words</th><th>found</th><th>supports?</th></tr>{searches}</table>"
        f"<p>to learn:</p><ol>{learnt}</ol>{sides}{why}"
    )


def _row(one: Mapping[str, Any]) -> str:
    told = html.escape
    found = "".join(f"<li>{told(document['text'])} <small>{told(document['id'])}</small></li>" for document in one["found"])
    kind = "yes" if one["verdict"] == "yes" else "no"
    said = f"<br><small>{told(one['reply'])}</small>" if one["reply"] else ""
    return (
        f'<tr class="{kind}"><td>{told(one["corpus"])}</td><td>{told(one["words"])}</td><td><ol>{found}</ol></td>'
        f"<td>{told(one['verdict'])}{said}</td></tr>"
    )
