"""What a score table says of each number of candidates: the outcomes that a calibration is made from. No reader runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.calibration import Outcomes
from medrag_lightning.data.feeds import World
from medrag_lightning.data.risks import RiskSettings, Said
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.metrics import Unit, cluster_of
from medrag_lightning.mixture import Fusion, log_softmax
from medrag_lightning.records import AnswerType, Candidate, Condition, Query, Split
from medrag_lightning.score_files import documents_fingerprint, query_fingerprint

PLURAL = {"patient": "patients", "study": "studies", "image": "images", "query": "questions"}
EvidenceLayout = Literal["all_in_one_prompt", "one_per_prompt"]


@dataclass(frozen=True)
class Reading:
    """How the reader is given k candidates, and which risk its answers have.

    Args:
        evidence: ``all_in_one_prompt``: needs `scoring.conditions.first` of each k. ``one_per_prompt``: each candidate alone,
            the answers mixed by `fusion`; needs `each_candidate`, and closed questions.
        fusion: how answers are mixed, as of the stage that tests and answers.
        risk: what an answer loses.
    """

    evidence: EvidenceLayout = "all_in_one_prompt"
    fusion: Fusion = Fusion()  # noqa: RUF009  (frozen)
    risk: RiskSettings = RiskSettings()  # noqa: RUF009  (frozen)


@dataclass(frozen=True, slots=True)
class Measured:
    """Outcomes of a split's questions, and where they are from.

    Attributes:
        outcomes: losses and probabilities, by number of candidates; units are patients, where the data name them.
        queries: the questions, in the outcomes' order.
        unit: what a unit is, in the plural.
        of: what a guarantee made of these is about (`calibration.Calibration.of`).
        left_out: how many questions the risk is not defined for, or that were not scored, by reason.
        notes: what to be wary of.
    """

    outcomes: Outcomes
    queries: tuple[Query, ...]
    unit: str
    of: dict[str, Any]
    left_out: dict[str, int]
    notes: list[str] = field(default_factory=list)


def measure(world: World, table: ScoreTable, split: Split, ks: Sequence[int], reading: Reading) -> Measured:
    """Reads what the reader made of 0 or more of the first candidates.

    Raises:
        ValueError: rows are missing (it says which conditions to score), it is of another corpus, or no question is left.
    """
    table.check(corpus=documents_fingerprint(world.documents))
    scored, left_out = set(table.query_ids), Counter[str]()
    queries: list[Query] = []
    for query in world.queries[split]:
        why = _fault(query, reading, scored)
        left_out[why] += 1
        if not why:
            queries.append(query)
    kept = {why: count for why, count in left_out.items() if why}
    if not queries:
        told = ", ".join(f"{count} {why}" for why, count in kept.items()) or "the split is empty"
        raise ValueError(f"no {split} question can be calibrated on: {told}")
    most = max(len(world.retrieved[query.id].candidates) for query in queries)
    if max(ks) > most:
        told = f"no {split} question has {max(ks)} candidates, the most are {most}"
        raise ValueError(f"{told}; leave it out of the numbers to choose among, or have data.source find more")
    rows = _Rows(world, table, reading)
    try:
        said_KN = [[rows.said(query, k) for query in queries] for k in ks]
    except ValueError as error:
        raise ValueError(f"{error}. {_remedy(split, ks, reading)}") from error
    loss_KN = np.array([[reading.risk.loss(q, s) for q, s in zip(queries, row, strict=True)] for row in said_KN])
    probability_KN = np.array([[said.probability for said in row] for row in said_KN])
    units, unit = _units(queries)
    outcomes = Outcomes(tuple(ks), loss_KN, probability_KN, units)
    return Measured(outcomes, tuple(queries), unit, _about(world, table, queries, reading), kept, _notes(world, queries, ks))


class _Rows:
    """A table's rows as answers."""

    def __init__(self, world: World, table: ScoreTable, reading: Reading) -> None:
        self.world, self.table, self.reading = world, table, reading

    def said(self, query: Query, k: int) -> Said:
        """What is answered with the first k candidates, or all that there are."""
        found = self.world.retrieved[query.id].candidates[:k] if k else ()
        if self.reading.evidence == "one_per_prompt":
            return self._mixed(query, found)
        score = self.table.score(query.id, Condition(tuple(candidate.id for candidate in found)))
        closed = query.answer_type is AnswerType.CLOSED
        self._check(query, score.answers if closed else query.choices, score.gold_index if closed else query.gold_index)
        if not closed:
            if score.generated is None:
                raise ValueError(f"query {query.id!r} is open, and was scored without the reader's own words")
            return Said(score.generated, math.nan, math.nan)
        return _closed(query, log_softmax(np.array(score.logp_nats)))

    def _mixed(self, query: Query, found: Sequence[Candidate]) -> Said:
        if found:
            logp_KC, _, gold = self.table.one_candidate(query.id, [candidate.id for candidate in found])
        else:
            logp_KC, _, gold = self.table.without(query.id)
        self._check(query, query.choices if logp_KC.shape[1] == len(query.choices) else (), gold)
        weight_K = np.ones(1)
        if len(found) > 1:
            weight_K = self.reading.fusion.weights([c.score for c in found], [str(c.channel) for c in found])
        normal_KC = log_softmax(logp_KC.astype(np.float64), axis=1)
        return _closed(query, self.reading.fusion.closed(normal_KC, weight_K))

    def _check(self, query: Query, answers: Sequence[str], gold_index: int) -> None:
        if tuple(answers) != query.choices or gold_index != query.gold_index:
            raise ValueError(
                f"the score table {self.table.folder} scored query {query.id!r} with other choices or another answer"
            )


