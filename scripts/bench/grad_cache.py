"""Cost of a contrastive step in chunks against the plain step, and its memory by batch size.

A tiny CLIP (configs/retrievers/tiny_clip.yaml, wider). *Time*: forward and backward pass of both towers and the loss at one
batch size, plain and in chunks in turns; the ratio is of medians. *Gradient*: the largest difference between the two, over
the largest gradient. *Memory*: the peak of what a step holds beyond the batch's own inputs and the weights, by batch size,
in chunks: gradients, activations, vectors and similarities, every allocation of the CPU allocator counted (profiler). Plain
peaks stand beside at the sizes where they are affordable. The last line is JSON.

    GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1 python scripts/bench/grad_cache.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medrag_lightning.losses import contrastive_loss, in_chunks
from medrag_lightning.models.tiny_clip import TinyClip

TEXT = "chest film of the right lower lobe with a small effusion and mild edema"


class Step:
    """A tiny CLIP and batches of random images and tokens for it."""

    def __init__(self, hidden: int, layers: int, image_px: int, tokens: int) -> None:
        self.encoder = TinyClip(hidden=hidden, layers=layers, dim=128, image_side_px=image_px, max_text_tokens=tokens)
        self.encoder.prepare([TEXT])
        self.encoder.train()
        self.parameters = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        self.image_px, self.tokens = image_px, tokens
        self.log_scale = torch.tensor(2.6)

    def inputs(self, batch: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Images, texts and keys of `batch` different pairs."""
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(4, 260, (batch, self.tokens), generator=draw)
        ids[:, 0], ids[:, -1] = 1, 3
        images = torch.randn(batch, 3, self.image_px, self.image_px, generator=draw)
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return {"pixel_values": images}, text, torch.arange(batch)[:, None].repeat(1, 2)

    def run(self, inputs: tuple[dict[str, Tensor], dict[str, Tensor], Tensor], chunk: int | None) -> Tensor:
        """Forward and backward pass; gradients are left in the parameters."""
        image, text, key_B2 = inputs
        for parameter in self.parameters:
            parameter.grad = None
        if chunk is None:
            vectors = self.encoder.image_vectors(image), self.encoder.text_vectors(text)
        else:
            vectors = (
                in_chunks(self.encoder.image_vectors, image, chunk, self.parameters),
                in_chunks(self.encoder.text_vectors, text, chunk, self.parameters),
            )
        loss = contrastive_loss("clip", *vectors, key_B2, self.log_scale, block_rows=chunk)
        del vectors  # as when a training step returns its loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def seconds(step: Step, batch: int, chunk: int, repeats: int) -> dict[str, float]:
    """Median wall and CPU seconds of a step, plain and in chunks, in turns."""
    inputs = step.inputs(batch)
    spent: dict[str, list[tuple[float, float]]] = {"plain": [], "chunks": []}
    for number in range(repeats + 1):
        for name, size in (("plain", None), ("chunks", chunk)) if number % 2 else (("chunks", chunk), ("plain", None)):
            start = time.perf_counter(), time.process_time()
            step.run(inputs, size)
            if number:  # the first turn warms up
                spent[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {
        f"{name}_{kind}seconds": statistics.median(turn[k] for turn in turns)
        for name, turns in spent.items()
        for k, kind in enumerate(("", "cpu_"))
    }


def gradient_difference(step: Step, batch: int, chunk: int) -> float:
    """Largest difference between plain and chunked gradients, relative to the largest gradient."""
    inputs, found = step.inputs(batch), []
    for size in (None, chunk):
        step.run(inputs, size)
        found.append([parameter.grad.clone() for parameter in step.parameters if parameter.grad is not None])
    largest = max(float(grad.abs().max()) for grad in found[0])
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) / largest


def peak_bytes(step: Step, batch: int, chunk: int | None) -> int:
    """Peak of the bytes that a step allocates and has not yet freed; inputs and weights exist before and are not in it."""
    inputs = step.inputs(batch)
    for parameter in step.parameters:
        parameter.grad = None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step.run(inputs, chunk)
    assert profile.profiler is not None
    events: Any = profile.profiler.kineto_results
    changes = sorted((e.start_ns(), e.nbytes()) for e in events.events() if e.name() == "[memory]")
    held, most = 0, 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=256, help="batch of the timed step")
    parser.add_argument("--chunk", type=int, default=64, help="pairs in a chunk")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns")
    parser.add_argument("--memory", type=int, nargs="+", default=[64, 256, 1024, 4096], help="batches of the memory curve")
    parser.add_argument("--plain-memory", type=int, nargs="*", default=[64, 256], help="batches of the plain memory curve")
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--image-px", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    chosen = parser.parse_args(argv)
    step = Step(chosen.hidden, chosen.layers, chosen.image_px, chosen.tokens)
    report: dict[str, Any] = {**vars(chosen), "threads": torch.get_num_threads()}
    report["max_relative_gradient_difference"] = gradient_difference(step, min(chosen.batch, 128), max(1, chosen.chunk // 2))
    report |= seconds(step, chosen.batch, chosen.chunk, chosen.repeats)
    report["ratio"] = round(report["chunks_seconds"] / report["plain_seconds"], 3)
    report["cpu_ratio"] = round(report["chunks_cpu_seconds"] / report["plain_cpu_seconds"], 3)
    report["weights_mib"] = _mib(sum(parameter.nbytes for parameter in step.parameters))
    for name, sizes, chunk in (("chunks", chosen.memory, chosen.chunk), ("plain", chosen.plain_memory, None)):
        by_batch = {str(batch): _mib(peak_bytes(step, batch, chunk)) for batch in sizes}
        report[f"peak_mib_{name}"] = by_batch
        print(f"{name}: peak {by_batch} MiB beyond inputs and weights")
    peaks = list(report["peak_mib_chunks"].values())
    report["peak_growth"] = round(max(peaks) / peaks[0], 4)
    inputs = step.inputs(chosen.memory[-1])
    report["inputs_mib_at_largest"] = _mib(sum(t.nbytes for part in inputs[:2] for t in part.values()))
    print(f"time in chunks / plain: {report['ratio']} (CPU {report['cpu_ratio']}); peak grows by {report['peak_growth']}")
    print(json.dumps(report))


def _mib(count: int) -> float:
    return round(count / 2**20, 2)


if __name__ == "__main__":
    main()
