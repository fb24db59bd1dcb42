"""All answers of a prompt as one tree of tokens: what they share at the start is computed once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrag_lightning.batches import AnswerRows


@dataclass(frozen=True, slots=True)
class AnswerTrees:
    """The trees of P prompts, padded on the right to N nodes. A node is a token that is fed: an answer's last one never is.

    Attributes:
        ids_PN: int64 token of each node; -1 on padding.
        depth_PN: int64 tokens between the prompt and the node.
        sees_PNN: bool, whether a node (first axis) sees another: itself and its ancestors. Padding sees itself.
        slot_RL: int64, what predicts each answer token: 0 for the prompt's last token, 1 + n for node n.
    """

    ids_PN: Tensor
    depth_PN: Tensor
    sees_PNN: Tensor
    slot_RL: Tensor


@dataclass(slots=True)
class _Tree:
    tokens: list[int]
    depths: list[int]
    parents: list[int]
    slots: list[list[int]]


def answer_trees(rows: AnswerRows, prompt_count: int) -> AnswerTrees:
    """The trees of `rows`, on its device. Prompts with equal answers share the work of building one."""
    ids, counts = rows.ids_RL.tolist(), rows.mask_RL.sum(1).tolist()
    answers: list[list[tuple[int, ...]]] = [[] for _ in range(prompt_count)]
    place: list[tuple[int, int]] = []
    for row, count, prompt in zip(ids, counts, rows.prompt_of_row_R.tolist(), strict=True):
        place.append((prompt, len(answers[prompt])))
        answers[prompt].append(tuple(row[:count]))
    numbers: dict[tuple[tuple[int, ...], ...], int] = {}
    kind_P = [numbers.setdefault(tuple(of_prompt), len(numbers)) for of_prompt in answers]
    trees = [_tree(of_prompt) for of_prompt in numbers]
    width, longest = max(len(tree.tokens) for tree in trees), rows.ids_RL.shape[1]
    slots = [trees[kind_P[prompt]].slots[number] for prompt, number in place]
    kind = torch.tensor(kind_P)
    device = rows.ids_RL.device
    return AnswerTrees(
        torch.tensor([tree.tokens + [-1] * (width - len(tree.tokens)) for tree in trees], dtype=torch.long)[kind].to(device),
        torch.tensor([tree.depths + [0] * (width - len(tree.depths)) for tree in trees], dtype=torch.long)[kind].to(device),
        torch.stack([_sight(tree, width) for tree in trees])[kind].to(device),
        torch.tensor([row + [0] * (longest - len(row)) for row in slots]).to(device),
    )


def _tree(answers: tuple[tuple[int, ...], ...]) -> _Tree:
    tree = _Tree([], [], [], [])
    nodes: dict[tuple[int, ...], int] = {(): -1}
    for answer in answers:
        for end in range(1, len(answer)):
            if answer[:end] not in nodes:
                nodes[answer[:end]] = len(tree.tokens)
                tree.tokens.append(answer[end - 1])
                tree.depths.append(end - 1)
                tree.parents.append(nodes[answer[: end - 1]])
        tree.slots.append([1 + nodes[answer[:end]] for end in range(len(answer))])
    return tree


def _sight(tree: _Tree, width: int) -> Tensor:
    sees_NN = torch.eye(width, dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            sees_NN[node] |= sees_NN[parent]  # parents stand before their children
    return sees_NN
