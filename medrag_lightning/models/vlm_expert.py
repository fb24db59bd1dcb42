"""Any large vision-language model as the expert that writes searches and judges them (HeteroRAG took Lingshu-32B)."""

from __future__ import annotations

from collections.abc import Sequence

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import ExploreTask, JudgeTask
from medrag_lightning.models import expert_prompts
from medrag_lightning.models.backbones import Backbone
from medrag_lightning.models.prompted import PromptedModel, model_identity


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
        self.temperature, self.retry_temperature, self.seed = temperature, retry_temperature, seed
        self.model = PromptedModel(backbone, max_new_tokens, seed, device)

    def explore(self, tasks: Sequence[ExploreTask]) -> list[str]:
        """One text a task; tasks of one call are all asked for the first time, or all again."""
        temperature = self.retry_temperature if any(task.attempt for task in tasks) else self.temperature
        keys = [fingerprint([task.query.id, task.attempt]) for task in tasks]
        texts = expert_prompts.constant_texts(tasks[0].corpora if tasks else {})
        return self.model.say([expert_prompts.explore_prompt(task) for task in tasks], temperature, keys, texts)

    def judge(self, tasks: Sequence[JudgeTask]) -> list[str]:
        """One text a task."""
        keys = [fingerprint([task.query.id, task.corpus, task.words]) for task in tasks]
        prompts = [expert_prompts.judge_prompt(task, self.max_document_chars) for task in tasks]
        return self.model.say(prompts, self.temperature, keys, expert_prompts.constant_texts({}))

    def fingerprint(self) -> str:
        """sha256 over the model's name, commit and files, the prompts and the settings; nothing is loaded for it."""
        settings = [self.max_new_tokens, self.temperature, self.retry_temperature, self.max_document_chars, self.seed]
        prompts = [expert_prompts.EXPLORE, expert_prompts.AGAIN, expert_prompts.JUDGE]
        return fingerprint("vision-language expert", model_identity(self.backbone), settings, prompts)
