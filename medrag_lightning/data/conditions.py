"""Which conditions each query is scored under, and the example that shows a condition to a reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL.Image import Image

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.batches import Example
from medrag_lightning.data.corruption import corrupted, corruption_name
from medrag_lightning.data.feeds import World
from medrag_lightning.data.knowledge_conditions import KnowledgeConditions
from medrag_lightning.data.other_cases import OtherCases
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.records import (
    Candidate,
    Channel,
    Condition,
    Document,
    ImageRef,
    ImageShown,
    Query,
    Regime,
    shares_identity,
)

EvidenceShown = Literal["none", "each_candidate", "all_candidates"]
Evidence = tuple[str, ...]


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class Conditions:
    """What each query is scored under; every kind adds rows, and a repeated condition is scored once.

    Args:
        none: no evidence.
        each_candidate: each retrieved candidate alone; a document found in two channels counts once.
        all_candidates: all retrieved candidates in one prompt, in order.
        first: for each number, so many of the first retrieved candidates in one prompt, in order (all, where there are fewer):
            what the verb `calibrate` chooses among.
        random: so many random legal documents, none of them retrieved, each alone.
        oracle, poisoned: each document that a generated world knows to be relevant, or misleading, alone.
        other_evidence: the candidates of another query that this query may legally be shown: each alone, or all in one prompt.
        other_image: another patient's image; that of a query with the same question where there is one.
        no_image: no image in the query's place.
        corrupted: the query's image changed on purpose: `blank`, `noise:0.5`, `blur:0.05` (data/corruption.py).
        changed_image_with: what stands beside another, missing or corrupted image.
        knowledge: for each evidence set of `data.knowledge`: the set whole, without its reports and without its documents; the
            set with the other image; no evidence, with either image. Preference pairs are built from these.
    """

    none: bool = True
    each_candidate: bool = True
    all_candidates: bool = False
    first: tuple[int, ...] = ()
    random: int = 0
    oracle: bool = False
    poisoned: bool = False
    other_evidence: Literal["no", "each", "all"] = "no"
    other_image: bool = False
    no_image: bool = False
    corrupted: tuple[str, ...] = ()
    changed_image_with: tuple[EvidenceShown, ...] = ("none",)
    knowledge: bool = False

    def __post_init__(self) -> None:
        if self.random < 0:
            raise ValueError(f"scoring.conditions.random must not be negative, got {self.random}")
        if any(k < 1 for k in self.first) or len(set(self.first)) != len(self.first):
            raise ValueError(f"scoring.conditions.first must hold numbers from 1 up, each once; got {list(self.first)}")
        names = [corruption_name(text) for text in self.corrupted]
        if len(set(names)) != len(names) or len(set(self.changed_image_with)) != len(self.changed_image_with):
            raise ValueError(f"scoring.conditions repeats itself: {self.corrupted}, {self.changed_image_with}")
        changes = self.other_image or self.no_image or bool(names)
        if changes and not self.changed_image_with:
            raise ValueError("scoring.conditions.changed_image_with is empty: name what stands beside a changed image")
        if not changes and self.changed_image_with != ("none",):
            raise ValueError("scoring.conditions.changed_image_with would be ignored: no changed image is asked for")
        if not self.kinds():
            raise ValueError("scoring.conditions asks for nothing: switch at least one kind on")

    def kinds(self) -> list[str]:
        """The kinds that are on, in the order in which they are scored."""
        images = [f"corrupted {corruption_name(text)}" for text in self.corrupted]
        switches = ("none", "each_candidate", "all_candidates", "first", "random", "oracle", "poisoned")
        named = [name for name in switches if getattr(self, name)]
        named += ["other_evidence"] if self.other_evidence != "no" else []
        named += [name for name in ("other_image", "no_image") if getattr(self, name)] + images
        return named + (["knowledge"] if self.knowledge else [])


class ConditionPlanner:
    """The conditions of every query, by counter-based draws.

    Args:
        world: queries, corpus and candidates.
        queries: those that are scored; another query's image or evidence comes from among them.
        chosen: the kinds of conditions.

    Raises:
        ValueError: `knowledge` is asked for, and `data.knowledge` is not set, or what it needs is not there.
    """

    def __init__(self, world: World, queries: Sequence[Query], chosen: Conditions) -> None:
        self.world, self.queries, self.chosen = world, list(queries), chosen
        self.picker, self.others = world.picker(), OtherCases(queries, world.seed)
        if chosen.knowledge and world.knowledge is None:
            raise ValueError("scoring.conditions.knowledge: data.knowledge is not set; say there which evidence sets")
        self.knowledge = KnowledgeConditions(world, queries) if chosen.knowledge else None

    def of(self, query: Query) -> list[tuple[str, Condition]]:
        """The conditions of a query in order, each after its kind; two kinds may give the same condition."""
        return [(kind, condition) for kind in self.chosen.kinds() for condition in self._of_kind(query, kind)]

    def _of_kind(self, query: Query, kind: str) -> list[Condition]:
        if kind in ("other_image", "no_image") or kind.startswith("corrupted "):
            return self._changed_image(query, kind)
        if kind == "knowledge":
            assert self.knowledge is not None
            return [condition for one in self.knowledge.of(query) for condition in one.conditions()]
        return [Condition(ids) for ids in self._evidence(query, kind)]

    def _evidence(self, query: Query, kind: str) -> list[Evidence]:
        retrieved = tuple(candidate.id for candidate in self.world.retrieved[query.id].candidates)
        if kind == "none":
            return [()]
        if kind == "each_candidate":
            return [(name,) for name in retrieved]
        if kind == "all_candidates":
            return [retrieved] if retrieved else []
        if kind == "first":
            return [retrieved[:k] for k in self.chosen.first] if retrieved else []
        if kind == "random":
            draw = int(counter_rng(self.world.seed, "scored at random", query.id).integers(2**31))
            return [(c.id,) for c in self.picker.random_documents(query, self.chosen.random, draw, set(retrieved))]
        if kind == "oracle":
            return [(name,) for name in query.relevant_ids]
        if kind == "poisoned":
            return [(name,) for name in query.poison_ids]
        theirs = self._evidence_of_another(query, set(retrieved))
        if self.chosen.other_evidence == "each":
            return [(name,) for name in theirs]
        return [theirs] if theirs else []

    def _evidence_of_another(self, query: Query, mine: set[str]) -> Evidence:
        for other in self.others.of(query, "other evidence"):
            theirs = self.world.retrieved[other.id].candidates
            legal = [c.id for c in theirs if c.id not in mine and shares_identity(query, c.document) is None]
            if legal:
                return tuple(legal)
        return ()

    def _changed_image(self, query: Query, kind: str) -> list[Condition]:
        if query.image is None:
            return []
        beside = [ids for shown in self.chosen.changed_image_with for ids in self._evidence(query, shown)]
        if kind == "no_image":
            return [Condition(ids, ImageShown.NONE) for ids in beside]
        if kind == "other_image":
            owner = next(self.others.with_an_image(query), None)
            return [] if owner is None else [Condition(ids, ImageShown.OTHER, owner.id) for ids in beside]
        return [Condition(ids, ImageShown.CORRUPTED, corruption=kind.removeprefix("corrupted ")) for ids in beside]


class ConditionExamples:
    """Shows conditions: (query, condition) to the example that a reader is given.

    Args:
        queries: every query whose image may be shown, by id.
        documents: the corpus by id.
        open_image: opens an image.
    """

    def __init__(self, queries: Mapping[str, Query], documents: Mapping[str, Document], open_image: OpenImage) -> None:
        self.queries, self.documents, self.open_image = queries, documents, open_image

    def build(self, pairs: Sequence[tuple[Query, Condition]]) -> list[Example]:
        """One example a pair; an image that several of them show is opened once and is one object."""
        opened: dict[ImageRef, Image] = {}

        def once(ref: ImageRef | None) -> Image | None:
            if ref is not None and ref not in opened:
                opened[ref] = self.open_image(ref)
            return None if ref is None else opened[ref]

        return [self._one(query, condition, once) for query, condition in pairs]

    def _one(self, query: Query, condition: Condition, once: Callable[[ImageRef | None], Image | None]) -> Example:
        shown = [self._document(query, name) for name in condition.evidence_ids]
        candidates = tuple(Candidate(document, 0.0, Channel.GIVEN) for document in shown)
        image = once(query.image) if condition.image in (ImageShown.OWN, ImageShown.CORRUPTED) else None
        if condition.image is ImageShown.OTHER:
            image = once(self._image_of(query, str(condition.image_of)))
        elif condition.image is ImageShown.CORRUPTED and image is not None:
            image = corrupted(image, condition.corruption, query.id)
        regime = Regime.RETRIEVED if shown else Regime.NONE
        images = tuple(once(document.image) for document in shown)
        return Example(query, regime, candidates, image, images, condition=condition)

    def _document(self, query: Query, name: str) -> Document:
        document = self.documents.get(name)
        if document is None:
            raise ValueError(f"query {query.id!r}: its evidence {name!r} is not in data.corpus")
        return document

    def _image_of(self, query: Query, name: str) -> ImageRef:
        owners = [owner for owner in (self.queries.get(name), self.documents.get(name)) if owner is not None]
        images = {owner.image for owner in owners if owner.image is not None}
        if len(images) > 1:
            raise ValueError(f"query {query.id!r}: {name!r} is a query and a document, with different images")
        for image in images:
            return image
        raise ValueError(f"query {query.id!r}: no query or document {name!r} has an image to show instead")
