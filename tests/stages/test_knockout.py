"""Knockout of a real reader in which attention works in two layers only: no other layer matters; the earlier one carries."""

import math

import pytest
import torch
from toy import data, reader

from medrag_lightning.data.feeds import ReadingFeed, World
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.records import AnswerType, Split
from medrag_lightning.stages.knockout import measure

LAYERS, ALIVE = 5, (1, 3)
DIRECTIONS = ("evidence_to_question", "image_to_question", "evidence_to_last", "question_to_last")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The reader, and a function from questions' positions to a batch."""
    module = data(tmp_path_factory.mktemp("knockout"), regimes=["retrieved"])
    module.setup("test")
    made = reader(layers=LAYERS)
    made.prepare(module.training_texts())
    made.eval()
    with torch.no_grad():
        for number, layer in enumerate(made.decoder_layers()):
            layer.self_attn.o_proj.weight.mul_(20.0 if number in ALIVE else 0.0)
    collate = RaftCollator(made.processor, PromptTemplate(), False, training=False, roles=True)
    examples = examples_of(module)
    return made, lambda places: collate([examples[place] for place in places])


def examples_of(module):
    """The test questions with their retrieved evidence, images open."""
    queries = {split: module.split_queries(split) for split in ("train", "val", "test")}
    world = World(
        {Split(name): of for name, of in queries.items()}, module.documents(), module._retrieved, {}, module._image_store(),
        module.source, module.evidence, False, 0,
    )  # fmt: skip
    items = ReadingFeed(world, [], None).prediction()
    return items[[SampleKey(0, place) for place in range(len(items))]]


@torch.no_grad()
def losses_of(world, places, wanted=None):
    made, batch_of = world
    batch = batch_of(places)
    wanted = range(len(places)) if wanted is None else wanted
    windows = [[layer] for layer in range(LAYERS)]
    found = {}
    for part in batch.parts:
        found |= measure(made, part, batch.examples, wanted, DIRECTIONS, windows)
    return found, batch.examples


def test_only_layers_with_attention_matter_and_the_question_passes_on_what_it_read(world):
    found, examples = losses_of(world, range(8))
    assert sorted(found) == list(range(8))
    for direction in DIRECTIONS:
        # What question tokens read in the last layer with attention is read by nobody.
        matters = (1,) if direction.endswith("question") else ALIVE
        for layer in range(LAYERS):
            most = max(abs(losses.first_token[direction][layer]) for losses in found.values())
            assert most > 1e-4 if layer in matters else most < 1e-6, (direction, layer, most)
    for place, losses in found.items():
        closed = examples[place].query.answer_type is AnswerType.CLOSED
        assert all(math.isnan(change) != closed for row in losses.choice.values() for change in row)


def test_a_question_loses_the_same_alone_and_among_others(world):
    """Prompts that are not wanted are left out, with other padding and images."""
    every, _ = losses_of(world, range(8))
    some, _ = losses_of(world, range(8), wanted=[2, 5])
    alone, _ = losses_of(world, [5])
    assert sorted(some) == [2, 5]
    for direction in DIRECTIONS:
        assert some[5].first_token[direction] == pytest.approx(every[5].first_token[direction], abs=1e-4)
        assert alone[0].first_token[direction] == pytest.approx(every[5].first_token[direction], abs=1e-4)
        assert some[2].choice[direction] == pytest.approx(every[2].choice[direction], abs=1e-4, nan_ok=True)
