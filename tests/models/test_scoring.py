"""The exact scorer against the plain computation: one sequence at a time, stock forward, no padding."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from reader_world import ANSWERS, FAMILIES, answer_rows, full_inputs, picture, plain_logp, prompts, reader

from medrag_lightning.batches import AnswerRows
from medrag_lightning.models import scoring
from medrag_lightning.prompts import PromptOrder

TOLERANCE_NATS = 1e-5
PROMPT_OF_ROW = [0, 0, 0, 1, 2, 2, 3, 3, 3, 4]
ANSWER_OF_ROW = [0, 1, 2, 1, 0, 1, 2, 1, 0, 2]


@pytest.mark.parametrize("mode", ["rows", "prefill"])
@pytest.mark.parametrize("order", get_args(PromptOrder))
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_plain_computation(family: str, order: PromptOrder, mode: scoring.ScoringMode) -> None:
    made, asked = reader(family), prompts(order)
    rows = answer_rows(made, PROMPT_OF_ROW, [ANSWERS[a] for a in ANSWER_OF_ROW])
    logp_RL = scoring.token_logp(made.core, made.family, made.processor.encode_prompts(asked), rows, mode).detach()
    assert logp_RL.dtype == torch.float32
    assert not logp_RL[~rows.mask_RL].any()
    for r, p in enumerate(PROMPT_OF_ROW):
        ids = rows.ids_RL[r, rows.mask_RL[r]].tolist()
        expected = plain_logp(made, asked[p], ids).detach()
        assert (logp_RL[r, : len(ids)] - expected).abs().max() <= TOLERANCE_NATS


@pytest.mark.parametrize("family", FAMILIES)
def test_modes_agree_with_single_token_answers_and_without_images(family: str) -> None:
    made, asked = reader(family), [prompts()[2]] * 2
    rows = AnswerRows(torch.tensor([[300], [301], [302]]), torch.ones(3, 1, dtype=torch.bool), torch.tensor([0, 1, 1]))
    encoded = made.processor.encode_prompts(asked)
    assert not encoded.vision
    by_rows = scoring.token_logp(made.core, made.family, encoded, rows, "rows").detach()
    by_prefill = scoring.token_logp(made.core, made.family, encoded, rows, "prefill")
    assert (by_rows - by_prefill).abs().max() <= TOLERANCE_NATS


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_depend_on_images_and_texts(family: str) -> None:
    """Else the equalities here would prove nothing."""
    made, asked = reader(family), prompts()
    base = plain_logp(made, asked[0], [300, 3])
    one, two, *rest = asked[0].segments
    swapped = replace(asked[0], segments=(replace(one, image=picture(9)), two, *rest))
    reworded = replace(asked[0], segments=(one, replace(two, text="background: none"), *rest))
    for other in (swapped, reworded):
        assert (plain_logp(made, other, [300, 3]) - base).abs().max() > 100 * TOLERANCE_NATS


@pytest.mark.parametrize("family", FAMILIES[:3])
def test_gradient_equals_that_of_the_stock_labels_loss(family: str) -> None:
    made, prompt = reader(family), prompts()[0]
    rows = answer_rows(made, [0], [ANSWERS[1]])
    ids = rows.ids_RL[0].tolist()
    loss = -made.token_logp(made.processor.encode_prompts([prompt]), rows).sum() / len(ids)
    trained = [p for p in made.core.parameters() if p.requires_grad]
    ours = torch.autograd.grad(loss, trained)
    inputs = full_inputs(made, prompt, ids)
    labels = inputs["input_ids"].clone()
    labels[:, : -len(ids)] = -100
    stock_loss = made.core(**inputs, labels=labels).loss
    stock = torch.autograd.grad(stock_loss, trained)
    assert abs(loss.item() - stock_loss.item()) <= TOLERANCE_NATS
    for mine, theirs in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES[:3])
def test_padding_changes_nothing(family: str) -> None:
    """More padding on the left of prompts and on the right of answers, with other tokens inside it."""
    made = reader(family)
    encoded = made.processor.encode_prompts(prompts())
    rows = answer_rows(made, [0, 1, 2, 3, 4], [ANSWERS[1], *ANSWERS, ANSWERS[0]])
    wide = replace(
        encoded,
        ids_PT=torch.nn.functional.pad(encoded.ids_PT, (7, 0), value=made.processor.pad_id),
        mask_PT=torch.nn.functional.pad(encoded.mask_PT, (7, 0)),
    )
    pad = torch.nn.functional.pad
    longer = AnswerRows(pad(rows.ids_RL, (0, 3), value=290), pad(rows.mask_RL, (0, 3)), rows.prompt_of_row_R)
    narrow_RL = made.token_logp(encoded, rows).detach()
    wide_RL = made.token_logp(wide, longer).detach()
    assert (wide_RL[:, : narrow_RL.shape[1]] - narrow_RL).abs().max() <= TOLERANCE_NATS


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "idefics3"])
def test_selected_prompts_keep_their_own_images(family: str) -> None:
    made, asked = reader(family), prompts()
    index = [4, 1, 1, 2, 0]
    chosen = scoring.select_prompts(made.family, made.processor.encode_prompts(asked), index)
    rows = answer_rows(made, [0, 1, 2, 3, 4], [ANSWERS[0]] * 5)
    again = made.processor.encode_prompts([asked[i] for i in index])
    assert chosen.images_of_prompt == again.images_of_prompt
    torch.testing.assert_close(made.token_logp(chosen, rows), made.token_logp(again, rows), atol=1e-5, rtol=0)


def test_untested_families_refuse_the_shared_prefill() -> None:
    made = reader("llava")
    rows = answer_rows(made, [0], ["yes"])
    untested = replace(made.family, shared_prefill=False)
    with pytest.raises(ValueError, match="not proven exact"):
        scoring.token_logp(made.core, untested, made.processor.encode_prompts(prompts()[:1]), rows, "prefill")


def test_wrong_padding_is_refused() -> None:
    made = reader("llava")
    encoded = made.processor.encode_prompts(prompts()[:2])
    rows = answer_rows(made, [0, 1], ["yes", "no"])
    with pytest.raises(ValueError, match="left-padded"):
        made.token_logp(replace(encoded, mask_PT=encoded.mask_PT.flip(1)), rows)
    with pytest.raises(ValueError, match="right-padded"):
        made.token_logp(encoded, replace(rows, mask_RL=~rows.mask_RL))
