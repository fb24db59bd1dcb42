"""Time and memory of one step of preference tuning (forward, loss, backward): ours against trl's own DPOTrainer.

Same tiny vision model (LLaVA's shape), LoRA, pairs, precision, beta. Batches are ready before the clock starts, on both sides,
and the optimizer's step is left out: it is the same. Two sets of pairs, `shared` and `image_differs`; preference_trl.py says
what the peer does with them.

Ours: a stored reference, the prompts of a pair as one sequence, image features kept between steps (the frozen tower has seen
every image before the clock starts, as from the second epoch on), only what predicts an answer through the LM head.

trl's LM head scores every position of prompt and answer unless it runs its Triton kernels, on a GPU, where it takes the
answers' alone: so much of the ratio here is owed to the vocabulary and to the CPU. Therefore trl is timed a second time with
that choice made for it (`compact`: what a GPU would see, but for its kernels), and `trl_share_lm_head` is what that saves of
its step. `trl_share_vision` is what its image passes cost; `..._fixed` is a step of a model of almost no size.

Losses and gradients are compared first. The steps take turns; figures are medians in wall time, and in CPU time of one
thread, the steadier one on a shared machine. Memory is the rise of the peak resident size over what the process holds before
its first of three steps, each measured in a process of its own where freed tensors go back to the system at once (image
features that ours keeps are thus counted). The last line is JSON.

    GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1 python scripts/bench/preference_step.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from medrag_lightning.batches import Example, Prompt
from medrag_lightning.losses import preference_loss, preference_margin
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.raft_collator import answer_rows
from medrag_lightning.records import Candidate, Channel, Document, ImageRef, Query, Regime

sys.path.insert(0, str(Path(__file__).parent))
from preference_trl import (  # type: ignore[import-not-found]
    BETA,
    RANK,
    WORDS,
    Backbone,
    Pair,
    Theirs,
    gradients,
    start_adapter,
    texts,
)

MEMORY_STEPS = 3
TEMPLATE = PromptTemplate(max_evidence_chars=20_000)
CASES = ("shared", "image_differs")
SIZES = {
    "hidden": 320,
    "layers": 4,
    "heads": 5,
    "vision_hidden": 256,
    "vision_layers": 4,
    "image_side_px": 192,
    "patch_px": 16,
    "words": 120,
    "batch": 4,
    "repeats": 7,
}
SMALLEST = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 16, "vision_layers": 1, "image_side_px": 32, "words": 5}


def pairs(size: argparse.Namespace, case: str) -> list[Pair]:
    """Pairs with a report, its image and a query image each."""
    rng, made = np.random.default_rng(0), []
    side = size.image_side_px
    for i in range(size.batch):
        images = [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(3)]
        report = Document(f"d{i}", " ".join(rng.choice(WORDS, size.words)), ImageRef(f"d{i}.png"))
        shown = Candidate(report, 0.5, Channel.IMAGE_TO_IMAGE)
        query = Query(f"q{i}", "what is the finding?", answer="nodule")
        sides = [TEMPLATE.build(Example(query, Regime.RETRIEVED, (shown,), image, (images[2],))) for image in images[:2]]
        answers = (" ".join(rng.choice(WORDS, 4)), " ".join(rng.choice(WORDS, 4)))
        made.append(Pair(sides[0], sides[0 if case == "shared" else 1], answers))
    return made


class Ours:
    """The reader's packed pass, a stored reference, the losses of medrag_lightning.losses."""

    def __init__(self, size: argparse.Namespace, vocabulary: int, data: Sequence[Pair]) -> None:
        self.reader = HfReader(Backbone(size, vocabulary), adapter=LoraSettings(rank=RANK))
        self.reader.prepare(texts())
        self.model: nn.Module = self.reader
        start_adapter(self.model)
        shown: dict[int, Prompt] = {id(p): p for pair in data for p in pair[:2]}
        numbers = {key: n for n, key in enumerate(shown)}
        packs = tuple(i for i, pair in enumerate(data) for _ in {id(pair.chosen), id(pair.rejected)})
        encoded = self.reader.processor.encode_prompts(list(shown.values()), share_images=True)
        self.prompts = replace(encoded, pack_of_prompt=packs)
        answers = sorted((numbers[id(pair[s])], i, s, pair.answers[s]) for i, pair in enumerate(data) for s in (0, 1))
        self.rows = answer_rows(self.reader.processor, [(prompt, text) for prompt, _, _, text in answers])
        row_of = {(i, s): r for r, (_, i, s, _) in enumerate(answers)}
        self.row_B2 = torch.tensor([[row_of[i, s] for s in (0, 1)] for i in range(len(data))])
        with self.reader.reference():
            self.reference_B2 = self._logp()
        self.reader.vision_cache.clear()
        self.reader.train()

    def _logp(self) -> Tensor:
        return self.reader.token_logp(self.prompts, self.rows).sum(1)[self.row_B2]

    def step(self) -> float:
        """One step; the loss."""
        self.model.zero_grad()
        loss: Any = preference_loss("dpo", preference_margin(self._logp(), self.reference_B2), BETA).mean()
        loss.backward()
        return float(loss)

    def parts(self) -> dict[str, Callable[[], Any]]:
        """What of the step is the LM head, and what the vision tower would cost."""
        head, width = self.reader.core.lm_head, self.reader.core.config.text_config.hidden_size
        hidden = torch.randn(int(self.rows.mask_RL.sum()), width, requires_grad=True)
        pixels = self.prompts.vision["pixel_values"]
        return {
            "lm_head": lambda: head(hidden).logsumexp(-1).sum().backward(),
            "vision_of_one_image": torch.no_grad()(lambda: self.reader.core.get_image_features(pixel_values=pixels[:1])),
        }


def milliseconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU time of each, in turns, after a run that does not count."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in list(runs.items())[:: 1 if number % 2 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            spent[name].append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
    wall_and_cpu = {name: np.median(times[1:], axis=0).tolist() for name, times in spent.items()}
    return {name: (wall, cpu) for name, (wall, cpu) in wall_and_cpu.items()}


def agreement(ours: Any, theirs: Any) -> dict[str, float]:
    """Differences of loss and gradient after a step of each; RuntimeError where they are not small."""
    differences = []
    for step in (theirs.step, theirs.compact_step):
        loss = abs(ours.step() - step())
        mine, stock = gradients(ours.model), gradients(theirs.model)
        if mine.keys() != stock.keys():
            raise RuntimeError(f"the two train different weights: {sorted(mine.keys() ^ stock.keys())[:4]}")
        apart = torch.stack([(mine[name] - gradient).norm() for name, gradient in stock.items()]).norm()
        differences.append((loss, float(apart / torch.stack([gradient.norm() for gradient in stock.values()]).norm())))
    loss, gradient = (max(column) for column in zip(*differences, strict=True))
    if loss > 1e-5 or gradient > 1e-4:
        raise RuntimeError(f"the two disagree: losses by {loss:.1e}, gradients by {gradient:.1e} of their norm")
    return {"loss_difference": loss, "gradient_difference": gradient}


def compare(size: argparse.Namespace, case: str, vocabulary: int) -> dict[str, float]:
    """Agreement, times and ratios on one set of pairs."""
    data = pairs(size, case)
    ours, theirs = Ours(size, vocabulary, data), Theirs(size, vocabulary, data)
    found = agreement(ours, theirs)
    runs = {"ours": ours.step, "trl": theirs.step, "compact": theirs.compact_step}
    spent, parts = milliseconds(runs, size.repeats), milliseconds(ours.parts(), size.repeats)
    (wall, cpu), (their_wall, their_cpu), (compact_wall, compact_cpu) = (spent[name] for name in runs)
    passes = 2 * 2 * 2 * len(data)  # two images for each side of each pair, for the policy and for the reference
    return found | {
        "ratio": their_wall / wall,
        "cpu_ratio": their_cpu / cpu,
        "compact_ratio": compact_wall / wall,
        "compact_cpu_ratio": compact_cpu / cpu,
        "ours_ms": wall,
        "trl_ms": their_wall,
        "ours_cpu_ms": cpu,
        "trl_cpu_ms": their_cpu,
        "share_lm_head": parts["lm_head"][1] / cpu,
        "trl_share_lm_head": 1 - compact_cpu / their_cpu,
        "trl_share_vision": passes * parts["vision_of_one_image"][1] / their_cpu,
        "prompt_tokens": float(ours.prompts.mask_PT.sum() / len(ours.prompts.mask_PT)),
    }


def memory_rise(size: argparse.Namespace, who: str, case: str) -> float:
    """Megabytes by which the peak resident size of a few steps is above that before them; in a process of its own."""
    kind: Any = Ours if who == "ours" else Theirs
    made = kind(size, size.vocabularies[0], pairs(size, case))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    for _ in range(MEMORY_STEPS):
        (made.compact_step if who == "compact" else made.step)()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1000


def memory(argv: Sequence[str], case: str) -> dict[str, float]:
    """The rise of each, in a fresh process, and the ratios."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    mb = {}
    for who in ("ours", "trl", "compact"):
        command = [sys.executable, __file__, *argv, "--child", who, case]
        lines = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()
        mb[who] = float(lines[-1])
    ratios = {"memory_ratio": mb["ours"] / mb["trl"], "compact_memory_ratio": mb["ours"] / mb["compact"]}
    return ratios | {f"{who}_mb": value for who, value in mb.items()}


def settings(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[8192, 2048, 32768], help="the first is the main one")
    parser.add_argument("--quick", action="store_true", help="no memory, and no model of almost no size")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Compares both sets of pairs, the first also over vocabularies, and prints one line of JSON last."""
    argv = sys.argv[1:] if argv is None else argv
    size = settings(argv)
    if size.child:
        print(memory_rise(size, *size.child))
        return
    warnings.filterwarnings("ignore", category=FutureWarning)
    report = {name: value for name, value in vars(size).items() if name != "child"} | {"threads": torch.get_num_threads()}
    main_one, *others = size.vocabularies
    plan = [(case, case, size, main_one) for case in CASES] + [(f"shared_{v}", "shared", size, v) for v in others]
    if not size.quick:
        plan.append(("fixed", "shared", argparse.Namespace(**vars(size) | SMALLEST), 500))
    for key, case, chosen, vocabulary in plan:
        found = compare(chosen, case, vocabulary)
        ratios = f"ratio {found['cpu_ratio']:.2f}, {found['compact_cpu_ratio']:.2f} with a compact head"
        print(f"{key}: ours {found['ours_cpu_ms']:.0f} ms, trl {found['trl_cpu_ms']:.0f} ms of CPU, {ratios}", flush=True)
        report |= {f"{name}_{key}": float(f"{value:.4g}") for name, value in found.items()}
    if not size.quick:
        for case in CASES:
            suffix = "" if case == "shared" else f"_{case}"
            report |= {f"{name}{suffix}": round(value, 3) for name, value in memory(argv, case).items()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
