"""Probe questions: asked of the run and of its bundle, to prove that both answer the same."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.answering import Answer, Answerer
from medrag_lightning.artifacts import counter_rng, write_jsonl
from medrag_lightning.batches import pixel_sha256
from medrag_lightning.handoff.bundle.identities import Identities
from medrag_lightning.handoff.bundle.layout import PROBE_IMAGES, PROBES
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.records import AnswerType, ImageRef, Query, Split

Told = dict[str, Any]


def choose_probes(queries: Sequence[Query], count: int, seed: int = 0) -> list[Query]:
    """At most `count` questions, drawn, closed and open ones in turn as far as there are both."""
    order = counter_rng(seed, "probes").permutation(len(queries)).tolist()
    kinds = [[queries[i] for i in order if queries[i].answer_type is kind] for kind in AnswerType]
    most = max(map(len, kinds), default=0)
    return [kind[place] for place in range(most) for kind in kinds if place < len(kind)][:count]


def told_of(answer: Answer, identities: Identities) -> Told:
    """What is compared of an answer; ids of documents are hashed."""
    prediction = answer.prediction
    searches = None if answer.searches is None else [list(one) for one in answer.searches]
    told = {
        "answer": prediction.answer,
        "logp_nats": list(prediction.logp_nats),
        "gold_logp_nats": prediction.gold_logp_nats,
        "cited": [identities.of("record", name) for name in prediction.cited],
        "scores": list(prediction.scores),
        "weights": list(prediction.weights),
        "searches": searches,
        "search_faults": list(answer.search_faults),
        **({} if answer.guarantee is None else {"abstained": answer.abstained, "guarantee": answer.guarantee}),
    }
    return told | ({} if answer.trace is None else {"trace": answer.trace.text})


def write_probes(
    root: Path, queries: Sequence[Query], expected: Sequence[Told], identities: Identities, open_image: OpenImage
) -> None:
    """Writes questions, expected answers and images; ids are hashed, images are PNG without metadata."""
    rows = []
    (root / PROBE_IMAGES).mkdir(parents=True, exist_ok=True)
    for number, (query, told) in enumerate(zip(queries, expected, strict=True)):
        image = None
        if query.image is not None:
            opened = open_image(query.image).convert("RGB")
            image = f"{PROBE_IMAGES}/{pixel_sha256(opened)}.png"
            opened.save(root / image, "PNG")
        hidden = identities.of_query(query)
        asked = {name: getattr(hidden, name) for name in ("id", "patient_id", "study_id", "question", "answer", "modality")}
        kinds = {"choices": list(query.choices), "answer_type": str(query.answer_type), "number": number}
        searches = {} if query.searches is None else {"searches": [list(one) for one in query.searches]}
        history = {"history": [list(turn) for turn in query.history]} if query.history else {}
        rows.append({**asked, **kinds, **searches, **history, "image": image, "expected": told})
    write_jsonl(root / PROBES, rows)


def read_probes(root: Path) -> tuple[list[Query], list[Told]]:
    """The questions and the expected answers of `write_probes`; none where there are none."""
    if not (root / PROBES).is_file():
        return [], []
    queries, expected = [], []
    for line in (root / PROBES).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        image = None if row["image"] is None else ImageRef(str(root / row["image"]))
        asked = {name: row[name] for name in ("id", "question", "answer", "patient_id", "study_id", "modality")}
        kind = AnswerType(row["answer_type"])
        told = row.get("searches")
        searches = None if told is None else tuple((str(corpus), str(words)) for corpus, words in told)
        whole: Told = {"image": image, "choices": tuple(row["choices"]), "answer_type": kind, "searches": searches}
        whole["history"] = tuple((str(question), str(reply)) for question, reply in row.get("history", ()))
        queries.append(Query(**asked, **whole, split=Split.TEST))
        expected.append(row["expected"])
    return queries, expected


def answers_of(answerer: Answerer, queries: Sequence[Query], identities: Identities) -> list[Told]:
    """What an answerer says to each question, in the form that is compared."""
    return [told_of(answerer.answer(query), identities) for query in queries]


def largest_delta_nats(expected: Sequence[Told], found: Sequence[Told]) -> float:
    """The largest difference between two log-probabilities of the same answer; infinite where one is missing."""
    deltas = [0.0]
    for one, other in zip(expected, found, strict=True):
        mine, theirs = (_numbers(told) for told in (one, other))
        deltas += [math.inf] if len(mine) != len(theirs) else [_delta(a, b) for a, b in zip(mine, theirs, strict=True)]
    return max(deltas)


def differences(expected: Sequence[Told], found: Sequence[Told]) -> list[str]:
    """In words, where two lists of answers differ in more than rounding: other answers, searches or evidence."""
    faults = []
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        if one["answer"] != other["answer"]:
            faults.append(f"probe {number}: the answer {one['answer']!r} became {other['answer']!r}")
        if any(one[name] != other[name] for name in ("searches", "search_faults")):
            faults.append(f"probe {number}: the searches {one['searches']!r} became {other['searches']!r}")
        if any(one.get(name) != other.get(name) for name in ("abstained", "guarantee")):
            faults.append(f"probe {number}: it abstains otherwise, or promises something else")
        if one.get("trace") != other.get("trace"):
            faults.append(f"probe {number}: another trace was written")
        if one["cited"] != other["cited"]:
            faults.append(f"probe {number}: other evidence was found")
    return faults


def _numbers(told: Mapping[str, Any]) -> list[float]:
    gold = told["gold_logp_nats"]
    return [*told["logp_nats"], *([] if gold is None else [gold])]


def _delta(one: float, other: float) -> float:
    return 0.0 if one == other else abs(one - other)
