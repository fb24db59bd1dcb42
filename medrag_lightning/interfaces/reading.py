"""Readers and their processors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from medrag_lightning.batches import AnswerRows, AttentionMass, EncodedPrompts, Prompt


@runtime_checkable
class Processor(Protocol):
    """Text and images to model inputs, the only seam for a model family's own format."""

    def encode_prompts(self, prompts: Sequence[Prompt], share_images: bool = False, roles: bool = False) -> EncodedPrompts:
        """P prompts, with the family's chat template and generation prompt, left-padded.

        With `share_images`, each distinct image is prepared once, and a reader computes it once. With `roles`, it is told which
        token is what.
        """
        ...

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Token ids of each answer as the assistant's turn continues, end-of-turn token included. Never empty."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, up to the first end-of-turn token, without special tokens, stripped."""
        ...

    def count_tokens(self, prompt: Prompt) -> int:
        """A cheap estimate of the prompt's length in tokens, to group prompts of similar length."""
        ...

    def prompt_length(self, prompt: Prompt) -> int:
        """The prompt's length in tokens as `encode_prompts` makes it, no more and no less."""
        ...


@runtime_checkable
class Reader(Protocol):
    """A vision-language model that reads prompts (and, at run time, a torch module)."""

    def prepare(self, texts: Iterable[str]) -> None:
        """Builds or loads the weights, once; a reader without a tokenizer of its own trains one on `texts`."""
        ...

    @property
    def processor(self) -> Processor:
        """The reader's processor; RuntimeError before `prepare`."""
        ...

    def token_logp(self, prompts: EncodedPrompts, rows: AnswerRows) -> Tensor:
        """Log-probability in nats of every answer token, teacher-forced: float32 (R, L), 0 on padding. Differentiable."""
        ...

    def generate(self, prompts: EncodedPrompts, max_new_tokens: int) -> list[list[int]]:
        """Greedy continuation of each prompt as token ids, without the prompt."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a checkpoint must keep to rebuild the reader, as plain JSON (name or shape, tokenizer, adapter settings)."""
        ...

    def restore(self, description: dict[str, Any]) -> None:
        """`prepare` from a checkpoint's description; ValueError where it contradicts this reader's settings."""
        ...

    def fingerprint(self) -> str:
        """sha256 over the weights that matter to its answers and the processor's settings."""
        ...


@runtime_checkable
class AttentionReader(Protocol):
    """A reader whose attention can be looked at; steering comes with the prompts (`EncodedPrompts.steering`)."""

    @property
    def layer_count(self) -> int:
        """Decoder layers."""
        ...

    def attention_mass(self, prompts: EncodedPrompts) -> AttentionMass:
        """Where the question's tokens look in each layer; the prompts need `roles`."""
        ...


@runtime_checkable
class TunableReader(Reader, Protocol):
    """A reader whose training can be switched off: what it was before is the reference of preference tuning."""

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the reader answers as it did before training began (its adapter is off), without gradients.

        Raises:
            ValueError: nothing can be switched off, because the weights themselves are trained.
        """
        ...


ReaderPartName = Literal["projector", "language_model", "vision"]
"""What joins the towers, the language tower with its adapter and its head, and the vision tower."""


@runtime_checkable
class PartedReader(Protocol):
    """A reader whose parts can be trained one without another, at rates of their own."""

    def train_only(self, parts: Collection[ReaderPartName]) -> None:
        """Freezes all other parts, from now on or as soon as the weights are there; what was frozen stays so.

        Raises:
            ValueError: nothing of a part can be trained.
        """
        ...

    def trained_parts(self) -> Mapping[ReaderPartName, list[nn.Parameter]]:
        """The parameters that are trained, by part."""
        ...
