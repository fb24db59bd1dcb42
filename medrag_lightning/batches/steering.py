"""How attention is to be steered, and which token of a prompt is what: settings and tensors, no mechanism."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SteeringPolicy = Literal["paper", "centred", "mass_preserving", "document_prior", "learned", "pai", "pasta", "knockout"]
"""`paper`: MR-RAG's IFA, logit + lambda_k |logit| from question rows to the tokens of document k. `centred`: lambda minus its
mean over the documents. `mass_preserving`: as `paper`, redistributed within the documents' mass; image and question keep
theirs. `document_prior`: logit + lambda_k, the same for all tokens of a document, redistributed likewise: attention on
document k is multiplied with e^(gain lambda_k), as by a retriever's prior (ours). `learned`: `paper` times a trained factor a
layer. `pai`: logit + gain |logit| on the query image's tokens, from the last row (PAI, ECCV 2024). `pasta`: log(gain) on
everything but the best document, in chosen heads (PASTA, ICLR 2024). `knockout`: no attention along `direction`, to find out
where it matters."""

Direction = Literal["evidence_to_question", "image_to_question", "evidence_to_last", "question_to_last"]
"""From which tokens (columns) to which (rows): what knockout blocks."""

SteeredRows = Literal["question", "question_to_end"]
"""`question`: the question's tokens, as published. `question_to_end`: also what follows them in the prompt, which a template
writes: where the token that answers looks at the evidence itself, steering the question alone changes little."""

LayerChoice = list[int] | Literal["all", "critical"]
"""Decoder layers from 0; ``all``; or ``critical``: those that stage `critical_layers` found for this reader. The stage that
reads puts their numbers in this place before it steers anything."""


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class Steering:
    """How the reader's attention is steered within a prompt that holds all its evidence.

    Args:
        policy: what is added to attention logits before the softmax; see `SteeringPolicy`.
        layers: decoder layers that are steered, from 0; ``all``; or ``critical``, as stage `critical_layers` found them.
        gain: strength: factor of lambda (1 as published; document_prior: 4; pai: 0.2), or what attention of the rest is
            multiplied with (pasta: 0.01). `knockout` takes none.
        direction: what `knockout` blocks.
        heads: heads that `pasta` steers; null for all.
        steer_generated: also steer the rows of generated and scored answer tokens, as if they were question tokens.
        rows: whose attention is steered; not for `pai` and `knockout`, which say it themselves.
    """

    policy: SteeringPolicy
    layers: LayerChoice
    gain: float = 1.0
    direction: Direction = "evidence_to_question"
    heads: list[int] | None = None
    steer_generated: bool = False
    rows: SteeredRows = "question"

    def __post_init__(self) -> None:
        if not math.isfinite(self.gain) or self.gain < 0:
            raise ValueError(f"steering.gain must be a number of at least 0, got {self.gain}")
        if self.policy == "pasta" and not 0 < self.gain < 1:
            raise ValueError(f"steering.gain of policy pasta must lie between 0 and 1, got {self.gain}; PASTA: 0.01")
        if self.policy == "knockout" and self.gain != 1:
            raise ValueError(f"steering.gain {self.gain} would be ignored by policy 'knockout'; leave it out")
        if self.policy != "knockout" and self.direction != "evidence_to_question":
            raise ValueError(f"steering.direction would be ignored by policy {self.policy!r}; leave it out")
        if self.policy in ("pai", "knockout") and self.rows != "question":
            raise ValueError(f"steering.rows would be ignored by policy {self.policy!r}; leave it out")
        listed = [0] if isinstance(self.layers, str) else self.layers
        if not listed or min(listed) < 0 or len(set(listed)) != len(listed):
            raise ValueError(f"steering.layers must name layers from 0, each once, or be all or critical; got {self.layers}")
        if self.heads is not None and self.policy != "pasta":
            raise ValueError(f"steering.heads would be ignored by policy {self.policy!r}; leave them out")
        if self.heads is not None and (not self.heads or min(self.heads) < 0):
            raise ValueError(f"steering.heads must name heads from 0, or be null for all; got {self.heads}")


@dataclass(frozen=True, slots=True)
class TokenRoles:
    """Which token of P encoded prompts is what.

    Attributes:
        role_PT: int8, the place of the token's role in ``list(Role)``; -1 for padding and for what the template writes.
        document_PT: int16, the number (from 0) of the candidate that an evidence token belongs to; -1 for other tokens.
        strength_PK: float32 retrieval score of each candidate by its number; NaN where a prompt has no such candidate. May
            require a gradient: then steering is differentiable in what made the scores.
    """

    role_PT: Tensor
    document_PT: Tensor
    strength_PK: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TokenRoles:
        """A copy on `device`."""
        every = (self.role_PT, self.document_PT, self.strength_PK)
        return TokenRoles(*(tensor.to(device, non_blocking=non_blocking) for tensor in every))

    def pin_memory(self) -> TokenRoles:
        """A copy in page-locked memory."""
        return TokenRoles(self.role_PT.pin_memory(), self.document_PT.pin_memory(), self.strength_PK.pin_memory())

    def of_prompts(self, index_P: Tensor) -> TokenRoles:
        """The roles of the prompts numbered `index_P`, in that order and as often as named."""
        return TokenRoles(self.role_PT[index_P], self.document_PT[index_P], self.strength_PK[index_P])

    def last_columns(self, width: int) -> TokenRoles:
        """The roles of the last `width` tokens: prompts are left-padded."""
        return TokenRoles(self.role_PT[:, -width:], self.document_PT[:, -width:], self.strength_PK)


@dataclass(frozen=True, slots=True)
class AttentionMass:
    """Where the question's tokens look, a mean over heads and question tokens.

    Attributes:
        segment_PLS: float32, for each prompt and decoder layer the share of attention on each of `SEGMENTS`; sums to 1.
        document_PLK: float32, the same for each candidate's tokens (image and text); NaN where a prompt has no such candidate.
    """

    segment_PLS: Tensor
    document_PLK: Tensor


SEGMENTS = ("evidence", "query_image", "question", "rest")
"""`evidence`: texts and images of candidates. `rest`: instruction, system message and what the template writes."""
