"""How prompts that belong together are laid out: every column sees its ancestors alone, and little is padded."""

from __future__ import annotations

import numpy as np
import pytest

from medrag_lightning.models.packing import in_bins, lay_out, prompt_trees


def symbols(*texts: str) -> list[np.ndarray]:
    """Letters as tokens; a capital is an image token."""
    return [np.array([-ord(c) if c.isupper() else ord(c) for c in text]) for text in texts]


def test_what_starts_alike_stands_behind_it_once() -> None:
    made = prompt_trees(symbols("abcdef", "abcxyz", "abxyzu", "qrstuv", "abcdef"), [0, 0, 0, 0, 1])
    assert [(tree.members, tree.shared) for tree in made] == [((0, 1, 2), (0, 3, 2)), ((3,), (0,)), ((4,), (0,))]
    assert made[0].new_tokens([6] * 5) == 6 + 3 + 4


def test_no_image_is_cut_and_a_last_token_is_never_shared() -> None:
    assert prompt_trees(symbols("abAAAc", "abAAAd"), [0, 0])[0].shared == (0, 5)
    assert prompt_trees(symbols("abAAAc", "abAAAAAAc"), [0, 0])[0].shared == (0, 2)  # once, and twice in a row
    assert prompt_trees(symbols("abc", "abc"), [0, 0])[0].shared == (0, 2)


def test_bins_hold_everything_and_no_more_than_the_longest() -> None:
    lengths = [7, 3, 10, 4, 4, 1, 9]
    bins = in_bins(lengths)
    assert sorted(i for members in bins for i in members) == list(range(7))
    assert max(sum(lengths[i] for i in members) for members in bins) == 10
    assert len(bins) == 4
    assert in_bins([5]) == [[0]]


def test_a_column_sees_its_branch_alone() -> None:
    texts = ["abcd", "abxyz", "klmnopqr"]
    prompts, columns = symbols(*texts), 8
    start = [columns - len(text) for text in texts]
    sees_PNN = np.array([[[1, 0], [1, 1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]]], dtype=bool)
    nodes = [2, 1, 0]
    made = lay_out(prompt_trees(prompts, [0, 0, 1]), start, columns, nodes, sees_PNN)
    assert made.source_ST.shape == (2, made.body + made.tail)
    assert made.tail == 2 + 3
    ids = "".join(text.rjust(columns, "_") for text in texts) + "123456"

    def seen(sequence: int, column: int) -> str:
        return "".join(sorted(ids[made.source_ST[sequence, c]] for c in np.flatnonzero(made.sees_STT[sequence, column])))

    for p, text in enumerate(texts):
        last = made.body + int(made.last_P[p])
        assert seen(int(made.sequence_P[p]), last) == "".join(sorted(text))
    first, behind = int(made.sequence_P[0]), made.body + int(made.node_P[0])
    assert (seen(first, behind), seen(first, behind + 1)) == ("1abcd", "12abcd")
    assert seen(int(made.sequence_P[1]), made.body + int(made.node_P[1])) == "3abxyz"
    assert made.sees_STT.any(-1).all()
    assert [made.pieces[i] for i in range(3)] in ([(0, 0), (1, 2), (2, 0)], [(2, 0), (0, 0), (1, 2)])


@pytest.mark.parametrize("count", [1, 4])
def test_bodies_of_one_token_and_prompts_without_answers(count: int) -> None:
    trees = prompt_trees(symbols(*["a"] * count), range(count))
    made = lay_out(trees, [0] * count, 1, [0] * count, np.zeros((count, 0, 0), bool))
    assert (made.body, made.tail) == (0, 1)
    assert (made.source_ST[:, 0] == np.arange(count)).all()
