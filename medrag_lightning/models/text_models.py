"""Loads text models of the Hugging Face hub: safetensors only, no code of the hub, with an error that says what helps."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError  # the name of torch's refusal; nothing is unpickled
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.models.embedding import weights_sha256


def load_text_model(auto_class: str, name: str, revision: str | None, dtype: str, device: str) -> tuple[nn.Module, Any]:
    """A frozen model in evaluation mode, and its tokenizer.

    Args:
        auto_class: class of transformers that loads it, such as ``AutoModel``.
        name: hub name or folder.
        revision: branch, tag or commit on the hub.
        dtype: of weights and computation.
        device: where the weights go; ``auto``: the GPU if there is one.
    """
    import transformers

    if revision is not None and Path(name).is_dir():
        raise ValueError(f"revision={revision!r} would be ignored: {name!r} is a folder; leave it out")
    chosen: dict[str, Any] = {"trust_remote_code": False} | ({} if revision is None else {"revision": revision})
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **chosen)
        loader = getattr(transformers, auto_class)
        model = loader.from_pretrained(name, dtype=getattr(torch, dtype), use_safetensors=True, **chosen)
    except (SafetensorError, UnpicklingError) as error:
        told = f"its weights are damaged or no plain tensors ({type(error).__name__}); nothing was run"
        raise ValueError(f"text model {name!r}: {told}") from error
    except (OSError, ValueError) as error:
        raise ValueError(
            f"text model {name!r} cannot be loaded: {str(error).splitlines()[0]}. Give a folder with config.json, safetensors "
            "weights and the tokenizer's files, or a hub name that is in the cache or can be downloaded"
        ) from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().requires_grad_(False).to(device), tokenizer


def text_limit(model: Any, tokenizer: Any, wanted: int | None, name: str) -> int:
    """Tokens at which texts are cut; ValueError where more are wanted than the model can read."""
    positions = getattr(model.config, "max_position_embeddings", None)
    padding = getattr(model.config, "pad_token_id", None)
    if positions and "roberta" in model.config.model_type:  # its positions begin after the padding token's
        positions -= (padding or 0) + 1
    context = min(int(positions or wanted or 512), int(tokenizer.model_max_length))
    if wanted is not None and wanted > context:
        raise ValueError(f"max_tokens={wanted} exceeds the context of {name!r}, {context} tokens")
    return context if wanted is None else wanted


def shown_name(name: str) -> str:
    """A hub name as it is; of a folder, its last part."""
    return Path(name).name if Path(name).is_dir() else name


def model_sha256(model: nn.Module, tokenizer: Any) -> dict[str, str]:
    """Hashes of the weights, and of how texts become tokens."""
    words = json.loads(tokenizer.backend_tokenizer.to_str())
    for changing in ("truncation", "padding"):  # state of the last call, not a setting
        words.pop(changing, None)
    return {"weights": weights_sha256(model), "tokenizer": fingerprint(words)}