def _closed(query: Query, logp_C: NDArray[np.float64]) -> Said:
    best = int(logp_C.argmax())
    gold = float(np.exp(logp_C[query.gold_index])) if query.gold_index >= 0 else math.nan
    return Said(query.choices[best], min(1.0, float(np.exp(logp_C[best]))), gold)


def _fault(query: Query, reading: Reading, scored: set[str]) -> str:
    """Why a question cannot be used; empty if it can."""
    if not reading.risk.applies(query):
        return f"the risk {reading.risk.name} is not defined for"
    if reading.evidence == "one_per_prompt" and query.answer_type is not AnswerType.CLOSED:
        return "open, which needs evidence all_in_one_prompt"
    return "" if query.id in scored else "not scored"


def _units(queries: Sequence[Query]) -> tuple[tuple[str, ...], str]:
    cluster = cluster_of(queries, Unit.PATIENT)
    kinds = dict.fromkeys(PLURAL[name.split(":")[0]] for name in cluster.values())
    return tuple(cluster[query.id] for query in queries), " and ".join(kinds)


def _about(world: World, table: ScoreTable, queries: Sequence[Query], reading: Reading) -> dict[str, Any]:
    identity = table.manifest["identity"]
    mixed = reading.evidence == "one_per_prompt"
    return {
        **{name: identity.get(name) for name in ("reader", "template", "corpus")},
        "source": world.source.fingerprint(),
        "evidence": reading.evidence,
        "fusion": asdict(reading.fusion) if mixed else None,
        "calibration_set": fingerprint(sorted(query_fingerprint(query) for query in queries)),
    }


def _notes(world: World, queries: Sequence[Query], ks: Sequence[int]) -> list[str]:
    found = [world.retrieved[query.id].candidates for query in queries]
    short, most = sum(len(one) < max(ks) for one in found), max(ks)
    notes = (
        [] if not short else [f"{short} of {len(queries)} questions have fewer than {most} candidates: they are read with all"]
    )
    channels = {candidate.channel for one in found for candidate in one}
    if most and len(channels) > 1:
        notes.append(f"the first k are of {len(channels)} channels together, in the order in which the source gives them")
    return notes


def _remedy(split: Split, ks: Sequence[int], reading: Reading) -> str:
    some = [k for k in ks if k]
    of_one = reading.evidence == "one_per_prompt"
    asked = {"none": str(0 in ks).lower(), "each_candidate": str(of_one).lower()} | ({} if of_one else {"first": str(some)})
    told = ", ".join(f"{name}: {value}" for name, value in asked.items())
    return (
        f"To calibrate, score with scoring.splits [{split}] and scoring.conditions {{{told}}}, on the same data and source"
        + (" (open questions also with model.init_args.generate: open)" if not of_one else "")
    )
