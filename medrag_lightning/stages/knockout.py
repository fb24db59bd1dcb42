"""What becomes of the right answers of a batch while attention is blocked, window by window and direction by direction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medrag_lightning.batches import AnswerRows, Direction, EncodedPrompts, Example, ReaderPart, Steering
from medrag_lightning.interfaces import Reader
from medrag_lightning.records import AnswerType

Changes = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Losses:
    """Relative changes of one question's right answer by direction, a number for each window; see `metrics.Knockout`."""

    first_token: Changes
    choice: Changes


@dataclass(frozen=True, slots=True)
class _Asked:
    """Some prompts of a part, with their answer rows and, of each, its rows and the right one among them."""

    prompts: EncodedPrompts
    rows: AnswerRows
    rows_of_prompt: tuple[tuple[int, ...], ...]
    gold_row: tuple[int, ...]


def measure(
    reader: Reader,
    part: ReaderPart,
    examples: Sequence[Example],
    wanted: Sequence[int],
    directions: Sequence[Direction],
    layer_windows: Sequence[Sequence[int]],
) -> dict[int, Losses]:
    """Reads the prompts of `part` once freely, and once for each direction and window with that attention blocked.

    Args:
        reader: must obey `EncodedPrompts.steering`.
        part: one prompt an example, with roles, followed by the choices of a closed question or by an open one's answer.
        examples: of the batch.
        wanted: positions of the examples to measure; those of other parts are passed over.
        directions: what is blocked.
        layer_windows: the layers of each window.

    Returns:
        By position in `examples`.
    """
    keep = [prompt for prompt, place in enumerate(part.query_of_prompt) if place in wanted]
    if not keep or part.rows is None:
        return {}
    places = [part.query_of_prompt[prompt] for prompt in keep]
    asked = _select(part, keep, [examples[place] for place in places])
    first_P, choice_P = _right(reader, asked, None)
    losses: dict[str, list[tuple[Tensor, Tensor]]] = {direction: [] for direction in directions}
    for direction in directions:
        for layers in layer_windows:
            answers = direction.endswith("_to_last")  # each token of an answer was the last one when it was said
            steering = Steering("knockout", layers=list(layers), direction=direction, steer_generated=answers)
            first, choice = _right(reader, asked, steering)
            losses[direction].append((first / first_P - 1, choice / choice_P - 1))
    return {place: _of_prompt(losses, p) for p, place in enumerate(places)}


def _of_prompt(losses: Mapping[str, Sequence[tuple[Tensor, Tensor]]], p: int) -> Losses:
    first = {d: tuple(float(first_P[p]) for first_P, _ in rows) for d, rows in losses.items()}
    choice = {d: tuple(float(choice_P[p]) for _, choice_P in rows) for d, rows in losses.items()}
    return Losses(first, choice)


def _right(reader: Reader, asked: _Asked, steering: Steering | None) -> tuple[Tensor, Tensor]:
    """Of each prompt the probability of the right answer's first token, and the right choice's share; float64 (P,).

    The share is that among the choices, each over all its tokens; NaN where there is one row only (an open question).
    """
    prompts = replace(asked.prompts, steering=steering)
    logp_RL = reader.token_logp(prompts, asked.rows).double().cpu()
    first_P = logp_RL[list(asked.gold_row), 0].exp()
    total_R = logp_RL.sum(dim=1)
    pairs = zip(asked.rows_of_prompt, asked.gold_row, strict=True)
    share = [_share(total_R[list(rows)], rows.index(gold)) for rows, gold in pairs]
    return first_P, torch.tensor(share, dtype=torch.float64)


def _share(total_C: Tensor, gold: int) -> float:
    return float(total_C.softmax(dim=0)[gold]) if len(total_C) > 1 else math.nan


def _select(part: ReaderPart, keep: Sequence[int], examples: Sequence[Example]) -> _Asked:
    assert part.rows is not None
    owner = part.rows.prompt_of_row_R.tolist()
    rows = [row for row, prompt in enumerate(owner) if prompt in keep]
    number = {prompt: new for new, prompt in enumerate(keep)}
    of_prompt: list[list[int]] = [[] for _ in keep]
    for new, row in enumerate(rows):
        of_prompt[number[owner[row]]].append(new)
    closed = [example.query.answer_type is AnswerType.CLOSED for example in examples]
    gold = [e.query.gold_index if is_closed else 0 for e, is_closed in zip(examples, closed, strict=True)]
    device = part.rows.ids_RL.device
    owners = torch.tensor([number[owner[row]] for row in rows], device=device)
    return _Asked(
        prompts=_prompts(part.prompts, keep),
        rows=AnswerRows(part.rows.ids_RL[rows], part.rows.mask_RL[rows], owners),
        rows_of_prompt=tuple(map(tuple, of_prompt)),
        gold_row=tuple(of[place] for of, place in zip(of_prompt, gold, strict=True)),
    )


def _prompts(prompts: EncodedPrompts, keep: Sequence[int]) -> EncodedPrompts:
    """Some of the prompts; the images they share stay together in ``vision``."""
    assert prompts.image_places or not prompts.vision, "evaluation prompts share their images"
    roles, index = prompts.roles, list(keep)
    assert roles is not None, "knockout needs to know which token is what"
    return replace(
        prompts,
        ids_PT=prompts.ids_PT[index],
        mask_PT=prompts.mask_PT[index],
        images_of_prompt=tuple(prompts.images_of_prompt[p] for p in index) if prompts.images_of_prompt else (),
        image_places=tuple(prompts.image_places[p] for p in index) if prompts.image_places else (),
        roles=roles.of_prompts(torch.tensor(index, device=roles.role_PT.device)),
    )
