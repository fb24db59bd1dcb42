"""A processor for the Qwen-VL families that needs no video processor, hence no torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from transformers import PreTrainedTokenizerBase


class ImageOnlyProcessor:
    """Does for text and images what `Qwen2VLProcessor` (2.5, 3) does; the stock class cannot load without torchvision.

    Each image placeholder is repeated once for every merged patch of its image: t * h * w / merge_size^2 times.

    Args:
        image_processor: the family's image processor.
        tokenizer: the family's tokenizer.
        chat_template: Jinja template; the tokenizer's own if None.
        image_token: the placeholder.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        image_token: str = "<|image_pad|>",
    ) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.chat_template = chat_template or tokenizer.chat_template
        self.image_token = image_token

    def apply_chat_template(self, conversation: list[dict[str, Any]], **settings: Any) -> Any:
        """The tokenizer's rendering with this processor's template."""
        return self.tokenizer.apply_chat_template(conversation, chat_template=self.chat_template, **settings)

    def __call__(
        self, text: Sequence[str], images: Sequence[Sequence[Image]] | None = None, **settings: Any
    ) -> dict[str, Any]:
        """Model inputs of `text`, with as many placeholders in it as there are images in the same list of `images`."""
        flat = [image for row in images or () for image in row]
        vision: dict[str, Any] = {}
        expanded = list(text)
        if flat:
            vision = dict(self.image_processor(images=flat, return_tensors="pt"))
            merged = self.image_processor.merge_size**2
            counts = iter((vision["image_grid_thw"].prod(-1) // merged).tolist())
            expanded = [self._expand(row, counts) for row in text]
        return {**self.tokenizer(expanded, **settings), **vision}

    def _expand(self, text: str, counts: Any) -> str:
        head, *tail = text.split(self.image_token)
        return head + "".join(self.image_token * next(counts) + part for part in tail)
