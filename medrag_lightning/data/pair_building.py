"""Preference pairs from a score table: what a frozen reader got right, and under which condition, decides what is preferred."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import counter_rng, fingerprint
from medrag_lightning.data.feeds import World
from medrag_lightning.data.judging import Judge
from medrag_lightning.data.knowledge_conditions import KnowledgeConditions, SetConditions
from medrag_lightning.data.pair_rules import Outcomes, Pair, asked, kinds_of, pairs_of
from medrag_lightning.data.pair_samples import write_samples
from medrag_lightning.data.pair_statistics import LeakCheck, Tally, counted
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.preference_files import (
    PreferenceSet,
    check_preferences,
    is_there,
    pair_id,
    read_preferences,
    write_preferences,
)
from medrag_lightning.records import AnswerType, PairKind, Preference, PreferenceSide, Query, Split
from medrag_lightning.score_files import MANIFEST, documents_fingerprint, query_fingerprint, read_table_manifest

logger = logging.getLogger(__name__)

ASKED_IN_TEST = ("systems", "leave_out")  # of data.knowledge: they change no pair
NOT_SETTINGS = ("folder", "table", "samples")  # where things lie, not what they are


def build_or_read(world: World, plan: PreferencePlan) -> PreferenceSet:
    """The pairs in `plan.folder`; they are built from the score table, and written there, where there are none yet.

    Building needs no reader. The same world, table and plan give the same bytes in every process.

    Raises:
        ValueError: the folder holds pairs of something else (it says what differs), or damaged ones; the table lacks rows, or
            is of another corpus; a pair would leak.
    """
    if plan.rules == "given":
        return given_pairs(world, plan)
    identity = identity_of(world, plan)
    if not is_there(plan.folder):
        pairs, statistics = build(world, plan, ScoreTable.open(plan.table))
        write_samples(Path(plan.folder), world, pairs, plan.samples)
        write_preferences(plan.folder, pairs, identity, statistics)
    check_preferences(plan.folder, identity)
    return read_preferences(plan.folder)


def given_pairs(world: World, plan: PreferencePlan) -> PreferenceSet:
    """The finished pairs in `plan.folder`, of the plan's splits, whoever made them; so many of training as the plan takes.

    Raises:
        ValueError: there are none, or damaged ones.
    """
    if not is_there(plan.folder):
        raise ValueError(
            f"preference.rules: given, and there are no finished pairs in {plan.folder}: the verb explore makes some (in "
            "FOLDER/pairs), or give the folder that holds them (--data.init_args.preference.folder)"
        )
    found = read_preferences(plan.folder)
    kept = {split: list(pairs) for split, pairs in found.pairs.items() if str(split) in plan.splits}
    kept[Split.TRAIN] = _drawn(kept.get(Split.TRAIN, []), plan.max_pairs, world.seed)
    return replace(found, pairs=kept)


def identity_of(world: World, plan: PreferencePlan) -> dict[str, Any]:
    """What pairs depend on, by name. A table that is not there any more is not compared."""
    if world.knowledge is None:
        raise ValueError("preference pairs need data.knowledge: the evidence sets that the table was scored with")
    queries = _queries(world, plan)
    found = [[c.id for c in world.retrieved[q.id].candidates] for q in queries]
    manifest = Path(plan.table) / MANIFEST
    told = {name: value for name, value in asdict(plan).items() if name not in NOT_SETTINGS}
    return {
        "preference": told,
        "knowledge": {name: value for name, value in asdict(world.knowledge).items() if name not in ASKED_IN_TEST},
        "corpus": documents_fingerprint(world.documents),
        "questions": fingerprint([query_fingerprint(query) for query in queries]),
        "candidates": fingerprint(found),
        "seed": world.seed,
        **({"table": read_table_manifest(manifest.parent)["identity"]} if manifest.is_file() else {}),
    }


def build(world: World, plan: PreferencePlan, table: ScoreTable) -> tuple[dict[Split, list[Preference]], dict[str, Any]]:
    """The pairs of each split, and the statistics of each split. No pairs at all is a result, and is told, not an error."""
    if plan.kinds is not None and (never := set(plan.kinds) - {str(kind) for kind in kinds_of(plan.rules)}):
        raise ValueError(f"preference.kinds: {plan.rules} makes no pairs of {', '.join(sorted(never))}; leave it out")
    table.check(corpus=documents_fingerprint(world.documents))
    builder = _Builder(world, plan, table)
    every = [query for mine in world.queries.values() for query in mine]
    pairs, statistics = dict[Split, list[Preference]](), dict[str, Any]()
    for split in map(Split, plan.splits):
        pairs[split], told = builder.split(split)
        later = {Split.TRAIN: (Split.VAL, Split.TEST)}.get(split, (Split.TEST,))
        leaks = LeakCheck(every, world.documents, [q for other in later for q in world.queries.get(other, [])])
        leaks.check(pairs[split])
        statistics[str(split)] = told | {"leaks": leaks.nearness(pairs[split])}
        if not pairs[split]:
            logger.warning("no preference pairs from %d %s questions; see statistics.json", len(world.queries[split]), split)
    return pairs, statistics


class _Builder:
    """One table, one plan."""

    def __init__(self, world: World, plan: PreferencePlan, table: ScoreTable) -> None:
        self.world, self.plan, self.table, self.parts = world, plan, table, asked(plan.rules)
        self.judge, self.documents = Judge(table, plan), {document.id: document for document in world.documents}
        self.sets = self._planned(_queries(world, plan))

    def split(self, split: Split) -> tuple[list[Preference], dict[str, Any]]:
        """Pairs of a split's questions, in order, and their statistics."""
        tally, made = Tally(self.parts), list[Preference]()
        for query in self.world.queries[split]:
            fault = self._fault(query)
            tally.questions["all"] += 1
            tally.questions[f"not judged: {fault}" if fault else "judged"] += 1
            if fault:
                continue
            for around in self.sets[query.id]:
                outcomes = self._outcomes(query, around)
                found = pairs_of(self.plan.rules, outcomes)
                tally.add(query, around, outcomes, self.documents)
                tally.meet(query, found)
                made += [self._named(query, pair) for pair in found]
        kept = [pair for pair in made if self.plan.kinds is None or str(pair.kind) in self.plan.kinds]
        single = _without_repeats(kept, self.plan.repeats)
        limit = self.plan.max_pairs if split is Split.TRAIN else None
        drawn = _balanced(_drawn(single, limit, self.world.seed), self.plan.balance)
        out = {"other_kinds": len(made) - len(kept), "repeats": len(kept) - len(single), "max_pairs": len(single) - len(drawn)}
        return drawn, tally.as_json() | {"pairs": counted(drawn), "left_out": out}

    def _planned(self, queries: Sequence[Query]) -> dict[str, list[SetConditions]]:
        """The evidence sets of each query, all of whose conditions the table holds; ValueError says what to score."""
        planner = KnowledgeConditions(self.world, queries)
        sets = {query.id: planner.of(query) for query in queries}
        needed = [(name, getattr(one, part)) for name, mine in sets.items() for one in mine for part in self.parts]
        try:
            self.table.require((name, condition) for name, condition in dict.fromkeys(needed) if condition is not None)
        except ValueError as error:
            raise ValueError(
                f"{error}. For pairs, scoring.conditions.knowledge must be true, scoring.splits hold {list(self.plan.splits)}, "
                "and data.knowledge, data.source, data.train_part and the seed be the ones of this run"
            ) from error
        return sets

    def _fault(self, query: Query) -> str | None:
        """Why a question cannot be judged; None if it can."""
        if query.answer is None or not query.answer.strip():
            return "no gold answer"
        conditions = {getattr(one, part) for one in self.sets[query.id] for part in self.parts} - {None}
        if any(self.judge.said(query, condition) is None for condition in conditions):
            return "open, and scored without the reader's own words (model.init_args.generate: open)"
        return None

    def _outcomes(self, query: Query, around: SetConditions) -> Outcomes:
        conditions = {part: getattr(around, part) for part in self.parts}
        said = {part: None if shown is None else self.judge.said(query, shown) for part, shown in conditions.items()}
        return Outcomes(gold=str(query.answer), kinds=around.kinds, **said)  # type: ignore[arg-type]  # full, bare: always

    def _named(self, query: Query, pair: Pair) -> Preference:
        name = pair_id(query.id, pair.kind, pair.knowledge, [pair.chosen, pair.rejected])
        chosen, rejected = (
            PreferenceSide(condition, answer, *self.judge.reference(query, condition, answer))
            for condition, answer in (pair.chosen, pair.rejected)
        )
        return Preference(name, query.id, pair.kind, pair.knowledge, chosen, rejected)


