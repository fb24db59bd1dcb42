"""Folders of tiny text models with random weights, as `save_pretrained` writes them."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

CONTEXT = 24


def save(folder, kind=BertModel, seed=0, labels=1, hidden=16):
    """Writes a model with random weights and its tokenizer; gives the folder's name and the model."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cough", "and", "fever", "a", "broken", "rib", "query", ":", "?"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=CONTEXT, **names).save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": hidden, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=16, max_position_embeddings=CONTEXT, num_labels=labels, initializer_range=0.5, **shape)
    model = kind(config).eval()
    model.save_pretrained(folder)
    return str(folder), model
