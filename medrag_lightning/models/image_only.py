"""Processors for families whose stock processor needs torchvision (its video part, or a bare requirement): images only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image
from transformers import PreTrainedTokenizerBase


class ImageOnlyProcessor:
    """Does for text and images what `Qwen2VLProcessor` does (also in Qwen2.5-VL and Qwen3-VL).

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
        if not flat:
            return dict(self.tokenizer(list(text), **settings))
        vision = self._pixels(flat)
        spelled = iter(self._spelled(vision))
        return {**self.tokenizer([self._expand(row, spelled) for row in text], **settings), **vision}

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the image processor, and the tokenizer with the chat template, as `from_pretrained` reads them."""
        self.tokenizer.chat_template = self.chat_template
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def _pixels(self, images: list[Image]) -> dict[str, Any]:
        return dict(self.image_processor(images=images, return_tensors="pt"))

    def _spelled(self, vision: dict[str, Any]) -> list[str]:
        """The tokens that each image's placeholder is replaced with."""
        counts = vision["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2
        return [self.image_token * count for count in counts.tolist()]

    def _expand(self, text: str, spelled: Iterator[str]) -> str:
        head, *tail = text.split(self.image_token)
        return head + "".join(next(spelled) + part for part in tail)


class PixtralImageOnlyProcessor(ImageOnlyProcessor):
    """Does for text and images what `PixtralProcessor` does (Pixtral, Mistral 3): rows of patches with a break after each.

    Args:
        image_processor: the family's image processor.
        tokenizer: the family's tokenizer.
        patch_px: side of the square that one token stands for: patch size times merge size.
        chat_template: Jinja template; the tokenizer's own if None.
    """

    def __init__(
        self, image_processor: Any, tokenizer: PreTrainedTokenizerBase, patch_px: int, chat_template: str | None = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template, "[IMG]")
        self.patch_px = patch_px

    def _pixels(self, images: list[Image]) -> dict[str, Any]:
        return dict(self.image_processor(images=images, patch_size=self.patch_px, return_tensors="pt"))

    def _spelled(self, vision: dict[str, Any]) -> list[str]:
        grids = [(int(h) // self.patch_px, int(w) // self.patch_px) for h, w in vision["image_sizes"]]
        rows = ["[IMG_BREAK]".join([self.image_token * wide] * high) for high, wide in grids]
        return [row + "[IMG_END]" for row in rows]
