"""Time of scoring K candidates x C closed answers a query: `HfReader.token_logp` against the loops that others write.

Three peers, on the same model and prompts, each with the stock processor and model, chunks of 5 sequences:

- JOMED-shaped: greedy `generate` without a cache, 8 new tokens, answers read off the raw scores; each query alone.
- cached: the same loop with a key-value cache.
- exact: one stock forward over each (candidate, answer) sequence, teacher-forced: the only peer with our numbers.

Random weights never stop, so the first two always make 8 forwards a chunk. A fine-tuned reader ends after its label: with one
token a label that is 2 forwards, given as `..._stopping` (measured with 2 new tokens). Candidates come from a search among
random vectors of 1080 documents; 64 queries of RetinaMNIST among its 1080 training images (64 principal components) find
83, 71, 42, 29 % distinct ones at K = 5, 10, 30, 50. Without overlap every query has documents of its own.

Ours reads all queries in one call, from cold. A peer's time for a pair of query and candidate depends on no other pair: it is
taken over the first 10 candidates of one query, ours without overlap over 4 queries. All figures are for one pair; times are
CPU time, the median of interleaved repeats. Tokens (of the language and the vision tower, padding included) and FLOPs are
counted while the systems run. The last line is JSON; `ratio_...` are the worst over K, candidate first, with overlap.

    GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1 python scripts/bench/scoring.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from medrag_lightning.batches import Example
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.prompts import PromptOrder, PromptTemplate
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, ImageRef, Query, Regime
from medrag_lightning.stages.raft_collator import RaftCollator

CHOICES = ("zero", "one", "two", "three", "four")
WORDS = ("film shows", "mild", "large", "left", "right", "effusion", "nodule", "edema", "heart size", "no finding", "retina")
QUESTION = "what is the grade of retinopathy in this image?"
DOCUMENTS, WIDTH, CHUNK, NEW_TOKENS, STOPPING = 1080, 64, 5, 8, 2
PEER_CANDIDATES, ALONE = 10, 4
Peer = Callable[["World", Sequence[Example]], Any]


class World:
    """A reader, documents with an image and a report each, and queries that find their nearest documents."""

    def __init__(self, backbone: TinyBackbone, order: PromptOrder, queries: int, image_side_px: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.template = PromptTemplate(order=order)
        lengths = rng.lognormal(np.log(25), 0.6, DOCUMENTS).clip(5, 120).astype(int)
        reports = [" ".join(rng.choice(WORDS, length)) for length in lengths]
        self.documents = [Document(f"d{i}", text, ImageRef(f"d{i}.png")) for i, text in enumerate(reports)]
        shape = (image_side_px, image_side_px, 3)
        self.pictures = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(DOCUMENTS + queries)]
        near = rng.standard_normal((queries, WIDTH)) @ rng.standard_normal((WIDTH, DOCUMENTS))
        self.found = np.argsort(-near, axis=1)
        self.order = rng.permutation(DOCUMENTS)
        self.queries = [
            Query(f"q{i}", QUESTION, answer="one", choices=CHOICES, answer_type=AnswerType.CLOSED) for i in range(queries)
        ]
        self.reader = HfReader(backbone)
        self.reader.prepare([*reports, QUESTION, *CHOICES])
        self.reader.eval()
        self.labels = [row[:-1] for row in self.reader.processor.encode_answers(CHOICES)]

    def examples(self, count: int, overlap: bool) -> list[Example]:
        """Every query with its `count` candidates; `overlap=False`: no document is shown to two queries while they last."""
        made = []
        for q, query in enumerate(self.queries):
            numbers = self.found[q, :count] if overlap else self.order[np.arange(q * count, (q + 1) * count) % DOCUMENTS]
            shown = tuple(Candidate(self.documents[i], 0.5, Channel.IMAGE_TO_IMAGE) for i in numbers)
            images = tuple(self.pictures[i] for i in numbers)
            made.append(Example(query, Regime.RETRIEVED, shown, self.pictures[DOCUMENTS + q], images))
        return made


def ours(world: World, examples: Sequence[Example]) -> torch.Tensor:
    """Collation and one call, nothing kept from before: (Q, K, C) sums of log-probability."""
    world.reader.vision_cache.clear()
    collate = RaftCollator(world.reader.processor, world.template, one_candidate_per_prompt=True, training=False)
    (part,) = collate(examples).parts
    assert part.rows is not None
    return world.reader.token_logp(part.prompts, part.rows).sum(1).view(len(examples), -1, len(CHOICES))


def generating(use_cache: bool, new_tokens: int) -> Peer:
    """The JOMED-shaped loop: l_k(c) is the mean over a label's tokens of the raw scores at the steps of the generation."""

    def loop(world: World, examples: Sequence[Example]) -> torch.Tensor:
        scores = []
        for example in examples:
            for chunk in _chunks(range(len(example.candidates))):
                texts, images = _rendered(world, example, chunk)
                out = world.reader.core.generate(
                    **_inputs(world, texts, images),
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    use_cache=use_cache,
                    output_scores=True,
                    return_dict_in_generate=True,
                )
                steps_SBV = torch.stack(out.scores)
                places = [torch.arange(min(len(label), len(steps_SBV))) for label in world.labels]
                means = [steps_SBV[at, :, label[: len(at)]] for at, label in zip(places, world.labels, strict=True)]
                scores.append(torch.stack([mean.mean(0) for mean in means], 1))
        return torch.cat(scores).log_softmax(-1)

    return loop


