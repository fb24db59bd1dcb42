"""Any large vision-language model as the expert that writes searches and judges them (HeteroRAG took Lingshu-32B)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medrag_lightning.artifacts import fingerprint, sha256_file
from medrag_lightning.batches import Prompt
from medrag_lightning.interfaces import ExploreTask, JudgeTask
from medrag_lightning.models import expert_prompts, scoring
from medrag_lightning.models.backbones import Backbone, Pretrained
from medrag_lightning.models.families import family_of
from medrag_lightning.models.tiny import Loaded

PROBE_BYTES = 1 << 16


class VlmExpert:
    """Writes searches and judges them by generating text; `interfaces.Expert`. Its weights are loaded when it is first asked.

    The first reply to a question and every verdict are the most likely words (temperature 0), unless set otherwise; a question
    that is asked again is drawn, since the same words would be of no use. Draws depend on the seed and on the batch.

    Args:
        backbone: the model, such as `models.backbones.Pretrained`.
        max_new_tokens: longest reply; six queries for five corpora take some 400.
        temperature: of first replies and verdicts; 0 for the most likely words.
        retry_temperature: of a question that is asked again; above 0.
        max_document_chars: longest text of a document that is judged; the rest is cut off.
        seed: of draws.
        device: where the weights go; ``auto``: the GPU if there is one.
    """

    def __init__(
        self,
        backbone: Backbone,
        max_new_tokens: int = 768,
        temperature: float = 0.0,
        retry_temperature: float = 0.7,
        max_document_chars: int = 2000,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if max_new_tokens < 1 or max_document_chars < 16:
            told = f"got {max_new_tokens} and {max_document_chars}"
            raise ValueError(f"VlmExpert needs max_new_tokens of at least 1 and max_document_chars of at least 16, {told}")
        if temperature < 0 or retry_temperature <= 0:
            told = f"got {temperature} and {retry_temperature}"
            raise ValueError(f"VlmExpert needs temperature of at least 0 and retry_temperature above 0, {told}")
        self.backbone, self.max_new_tokens, self.max_document_chars = backbone, max_new_tokens, max_document_chars
        self.temperature, self.retry_temperature, self.seed, self.device_name = temperature, retry_temperature, seed, device
        self._loaded: Loaded | None = None

    def explore(self, tasks: Sequence[ExploreTask]) -> list[str]:
        """One text a task; tasks of one call are all asked for the first time, or all again."""
        hot = any(task.attempt for task in tasks)
        keys = [fingerprint([task.query.id, task.attempt]) for task in tasks]
        corpora = tasks[0].corpora if tasks else {}
        return self._say(
            [expert_prompts.explore_prompt(task) for task in tasks], hot, keys, expert_prompts.constant_texts(corpora)
        )

    def judge(self, tasks: Sequence[JudgeTask]) -> list[str]:
        """One text a task."""
        keys = [fingerprint([task.query.id, task.corpus, task.words]) for task in tasks]
        prompts = [expert_prompts.judge_prompt(task, self.max_document_chars) for task in tasks]
        return self._say(prompts, False, keys, expert_prompts.constant_texts({}))

    def fingerprint(self) -> str:
        """sha256 over the model's name, commit and files, the prompts and the settings; nothing is loaded for it."""
        settings = [self.max_new_tokens, self.temperature, self.retry_temperature, self.max_document_chars, self.seed]
        prompts = [expert_prompts.EXPLORE, expert_prompts.AGAIN, expert_prompts.JUDGE]
        return fingerprint("vision-language expert", model_identity(self.backbone), settings, prompts)

    @torch.no_grad()
    def _say(self, prompts: Sequence[Prompt], hot: bool, keys: Sequence[str], texts: Sequence[str]) -> list[str]:
        if not prompts:
            return []
        model, processor = self._model(texts)
        encoded = processor.encode_prompts(prompts).to(model.device)
        temperature = self.retry_temperature if hot else self.temperature
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
        return [processor.decode(row) for row in out_PT[:, encoded.ids_PT.shape[1] :].tolist()]

    def _model(self, texts: Sequence[str]) -> Any:
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
            f"expert {backbone.name!r} cannot be loaded: {str(error).splitlines()[0]}. Give a folder, or a name that is in the "
            "local cache, or unset HF_HUB_OFFLINE to download it"
        ) from error
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit
