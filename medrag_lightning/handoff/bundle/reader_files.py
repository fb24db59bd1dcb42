"""The reader of a bundle: a plain Hugging Face folder, an adapter for one, or both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medrag_lightning.artifacts import read_json, write_json
from medrag_lightning.handoff.bundle.encoders import Spec
from medrag_lightning.handoff.bundle.layout import ADAPTER, BASE, READER, STEERING
from medrag_lightning.handoff.bundle.merging import merge_reader
from medrag_lightning.handoff.bundle.places import forget_places
from medrag_lightning.models.backbones import Pretrained
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import ADAPTER_NAME

How = Literal["merged", "adapter", "both"]


def check_reader(reader: Any, how: How) -> None:
    """ValueError where this reader cannot be handed on so."""
    if not isinstance(reader, HfReader):
        raise ValueError(f"a bundle holds readers of class HfReader, not {type(reader).__name__}")
    backbone = innermost(reader)
    if getattr(backbone, "trust_remote_code", False):
        raise ValueError("the reader runs code of its hub repository (trust_remote_code), which a bundle never holds")
    if getattr(backbone, "quantization", None) is not None and how != "adapter":
        raise ValueError("a base in 4 bits cannot take an adapter up without losing much of it; give --reader adapter")
    if how != "merged" and reader.adapter is None:
        raise ValueError(f"--reader {how}: this run trained no adapter; give --reader merged")
    if how == "adapter" and any("kept_lora" in module.__dict__ for module in reader.core.modules()):
        raise ValueError(
            "--reader adapter: the base is itself an adapted reader in half precision, which no plain folder holds as it is; "
            "give --reader merged --dtype float32"
        )


def save_reader(reader: HfReader, how: How, bundle: Path, within: str = "") -> Spec:
    """Writes the reader and gives its entry in ``system.json``; afterwards it is merged, or (``adapter``) without its adapter.

    To be merged, it must be float32. `within`: a folder of the bundle and ``/``, for a reader that is not the only one.
    """
    (bundle / within).mkdir(parents=True, exist_ok=True)
    spec: Spec = {"kind": "adapter" if how == "adapter" else "merged", "max_image_side_px": reader.processor.max_image_side_px}
    if how != "merged":
        _save_adapter(reader, bundle / within / ADAPTER)
    if how == "adapter":
        spec |= {"adapter": within + ADAPTER, "base": _save_base(reader, bundle, within + BASE)}
    else:
        merge_reader(reader)
        spec |= {"folder": within + READER}
    if reader.steering_factor_L is not None:
        save_file({"steering_factor_L": reader.steering_factor_L.detach().cpu().clone()}, bundle / within / STEERING)
    return spec | {"learned_steering": within + STEERING if reader.steering_factor_L is not None else None}


def save_weights(reader: HfReader, folder: Path) -> None:
    """Writes the model as it is now, and its processor, as `from_pretrained` reads them; no path of this machine stays."""
    reader.core.save_pretrained(folder, safe_serialization=True)
    reader.processor.processor.save_pretrained(folder)
    forget_places(folder)


def load_reader(spec: Mapping[str, Any], bundle: Path, device: str) -> HfReader:
    """The reader of an entry in ``system.json``, frozen, on a device; `peft` is imported for an adapter alone.

    Raises:
        ValueError: the base of an adapter is not the model that it was trained on.
    """
    dtype, side = spec["dtype"], spec["max_image_side_px"]
    if spec["kind"] == "merged":
        return _with_steering(_plain(Pretrained(str(bundle / spec["folder"]), dtype, None, side)), spec, bundle, device)
    base = spec["base"]
    if "folder" in base:
        reader = _plain(Pretrained(str(bundle / base["folder"]), dtype, None, side))
    else:
        reader = _plain(
            Pretrained(base["name"], dtype, base["quantization"], side, revision=base["commit"] or base["revision"])
        )
        found = getattr(reader.core.config, "_commit_hash", None)
        if base["commit"] is not None and found not in (None, base["commit"]):
            raise ValueError(f"the adapter needs {base['name']} at commit {base['commit']}, and commit {found} was loaded")
    import peft

    if not (bundle / spec["adapter"] / "adapter_model.safetensors").is_file():
        raise ValueError(f"{bundle / spec['adapter']} lacks adapter_model.safetensors; export the bundle again")
    adapted: nn.Module = peft.PeftModel.from_pretrained(
        reader.core, str(bundle / spec["adapter"]), adapter_name=ADAPTER_NAME, torch_device=device
    )
    reader.model = adapted
    return _with_steering(reader, spec, bundle, device)


def innermost(reader: HfReader) -> Any:
    """The backbone below all stages that trained on it."""
    found: Any = reader.backbone
    while hasattr(found, "backbone"):
        found = found.backbone
    return found


def _save_adapter(reader: HfReader, folder: Path) -> None:
    adapted: Any = reader.model
    adapted.save_pretrained(folder, safe_serialization=True, selected_adapters=[ADAPTER_NAME])
    for path in sorted((folder / ADAPTER_NAME).iterdir()):  # peft puts an adapter with a name one folder deeper
        path.rename(folder / path.name)
    (folder / ADAPTER_NAME).rmdir()
    (folder / "README.md").unlink(missing_ok=True)  # a template for model hubs; the bundle's own card says more
    path = folder / "adapter_config.json"
    base = innermost(reader)
    published = isinstance(base, Pretrained) and not Path(base.name).exists() and base is reader.backbone
    write_json(path, read_json(path) | {"base_model_name_or_path": base.name if published else f"../{BASE}"})


def _save_base(reader: HfReader, bundle: Path, folder: str) -> Spec:
    """Where the base lies: in the bundle, unless it is a published model at a known commit."""
    base = reader.backbone
    adapted: Any = reader.model
    reader.model, reader.adapter, reader.freeze = adapted.unload(), None, "all_but_adapter"
    commit = getattr(reader.core.config, "_commit_hash", None)
    if isinstance(base, Pretrained) and not Path(base.name).exists():
        return {"name": base.name, "revision": base.revision, "commit": commit, "quantization": base.quantization}
    save_weights(reader, bundle / folder)
    return {"folder": folder}


def _plain(backbone: Pretrained) -> HfReader:
    reader = HfReader(backbone, freeze="all_but_adapter")
    reader.prepare(())
    return reader


def _with_steering(reader: HfReader, spec: Mapping[str, Any], bundle: Path, device: str) -> HfReader:
    if spec["learned_steering"] is not None:
        factors = load_file(bundle / spec["learned_steering"])
        reader.steering_factor_L = nn.Parameter(factors["steering_factor_L"])
    reader.requires_grad_(False).to(torch.device(device)).eval()
    return reader
