"""Knowledge ablations: what a system answers when a part of the corpus is taken from its evidence (HeteroRAG, Table 4; H27)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from medrag_lightning.records import ABLATED, REPORTS, Document, Knowledge, Retrieved

EACH = "each"


def ablated(
    found: Mapping[str, Retrieved], documents: Sequence[Document], leave_out: Sequence[str]
) -> dict[str, dict[str, Retrieved]]:
    """The candidates of every query without a part of the corpus, by system name (``without research``).

    What is left keeps its order, scores and channels. A query whose candidates all go is asked without evidence.

    Args:
        found: the ordinary candidates by query id.
        documents: the corpus.
        leave_out: corpora by name, ``reports`` (all documents with an image), ``documents`` (all texts without one), or
            ``each`` for these and for every corpus of texts.

    Raises:
        ValueError: the corpus has nothing of that name; it names what there is.
    """
    texts = dict.fromkeys(document.corpus for document in documents if document.image is None)
    there = [REPORTS] * any(document.image is not None for document in documents)
    there += [str(Knowledge.DOCUMENTS)] * bool(texts) + [name for name in texts if name and len(texts) > 1]
    if unknown := [name for name in leave_out if name != EACH and name not in (*there, *texts)]:
        raise ValueError(f"data.knowledge.leave_out: the corpus has no {unknown[0]!r}; there are {', '.join((*there, EACH))}")
    named = dict.fromkeys(name for asked in leave_out for name in (there if asked == EACH else [asked]))
    return {ABLATED + name: _without(found, set(texts) if name == Knowledge.DOCUMENTS else {name}) for name in named}


def _without(found: Mapping[str, Retrieved], corpora: Collection[str]) -> dict[str, Retrieved]:
    left = {name: tuple(c for c in one.candidates if c.corpus not in corpora) for name, one in found.items()}
    return {name: replace(one, candidates=left[name]) for name, one in found.items()}