def _queries(world: World, plan: PreferencePlan) -> list[Query]:
    """The questions that were scored: closed ones, and open ones with a gold answer."""
    every = [query for split in plan.splits for query in world.queries[Split(split)]]
    return [query for query in every if query.answer_type is AnswerType.CLOSED or query.answer is not None]


def _without_repeats(pairs: Sequence[Preference], repeats: str) -> list[Preference]:
    """Pairs of the same inputs and words about different evidence: all, the first, or the first with the weight of all."""
    if repeats == "all":
        return list(pairs)
    first: dict[Any, Preference] = {}
    for pair in pairs:
        key = (pair.query_id, pair.kind, pair.chosen, pair.rejected)
        if key not in first:
            first[key] = pair
        elif repeats == "weighted":
            first[key] = replace(first[key], weight=first[key].weight + pair.weight)
    return list(first.values())


def _drawn(pairs: Sequence[Preference], limit: int | None, seed: int) -> list[Preference]:
    """`limit` of them in order, by draws that depend on the seed and each pair's id alone."""
    if limit is None or len(pairs) <= limit:
        return list(pairs)
    chance: Mapping[str, float] = {pair.id: counter_rng(seed, "pair", pair.id).random() for pair in pairs}
    last = sorted(chance.values())[limit - 1]
    return [pair for pair in pairs if chance[pair.id] <= last]


def _balanced(pairs: Sequence[Preference], balance: str) -> list[Preference]:
    """The pairs, and with `kinds` weights of which every kind has the same share; their sum stays."""
    sums: dict[PairKind, float] = {}
    for pair in pairs:
        sums[pair.kind] = sums.get(pair.kind, 0.0) + pair.weight
    if balance == "none" or len(sums) < 2:
        return list(pairs)
    share = sum(sums.values()) / len(sums)
    return [replace(pair, weight=pair.weight * share / sums[pair.kind]) for pair in pairs]
