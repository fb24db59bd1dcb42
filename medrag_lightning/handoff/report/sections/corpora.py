"""Where the evidence came from, corpus by corpus, and what of it no prompt had room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medrag_lightning.handoff.report.markup import Html, joined, table, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.rows import stacked_rows
from medrag_lightning.handoff.report.section import Section, note
from medrag_lightning.metrics import item_correct
from medrag_lightning.records import Prediction

UNNAMED, UNKNOWN = "without a source", "not in the tables"
MOST_BARS = 7


def citations_section(material: Material) -> Section | None:
    """What was shown, by corpus; None where all of it is of one corpus, or the tables are not there."""
    shown = [p for p in material.main if p.cited]
    corpora = Counter(_corpus(material, name) for p in shown for name in p.cited)
    if not material.world.documents or len(corpora) < 2:
        return None
    total, there = corpora.total(), Counter(_corpus(material, name) for name in material.world.documents)
    body = []
    for corpus, count in corpora.most_common():
        mine = [p for p in shown if any(_corpus(material, name) == corpus for name in p.cited)]
        body.append([corpus, there[corpus] or "–", count, _share(count, total), len(mine), _right(mine)])
    head = ["corpus", "documents in it", "shown", "share of all shown", "questions", "answered rightly"]
    parts = [
        note("Which corpora the shown evidence came from: reports are all documents with an image. A question counts for "
             "every corpus that it was shown something of; what is right may be due to any of them."),
        _bars(material, list(corpora)),
        table(head, body, f"system “{material.main_system}”"),
    ]  # fmt: skip
    return Section("corpora", "Evidence by corpus", joined(parts))


def dropped_section(material: Material) -> Section | None:
    """What was found and not shown because the prompt was too long, by corpus; None where nothing was."""
    cut = [p for p in material.main if p.dropped]
    if not cut:
        return None
    found = sum(len(p.cited) + len(p.dropped) for p in material.main)
    gone = Counter(_corpus(material, name) for p in cut for name in p.dropped)
    kept = Counter(_corpus(material, name) for p in material.main for name in p.cited)
    body = [[corpus, count, _share(count, count + kept[corpus])] for corpus, count in gone.most_common()]
    whole = [p for p in material.main if p.cited and not p.dropped]
    told = (
        f"{len(cut)} of {len(material.main)} questions had more evidence than the prompt has room for: {gone.total()} of "
        f"{found} candidates were left out, the lowest-ranked first, the question never. Answered rightly: {_right(cut)} of "
        f"them, {_right(whole)} of the questions whose evidence was shown whole."
    )
    how = note("More room: ", tag("code", "template.max_prompt_tokens"), ", shorter chunks, or fewer candidates.")
    return Section(
        "dropped", "Evidence without room", joined([note(told), table(["corpus", "left out", "of its own"], body), how])
    )


def _bars(material: Material, corpora: Sequence[str]) -> Html:
    """One bar a system: its evidence by corpus; the rarest together where there are many."""
    names = [*corpora[:MOST_BARS], *(["others"] if len(corpora) > MOST_BARS else [])]
    parts = {}
    for system, mine in material.systems.items():
        counted = Counter(_corpus(material, name) for p in mine for name in p.cited)
        if counted:
            told = [counted[name] for name in corpora[:MOST_BARS]]
            parts[system] = told + ([counted.total() - sum(told)] if len(corpora) > MOST_BARS else [])
    return stacked_rows("shown evidence by corpus", parts, names, list(range(len(names))))


def _corpus(material: Material, document_id: str) -> str:
    document = material.world.documents.get(document_id)
    return UNKNOWN if document is None else document.corpus or UNNAMED


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total else "–"


def _right(predictions: Sequence[Prediction]) -> str:
    """The share of right answers among those that can be judged."""
    judged = [right for p in predictions if (right := item_correct(p)) is not None]
    return _share(sum(judged), len(judged))
