"""Any large vision-language model as the teacher that writes traces (MIRA took Qwen2.5-VL-72B)."""

from __future__ import annotations

from collections.abc import Sequence

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import TraceTask
from medrag_lightning.models import teacher_prompts
from medrag_lightning.models.backbones import Backbone
from medrag_lightning.models.prompted import PromptedModel, model_identity


class VlmTeacher:
    """Writes the steps of traces by generating text; `interfaces.Teacher`. Its weights are loaded when it is first asked.

    Replies are drawn at `temperature`; a step that is asked again, at `retry_temperature`, since the same words would be of no
    use. Draws depend on the seed and on the batch. A reply that is blank, or was cut off at `max_new_tokens`, is a
    call that failed: half a reply is nothing to learn from.

    Args:
        backbone: the model, such as `models.backbones.Pretrained`.
        max_new_tokens: longest reply; copying five pieces of evidence takes some 1,000.
        temperature: of first replies; 0 for the most likely words. MIRA: 0.2.
        retry_temperature: of a step that is asked again; above 0.
        max_document_chars: longest text of a piece of evidence; the rest is cut off. At most what a reader's prompt shows
            (`max_evidence_chars` of its template), or the reader learns to quote what it is not shown.
        seed: of draws.
        device: where the weights go; ``auto``: the GPU if there is one.
    """

    def __init__(
        self,
        backbone: Backbone,
        max_new_tokens: int = 1024,
        temperature: float = 0.2,
        retry_temperature: float = 0.7,
        max_document_chars: int = 1000,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if max_new_tokens < 1 or max_document_chars < 16:
            told = f"got {max_new_tokens} and {max_document_chars}"
            raise ValueError(f"VlmTeacher needs max_new_tokens of at least 1 and max_document_chars of at least 16, {told}")
        if temperature < 0 or retry_temperature <= 0:
            told = f"got {temperature} and {retry_temperature}"
            raise ValueError(f"VlmTeacher needs temperature of at least 0 and retry_temperature above 0, {told}")
        self.backbone, self.max_document_chars = backbone, max_document_chars
        self.temperature, self.retry_temperature = temperature, retry_temperature
        self.model = PromptedModel(backbone, max_new_tokens, seed, device)

    def write(self, tasks: Sequence[TraceTask]) -> list[str | None]:
        """One text a task, None for a blank or unfinished one; tasks of one call are all first attempts, or all later ones."""
        temperature = self.retry_temperature if any(task.attempt for task in tasks) else self.temperature
        prompts = [teacher_prompts.teacher_prompt(task, self.max_document_chars) for task in tasks]
        keys = [fingerprint([task.step, task.query.id, task.attempt]) for task in tasks]
        said = self.model.say_and_tell(prompts, temperature, keys, teacher_prompts.constant_texts())
        return [text if ended and text.strip() else None for text, ended in said]

    def fingerprint(self) -> str:
        """sha256 over the model's name, commit and files, the prompts and the settings; nothing is loaded for it."""
        settings = [
            self.model.max_new_tokens,
            self.temperature,
            self.retry_temperature,
            self.max_document_chars,
            self.model.seed,
        ]
        prompts = list(teacher_prompts.constant_texts())
        return fingerprint("vision-language teacher", model_identity(self.backbone), settings, prompts)
