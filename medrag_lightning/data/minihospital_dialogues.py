"""Dialogues of the synthetic hospital: the questions that name an entity, asked as follow-ups whose history names it.

A follow-up leaves the entity out ("and which risk?") or points to it ("and what is its risk?"). Its history is one of:

- *plain* (half): the entity is named, and nothing else.
- *changed subject* (three in ten): another entity is named before it.
- *comparison* (the rest): another entity is named after it, to compare with; the follow-up is still about the first.

So who takes the entity that was named last is right on the first two and wrong on the third. All other questions stay as they
are, and so does everything else of the hospital: the question of a world without dialogues is the best rewriting of the
follow-up with the same id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.data.minihospital_questions import Entity
from medrag_lightning.records import Query

PLAIN_SHARE, CHANGED_SHARE = 0.5, 0.3
_FACT = re.compile(r"(?:which|what) (?P<fact>\w+)\?")


def as_follow_up(query: Query, entity: Entity, entities: Sequence[Entity], seed: int) -> Query:
    """The question as the newest turn of a dialogue about `entity`; as it is where it does not name it.

    Args:
        query: of the hospital.
        entity: that its study shows.
        entities: of the hospital, from which another one is drawn.
        seed: of the hospital.
    """
    lead = f"{entity.name} , "
    if not query.question.startswith(lead):
        return query
    rng = counter_rng(seed, "dialogue", query.id)
    others = [other.name for other in entities if other.name != entity.name]
    other, drawn = str(others[int(rng.integers(len(others)))]), rng.random()
    history = [(f"{entity.name} , is it treated here?", "yes")]
    if drawn >= PLAIN_SHARE + CHANGED_SHARE:
        history.append((f"is it like {other} ?", "no"))
    elif drawn >= PLAIN_SHARE:
        history.insert(0, (f"{other} , is it treated here?", "yes"))
    bare = query.question.removeprefix(lead)
    fact = _FACT.fullmatch(bare)
    pointing = fact is not None and rng.random() < 0.5
    question = f"and what is its {fact['fact']}?" if fact is not None and pointing else f"and {bare}"
    return replace(query, question=question, history=tuple(history))
