"""Model folders that would run code: pickled weights, renamed weights, code beside the config. For `security_pickles.py`."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch


def hub_folders(folder: Path, planted: Any) -> Iterable[tuple[str, Callable[[], object]]]:
    """Each kind of folder, and how a reader's weights are loaded from it."""
    from medrag_lightning.models.backbones import Pretrained
    from medrag_lightning.models.tiny import TinyBackbone

    small = TinyBackbone(hidden=32, layers=1, heads=2, vision_hidden=16, vision_layers=1, image_side_px=32, vocabulary=300)
    loaded = small.load(["a question and an answer"] * 3)

    def saved(name: str) -> Path:
        place = folder / name
        loaded.model.save_pretrained(place)
        loaded.processor.processor.save_pretrained(place)
        return place

    pickled, renamed, coded = saved("pickled"), saved("renamed"), saved("coded")
    (pickled / "model.safetensors").unlink()
    torch.save({"lm_head.weight": planted}, pickled / "pytorch_model.bin")
    (renamed / "model.safetensors").write_bytes(pickle.dumps(planted))
    flag = str(planted.flag)
    (coded / "evil.py").write_text(f"import os\nos.mkdir({flag!r})\nclass Config: pass\nclass Model: pass\n")
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        if (coded / name).is_file():
            told = json.loads((coded / name).read_text())
            told["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model",
                                "AutoProcessor": "evil.Model", "AutoTokenizer": ["evil.Model", "evil.Model"]}  # fmt: skip
            (coded / name).write_text(json.dumps(told | ({"model_type": "unknown_one"} if name == "config.json" else {})))
    for name, place in (("pickled weights", pickled), ("renamed weights", renamed), ("code beside the config", coded)):
        yield f"reader: {name}", partial(_load, place)
    yield "reader: unpinned remote code", lambda: Pretrained("someone/model", trust_remote_code=True)
    yield "reader: a branch is no pin", lambda: Pretrained("someone/model", trust_remote_code=True, revision="main")


def _load(place: Path) -> object:
    from medrag_lightning.models.backbones import Pretrained

    return Pretrained(str(place)).load(())
