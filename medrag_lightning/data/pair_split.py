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
        val_size, test_size: so many pairs held out, in the place of a share (HeteroRAG: 2000 and 2000, the rest to train on).
        modality: only pairs of this modality, or of those in a list (one retriever a modality); null for all of them together.
        per_modality: the corpus is split as a whole, and each modality gives its own share or size. So a retriever of one
            modality and one of several are judged by pairs that neither has learnt from. False: only the pairs of `modality`
            are dealt, and another choice of `modality` is another split.
        max_text_chars: texts are cut here.
        max_copies: equal texts in up to so many pairs are copies and stay together; in more pairs they are a label or a
            stock phrase, and may stand on both sides.
        seed: of the split alone, so that runs with other seeds are judged by the same pairs.
        factual: which pairs state the same and are positives of each other; null for copies alone.
    """

    val_share: float = 0.1
    test_share: float = 0.1
    modality: str | list[str] | None = None
    max_text_chars: int = 1000
    max_copies: int = 4
    seed: int = 0
    val_size: int | None = None
    test_size: int | None = None
    per_modality: bool = False
    factual: FactualPlan | None = None

    def __post_init__(self) -> None:
        if any(size is not None and size < 1 for size in (self.val_size, self.test_size)):
            raise ValueError(f"pairs: val_size and test_size must be at least 1, got {self.val_size} and {self.test_size}")
        if self.modality == []:
            raise ValueError("pairs: modality is an empty list; name modalities, or null for all of them together")
        if not (self.val_share > 0 and self.test_share > 0 and self.val_share + self.test_share < 1):
            shares = f"{self.val_share} and {self.test_share}"
            raise ValueError(f"pairs: val_share and test_share must be positive and leave something to train on, got {shares}")
        if self.max_text_chars < 1 or self.max_copies < 1:
            got = f"{self.max_text_chars} and {self.max_copies}"
            raise ValueError(f"pairs: max_text_chars and max_copies must be at least 1, got {got}")

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that are learnt from; none for all of them."""
        return () if self.modality is None else (self.modality,) if isinstance(self.modality, str) else tuple(self.modality)

    def held_out(self, count: int) -> dict[Split, int]:
        """How many of so many pairs are to be held out."""
        test = round(self.test_share * count) if self.test_size is None else self.test_size
        return {Split.TEST: test, Split.VAL: round(self.val_share * count) if self.val_size is None else self.val_size}


@dataclass(frozen=True, slots=True)
class KeyedDocument:
    """A document with its keys: equal keys mean equal pixels, or equal texts. `facts` tells what it states, where asked for."""

    document: Document
    image_key: str
    text_key: str
    facts: StatedFacts | None = None


def split_pairs(pairs: Sequence[KeyedDocument], plan: PairPlan) -> dict[Split, list[KeyedDocument]]:
    """The pairs of each split, in corpus order; of the plan's modalities alone.

    Raises:
        ValueError: a split stays empty, or there are fewer pairs than are to be held out.
    """
    groups = _groups(pairs, plan.max_copies)
    drawn = {name: counter_rng(plan.seed, "pair split", name).random() for name in groups}
    stratum = [pair.document.modality if plan.per_modality else None for pair in pairs]
    counts = Counter(stratum)
    room = {
        (split, name): size for name, count in counts.items() for split, size in plan.held_out(count).items() if size < count
    }
    side_of: dict[int, Split] = {}
    for name in sorted(groups, key=lambda name: (drawn[name], name)):
        needs = Counter(stratum[place] for place in groups[name])
        fits = (s for s in (Split.TEST, Split.VAL) if all(n <= room.get((s, kind), 0) for kind, n in needs.items()))
        side = next(fits, Split.TRAIN)
        for kind, taken in needs.items() if side is not Split.TRAIN else ():
            room[side, kind] -= taken
        side_of |= dict.fromkeys(groups[name], side)
    wanted = [not plan.modalities or pair.document.modality in plan.modalities for pair in pairs]
    found = {s: [pair for place, pair in enumerate(pairs) if side_of[place] is s and wanted[place]] for s in Split}
    if empty := [str(split) for split, members in found.items() if not members]:
        held = plan.held_out(sum(wanted))
        raise ValueError(
            f"pairs: {sum(wanted)} image-text pairs in {len(groups)} groups of one patient, study, image or text leave none "
            f"for {', '.join(empty)}; give a larger corpus, hold out other numbers than {held[Split.VAL]} and "
            f"{held[Split.TEST]} (val_share and test_share, val_size and test_size), or a smaller max_copies"
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
