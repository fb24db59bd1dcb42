"""Time of scoring K candidates x C closed answers a query: `HfReader.token_logp` against the loops that others write.

Peers, on the same model and prompts, all with the stock processor and model:

- jomed_loop: JOMED's: greedy `generate` without a cache, 8 new tokens, 5 candidates of a query at a time, answers read off the
  raw scores. Random weights never stop, so it always makes 8 forwards. A fine-tuned reader ends after its label: with one
  token a label that is 2 forwards, `jomed_loop_stopping` (measured with 2 new tokens).
- cached_loop, cached_loop_stopping: the same with a key-value cache.
- exact_loop: the plain Hugging Face loop: for every (candidate, answer) the stock processor and one forward over that one
  sequence, log-softmax of all its logits, summed over the answer's tokens. It and the next one alone have our numbers.
- exact_loop_batched: the same, 5 sequences at a time.

A peer's time for a pair (query, candidate) depends on no other pair: it is taken over the first 10 candidates of one query,
the one whose candidates' texts are as long as they are on average.
Ours is one pack as the stage `score` makes them (`data.scoring_feed.packed`; 512 prompts), from cold, collation included: of
all packs of 1080 queries that each find K of the other 1079 documents, the one that shares the average. Their vectors are
random, component i of 64 with deviation 1 / i, as images' are: 32, 27, 26, 27 % of a pack's candidates are distinct at K = 5,
10, 30, 50. Pixels of RetinaMNIST (64 principal components) give 30, 25, 24, 26 %, of ham10000_28 31, 27, 26, 29 %. "No overlap"
is ours where no two queries have a candidate in common: a bound from below.

All figures are for one pair; times are CPU time, the median of interleaved repeats. Tokens (of both towers, with padding) and
FLOPs are counted while the systems run. What a ratio has beyond that of the FLOPs is what a call costs besides: a toy's share,
next to nothing in a reader of billions of weights. The last line is JSON; `ratio_PEER` is the worst over K, candidate first,
with overlap; `..._no_overlap` and `..._query_first` are the others.

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
from medrag_lightning.data.scoring_feed import packed
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.prompts import PromptOrder, PromptTemplate
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.records import AnswerType, Candidate, Channel, Condition, Document, ImageRef, Query, Regime

CHOICES = ("zero", "one", "two", "three", "four")
WORDS = ("film shows", "mild", "large", "left", "right", "effusion", "nodule", "edema", "heart size", "no finding", "retina")
QUESTION = "what is the grade of retinopathy in this image?"
WIDTH, CHUNK, NEW_TOKENS, STOPPING = 64, 5, 8, 2
PEER_CANDIDATES, ALONE = 10, 100
Peer = Callable[["World", Sequence[Example]], Any]


class World:
    """A reader, and as many queries as documents, which have an image and a report each."""

    def __init__(self, backbone: TinyBackbone, order: PromptOrder, size: int, image_side_px: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.template = PromptTemplate(order=order)
        lengths = rng.lognormal(np.log(25), 0.6, size).clip(5, 120).astype(int)
        reports = [" ".join(rng.choice(WORDS, length)) for length in lengths]
        self.documents = [Document(f"d{i}", text, ImageRef(f"d{i}.png")) for i, text in enumerate(reports)]
        shape = (image_side_px, image_side_px, 3)
        self.pictures = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(2 * size)]
        vectors = rng.standard_normal((size, WIDTH)) / np.arange(1, WIDTH + 1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.found = np.argsort(2 * np.eye(size) - vectors @ vectors.T, axis=1)  # a query does not find itself
        self.order = rng.permutation(size)
        asked = Query("q", QUESTION, answer="one", choices=CHOICES, answer_type=AnswerType.CLOSED)
        self.queries = [replace(asked, id=f"q{i}") for i in range(size)]
        self.reader = HfReader(backbone)
        self.reader.prepare([*reports, QUESTION, *CHOICES])
        self.reader.eval()
        self.labels = [row[:-1] for row in self.reader.processor.encode_answers(CHOICES)]

    def pack(self, count: int, prompts_per_pack: int) -> tuple[list[Example], float]:
        """The queries of the pack that shares the average, with their `count` candidates; the share of distinct ones in all."""
        conditions = [[(q, Condition((f"d{i}",))) for i in self.found[n, :count]] for n, q in enumerate(self.queries)]
        packs = packed(conditions, prompts_per_pack)
        distinct = [len({condition.evidence_ids for _, condition in pack}) for pack in packs]
        mean = sum(distinct) / sum(map(len, packs))
        _, chosen = min((abs(new / len(pack) - mean), p) for p, (new, pack) in enumerate(zip(distinct, packs, strict=True)))
        numbers = dict.fromkeys(int(query.id[1:]) for query, _ in packs[chosen])
        return [self.example(n, self.found[n, :count]) for n in numbers], mean

    def alone(self, count: int) -> list[Example]:
        """Queries of which no two have a candidate in common (while the documents last)."""
        size = len(self.queries)
        return [self.example(q % size, r) for q, r in enumerate(np.resize(self.order, (max(4, ALONE // count), count)))]

    def example(self, query: int, numbers: Any) -> Example:
        """A query with the documents of these numbers as its candidates."""
        shown = tuple(Candidate(self.documents[i], 0.5, Channel.IMAGE_TO_IMAGE) for i in numbers)
        images = tuple(self.pictures[i] for i in numbers)
        return Example(self.queries[query], Regime.RETRIEVED, shown, self.pictures[len(self.queries) + query], images)


def ours(world: World, examples: Sequence[Example]) -> torch.Tensor:
    """Collation and one call, nothing kept from before: (Q, K, C) sums of log-probability."""
    world.reader.vision_cache.clear()
    collate = RaftCollator(world.reader.processor, world.template, True, training=False)
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


def exact(rows: int) -> Peer:
    """Stock forwards over (candidate, answer) sequences, `rows` at a time: (Q, K, C) sums of log-probability."""

    def loop(world: World, examples: Sequence[Example]) -> torch.Tensor:
        answers = [[*label, world.reader.processor.end_id] for label in world.labels]
        sums = []
        for example in examples:
            pairs = [(k, c) for k in range(len(example.candidates)) for c in range(len(CHOICES))]
            for chunk in _chunks(pairs, rows):
                texts, images = _rendered(world, example, [k for k, _ in chunk])
                words = [f"{text} {CHOICES[c]}</s>" for text, (_, c) in zip(texts, chunk, strict=True)]
                logp_RTV = world.reader.core(**_inputs(world, words, images)).logits.log_softmax(-1)
                for row, (_, c) in enumerate(chunk):
                    count = len(answers[c])
                    sums.append(logp_RTV[row, -count - 1 : -1].gather(-1, torch.tensor(answers[c])[:, None]).sum())
        return torch.stack(sums).view(len(examples), -1, len(CHOICES))

    return loop


def _chunks(items: Sequence[Any], size: int = CHUNK) -> list[Any]:
    return [items[start : start + size] for start in range(0, len(items), size)]


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
    "exact_loop": exact(1),
    "exact_loop_batched": exact(CHUNK),
    "jomed_loop_stopping": generating(use_cache=False, new_tokens=STOPPING),
    "cached_loop_stopping": generating(use_cache=True, new_tokens=STOPPING),
}


def counts(run: Callable[[], torch.Tensor], world: World) -> tuple[torch.Tensor, dict[str, float]]:
    """The result of one run; and its FLOPs, and tokens through the first layer of the language tower and the vision tower."""
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
        result = run()
    for hook in hooks:
        hook.remove()
    return result, {"tokens": seen["language"], "vision_tokens": seen["vision"], "gflop": counter.get_total_flops() / 1e9}


def compare(world: World, count: int, prompts_per_pack: int, rounds: int) -> dict[str, Any]:
    """Medians of interleaved repeats in milliseconds a pair, counts a pair, and ratios to ours with and without overlap."""
    (shown, distinct), alone = world.pack(count, prompts_per_pack), world.alone(count)
    place, few = _typical(shown)
    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "ours": (lambda: ours(world, shown), count * len(shown)),
        "ours_no_overlap": (lambda: ours(world, alone), count * len(alone)),
        **{name: (lambda p=p: p(world, few), len(few[0].candidates)) for name, p in PEERS.items()},  # type: ignore[misc]
    }
    report: dict[str, Any] = {"distinct_share": round(distinct, 3), "queries": len(shown)}
    results: dict[str, torch.Tensor] = {}
    for name, (run, pairs) in runs.items():
        results[name], counted = counts(run, world)
        report[name] = {key: round(value / pairs, 4) for key, value in counted.items()}
    of_few = results["ours"][place, : len(few[0].candidates)]
    exact_loops = ("exact_loop", "exact_loop_batched")
    report["max_difference_nats"] = max(float((of_few - results[name]).abs().max()) for name in exact_loops)
    spent: dict[str, list[float]] = {name: [] for name in [*runs, "waits"]}
    for number in range(rounds):
        for name, (run, pairs) in list(runs.items())[:: 1 if number % 2 == 0 else -1]:
            start = time.perf_counter(), time.process_time()
            run()
            taken = time.perf_counter() - start[0], time.process_time() - start[1]
            spent[name].append(1000 * taken[1] / pairs)  # CPU time: on a shared machine the steadier one
            spent["waits"].append(taken[0] / taken[1])
    for name in runs:
        report[name]["ms"] = round(statistics.median(spent[name]), 2)
    return report | _ratios(report) | {"wall_over_cpu": round(statistics.median(spent["waits"]), 2)}


def _ratios(report: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for mine, suffix in (("ours", ""), ("ours_no_overlap", "_no_overlap")):
        for peer in PEERS:
            ratio, tokens, flop = (report[peer][key] / report[mine][key] for key in ("ms", "tokens", "gflop"))
            values = {"ratio": ratio, "token_ratio": tokens, "flop_ratio": flop}
            values |= {"of_token_bound": ratio / tokens, "of_flop_bound": ratio / flop}
            found |= {f"{name}_{peer}{suffix}": round(value, 2) for name, value in values.items()}
    return found


def _typical(examples: Sequence[Example]) -> tuple[int, list[Example]]:
    """The query whose first candidates are as long as they are on average: its place, and that alone."""
    firsts = [(e.candidates[:PEER_CANDIDATES], e.candidate_images[:PEER_CANDIDATES]) for e in examples]
    lengths = [statistics.mean(len(candidate.document.text) for candidate in candidates) for candidates, _ in firsts]
    place = min(range(len(examples)), key=lambda i: abs(lengths[i] - statistics.mean(lengths)))
    return place, [replace(examples[place], candidates=firsts[place][0], candidate_images=firsts[place][1])]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every K in both prompt orders, prints a table each, and one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[5, 10, 30, 50], help="K")
    parser.add_argument("--queries", type=int, default=1080, help="and as many documents")
    parser.add_argument("--prompts_per_pack", type=int, default=512, help="in one call of ours")
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
            found = {count: compare(world, count, chosen.prompts_per_pack, chosen.rounds) for count in chosen.candidates}
            _show(order, found)
            report[order] = found
    for name in (f"{kind}_{peer}" for kind in ("ratio", "of_token_bound") for peer in PEERS):
        for rest, of, key in (("", orders[0], ""), ("_no_overlap", orders[0], "_no_overlap"), ("_query_first", orders[1], "")):
            report[name + rest] = min(found[name + key] for found in report[of].values())
    print(json.dumps(report))


def _show(order: str, found: dict[int, dict[str, Any]]) -> None:
    heads = f"{'ms/pair':>9} {'tokens':>9} {'vision':>8} {'GFLOP':>8} {'ratio':>6} {'no overlap':>10}"
    print(f"\n{order}\n{'K':>3} {'system':<22} {heads}")
    for count, of in found.items():
        for name in ("ours", "ours_no_overlap", *PEERS):
            row = of[name]
            ratios = [of.get(f"ratio_{name}{rest}", "") for rest in ("", "_no_overlap")]
            cells = f"{row['ms']:>9} {row['tokens']:>9.1f} {row['vision_tokens']:>8.1f} {row['gflop']:>8.3f}"
            print(f"{count:>3} {name:<22} {cells} {ratios[0]:>6} {ratios[1]:>10}")
        print(
            f"    distinct candidates {of['distinct_share']}, wall / CPU time {of['wall_over_cpu']}, "
            f"largest difference to the exact loops {of['max_difference_nats']:.1e} nats"
        )


if __name__ == "__main__":
    main()
