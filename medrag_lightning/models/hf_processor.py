"""Prompts to model inputs through a Hugging Face processor and its own chat template."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import torch
from PIL.Image import Image, Resampling, new

from medrag_lightning.batches import EncodedPrompts, Prompt, Role, Segment
from medrag_lightning.models.plain_text import WORD_JOINT, PlainText, SpecialCount
from medrag_lightning.models.prompt_pieces import Pieces, encode_shared, vision_of
from medrag_lightning.models.token_roles import RoleFinder, text_groups

logger = logging.getLogger(__name__)

_PROBE = "Qq7zkv"  # an answer that no template contains
_MIN_SIDE_PX = 28
_MAX_ASPECT = 180.0


class HfProcessor:
    """Renders, tokenises and batches prompts for one reader.

    A text can never become a special token: every special token of the tokenizer that occurs in a prompt's own text (say,
    ``<image>`` in a report) is broken with a zero-width space after its first character, and finished prompts are counted
    through (`plain_text.py`).

    Args:
        processor: a Hugging Face processor with ``tokenizer``, ``image_token`` and a chat template.
        max_image_side_px: larger images are scaled down so that no side exceeds this (JOMED: 256 with nearest-neighbour
            sampling; here bicubic). A side below 28 px, or below 1/180 of the other, is stretched to that (JOMED).
    """

    def __init__(self, processor: Any, max_image_side_px: int = 256) -> None:
        if max_image_side_px < _MIN_SIDE_PX:
            raise ValueError(f"max_image_side_px must be at least {_MIN_SIDE_PX}, got {max_image_side_px}")
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_image_side_px = max_image_side_px
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:  # padding is masked, so any token will do
            self.tokenizer.pad_token = self.tokenizer.eos_token
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self.special_ids = frozenset(special) | {self.image_token_id}
        self._lead, self.end_id = self._answer_frame()
        self._plain = PlainText(self.tokenizer, processor.image_token, self._frame())
        guarded = self._plain.ids | self.special_ids
        self._count = SpecialCount(guarded, self._ids_of(processor.image_token), self._begun, self.render)
        if date.today().isoformat() in self.render(Prompt((Segment(Role.QUESTION, "x"),))):
            logger.warning("the reader's chat template writes today's date into every prompt; set a system message instead")
        self._block_of_size: dict[tuple[int, int], list[int]] = {}
        self._pieces, self._roles = Pieces(), RoleFinder()

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return int(self.tokenizer.pad_token_id)

    def encode_prompts(self, prompts: Sequence[Prompt], share_images: bool = False, roles: bool = False) -> EncodedPrompts:
        """P prompts with the chat template and its generation prompt, left-padded; see `interfaces.Processor`."""
        texts = [self.render(prompt) for prompt in prompts]
        if roles:
            self._pieces.learn(self, texts)
        encoded = encode_shared(self, self._pieces, prompts, texts) if share_images else self._encode(prompts, texts)
        blocks = [[self.image_block(image.size) for image in prompt.images] for prompt in prompts]
        self._count.check(prompts, encoded.ids_PT, encoded.mask_PT, blocks)
        if not roles:
            return encoded
        return replace(encoded, roles=self._roles.find(self, self._pieces, prompts, texts, encoded.ids_PT, encoded.mask_PT))

    def _encode(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> EncodedPrompts:
        images = [[self.fit(image) for image in prompt.images] for prompt in prompts]
        inputs = self.call(texts, images)
        ids_PT, mask_PT = inputs.pop("input_ids"), inputs.pop("attention_mask")
        # Which tokens are images follows from the ids (scoring.py), so the families' copies of that are not carried.
        return EncodedPrompts(ids_PT, mask_PT, vision_of(inputs), tuple(len(row) for row in images))

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Ids of each answer as the assistant's turn goes on after the generation prompt, end-of-turn token last."""
        texts = [self._lead + self.escape(answer) for answer in answers]
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [[*row, self.end_id] for row in rows]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the first end-of-turn or padding token, stripped."""
        stop = {self.end_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
        end = next((i for i, token in enumerate(ids) if token in stop), len(ids))
        text: str = self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True)
        return text.replace(WORD_JOINT, "").strip()

    def count_tokens(self, prompt: Prompt) -> int:
        """Length of the prompt in tokens: the text's exact length, images by the count measured once for each size."""
        text = "".join(segment.text for segment in prompt.segments) + prompt.system
        # The Rust tokenizer itself: a fifth of the time of the Python call around it, and called once for every prompt.
        count = len(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False))
        return count + sum(self.image_block(image.size).count(self.image_token_id) for image in prompt.images)

    def prompt_length(self, prompt: Prompt) -> int:
        """Length of the finished prompt in tokens: of the rendered text, each placeholder counted as what its image becomes."""
        blocks = sum(len(self.image_block(image.size)) for image in prompt.images)
        placeholders = len(prompt.images) * len(self._ids_of(self.processor.image_token))
        return len(self._begun(self.render(prompt))) - placeholders + blocks

    def render(self, prompt: Prompt) -> str:
        """The prompt as one string: chat template, image placeholders, escaped text."""
        content: list[dict[str, str]] = []
        for part in text_groups(prompt.segments):  # neighbours are joined, so that no special token forms at a seam
            text = "".join(prompt.segments[i].text for i in part)
            content.append({"type": "text", "text": self.escape(text)} if text else {"type": "image"})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if prompt.system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.escape(prompt.system)}]})
        return self.template(messages, generation=True)

    def escape(self, text: str) -> str:
        """`text` with every special token and chat tag in it broken; other texts are returned unchanged. See `PlainText`."""
        return self._plain.escape(text)

    def fit(self, image: Image) -> Image:
        """`image` scaled down to the largest allowed side; the same object where it already fits."""
        size = self._fitted_size(image.size)
        return image if size == image.size else image.resize(size, Resampling.BICUBIC)

    def _fitted_size(self, size: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, self.max_image_side_px / max(size))
        width, height = (max(1, round(side * scale)) for side in size)
        least = max(_MIN_SIDE_PX, -int(-max(width, height) // _MAX_ASPECT))
        return max(width, least), max(height, least)

    def image_block(self, size: tuple[int, int]) -> list[int]:
        """Ids of what the placeholder of an image of this size becomes, begin and end tokens included."""
        fitted = self._fitted_size(size)
        if fitted not in self._block_of_size:
            inputs = self.call([self.processor.image_token], [[new("RGB", fitted)]], bare=True)
            self._block_of_size[fitted] = inputs["input_ids"][0].tolist()
        return self._block_of_size[fitted]

    @property
    def image_token_id(self) -> int:
        """Id of the token that image features replace (in Gemma 3 not the one that a template writes)."""
        named = getattr(self.tokenizer, "image_token_id", None)
        return int(self.tokenizer.convert_tokens_to_ids(self.processor.image_token) if named is None else named)

    def template(self, messages: list[dict[str, Any]], generation: bool) -> str:
        """Messages as one string, by the chat template; `generation` adds what begins the assistant's turn."""
        text: str = self.processor.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False)
        return text

    def call(self, texts: Sequence[str], images: Sequence[Sequence[Image]], bare: bool = False) -> dict[str, Any]:
        """What the stock processor makes of rendered texts and their images; `bare` adds no special tokens."""
        settings: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        if bare or self._begins_itself(texts):
            settings["add_special_tokens"] = False
        if any(images):
            settings["images"] = [list(row) for row in images]
        with torch.no_grad():
            return dict(self.processor(text=list(texts), **settings))

    def begin_ids(self, texts: Sequence[str]) -> list[int]:
        """Ids that the tokenizer puts before each of these rendered texts."""
        ids: list[int] = [] if self._begins_itself(texts) else self.tokenizer("")["input_ids"]
        return ids

    def _begins_itself(self, texts: Sequence[str]) -> bool:
        """Whether the template has written the begin token already."""
        bos = self.tokenizer.bos_token
        return bool(bos) and all(text.startswith(bos) for text in texts)

    def _ids_of(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _begun(self, text: str) -> list[int]:
        return [*self.begin_ids([text]), *self._ids_of(text)]

    def _frame(self) -> str:
        """What the chat template writes around the texts of a conversation."""
        turns = [{"role": role, "content": [{"type": "text", "text": _PROBE}]} for role in ("user", "assistant", "user")]
        return self.template(turns, generation=True).replace(_PROBE, "\n")

    def _answer_frame(self) -> tuple[str, int]:
        """What the template puts between the generation prompt and an answer, and the token that ends the turn."""
        user = {"role": "user", "content": [{"type": "text", "text": "x"}]}
        reply = {"role": "assistant", "content": [{"type": "text", "text": _PROBE}]}
        prompt = self.template([user], generation=True)
        full = self.template([user, reply], generation=False)
        place = full.find(_PROBE)
        if place < 0:
            raise ValueError("the reader's chat template does not write an assistant's text; give an instruction-tuned model")
        lead = full[len(prompt) : place] if full.startswith(prompt) else ""
        after = self.tokenizer(full[place + len(_PROBE) :], add_special_tokens=False)["input_ids"]
        end = next((i for i in after if i in self.special_ids), self.tokenizer.eos_token_id)
        if end is None:
            raise ValueError("neither the reader's chat template nor its tokenizer has a token that ends a turn")
        return lead, int(end)
