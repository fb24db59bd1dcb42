"""A reader of known make: in each layer some tokens pass their words on to others, and only where a layer is planted.

Its stream holds counts of words. Evidence passes words to the question, the question to the last token, in the planted layers
of these directions; the last token's words are the answer's logits. Blocked attention passes nothing. No weights are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import AnswerRows, AttentionMass, EncodedPrompts, Prompt, Role, TokenRoles

ROLES = list(Role)
EVIDENCE = {ROLES.index(Role.EVIDENCE_TEXT), ROLES.index(Role.EVIDENCE_IMAGE)}
END, CUE = 1, 2


class Words:
    """A processor whose tokens are words; images have no tokens."""

    def __init__(self) -> None:
        self.words: list[str] = ["<pad>", "<end>", "<cue>"]

    def number(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)

    def encode_prompts(self, prompts: Sequence[Prompt], share_images: bool = False, roles: bool = False) -> EncodedPrompts:
        rows = [self._tokens(prompt) for prompt in prompts]
        width = max(map(len, rows))
        pad = [[(0, -1, -1)] * (width - len(row)) + row for row in rows]
        all_PT3 = torch.tensor(pad)
        strength = torch.tensor([[*prompt.strengths, 0.0][:1] for prompt in prompts])
        told = TokenRoles(all_PT3[..., 1].to(torch.int8), all_PT3[..., 2].to(torch.int16), strength) if roles else None
        return EncodedPrompts(all_PT3[..., 0], (all_PT3[..., 0] > 0).long(), roles=told)

    def _tokens(self, prompt: Prompt) -> list[tuple[int, int, int]]:
        made = []
        for segment in prompt.segments:
            number = -1 if segment.candidate is None else segment.candidate
            made += [(self.number(word), ROLES.index(segment.role), number) for word in segment.text.split()]
        return [*made, (CUE, -1, -1)]

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        return [[self.number(answer), END] for answer in answers]

    def decode(self, ids: Sequence[int]) -> str:
        return self.words[ids[0]]

    def count_tokens(self, prompt: Prompt) -> int:
        return len(self._tokens(prompt))

    def prompt_length(self, prompt: Prompt) -> int:
        return len(self._tokens(prompt))


class PlantedReader(nn.Module):
    """`to_question` and `to_last` are the planted layers; `sharpness` 0 makes every answer equally likely."""

    def __init__(self, layers: int, to_question: int, to_last: int, sharpness: float = 6.0, seed: int = 0) -> None:
        super().__init__()
        self.layer_count, self.to_question, self.to_last, self.sharpness = layers, to_question, to_last, sharpness
        self.seed, self.processor = seed, Words()
        self.register_buffer("unused", torch.zeros(1))
        self.calls = 0

    def prepare(self, texts: Iterable[str]) -> None:
        for text in texts:
            for word in text.split():
                self.processor.number(word)

    def logits(self, prompts: EncodedPrompts) -> Tensor:
        """(P, V) at the last token of every prompt."""
        stream = nn.functional.one_hot(prompts.ids_PT, 64).double()
        roles = prompts.roles
        if roles is None:
            return stream[:, -1] * 0.0
        evidence = sum(roles.role_PT == role for role in EVIDENCE).bool()
        question = roles.role_PT == ROLES.index(Role.QUESTION)
        steering = prompts.steering
        for layer in range(self.layer_count):
            blocked = steering.direction if steering is not None and layer in steering.layers else ""
            new = stream.clone()
            if layer == self.to_question and blocked != "evidence_to_question":
                new = new + question[..., None] * _mean(stream, evidence)[:, None]
            if layer == self.to_last and blocked != "question_to_last":
                new[:, -1] += _mean(stream, question)
            stream = new
        return self.sharpness * stream[:, -1]

    def token_logp(self, prompts: EncodedPrompts, rows: AnswerRows) -> Tensor:
        self.calls += 1
        logp_PV = self.logits(prompts).log_softmax(dim=-1)
        out = torch.zeros(rows.ids_RL.shape, dtype=torch.float64)
        out[:, 0] = logp_PV[rows.prompt_of_row_R, rows.ids_RL[:, 0]]
        return out.float()

    def generate(self, prompts: EncodedPrompts, max_new_tokens: int) -> list[list[int]]:
        answers = [self.processor.number(word) for word in ("red", "green", "blue", "grey")]
        best = self.logits(prompts)[:, answers].argmax(dim=-1)
        return [[answers[int(i)]] for i in best]

    def attention_mass(self, prompts: EncodedPrompts) -> AttentionMass:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"planted": [self.layer_count, self.to_question, self.to_last, self.seed]}

    def restore(self, description: dict[str, Any]) -> None:
        pass

    def fingerprint(self) -> str:
        return fingerprint(self.describe())


def _mean(stream: Tensor, mask: Tensor) -> Tensor:
    weight = mask.double() / mask.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.einsum("pt,ptv->pv", weight, stream)