def exact(world: World, examples: Sequence[Example]) -> torch.Tensor:
    """One stock forward over every (candidate, answer) sequence: (Q, K, C) sums of log-probability."""
    end = world.reader.processor.end_id
    answers = [[*label, end] for label in world.labels]
    sums = []
    for example in examples:
        pairs = [(k, c) for k in range(len(example.candidates)) for c in range(len(CHOICES))]
        for chunk in _chunks(pairs):
            texts, images = _rendered(world, example, [k for k, _ in chunk])
            words = [f"{text} {CHOICES[c]}</s>" for text, (_, c) in zip(texts, chunk, strict=True)]
            inputs = _inputs(world, words, images)
            logp_RTV = world.reader.core(**inputs).logits.log_softmax(-1)
            for row, (_, c) in enumerate(chunk):
                count = len(answers[c])
                sums.append(logp_RTV[row, -count - 1 : -1].gather(-1, torch.tensor(answers[c])[:, None]).sum())
    return torch.stack(sums).view(len(examples), -1, len(CHOICES))


def _chunks(items: Sequence[Any]) -> list[Any]:
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]


def _rendered(world: World, example: Example, candidates: Sequence[int]) -> tuple[list[str], list[list[Any]]]:
    prompts = [world.template.build(example, (k,)) for k in candidates]
    return [world.reader.processor.render(prompt) for prompt in prompts], [prompt.images for prompt in prompts]


def _inputs(world: World, texts: list[str], images: list[list[Any]]) -> dict[str, Any]:
    inputs = dict(world.reader.processor.processor(text=texts, images=images, padding=True, return_tensors="pt"))
    if world.reader.family.multimodal_rope:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == world.reader.processor.image_token_id).long()
    return inputs


PEERS: dict[str, Peer] = {
    "jomed_loop": generating(use_cache=False, new_tokens=NEW_TOKENS),
    "cached_loop": generating(use_cache=True, new_tokens=NEW_TOKENS),
    "exact_loop": exact,
    "jomed_loop_stopping": generating(use_cache=False, new_tokens=STOPPING),
    "cached_loop_stopping": generating(use_cache=True, new_tokens=STOPPING),
}


def counts(run: Callable[[], Any], world: World) -> dict[str, float]:
    """Tokens through the first layer of the language tower and of the vision tower, and FLOPs, of one run."""
    core, family = world.reader.core, world.reader.family
    seen = {"language": 0, "vision": 0}
    hooks = []
    for kind, name in (("language", family.language), ("vision", family.vision)):
        tower = next(m for n, m in core.named_modules() if n.rsplit(".", 1)[-1] == name)
        layers = next(m for n, m in tower.named_modules() if n.rsplit(".", 1)[-1] in ("layers", "blocks"))

        def count(module: Any, inputs: Any, kind: str = kind) -> None:
            seen[kind] += inputs[0].shape[:-1].numel()

        hooks.append(layers[0].register_forward_pre_hook(count))
    with FlopCounterMode(display=False) as counter:
        run()
    for hook in hooks:
        hook.remove()
    return {"tokens": seen["language"], "vision_tokens": seen["vision"], "gflop": counter.get_total_flops() / 1e9}


