"""Time of a reader's training step: stage `reader_raft` under Lightning against the Hugging Face Trainer.

Same tiny model, weights, batches, optimizer and clipping; both collate in the main process. Two data sets: evidence of one
length, and evidence of skewed (log-normal) length, where ours cuts a batch into parts of similar length. The two trainers
take turns; the figures are medians over all steps after the first two of each turn, in wall and in CPU time: on a shared
machine the CPU time of one thread is the steadier one. The last line is JSON.

    GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1 python scripts/bench/reader_step.py
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
import torch
import transformers
from PIL import Image
from torch.utils.data import DataLoader, SequentialSampler

from medrag_lightning.batches import Example
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, ImageRef, Query, Regime
from medrag_lightning.stages.base import Schedule
from medrag_lightning.stages.reader_raft import ReaderRaft

TEMPLATE = PromptTemplate(max_evidence_chars=20_000)
LEARNING_RATE = 3e-4
WARMUP_STEPS = 2
WORDS = ("chest film shows", "mild", "large", "left", "right", "effusion", "nodule", "edema", "heart size", "no finding")
CHOICES = ("effusion", "nodule", "no acute finding")


def examples(lengths: Sequence[int]) -> list[Example]:
    """One question an evidence length (in words), with a query image and an evidence image each."""
    rng = np.random.default_rng(0)
    made = []
    for i, length in enumerate(lengths):
        images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
        report = Document(f"d{i}", " ".join(rng.choice(WORDS, length)), ImageRef(f"d{i}.png"))
        answer = CHOICES[rng.integers(3)]
        query = Query(f"q{i}", "what is the finding?", answer=answer, choices=CHOICES, answer_type=AnswerType.CLOSED)
        shown = Candidate(report, 0.5, Channel.IMAGE_TO_IMAGE)
        made.append(Example(query, Regime.RETRIEVED, (shown,), images[0], (images[1],)))
    return made


def backbone() -> TinyBackbone:
    """The reader of configs/readers/tiny.yaml."""
    return TinyBackbone(seed=0)


def texts(data: Sequence[Example]) -> list[str]:
    """What the tokenizer is trained on."""
    return [example.candidates[0].document.text for example in data] + ["what is the finding?", *CHOICES]


class Clock:
    """Wall and CPU time from the end of a step to the end of the next, collation included, and every step's loss."""

    def __init__(self) -> None:
        self.losses: list[Any] = []
        self.ends: list[tuple[float, float]] = []

    def tick(self, loss: torch.Tensor | None = None) -> None:
        """A step has ended."""
        self.ends.append((time.perf_counter(), time.process_time()))
        if loss is not None:
            self.losses.append(loss.detach().clone())

    def milliseconds(self) -> list[list[float]]:
        """(wall, CPU) of each step after the warm-up."""
        spent = 1000 * np.diff(np.array(self.ends), axis=0)[WARMUP_STEPS - 1 :]
        return [[float(wall), float(cpu)] for wall, cpu in spent]


class Served(L.LightningDataModule):
    """The examples in order."""

    def __init__(self, data: Sequence[Example], batch_size: int) -> None:
        super().__init__()
        self.data, self.batch_size = data, batch_size

    def training_texts(self) -> list[str]:
        """What the reader's tokenizer is trained on."""
        return texts(self.data)

    def train_dataloader(self) -> Any:
        """Batches in the order of the data, collated by the stage in the main process."""
        collate = self.trainer.lightning_module.collator(training=True)  # type: ignore[union-attr, operator]
        return DataLoader(list(self.data), self.batch_size, shuffle=False, collate_fn=collate)  # type: ignore[arg-type]


class LightningClock(L.Callback):
    """Ticks after every batch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the optimizer's step."""
        self.clock.tick(outputs["loss"])


def ours(data: Sequence[Example], batch_size: int) -> Clock:
    """One epoch of stage `reader_raft`."""
    clock = Clock()
    optimizer = partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    stage = ReaderRaft(HfReader(backbone()), optimizer, TEMPLATE, Schedule("constant", 0.0))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        callbacks=[LightningClock(clock)],
    )
    trainer.fit(stage, datamodule=Served(data, batch_size))
    return clock


class StockCollator:
    """What a user of the Trainer writes: template, processor, and labels on what follows the assistant's token."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.processor.tokenizer.padding_side = "right"
        self.assistant_id = processor.tokenizer.convert_tokens_to_ids("<|assistant|>")

    def __call__(self, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Right-padded inputs and labels."""
        rows, images = [], []
        for example in batch:
            prompt = TEMPLATE.build(example)
            content = [{"type": "image"} if s.image else {"type": "text", "text": s.text} for s in prompt.segments]
            reply = {"role": "assistant", "content": [{"type": "text", "text": example.query.answer}]}
            rows.append(self.processor.apply_chat_template([{"role": "user", "content": content}, reply], tokenize=False))
            images.append(prompt.images)
        inputs = dict(self.processor(text=rows, images=images, padding=True, return_tensors="pt"))
        labels = inputs["input_ids"].clone()
        seen = (labels == self.assistant_id).cumsum(1).bool() & (labels != self.assistant_id)
        inputs["labels"] = labels.masked_fill(~seen | (inputs["attention_mask"] == 0), -100)
        return inputs


