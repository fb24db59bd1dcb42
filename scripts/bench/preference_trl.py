"""The peer of preference_step.py: trl's DPOTrainer on the same pairs, as one of its users has it.

- shared: both sides show the same evidence, image and question. The peer is ``DPOTrainer.training_step`` as it is, on the batch
  of its own collator: both answers behind their own copy of the prompt, each image through the vision tower for each copy, and
  a second forward pass with the adapter off for the reference at every step: trl 1.16 refuses a stored one for images.
- image differs: the rejected side shows another query image. trl's collator takes one set of images a pair, so the peer is
  what one writes around it (as MMed-RAG did): a subclass with a forward pass a side, adapter on and then off, through trl's own
  fused LM head.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from medrag_lightning.batches import Prompt
from medrag_lightning.models.families import FAMILIES
from medrag_lightning.models.lora import LoraSettings, target_pattern
from medrag_lightning.models.tiny import Loaded, TinyBackbone

BETA, RANK = 0.1, 8
WORDS = ("chest film shows", "mild", "large", "left", "right", "effusion", "nodule", "edema", "heart size", "no finding")


class Pair(NamedTuple):
    """What each side of a pair shows, and its answer. Both sides hold the same prompt object where they show the same."""

    chosen: Prompt
    rejected: Prompt
    answers: tuple[str, str]


class Backbone(TinyBackbone):
    """A tiny reader whose vocabulary is of a given size, whatever its tokenizer uses of it."""

    def __init__(self, size: argparse.Namespace, vocabulary: int) -> None:
        names = ("hidden", "layers", "heads", "vision_hidden", "vision_layers", "image_side_px", "patch_px")
        super().__init__("llava", **{name: getattr(size, name) for name in names}, vocabulary=400)
        self.rows = vocabulary

    def load(self, texts: Iterable[str]) -> Loaded:
        """As any, its embeddings (tied to the LM head) made larger."""
        loaded = super().load(texts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loaded.model.resize_token_embeddings(self.rows, mean_resizing=False)
        return loaded


def texts() -> list[str]:
    """What the tokenizer is trained on."""
    return [" ".join(WORDS), "what is the finding?"] * 3


def start_adapter(model: nn.Module) -> None:
    """The same weights of the adapter in both, under whatever name it goes; not zero, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters(), key=lambda item: plain_name(item[0])):
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)


def plain_name(name: str) -> str:
    """A weight's name without what either wraps around it."""
    return name.removeprefix("model.base_model.").removeprefix("base_model.").replace(".reader.", ".").replace(".default.", ".")


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Of the adapter, under names that both give."""
    return {plain_name(name): p.grad for name, p in model.named_parameters() if p.grad is not None}


class Theirs:
    """trl's DPOTrainer, or the subclass for sides of different images, on a batch of trl's own collator."""

    def __init__(self, size: argparse.Namespace, vocabulary: int, data: Sequence[Pair]) -> None:
        from datasets import Dataset
        from trl import DPOConfig
        from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

        loaded = Backbone(size, vocabulary).load(texts())
        shared = all(pair.chosen is pair.rejected for pair in data)
        collate = DataCollatorForVisionPreference(loaded.processor.processor)
        sides = [[_row(loaded, pair, side) for pair in data] for side in (0, 1)]
        self.batch = dict(collate(sides[0])) if shared else {"sides": [_half(collate(sides[s]), s) for s in (0, 1)]}
        with TemporaryDirectory() as folder:
            settings: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": [], "max_length": None, "max_steps": 1}
            settings |= {"gradient_checkpointing": False, "disable_tqdm": True, "per_device_train_batch_size": len(data)}
            self.trainer = (_stock() if shared else _two_sided())(
                model=loaded.model,
                args=DPOConfig(output_dir=folder, beta=BETA, **settings),
                train_dataset=Dataset.from_list(sides[0][:1]),
                processing_class=loaded.processor.processor,
                peft_config=_adapter(loaded),
            )
        self.trainer.current_gradient_accumulation_steps = 1
        self.model: nn.Module = self.trainer.model
        start_adapter(self.model)

    @contextmanager
    def compact(self) -> Iterator[None]:
        """Within it, the LM head takes the answers' positions alone, as it does on a GPU."""
        with mock.patch("trl.trainer.utils._use_triton", return_value=True):
            yield

    def compact_step(self) -> float:
        """One step so; the loss."""
        with self.compact():
            return self.step()

    def step(self) -> float:
        """One step; the loss."""
        self.model.zero_grad()
        return float(self.trainer.training_step(self.model, dict(self.batch)))


def _adapter(loaded: Loaded) -> Any:
    from peft import LoraConfig

    targets = target_pattern(loaded.model, FAMILIES["llava"], LoraSettings(rank=RANK))
    return LoraConfig(r=RANK, lora_alpha=LoraSettings().alpha, target_modules=targets)


def _row(loaded: Loaded, pair: Pair, side: int) -> dict[str, Any]:
    prompt = pair.rejected if side else pair.chosen
    chosen, rejected = (f" {answer}</s>" for answer in pair.answers)
    return {"images": prompt.images, "prompt": loaded.processor.render(prompt), "chosen": chosen, "rejected": rejected}


def _half(batch: Any, side: int) -> dict[str, Tensor]:
    return {name: value.chunk(2)[side] for name, value in batch.items()}


def _stock() -> Any:
    from trl import DPOTrainer

    return DPOTrainer


def _two_sided() -> Any:
    from trl import DPOTrainer
    from trl.trainer.utils import use_adapter

    class TwoSided(DPOTrainer):
        """DPO with a forward pass a side."""

        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Tensor:
            """The sigmoid loss, its reference with the adapter off."""
            policy = [self.side(model, side) for side in inputs["sides"]]
            with torch.no_grad(), use_adapter(model, adapter_name=None):
                reference = [self.side(model, side) for side in inputs["sides"]]
            gain = [p - r for p, r in zip(policy, reference, strict=True)]
            return -nn.functional.logsigmoid(self.beta * (gain[0] - gain[1])).mean()

        def side(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
            """Log-probability of each row's answer."""
            inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
            labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
            logp: Tensor = model(**inputs, labels=labels, fused_lm_head=True, use_cache=False).log_probs
            return logp.sum(1)

    return TwoSided
