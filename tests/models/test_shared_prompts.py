"""Groups of prompts that start alike save the most tokens, and images are never cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reader_world import FAMILIES, picture, reader

from medrag_lightning.batches import AnswerRows, Prompt, Role, Segment
from medrag_lightning.models import scoring
from medrag_lightning.models.answer_trie import answer_trees
from medrag_lightning.models.image_positions import image_positions
from medrag_lightning.models.shared_prompts import SharedPrompts, share


def symbols(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.int64) for row in rows]


def test_the_grouping_that_saves_most_is_taken() -> None:
    """A long start of two prompts is worth more than one token that all four have in common."""
    a, b = [1, *range(10, 20)], [1, *range(30, 40)]
    groups = share(symbols([*a, 2, 3], [*b, 2], [*a, 4, 3], [*b, 5]))
    assert sorted(groups) == [SharedPrompts(11, (0, 2)), SharedPrompts(11, (1, 3))]
    assert share(symbols([1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 3, 7, 8])) == [SharedPrompts(3, (0, 1, 2))]


def test_the_last_token_and_equal_prompts() -> None:
    assert share(symbols([1, 2, 3], [1, 2, 3])) == [SharedPrompts(2, (0, 1))]
    assert share(symbols([1, 2, 3])) == [SharedPrompts(0, (0,))]
    assert share(symbols([7], [7])) == [SharedPrompts(0, (0,)), SharedPrompts(0, (1,))]


def test_images_are_never_cut() -> None:
    """Neither where prompts part, nor in a prompt that shares nothing and is cut where the others are."""
    groups = share(symbols([1, 2, -1, -1, 5], [1, 2, -1, -1, 6], [1, 3, -2, -2, -2, -2, -2]))
    assert set(groups) == {SharedPrompts(4, (0, 1)), SharedPrompts(2, (2,))}  # 6 of 7 would stand inside an image


def test_too_little_in_common_is_not_shared() -> None:
    rows = [[1, *range(100 * i, 100 * i + 40)] for i in range(1, 5)]
    assert [group.length for group in share(symbols(*rows))] == [0] * 4


def test_grouping_saves_no_less_than_any_single_cut() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = [rng.integers(0, 2, rng.integers(3, 9)) for _ in range(12)]
        groups = share(rows)
        assert sorted(p for group in groups for p in group.members) == list(range(12))
        for group in groups:
            assert len({tuple(rows[p][: group.length]) for p in group.members}) == 1
            assert all(group.length < len(rows[p]) for p in group.members)
        saved = sum((len(group.members) - 1) * group.length for group in groups)
        for cut in range(1, 8):
            starts = [tuple(row[:cut]) for row in rows if len(row) > cut]
            assert saved >= cut * (len(starts) - len(set(starts)))


def test_answers_share_nodes_and_ends_are_never_fed() -> None:
    ids = torch.tensor([[5, 6, 9], [5, 7, 9], [8, 9, 0], [4, 0, 0]])
    rows = AnswerRows(ids, torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool(), torch.tensor([0, 0, 0, 2]))
    trees = answer_trees(rows, 3)
    assert trees.ids_PN.tolist() == [[5, 6, 7, 8], [-1] * 4, [-1] * 4]
    assert trees.depth_PN[0].tolist() == [0, 1, 1, 0]
    assert trees.sees_PNN[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert trees.sees_PNN[1].equal(torch.eye(4).bool())
    assert trees.slot_RL.tolist() == [[0, 1, 2], [0, 1, 3], [0, 4, 0], [0, 0, 0]]


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.startswith("qwen")])
def test_positions_are_those_of_the_stock_model(family: str) -> None:
    made = reader(family)
    shapes = [(40, 32), (32, 64), (64, 28)]
    pictures = [Segment(Role.EVIDENCE_IMAGE, image=picture(i, shape)) for i, shape in enumerate(shapes)]
    text = Segment(Role.QUESTION, "is there a nodule?")
    rows = [(text,), (pictures[0], text), (text, pictures[1], pictures[2], text), (pictures[2],)]
    encoded = made.processor.encode_prompts([Prompt(row) for row in rows])
    image_id, grid = made.processor.image_token_id, encoded.vision["image_grid_thw"]
    ours = image_positions(encoded.ids_PT, encoded.mask_PT, image_id, grid, merge=2)
    real = encoded.mask_PT.bool()
    assert ours[:, real].equal(scoring.positions(made.core, made.family, encoded)[:, real])
    alone = made.processor.encode_prompts([Prompt(rows[0])])
    assert image_positions(alone.ids_PT, alone.mask_PT, image_id, None, 2)[:, 0, -1].tolist() == [alone.ids_PT.shape[1] - 1] * 3
