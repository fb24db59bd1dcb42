"""Pairs as samples: groups, and what is opened how often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from knowledge_world import world_of
from PIL import Image

from medrag_lightning.data import preference_feed
from medrag_lightning.data.conditions import ConditionExamples
from medrag_lightning.data.preference_feed import PreferenceFeed, PreferenceItems
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.preference_files import PreferenceSet
from medrag_lightning.records import (
    Condition,
    Document,
    ImageRef,
    ImageShown,
    Knowledge,
    PairKind,
    Preference,
    PreferenceSide,
    Query,
    Split,
)

QUERIES = {name: Query(name, "?", ImageRef(name), answer="yes", patient_id=name) for name in ("q1", "q2")}
DOCUMENTS = {"r": Document("r", "a report", ImageRef("r")), "t": Document("t", "a text")}
K, LESS = Condition(("r", "t")), Condition(("t",))
OTHER = Condition(("r", "t"), ImageShown.OTHER, "q2")


class Opener:
    """Counts what is opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def __call__(self, ref: ImageRef) -> Image.Image:
        self.opened.append(str(ref.path))
        return Image.fromarray(np.full((8, 8, 3), 10 * len(self.opened), np.uint8))


def pair(name: str, query: str, kind: PairKind, chosen: Condition, rejected: Condition, said: str) -> Preference:
    about = None if kind is PairKind.CROSS_MODALITY else Knowledge.BOTH
    return Preference(name, query, kind, about, PreferenceSide(chosen, "yes"), PreferenceSide(rejected, said))


PAIRS = [
    pair("look", "q1", PairKind.CROSS_MODALITY, K, OTHER, "yes"),
    pair("other", "q2", PairKind.UTILISATION, K, K, "no"),
    pair("use", "q1", PairKind.UTILISATION, K, K, "no"),
    pair("less", "q1", PairKind.ROBUSTNESS, LESS, LESS, "no"),
    pair("more", "q2", PairKind.ROBUSTNESS, K, LESS, "no"),
]


@pytest.fixture
def items():
    opener = Opener()
    return PreferenceItems(PAIRS, QUERIES, ConditionExamples(QUERIES, DOCUMENTS, opener)), opener


def test_a_sample_is_what_is_about_one_query_and_one_set_of_evidence(items):
    made, _ = items
    assert len(made) == 3
    names = [[one.pair.id for one in made[[SampleKey(0, place)]]] for place in range(3)]
    assert names == [["look", "use"], ["other", "more"], ["less"]]
    assert [one.pair.id for one in made[[SampleKey(1, 2), SampleKey(1, 0)]]] == ["less", "look", "use"]


def test_equal_sides_are_one_object_and_each_image_is_opened_once(items):
    made, opener = items
    look, use, other, more = made[[SampleKey(0, 0), SampleKey(0, 1)]]
    assert look.chosen is use.chosen is use.rejected
    assert other.chosen is more.chosen is not look.chosen
    assert sorted(opener.opened) == ["q1", "q2", "r"]
    assert look.rejected.query_image is other.chosen.query_image is not look.chosen.query_image
    assert look.rejected.query is look.chosen.query
    assert [candidate.id for candidate in more.rejected.candidates] == ["t"]


def test_the_first_pairs_of_each_kind_can_be_looked_at(items):
    made, _ = items
    assert [one.pair.id for one in made.of_each_kind(1)] == ["look", "other", "less"]
    assert [one.pair.id for one in made.of_each_kind(9)] == ["look", "other", "use", "less", "more"]


def test_a_pair_about_an_unknown_question_is_an_error_that_names_it():
    made = PreferenceItems(PAIRS, {"q1": QUERIES["q1"]}, ConditionExamples(QUERIES, DOCUMENTS, Opener()))
    with pytest.raises(ValueError, match=r"query 'q2', which data\.tables does not have"):
        made[[SampleKey(0, 1)]]


def test_the_pairs_of_all_splits_are_read_once(monkeypatch):
    world, plan, asked = world_of(), PreferencePlan("there"), []

    def build_or_read(*what):
        asked.append(what)
        return PreferenceSet(Path("there"), {Split.TRAIN: PAIRS, Split.VAL: PAIRS[:2]}, {}, {})

    monkeypatch.setattr(preference_feed, "build_or_read", build_or_read)
    feed = PreferenceFeed(world, plan)
    assert not asked, "nothing is built before it is asked for"
    assert feed.training().pairs == PAIRS
    assert [items.pairs for items in feed.validation(False)] == [PAIRS[:2]]
    assert asked == [(world, plan)]
