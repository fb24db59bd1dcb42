"""The last layer's feed-forward block runs where answers are predicted, and scores and gradients stay what they were."""

from __future__ import annotations

import warnings

import pytest
import torch
from reader_world import ANSWERS, FAMILIES, TEXTS, answer_rows, prompts, reader, tiny

from medrag_lightning.models import scoring, window
from medrag_lightning.models.hf_reader import HfReader


def scored(family: str, monkeypatch: pytest.MonkeyPatch, windowed: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    if not windowed:
        monkeypatch.setattr(window, "_last_feed_forward", lambda model, family: None)
    made = reader(family)
    made.train()
    rows = answer_rows(made, [0, 1, 2, 3, 4], [ANSWERS[i] for i in (0, 1, 2, 1, 0)])
    logp = scoring.token_logp(made.core, made.family, made.processor.encode_prompts(prompts()), rows)
    logp.sum().backward()
    return logp.detach(), {n: p.grad for n, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_gradients_are_those_of_the_whole_layer(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_window, its_gradients = scored(family, monkeypatch, windowed=True)
    without, gradients = scored(family, monkeypatch, windowed=False)
    torch.testing.assert_close(with_window, without, atol=1e-6, rtol=0)
    assert set(its_gradients) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(its_gradients[name], gradient, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_block_sees_only_the_window_and_the_hooks_are_gone_afterwards(family: str) -> None:
    made = reader(family)
    block = window._last_feed_forward(made.core, made.family)
    assert block is not None
    widths = []
    inner = next(module for module in block.modules() if isinstance(module, torch.nn.Linear))
    inner.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))
    rows = answer_rows(made, [0, 1], [ANSWERS[0], ANSWERS[1]])
    some = scoring.select_prompts(made.family, made.processor.encode_prompts(prompts()), [0, 1])
    scoring.token_logp(made.core, made.family, some, rows)
    assert widths == [rows.ids_RL.shape[1]]
    assert not block._forward_pre_hooks


@pytest.mark.parametrize("checkpointing", [True, False])
def test_checkpointing_is_seen_without_a_warning(checkpointing: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        made = HfReader(tiny("llava"), gradient_checkpointing=checkpointing)
        made.prepare(TEXTS)
        block = window._last_feed_forward(made.core, made.family)
        assert block is not None
        with window.last_layer_window(made.core, made.family, 1):
            assert bool(block._forward_pre_hooks) != checkpointing
