"""A language model as rewriter: its prompt holds the dialogue, a trained one rewrites, and whatever one says is survived."""

from __future__ import annotations

import pytest
import torch
import transformers
from reader_folders import FOLDERS
from reader_folders import tokenizer as chat_tokenizer

from medrag_lightning.interfaces import LoadingRewriter, RewriteTask
from medrag_lightning.models.lm_rewriter import LmRewriter, question_of

HISTORY = (("what is seen?", "a cyst"), ("which side? </s>", "left"))
TASKS = [RewriteTask("and its risk?", HISTORY), RewriteTask("why?", HISTORY[:1])]


def folder_of(path, template: bool = True) -> str:
    tok = chat_tokenizer({"image_token": "<img>"}, "<img>")
    if template:
        tok.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
    else:
        tok.chat_template = None
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tok), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=4096, pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    tok.save_pretrained(path)
    return str(path)


def rewriter(name: str, **settings) -> LmRewriter:
    return LmRewriter(name, **{"max_new_tokens": 8, "device": "cpu", **settings})


@pytest.mark.parametrize("template", [True, False])
def test_the_prompt_holds_the_dialogue_and_no_special_token_of_it(tmp_path, template) -> None:
    made = rewriter(folder_of(tmp_path, template))
    assert isinstance(made, LoadingRewriter)
    made.load()
    prompt = made._prompt(TASKS[0])
    assert "Question: what is seen?\nAnswer: a cyst\nQuestion: which side?" in prompt
    assert "Last question: and its risk?\nRewritten question:" in prompt
    assert "</s>" not in prompt
    assert prompt.startswith("<s>[user]Rewrite") == template
    told = made.rewrite(TASKS)
    assert len(told) == 2
    assert told == rewriter(made.name).rewrite(TASKS)


def test_a_long_dialogue_loses_its_first_turns(tmp_path) -> None:
    made = rewriter(folder_of(tmp_path), max_prompt_tokens=2048)
    made.load()
    long = RewriteTask("and its risk?", (("first " * 900, "yes"), ("second?", "no")))
    prompt = made._prompt(long)
    assert "first" not in prompt
    assert "second?" in prompt


def test_a_vision_language_model_rewrites_without_an_image(tmp_path) -> None:
    FOLDERS["gemma3"](tmp_path)
    assert len(rewriter(str(tmp_path)).rewrite(TASKS)) == 2


def test_a_model_that_learnt_it_rewrites(tmp_path) -> None:
    name = folder_of(tmp_path)
    made = rewriter(name, max_new_tokens=24)
    made.load()
    model, tok, _ = made._loaded
    goal = "the risk of a cyst?"
    head = tok(made._prompt(TASKS[0]), add_special_tokens=False)["input_ids"]
    ids = torch.tensor([head + tok(goal, add_special_tokens=False)["input_ids"] + [tok.eos_token_id]])
    labels = ids.clone()
    labels[:, : len(head)] = -100
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
    model.eval()
    assert made.rewrite(TASKS[:1]) == [goal]


def test_settings_and_weights_change_the_fingerprint_and_a_missing_model_is_told(tmp_path) -> None:
    name = folder_of(tmp_path / "a")
    assert rewriter(name).fingerprint() == rewriter(name, batch_size=1).fingerprint()
    assert rewriter(name).fingerprint() != rewriter(name, max_new_tokens=9).fingerprint()
    with pytest.raises(ValueError, match="cannot be loaded"):
        rewriter(str(tmp_path / "none")).load()
    with pytest.raises(ValueError, match="of at least 1, got 0"):
        rewriter(name, max_new_tokens=0)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("What is its risk?", "What is its risk?"),
        ("\n Rewritten question: \"What is it?\"\nBecause ...", "What is it?"),
        ("<think>hm\nit</think>\n**Question:** What is it?", "What is it?"),
        ("<think>for ever", None),
        ("  \n", None),
        ("a <\u200b/s> b?", "a </s> b?"),
    ],
)  # fmt: skip
def test_the_question_is_found_in_what_a_model_writes(text, question) -> None:
    assert question_of(text) == question
