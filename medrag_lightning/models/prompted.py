"""A vision-language model that is only prompted, never trained: what experts and teachers generate their texts with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medrag_lightning.artifacts import fingerprint, sha256_file
from medrag_lightning.batches import Prompt
from medrag_lightning.models import scoring
from medrag_lightning.models.backbones import Backbone, Pretrained
from medrag_lightning.models.families import family_of
from medrag_lightning.models.tiny import Loaded

PROBE_BYTES = 1 << 16


class PromptedModel:
    """Replies to prompts by generating text. Its weights are loaded when it is first asked.

    Args:
        backbone: the model, such as `models.backbones.Pretrained`.
        max_new_tokens: longest reply.
        seed: of draws.
        device: where the weights go; ``auto``: the GPU if there is one.
    """

    def __init__(self, backbone: Backbone, max_new_tokens: int, seed: int, device: str) -> None:
        self.backbone, self.max_new_tokens, self.seed, self.device_name = backbone, max_new_tokens, seed, device
        self._loaded: Loaded | None = None

    def say(self, prompts: Sequence[Prompt], temperature: float, keys: Sequence[str], texts: Sequence[str]) -> list[str]:
        """One text a prompt; the most likely words at temperature 0, else drawn.

        Args:
            prompts: of one batch.
            temperature: of all of them.
            keys: draws depend on the seed and on these alone.
            texts: what prompts say of themselves, for a tiny model from scratch that makes its tokenizer of it.
        """
        return [text for text, _ in self.say_and_tell(prompts, temperature, keys, texts)]

    @torch.no_grad()
    def say_and_tell(
        self, prompts: Sequence[Prompt], temperature: float, keys: Sequence[str], texts: Sequence[str]
    ) -> list[tuple[str, bool]]:
        """As `say`, each with whether the model came to its end; else it was cut off at `max_new_tokens`."""
        if not prompts:
            return []
        model, processor = self.load(texts)
        encoded = processor.encode_prompts(prompts).to(model.device)
        drawn: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        ends = sorted({processor.end_id, processor.tokenizer.eos_token_id} - {None})
        cuda = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(int(fingerprint([self.seed, *keys])[:15], 16))
            out_PT = model.generate(
                **scoring.model_inputs(model, family_of(model.config.model_type), encoded),
                max_new_tokens=self.max_new_tokens,
                num_beams=1,
                eos_token_id=ends,
                pad_token_id=processor.pad_id,
                **drawn,
            )
        rows = out_PT[:, encoded.ids_PT.shape[1] :].tolist()
        return [(processor.decode(row), not set(ends).isdisjoint(row)) for row in rows]

    def load(self, texts: Sequence[str]) -> Any:
        """Model and processor, loaded once."""
        if self._loaded is None:
            loaded = self.backbone.load(texts)
            device = self.device_name
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
            model = loaded.model.eval().requires_grad_(False)
            if getattr(self.backbone, "quantization", None) is None:
                model = model.to(device)
            self._loaded = Loaded(model, loaded.processor)
        return self._loaded

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are there."""
        return self._loaded is not None


def model_identity(backbone: Backbone) -> Any:
    """What tells one model from another without loading it, as plain JSON.

    Of a folder: its small files in full, of large ones size and both ends. Of a hub name: the commit in the local cache.
    """
    if not isinstance(backbone, Pretrained):
        return [type(backbone).__name__, getattr(backbone, "settings", None)]
    told = [backbone.revision, backbone.dtype, backbone.quantization, backbone.max_image_side_px]
    folder = Path(backbone.name)
    if folder.is_dir():
        return ["folder", told, [[path.name, _file(path)] for path in sorted(folder.iterdir()) if path.is_file()]]
    return ["hub", backbone.name, told, _commit(backbone)]


def _file(path: Path) -> Any:
    size = path.stat().st_size
    if size <= 32 * PROBE_BYTES:
        return sha256_file(path)
    with path.open("rb") as stream:
        head = stream.read(PROBE_BYTES)
        stream.seek(size - PROBE_BYTES)
        return [size, fingerprint(head, stream.read())]


def _commit(backbone: Pretrained) -> str | None:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            backbone.name, revision=backbone.revision, trust_remote_code=backbone.trust_remote_code
        )
    except OSError as error:
        raise ValueError(
            f"model {backbone.name!r} cannot be loaded: {str(error).splitlines()[0]}. Give a folder, or a name that is in the "
            "local cache, or unset HF_HUB_OFFLINE to download it"
        ) from error
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit
