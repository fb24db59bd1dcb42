"""Encoders of a bundle: written as safetensors and JSON, made again by kind, never by the name of a class in a file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medrag_lightning.artifacts import write_json
from medrag_lightning.handoff.bundle.layout import RETRIEVER
from medrag_lightning.handoff.bundle.merging import merge_into_base
from medrag_lightning.handoff.bundle.places import forget_places
from medrag_lightning.handoff.bundle.query_heads import BundledHeads, make_bundled_head
from medrag_lightning.interfaces import Retriever
from medrag_lightning.models.dual_encoder import HfDualEncoder
from medrag_lightning.models.headed_encoder import HeadedEncoder
from medrag_lightning.models.hf_towers import HfTowers
from medrag_lightning.models.sentence_encoder import SentenceEncoder
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.models.trained_encoder import TrainedEncoder

Spec = dict[str, Any]
WEIGHTS = "model.safetensors"
_SENTENCES = (
    *("pooling", "largest_norm", "max_tokens", "max_query_tokens"),
    *("query_prefix", "document_prefix", "dtype", "batch_size"),
)


def save_encoder(encoder: Any, bundle: Path, name: str) -> Spec:
    """Writes an encoder, with what was trained merged in, to ``retriever/<name>``; gives its entry in ``system.json``."""
    if isinstance(encoder, HeadedEncoder):
        return _save_headed(encoder, bundle, name)
    if isinstance(encoder, TrainedEncoder):
        return save_encoder(encoder._trained(), bundle, name)
    folder = f"{RETRIEVER}/{name}"
    place = bundle / folder
    place.mkdir(parents=True)
    if isinstance(encoder, TinyDualEncoder):
        spec: Spec = {"kind": "tiny_dual", "dim": encoder.dim, "seed": encoder.seed}
    elif isinstance(encoder, TinyTowers):
        spec = {"kind": "tiny_towers", "folder": folder, "dim": encoder.dim, "hidden": encoder.hidden}
        save_file(plain_state(encoder), place / WEIGHTS)
    elif isinstance(encoder, SentenceEncoder):
        spec = _save_sentences(encoder, bundle, folder)
    else:
        assert isinstance(encoder, HfTowers), "checked before"
        spec = {"kind": "hf_towers", "folder": folder, **_save_towers(encoder, place)}
    write_json(place / "settings.json", spec)
    return spec


def check_encoder(encoder: Any) -> None:
    """ValueError for a kind of encoder that bundles do not know."""
    if isinstance(encoder, HeadedEncoder | TrainedEncoder):
        check_encoder(encoder.encoder)
    elif not isinstance(encoder, TinyDualEncoder | TinyTowers | HfTowers | SentenceEncoder):
        raise ValueError(
            f"a bundle cannot hold an encoder of class {type(encoder).__name__}; it knows TinyDualEncoder, TinyTowers, "
            "TinyClip, HfDualEncoder, SentenceEncoder, and TrainedEncoder, DistilledEncoder and HeadedEncoder around them"
        )


def load_encoder(spec: Mapping[str, Any], bundle: Path, device: str) -> Retriever:
    """The encoder of an entry in ``system.json``, frozen, on a device."""
    return _LOADERS[spec["kind"]](spec, bundle, device)


def plain_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """All weights and buffers, each with memory of its own, as safetensors wants them."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}


def save_text_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a text model as safetensors, and its tokenizer, without the place that they came from."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    forget_places(folder)


def _save_sentences(encoder: SentenceEncoder, bundle: Path, folder: str) -> Spec:
    """Both encoders, or the one that stands for both, in folders of their own."""
    save_text_model(*encoder._model(encoder.query, encoder.query_revision), bundle / folder / "query")
    if encoder.document is not None:
        save_text_model(*encoder._text_model(), bundle / folder / "document")
    places = {"query": f"{folder}/query", "document": None if encoder.document is None else f"{folder}/document"}
    return {"kind": "sentences", **places, **{name: getattr(encoder, name) for name in _SENTENCES}}


def _save_towers(encoder: HfTowers, place: Path) -> Spec:
    loaded, processor = encoder._loaded()
    model = merge_into_base(copy.deepcopy(loaded).cpu())
    model.save_pretrained(place)  # type: ignore[operator]
    processor.save_pretrained(place)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {"dtype": dtype, "image_size_px": encoder.image_size_px, "max_text_tokens": encoder.max_text_tokens}


def _save_headed(encoder: HeadedEncoder, bundle: Path, name: str) -> Spec:
    frozen = encoder._loaded()
    spec: Spec = {"kind": "headed", "encoder": save_encoder(frozen, bundle, name), "heads": {}}
    for side in sorted(encoder.heads):
        heads: Any = encoder.heads[side]
        head = merge_into_base(copy.deepcopy(heads.towers[side]).cpu())
        file = f"{RETRIEVER}/{name}/{side}_head.safetensors"
        save_file(plain_state(head), bundle / file)
        kind = "projection" if heads.kind == "projection" else "tower"  # updates of kind lora are merged
        spec["heads"][side] = {"kind": kind, "mix": heads._mix_of[side], "file": file}
    write_json(bundle / RETRIEVER / name / "settings.json", spec)
    return spec


def _tiny_dual(spec: Mapping[str, Any], bundle: Path, device: str) -> Retriever:
    return TinyDualEncoder(spec["dim"], spec["seed"])


def _tiny_towers(spec: Mapping[str, Any], bundle: Path, device: str) -> Retriever:
    made = TinyTowers(spec["dim"], spec["hidden"], dropout=0.0)
    made.load_state_dict(load_file(bundle / spec["folder"] / WEIGHTS))
    return made.requires_grad_(False).eval().to(device)


def _hf_towers(spec: Mapping[str, Any], bundle: Path, device: str) -> Retriever:
    sizes = {"image_size_px": spec["image_size_px"], "max_text_tokens": spec["max_text_tokens"]}
    return HfDualEncoder(str(bundle / spec["folder"]), dtype=spec["dtype"], device=device, **sizes)


def _sentences(spec: Mapping[str, Any], bundle: Path, device: str) -> Retriever:
    document = None if spec["document"] is None else str(bundle / spec["document"])
    told = {name: spec[name] for name in _SENTENCES}
    return SentenceEncoder(str(bundle / spec["query"]), document, device=device, **told)


def _headed(spec: Mapping[str, Any], bundle: Path, device: str) -> Retriever:
    frozen: Any = load_encoder(spec["encoder"], bundle, device)
    heads, mixes = {}, {}
    for side, told in spec["heads"].items():
        head = make_bundled_head(frozen, told["kind"])
        head.load_state_dict(load_file(bundle / told["file"]))
        heads[side], mixes[side] = head, told["mix"]
    return BundledHeads(frozen, heads, mixes).to(device)


_LOADERS: dict[str, Callable[[Mapping[str, Any], Path, str], Retriever]] = {
    "tiny_dual": _tiny_dual,
    "tiny_towers": _tiny_towers,
    "hf_towers": _hf_towers,
    "headed": _headed,
    "sentences": _sentences,
}
