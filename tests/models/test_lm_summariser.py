"""A language model's summaries: what it is asked, that companions change nothing, and what is refused."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medrag_lightning.interfaces import Summariser, SummaryTask
from medrag_lightning.models.lm_summariser import PROMPT, LmSummariser, _whole

TASKS = [SummaryTask("Gout", ("Causes",), f"Uric acid {n} in a joint. " * (n + 1)) for n in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A causal model with random weights over bytes of text."""
    where = tmp_path_factory.mktemp("causal")
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {letter: at for at, letter in enumerate(["<pad>", "<s>", "</s>", "<unk>", *letters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=2048, **names).save_pretrained(where)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(vocabulary), max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape
    )
    LlamaForCausalLM(config).save_pretrained(where)
    return str(where)


def test_it_writes_one_text_a_section_the_same_alone_and_in_company(folder):
    made = LmSummariser(folder, max_new_tokens=24, dtype="float32", device="cpu")
    assert isinstance(made, Summariser)
    together = made.summarise(TASKS)
    assert len(together) == 3
    assert together == [made.summarise([task])[0] for task in TASKS]
    assert made.summarise([]) == []
    assert made.fingerprint() == LmSummariser(folder, max_new_tokens=24, dtype="float32", device="cpu").fingerprint()
    assert made.fingerprint() != LmSummariser(folder, max_new_tokens=25, dtype="float32", device="cpu").fingerprint()


def test_what_is_asked_and_what_is_refused(folder, tmp_path):
    made = LmSummariser(folder, sentences=2, max_chars=30, dtype="float32", device="cpu")
    _, tokenizer = made._model()
    asked = made._asked(TASKS[2], tokenizer)
    assert asked.endswith("Section: Uric acid 2 in a joint....\n\nSummary:")
    assert "at most 2 plain sentences" in asked
    assert "Headings: Causes" in asked
    tokenizer.chat_template = "{% for m in messages %}<user>{{ m.content }}</user>{% endfor %}<model>"
    assert made._asked(TASKS[0], tokenizer).endswith("Section: Uric acid 0 in a joint.</user><model>")
    with pytest.raises(ValueError, match="lower max_chars"):
        LmSummariser(folder, max_new_tokens=2000, dtype="float32", device="cpu").summarise(TASKS)
    with pytest.raises(ValueError, match="sentences must be at least 1"):
        LmSummariser(folder, sentences=0)
    with pytest.raises(ValueError, match="cannot be loaded"):
        LmSummariser(str(tmp_path / "nothing")).summarise(TASKS)
    assert "{text}" in PROMPT


def test_a_summary_that_was_cut_ends_with_a_whole_sentence():
    assert _whole("One is whole. The second is c", cut=True) == "One is whole."
    assert _whole("One  is\nwhole. No mark", cut=False) == "One is whole. No mark"
    assert _whole("nothing whole", cut=True) == ""
