"""What prompts, images and answers have in common runs once, and every number stays that of the plain computation."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from reader_world import ANSWERS, FAMILIES, answer_rows, picture, plain_logp, prompts, reader

from medrag_lightning.batches import AnswerRows, Example, Prompt
from medrag_lightning.models import scoring, tree_scoring
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.prompts import PromptOrder, PromptTemplate
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, ImageRef, Query, Regime

TOLERANCE_NATS = 1e-5
CHOICES = ("mild", "mild effusion", "no large effusion", "no nodule", "yes")


def asked(order: PromptOrder, queries: int = 3, candidates: int = 4) -> list[Prompt]:
    """Queries whose candidate lists overlap; some images are missing, one report has none, one image is of another shape."""
    template = PromptTemplate(order=order)
    images = [picture(i, (40, 32) if i % 2 else (32, 64)) for i in range(queries + candidates)]
    reports = ["chest x-ray shows a large effusion", "no finding", "mild " * 20, "a nodule", "x", "the left lung"]
    made = []
    for q in range(queries):
        query = Query(f"q{q}", f"is there {'a nodule' * q}?", answer="yes", choices=CHOICES, answer_type=AnswerType.CLOSED)
        for k in range(q % 2, candidates):
            ref = ImageRef("e.png") if k != 1 else None
            shown = Candidate(Document(f"d{k}", reports[k], ref), 0.5, Channel.IMAGE_TO_IMAGE)
            example = Example(query, Regime.RETRIEVED, (shown,), images[q] if q != 2 else None, (ref and images[queries + k],))
            made.append(template.build(example))
    return made


def every_answer(made: HfReader, count: int) -> AnswerRows:
    return answer_rows(made, [p for p in range(count) for _ in CHOICES], list(CHOICES) * count)


def counted(made: HfReader) -> list[int]:
    """Tokens that the language tower computes, padding included, a number for each pass."""
    tokens: list[int] = []
    tower: Any = getattr(made.core.model, made.family.language)
    tower.layers[0].register_forward_pre_hook(
        lambda module, inputs, settings: tokens.append(inputs[0].shape[0] * inputs[0].shape[1]), with_kwargs=True
    )
    return tokens


@pytest.mark.parametrize("share_images", [True, False])
@pytest.mark.parametrize("order", get_args(PromptOrder))
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_plain_computation(family: str, order: PromptOrder, share_images: bool) -> None:
    made, questions = reader(family), asked(order)
    rows = every_answer(made, len(questions))
    tokens = counted(made)
    with torch.no_grad():
        logp_RL = made.token_logp(made.processor.encode_prompts(questions, share_images), rows)
    computed = sum(tokens)
    assert logp_RL.dtype == torch.float32
    assert not logp_RL[~rows.mask_RL].any()
    plain = 0
    for r, p in enumerate(rows.prompt_of_row_R.tolist()):
        ids = rows.ids_RL[r, rows.mask_RL[r]].tolist()
        tokens.clear()
        expected = plain_logp(made, questions[p], ids).detach()
        plain += sum(tokens)
        assert (logp_RL[r, : len(ids)] - expected).abs().max() <= TOLERANCE_NATS
    shared = 3.5 if order == "image_first" else 4  # there a question's words stand behind its evidence and are not shared
    assert computed < plain / (shared if share_images else 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_small_passes_and_another_attention_give_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, questions = reader(family), asked("evidence_first")
    encoded, rows = made.processor.encode_prompts(questions, share_images=True), every_answer(made, len(questions))
    with torch.no_grad():
        once_RL = made.token_logp(encoded, rows)
        monkeypatch.setitem(tree_scoring.TOKENS_PER_PASS, "cpu", 90)
        tokens = counted(made)
        often_RL = made.token_logp(encoded, rows)
        made.core.set_attn_implementation({"text_config": "eager"})
        eager_RL = made.token_logp(encoded, rows)
    assert len(tokens) > 6
    torch.testing.assert_close(often_RL, once_RL, atol=TOLERANCE_NATS, rtol=0)
    torch.testing.assert_close(eager_RL, once_RL, atol=TOLERANCE_NATS, rtol=0)


def test_passes_hold_similar_prices_within_the_limit_and_cost_least() -> None:
    prices = [int(price) for price in np.random.default_rng(0).lognormal(3, 0.7, 9)]

    def cost(groups: list[list[int]]) -> int:
        return sum(len(group) * max(prices[i] for i in group) + 128 // tree_scoring._PASS for group in groups)

    groups = tree_scoring.chunks(prices, 128)
    assert sorted(i for group in groups for i in group) == list(range(9))
    ranked = sorted(range(9), key=lambda i: prices[i])
    all_cuts = [[0, *cuts, 9] for count in range(9) for cuts in combinations(range(1, 9), count)]
    every = [[ranked[a:b] for a, b in pairwise(cuts)] for cuts in all_cuts]
    fitting = [g for g in every if all(len(x) == 1 or len(x) * max(prices[i] for i in x) <= 128 for x in g)]
    assert cost(groups) == min(map(cost, fitting))
    assert all(len(group) == 1 or len(group) * max(prices[i] for i in group) <= 128 for group in groups)
    assert tree_scoring.chunks([0, 0, 0], 128) == [[0, 1, 2]]
    assert tree_scoring.chunks([500, 1], 128) == [[1], [0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_answers_prompts_without_answers_and_single_tokens(family: str) -> None:
    made, questions = reader(family), prompts()
    rows = answer_rows(made, [0, 0, 3, 3, 4], [ANSWERS[0], ANSWERS[1], ANSWERS[2], ANSWERS[1], ANSWERS[1]])
    encoded = made.processor.encode_prompts(questions, share_images=True)
    with torch.no_grad():
        logp_RL = made.token_logp(encoded, rows)
        for r, p in enumerate(rows.prompt_of_row_R.tolist()):
            ids = rows.ids_RL[r, rows.mask_RL[r]].tolist()
            torch.testing.assert_close(logp_RL[r, : len(ids)], plain_logp(made, questions[p], ids), atol=1e-5, rtol=0)
        single = AnswerRows(torch.tensor([[300], [301]]), torch.ones(2, 1, dtype=torch.bool), torch.tensor([1, 2]))
        for r, p in enumerate((1, 2)):
            expected = plain_logp(made, questions[p], [300 + r])
            torch.testing.assert_close(made.token_logp(encoded, single)[r], expected, atol=1e-5, rtol=0)


def test_an_answer_tree_costs_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """J14: one pass over the prompt and one token for each answer but its end; five answers that part at once cost five."""
    made, prompt = reader("llava"), prompts()[:1]
    encoded = made.processor.encode_prompts(prompt, share_images=True)
    tokens = counted(made)
    word = [[300 + i, made.processor.end_id] for i in range(5)]
    rows = AnswerRows(torch.tensor(word), torch.ones(5, 2, dtype=torch.bool), torch.zeros(5, dtype=torch.long))
    with torch.no_grad():
        made.token_logp(encoded, rows)
    assert tokens == [encoded.ids_PT.shape[1] + 5]


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_images_in_the_other_modes_and_in_generation(family: str) -> None:
    made, questions = reader(family), asked("evidence_first", 2, 3)
    shared, plain = (made.processor.encode_prompts(questions, share_images=share) for share in (True, False))
    rows = every_answer(made, len(questions))
    with torch.no_grad():
        features = made.vision_cache.features(made.core, made.family, shared)
        expected_RL = scoring.token_logp(made.core, made.family, plain, rows, "rows")
        for mode in ("rows", "prefill"):
            logp_RL = scoring.token_logp(made.core, made.family, shared, rows, mode, features)  # type: ignore[arg-type]
            torch.testing.assert_close(logp_RL, expected_RL, atol=TOLERANCE_NATS, rtol=0)
        some = scoring.select_prompts(made.family, shared, [3, 0, 3])
        chosen = answer_rows(made, [0, 1, 2], ["yes"] * 3)
        expected_RL = made.token_logp(scoring.select_prompts(made.family, plain, [3, 0, 3]), chosen)
        torch.testing.assert_close(made.token_logp(some, chosen), expected_RL, atol=TOLERANCE_NATS, rtol=0)
    assert made.generate(shared, 4) == made.generate(plain, 4)


def test_families_without_proof_and_other_attention_stay_with_the_old_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, questions = reader("llava"), asked("evidence_first")
    rows = every_answer(made, len(questions))
    shared = made.processor.encode_prompts(questions, share_images=True)
    untested = replace(made.family, answer_tree=False)
    assert tree_scoring.supports_tree(made.core, made.family)
    assert not tree_scoring.supports_tree(made.core, untested)
    with torch.no_grad():
        expected_RL = made.token_logp(shared, rows)
        monkeypatch.setattr(HfReader, "family", property(lambda self: untested))
        torch.testing.assert_close(made.token_logp(shared, rows), expected_RL, atol=TOLERANCE_NATS, rtol=0)
        with pytest.raises(ValueError, match="proven exact"):
            scoring.token_logp(made.core, untested, shared, rows, "tree", [])
    with pytest.raises(ValueError, match="need the features"):
        scoring.token_logp(made.core, untested, shared, rows, "rows")
    with pytest.raises(ValueError, match="cannot be repeated"):
        scoring.unshared(replace(untested, image_layout="prompt"), shared)


def test_windowed_attention_is_not_given_trees() -> None:
    made = reader("qwen2_vl")
    made.core.config.get_text_config().layer_types = ["sliding_attention", "full_attention"]
    assert not tree_scoring.supports_tree(made.core, made.family)