class StockTrainer(transformers.Trainer):
    """The Trainer, with the data in order and the losses kept."""

    clock: Clock

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *arguments: Any, **settings: Any) -> Any:
        """The stock loss, noted."""
        loss = super().compute_loss(*arguments, **settings)
        self.clock.losses.append((loss[0] if isinstance(loss, tuple) else loss).detach().clone())
        return loss


class TrainerClock(transformers.TrainerCallback):
    """Ticks after every step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer's step."""
        self.clock.tick()


def stock(data: Sequence[Example], batch_size: int) -> Clock:
    """One epoch of the Hugging Face Trainer."""
    clock = Clock()
    loaded = backbone().load(texts(data))
    with TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            use_cpu=True,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = StockTrainer(
            model=loaded.model,
            args=arguments,
            train_dataset=list(data),
            data_collator=StockCollator(loaded.processor.processor),
            callbacks=[TrainerClock(clock)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.clock = clock
        trainer.train()
    return clock


def compare(data: Sequence[Example], batch_size: int, rounds: int) -> dict[str, float]:
    """Both trainers in turns on the same data: median milliseconds a step, their ratios, the largest loss difference."""
    spent: dict[str, list[list[float]]] = {"ours": [], "trainer": []}
    difference = 0.0
    turns: list[tuple[str, Callable[[Sequence[Example], int], Clock]]] = [("ours", ours), ("trainer", stock)]
    for number in range(rounds):
        clocks = {name: run(data, batch_size) for name, run in (turns if number % 2 == 0 else turns[::-1])}
        for name, clock in clocks.items():
            spent[name] += clock.milliseconds()
        mine, theirs = (torch.stack(clocks[name].losses) for name in ("ours", "trainer"))
        difference = max(difference, float((mine - theirs).abs().max()))
    wall, cpu = ({name: float(np.median([row[k] for row in rows])) for name, rows in spent.items()} for k in (0, 1))
    return {
        **{f"{name}_ms": round(value, 1) for name, value in wall.items()},
        **{f"{name}_cpu_ms": round(value, 1) for name, value in cpu.items()},
        "ratio": round(wall["trainer"] / wall["ours"], 3),
        "cpu_ratio": round(cpu["trainer"] / cpu["ours"], 3),
        "max_loss_difference": difference,
    }


def shares(data: Sequence[Example], batch_size: int, step_ms: float) -> dict[str, float]:
    """What of our step is collation, vision tower and LM head (forward and backward each): large only in a toy model."""
    reader = HfReader(backbone())
    reader.prepare(texts(data))
    reader.train()
    collate = RaftCollator(reader.processor, TEMPLATE, one_candidate_per_prompt=True, training=True)
    part = collate(data[:batch_size]).parts[0]
    assert part.rows is not None
    hidden = torch.randn(*part.rows.ids_RL.shape, reader.core.config.text_config.hidden_size, requires_grad=True)

    def vision() -> None:
        reader.core.get_image_features(**part.prompts.vision).last_hidden_state.sum().backward()

    def head() -> None:
        reader.core.lm_head(hidden).log_softmax(-1).sum().backward()

    timed = {"collation": lambda: collate(data[:batch_size]), "vision": vision, "lm_head": head}
    return {f"share_{name}": round(1000 * _median_seconds(run) / step_ms, 3) for name, run in timed.items()}


def _median_seconds(run: Callable[[], Any], repeats: int = 7) -> float:
    marks = [time.process_time()]
    for _ in range(repeats):
        run()
        marks.append(time.process_time())
    return statistics.median(np.diff(marks).tolist())


def main(argv: Sequence[str] | None = None) -> None:
    """Runs both comparisons and prints one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=16, help="examples a step")
    parser.add_argument("--steps", type=int, default=12, help="steps a turn, the first two of which are not counted")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each trainer")
    chosen = parser.parse_args(argv)
    if chosen.steps <= WARMUP_STEPS:
        parser.error(f"--steps must be more than {WARMUP_STEPS}")
    for name in ("lightning", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    count = chosen.batch * chosen.steps
    skewed = np.random.default_rng(1).lognormal(np.log(25), 1.0, count).clip(3, 400).astype(int).tolist()
    report, worst = dict[str, Any](vars(chosen)), 0.0
    for name, lengths in (("uniform", [40] * count), ("skewed", skewed)):
        data = examples(lengths)
        found = compare(data, chosen.batch, chosen.rounds)
        worst = max(worst, found.pop("max_loss_difference"))
        report |= {f"{key}_{name}": value for key, value in found.items()}
        report |= {f"{key}_{name}": value for key, value in shares(data, chosen.batch, found["ours_cpu_ms"]).items()}
        print(f"{name}: ours {found['ours_ms']} ms, Trainer {found['trainer_ms']} ms a step, ratio {found['ratio']}", end="; ")
        print(f"CPU {found['ours_cpu_ms']} and {found['trainer_cpu_ms']} ms, ratio {found['cpu_ratio']}")
    report["max_loss_difference"] = worst
    print(json.dumps(report))


if __name__ == "__main__":
    main()
