"""Which image-text pairs are trained on, and which are held out: groups that must not be torn apart, in a drawn order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.batches import StatedFacts
from medrag_lightning.data.factual_plan import FactualPlan
from medrag_lightning.records import Document, Split


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class PairPlan:
    """Which pairs of the corpus a retriever learns from, and which it is judged by.

    Pairs of one patient or study, and pairs with the same pixels or the same text, stay on one side of the split. Whole
    groups are dealt to test and validation in an order drawn by `seed`, as long as they fit.

    Args:
        val_share, test_share: share of the pairs held out.
        modality: only pairs of this modality (one retriever a modality); null for all of them together.
        max_text_chars: texts are cut here.
        max_copies: equal texts in up to so many pairs are copies and stay together; in more pairs they are a label or a
            stock phrase, and may stand on both sides.
        seed: of the split alone, so that runs with other seeds are judged by the same pairs.
        factual: which pairs state the same and are positives of each other; null for copies alone.
    """

    val_share: float = 0.1
    test_share: float = 0.1
    modality: str | None = None
    max_text_chars: int = 1000
    max_copies: int = 4
    seed: int = 0
    factual: FactualPlan | None = None

    def __post_init__(self) -> None:
        if not (self.val_share > 0 and self.test_share > 0 and self.val_share + self.test_share < 1):
            shares = f"{self.val_share} and {self.test_share}"
            raise ValueError(f"pairs: val_share and test_share must be positive and leave something to train on, got {shares}")
        if self.max_text_chars < 1 or self.max_copies < 1:
            got = f"{self.max_text_chars} and {self.max_copies}"
            raise ValueError(f"pairs: max_text_chars and max_copies must be at least 1, got {got}")


@dataclass(frozen=True, slots=True)
class KeyedDocument:
    """A document with its keys: equal keys mean equal pixels, or equal texts. `facts` tells what it states, where asked for."""

    document: Document
    image_key: str
    text_key: str
    facts: StatedFacts | None = None


def split_pairs(pairs: Sequence[KeyedDocument], plan: PairPlan) -> dict[Split, list[KeyedDocument]]:
    """The pairs of each split, in corpus order.

    Raises:
        ValueError: a split stays empty.
    """
    groups = _groups(pairs, plan.max_copies)
    drawn = {name: counter_rng(plan.seed, "pair split", name).random() for name in groups}
    room = {Split.TEST: round(plan.test_share * len(pairs)), Split.VAL: round(plan.val_share * len(pairs))}
    side_of: dict[int, Split] = {}
    for name in sorted(groups, key=lambda name: (drawn[name], name)):
        members = groups[name]
        side = next((split for split, left in room.items() if len(members) <= left), Split.TRAIN)
        if side is not Split.TRAIN:
            room[side] -= len(members)
        side_of |= dict.fromkeys(members, side)
    found = {split: [pair for place, pair in enumerate(pairs) if side_of[place] is split] for split in Split}
    if empty := [str(split) for split, members in found.items() if not members]:
        raise ValueError(
            f"pairs: {len(pairs)} image-text pairs in {len(groups)} groups of one patient, study, image or text leave none for "
            f"{', '.join(empty)}; give a larger corpus, other shares than {plan.val_share} and {plan.test_share}, or a smaller "
            "max_copies"
        )
    return found


def _groups(pairs: Sequence[KeyedDocument], max_copies: int) -> dict[str, list[int]]:
    """Places of the pairs that belong together, by the smallest document id among them."""
    copies = Counter(pair.text_key for pair in pairs)
    holders: dict[Hashable, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        document = pair.document
        owner = ("patient", document.patient_id) if document.patient_id is not None else ("study", document.study_id)
        holders[(*owner, document.source) if owner[1] is not None else ("alone", place)].append(place)
        holders["image", pair.image_key].append(place)
        if copies[pair.text_key] <= max_copies:
            holders["text", pair.text_key].append(place)
    parent = list(range(len(pairs)))
    for places in holders.values():
        for place in places[1:]:
            parent[_root(parent, place)] = _root(parent, places[0])
    members: dict[int, list[int]] = defaultdict(list)
    for place in range(len(pairs)):
        members[_root(parent, place)].append(place)
    return {min(pairs[place].document.id for place in places): places for places in members.values()}


def _root(parent: list[int], place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return place
