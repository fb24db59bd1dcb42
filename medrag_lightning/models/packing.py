"""Prompts that are told to belong together, and their answers, as trees of tokens that are laid out in a few sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.models.shared_prompts import Symbols, common_start, neighbours

_LEAST_SHARED = 1 / 8  # of a prompt: what shares less stands apart, where it is attended to at less cost

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PromptTree:
    """Prompts that start alike: each adds what follows its first `shared` tokens, which it has in common with one before."""

    members: tuple[int, ...]
    shared: tuple[int, ...]

    def new_tokens(self, lengths: Sequence[int]) -> int:
        """Tokens of the tree, where prompt p has ``lengths[p]``."""
        return sum(lengths[p] - cut for p, cut in zip(self.members, self.shared, strict=True))


@dataclass(slots=True)
class Sequences:
    """S sequences of `body` + `tail` columns; the last token of every prompt and all answer nodes stand in the tail.

    Attributes:
        body, tail: columns.
        prompt_columns: columns of the prompts that they were made of.
        source_ST: int64, what stands in a column: p * `prompt_columns` + column for a prompt's token, then
            P * `prompt_columns` + p * nodes + node for an answer's; the last token of prompt 0 on padding.
        sees_STT: bool, whether a column (first axis) sees another: itself and its ancestors.
        sequence_P: the sequence of each prompt.
        last_P: column of each prompt's last token, counted from the tail's first.
        node_P: column of the first node of each prompt's answers, counted likewise.
        pieces: (prompt, tokens of it that stand elsewhere already), in the order in which the columns are read.
    """

    body: int
    tail: int
    prompt_columns: int
    source_ST: Ints
    sees_STT: NDArray[np.bool_]
    sequence_P: Ints
    last_P: Ints
    node_P: Ints
    pieces: list[tuple[int, int]] = field(default_factory=list)


def prompt_trees(symbols: Sequence[Symbols], pack_of_prompt: Sequence[int]) -> list[PromptTree]:
    """The trees of each pack: its prompts in an order in which each starts most like the one before it."""
    packs: dict[int, list[int]] = {}
    for prompt, pack in enumerate(pack_of_prompt):
        packs.setdefault(pack, []).append(prompt)
    trees = []
    for pack_members in packs.values():
        order = [pack_members[i] for i in neighbours([symbols[p] for p in pack_members])]
        members, shared = [order[0]], [0]
        for before, prompt in pairwise(order):
            common = common_start(symbols[before], symbols[prompt])
            if common < _LEAST_SHARED * len(symbols[prompt]):
                trees.append(PromptTree(tuple(members), tuple(shared)))
                members, shared, common = [], [], 0
            members.append(prompt)
            shared.append(common)
        trees.append(PromptTree(tuple(members), tuple(shared)))
    return trees


def in_bins(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of `lengths` in bins no longer than the longest, so that little is padded: each into the first with room."""
    limit, bins, room = max(lengths), list[list[int]](), list[int]()
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((b for b, left in enumerate(room) if left >= lengths[i]), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(limit)
        bins[place].append(i)
        room[place] -= lengths[i]
    return [sorted(members) for members in bins]


def lay_out(
    trees: Sequence[PromptTree],
    start_P: Sequence[int],
    prompt_columns: int,
    nodes_P: Sequence[int],
    sees_PNN: NDArray[np.bool_],
) -> Sequences:
    """The sequences of `trees`.

    Args:
        trees: of P prompts, each prompt in one.
        start_P: column of a prompt's first real token.
        prompt_columns: columns of the prompts, padding included.
        nodes_P: how many nodes the answers of each prompt make.
        sees_PNN: whether a node sees another.
    """
    length_P = [prompt_columns - start for start in start_P]
    tails = [sum(1 + nodes_P[p] for p in tree.members) for tree in trees]
    bodies = [tree.new_tokens(length_P) - len(tree.members) for tree in trees]
    bins = in_bins([body + tail for body, tail in zip(bodies, tails, strict=True)])
    body, tail = (max(sum(widths[t] for t in members) for members in bins) for widths in (bodies, tails))
    made = Sequences(
        body,
        tail,
        prompt_columns,
        np.full((len(bins), body + tail), prompt_columns - 1, dtype=np.int64),
        np.tile(np.eye(body + tail, dtype=bool), (len(bins), 1, 1)),
        np.zeros(len(start_P), dtype=np.int64),
        np.zeros(len(start_P), dtype=np.int64),
        np.zeros(len(start_P), dtype=np.int64),
    )
    for sequence, members in enumerate(bins):
        first, behind = body - sum(bodies[t] for t in members), body
        for t in members:
            _lay_prompts(made, sequence, trees[t], first, behind, length_P)
            _lay_answers(made, sequence, trees[t], behind + len(trees[t].members), nodes_P, sees_PNN)
            first, behind = first + bodies[t], behind + tails[t]
    return made


def _lay_prompts(made: Sequences, sequence: int, tree: PromptTree, first: int, behind: int, length_P: Sequence[int]) -> None:
    """Writes the tokens of a tree's prompts from column `first` on, and each prompt's last from column `behind` on."""
    sees_TT, columns = made.sees_STT[sequence], made.prompt_columns
    path = np.zeros(0, dtype=np.int64)
    for prompt, shared in zip(tree.members, tree.shared, strict=True):
        length = length_P[prompt]
        fresh = np.append(np.arange(first, first + length - 1 - shared), behind)
        path = np.append(path[:shared], fresh)
        made.source_ST[sequence, fresh] = (prompt + 1) * columns - length + np.arange(shared, length)
        sees_TT[np.ix_(fresh, path)] = np.tri(length, dtype=bool)[shared:]
        made.sequence_P[prompt], made.last_P[prompt] = sequence, behind - made.body
        made.pieces.append((prompt, shared))
        first, behind = first + len(fresh) - 1, behind + 1


def _lay_answers(
    made: Sequences, sequence: int, tree: PromptTree, behind: int, nodes_P: Sequence[int], sees_PNN: NDArray[np.bool_]
) -> None:
    """Writes the answers' nodes of a tree's prompts from column `behind` on."""
    sees_TT, before = made.sees_STT[sequence], len(nodes_P) * made.prompt_columns
    for prompt in tree.members:
        count = nodes_P[prompt]
        nodes = np.arange(behind, behind + count)
        made.source_ST[sequence, nodes] = before + prompt * sees_PNN.shape[1] + np.arange(count)
        sees_TT[nodes] = sees_TT[made.body + made.last_P[prompt]]
        sees_TT[np.ix_(nodes, nodes)] = sees_PNN[prompt, :count, :count]
        made.node_P[prompt] = behind - made.body
        behind += count