def compare(world: World, count: int, rounds: int) -> dict[str, Any]:
    """Medians of interleaved repeats in milliseconds a pair, counts a pair, and ratios to ours with and without overlap."""
    shown, alone = world.examples(count, True), world.examples(count, False)[:ALONE]
    few = [_first(shown[0], PEER_CANDIDATES)]
    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "ours": (lambda: ours(world, shown), count * len(shown)),
        "ours_no_overlap": (lambda: ours(world, alone), count * len(alone)),
        **{name: (lambda p=p: p(world, few), len(few[0].candidates)) for name, p in PEERS.items()},  # type: ignore[misc]
    }
    difference = ours(world, shown)[:1, : len(few[0].candidates)] - exact(world, few)
    distinct = len({candidate.document.id for example in shown for candidate in example.candidates})
    report: dict[str, Any] = {"max_difference_nats": float(difference.abs().max())}
    report["distinct_share"] = round(distinct / (count * len(shown)), 3)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, (run, pairs) in list(runs.items())[:: 1 if number % 2 == 0 else -1]:
            start = time.perf_counter(), time.process_time()
            run()
            taken = time.perf_counter() - start[0], time.process_time() - start[1]
            spent[name].append(1000 * taken[1] / pairs)  # CPU time: on a shared machine the steadier one
            report.setdefault("wall_over_cpu", []).append(taken[0] / taken[1])
    report["wall_over_cpu"] = round(statistics.median(report["wall_over_cpu"]), 2)
    for name, (run, pairs) in runs.items():
        counted = {key: round(value / pairs, 4) for key, value in counts(run, world).items()}
        report[name] = {"ms": round(statistics.median(spent[name]), 2), **counted}
    for mine in ("ours", "ours_no_overlap"):
        for peer in PEERS:
            ratio, tokens, flop = (report[peer][key] / report[mine][key] for key in ("ms", "tokens", "gflop"))
            suffix = peer if mine == "ours" else f"{peer}_no_overlap"
            report[f"ratio_{suffix}"] = round(ratio, 2)
            report[f"token_ratio_{suffix}"] = round(tokens, 2)
            report[f"of_token_bound_{suffix}"] = round(ratio / tokens, 2)
            report[f"of_flop_bound_{suffix}"] = round(ratio / flop, 2)
    return report


def _first(example: Example, count: int) -> Example:
    return replace(example, candidates=example.candidates[:count], candidate_images=example.candidate_images[:count])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every K in both prompt orders, prints a table each, and one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[5, 10, 30, 50], help="K")
    parser.add_argument("--queries", type=int, default=64, help="queries in one call of ours")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--family", default="llava")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vision_layers", type=int, default=4)
    parser.add_argument("--image_side", type=int, default=64, help="pixels")
    chosen = parser.parse_args(argv)
    sizes = {"hidden": chosen.hidden, "layers": chosen.layers, "vision_layers": chosen.vision_layers}
    backbone = TinyBackbone(chosen.family, **sizes, vision_hidden=chosen.hidden * 3 // 4, image_side_px=chosen.image_side)
    report: dict[str, Any] = {**vars(chosen), "threads": torch.get_num_threads()}
    warnings.filterwarnings("ignore", category=FutureWarning)
    orders: tuple[PromptOrder, ...] = ("evidence_first", "query_first")
    with torch.no_grad():
        for order in orders:
            world = World(backbone, order, chosen.queries, chosen.image_side)
            found = {count: compare(world, count, chosen.rounds) for count in chosen.candidates}
            _show(order, found)
            report[order] = found
    for name in (
        f"{kind}_{peer}{rest}" for kind in ("ratio", "of_token_bound") for peer in PEERS for rest in ("", "_no_overlap")
    ):
        report[name] = min(found[name] for found in report["evidence_first"].values())
    print(json.dumps(report))


def _show(order: str, found: dict[int, dict[str, Any]]) -> None:
    print(
        f"\n{order}\n{'K':>3} {'system':<22} {'ms/pair':>9} {'tokens':>9} {'vision':>8} {'GFLOP':>8} {'ratio':>6} "
        f"{'no overlap':>10}"
    )
    for count, of in found.items():
        for name in ("ours", "ours_no_overlap", *PEERS):
            row = of[name]
            ratios = [of.get(f"ratio_{name}{rest}", "") for rest in ("", "_no_overlap")]
            cells = f"{row['ms']:>9} {row['tokens']:>9.1f} {row['vision_tokens']:>8.1f} {row['gflop']:>8.3f}"
            print(f"{count:>3} {name:<22} {cells} {ratios[0]:>6} {ratios[1]:>10}")
        print(
            f"    distinct candidates {of['distinct_share']}, wall / CPU time {of['wall_over_cpu']}, "
            f"largest difference to the exact loop {of['max_difference_nats']:.1e} nats"
        )


if __name__ == "__main__":
    main()
