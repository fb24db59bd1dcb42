"""What attention steering costs a prefill, against the stock model and against the same formula in plain full attention.

The decoder of a LLaVA-shaped reader (Qwen2 layers, grouped keys, random weights, float32 unless asked) reads one prompt of 15
documents, an image's 576 tokens and a question of 40; the image's features are taken as given, so that no vision tower dilutes
the share. Systems, in turns on the same weights and tokens:

- stock: sdpa, unsteered.
- paper, mass_preserving (the dearest), knockout (the cheapest), and mass (`attention_mass`; it keeps no cache): sdpa for all
  rows, the question's computed again. In every layer: of 32, calibration chooses 8-20, so this bounds their cost from above.
- eager: IFA as one writes it from the formula: all Q x S logits of a head, + lambda |logit|, mask, softmax in float32.

`extra_time_fraction` is the dearest policy's median over that of stock, less 1, by CPU time (wall time is printed, too).
`extra_memory_fraction` is the same of the peak of what a pass allocates, weights and inputs not counted; the allocator's events
are counted, so it is no estimate. `memory_ratio_eager` is eager's extra peak over the dearest policy's, or, where the steered
peak lies below another one (the feed-forward block's), over what one layer's row block allocates at most. The difference to
float64 full attention is printed beside the times.

What is a toy's share: the row block's FLOPs are printed as a fraction of the pass, here and in a 7B reader (width 4096, 32
layers, feed-forward 14336). What the measured fraction has beyond the first is elementwise work and calls, which shrink with
width, too.

    GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1 python scripts/bench/steering.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from medrag_lightning.batches import EncodedPrompts, Role, Steering, TokenRoles
from medrag_lightning.models.attention_mass import attention_mass
from medrag_lightning.models.families import family_of
from medrag_lightning.models.steering import steered

QUESTION, TAIL, DOCUMENTS, IMAGE_SHARE = 40, 5, 15, 576 / 2500
POLICIES = ("paper", "mass_preserving", "knockout")
FAMILY = family_of("llava")
EAGER: dict[str, Tensor] = {}


def decoder(hidden: int, layers: int, heads: int, dtype: torch.dtype) -> Any:
    """A reader whose vision tower is next to nothing; weights enlarged, so that what is attended to shows in the logits."""
    text = transformers.Qwen2Config(
        vocab_size=512, hidden_size=hidden, intermediate_size=hidden * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=max(1, heads // 4), max_position_embeddings=8192,
        tie_word_embeddings=True,
    )  # fmt: skip
    vision = transformers.SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16, patch_size=16,
        vision_use_head=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=511, tie_word_embeddings=True)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model.to(dtype).eval()


def prompt(tokens: int, steering: Steering | None) -> EncodedPrompts:
    """Documents, image, question and what a template writes after it."""
    generator = torch.Generator().manual_seed(0)
    ids_PT = torch.randint(4, 500, (1, tokens), generator=generator)
    role_PT = torch.full((1, tokens), -1, dtype=torch.int8)
    document_PT = torch.full((1, tokens), -1, dtype=torch.int16)
    image, question = int(tokens * IMAGE_SHARE), tokens - QUESTION - TAIL
    place = {role: number for number, role in enumerate(Role)}
    bounds = torch.linspace(2, question - image, DOCUMENTS + 1).long().tolist()
    for k in range(DOCUMENTS):
        role_PT[:, bounds[k] : bounds[k + 1]] = place[Role.EVIDENCE_TEXT]
        document_PT[:, bounds[k] : bounds[k + 1]] = k
    role_PT[:, question - image : question] = place[Role.QUERY_IMAGE]
    role_PT[:, question : question + QUESTION] = place[Role.QUESTION]
    roles = TokenRoles(role_PT, document_PT, torch.rand(1, DOCUMENTS, generator=generator))
    return EncodedPrompts(ids_PT, torch.ones_like(ids_PT), roles=roles, steering=steering)


def full_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **kwargs: Any) -> Any:
    """IFA written plainly: every row's logits, strength as a matrix, float32 softmax (float64 for float64)."""
    groups = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = query @ key.transpose(2, 3) * scaling
    logits = logits + EAGER["strength_QS"].to(logits.dtype) * logits.abs()
    weights = (logits + mask).softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("bench_full", full_attention)
AttentionMaskInterface.register("bench_full", eager_mask)


def run(model: Any, asked: EncodedPrompts, implementation: str) -> Tensor:
    """Logits of the last token."""
    if model.config.text_config._attn_implementation != implementation:
        model.set_attn_implementation({"text_config": implementation})
    with torch.no_grad(), steered(model, FAMILY, asked):
        logits: Tensor = model(input_ids=asked.ids_PT, attention_mask=asked.mask_PT, use_cache=True, logits_to_keep=1).logits
    return logits[0, 0]


def systems(model: Any, tokens: int) -> dict[str, Callable[[], Any]]:
    """What is compared, each as one call."""
    asked = {policy: prompt(tokens, Steering(policy, "all")) for policy in POLICIES}  # type: ignore[arg-type]
    plain = prompt(tokens, None)
    roles: Any = plain.roles
    low, high = roles.strength_PK.min(), roles.strength_PK.max()
    strength_T = ((roles.strength_PK[0] - low) / (high - low))[roles.document_PT[0].long().clamp_min(0)]
    is_question_T = roles.role_PT[0] == list(Role).index(Role.QUESTION)
    EAGER["strength_QS"] = is_question_T[:, None] * (strength_T * (roles.document_PT[0] >= 0))
    calls: dict[str, Callable[[], Any]] = {"stock": lambda: run(model, plain, "sdpa")}
    for policy in POLICIES:
        calls[policy] = lambda policy=policy: run(model, asked[policy], "medrag_ifa")  # type: ignore[misc]
    calls["mass"] = lambda: (model.set_attn_implementation({"text_config": "medrag_ifa"}), attention_mass(model, FAMILY, plain))
    calls["eager"] = lambda: run(model, plain, "bench_full")
    return calls


def seconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median CPU and wall seconds of each, in turns whose order is reversed every time."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name in list(calls)[:: 1 if number % 2 else -1]:
            start = time.process_time(), time.perf_counter()
            calls[name]()
            if number:  # the first turn warms up
                spent[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    middle = statistics.median
    return {name: (middle(cpu for cpu, _ in turns), middle(wall for _, wall in turns)) for name, turns in spent.items()}


def peak_bytes(call: Callable[[], Any]) -> int:
    """Peak of the bytes that a call allocates and has not yet freed."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    assert profile.profiler is not None
    events: Any = profile.profiler.kineto_results
    held, most = 0, 0
    for _, change in sorted((e.start_ns(), e.nbytes()) for e in events.events() if e.name() == "[memory]"):
        held += change
        most = max(most, held)
    return most


def difference(model: Any, tokens: int) -> dict[str, float]:
    """Largest differences of log-probabilities to float64 full attention; that of stock, which is not steered, for scale."""
    calls, dtype = systems(model, tokens), model.dtype
    logp = {name: calls[name]().double().log_softmax(-1) for name in ("paper", "eager", "stock")}
    exact = systems(model.double(), tokens)["eager"]().log_softmax(-1)
    model.to(dtype)
    return {name: float((found - exact).abs().max()) for name, found in logp.items()}


def flop_fraction(tokens: int, hidden: int, feed_forward: int, kv_share: float) -> float:
    """FLOPs of the question's rows, computed again, over those of a layer's prefill."""
    layer = 2 * tokens * hidden * (hidden * (2 + 2 * kv_share) + 3 * feed_forward) + 2 * tokens * tokens * hidden
    return 4 * QUESTION * tokens * hidden / layer


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2500)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args(argv)
    model = decoder(chosen.hidden, chosen.layers, chosen.heads, getattr(torch, chosen.dtype))
    report: dict[str, Any] = {**vars(chosen), "threads": torch.get_num_threads(), "documents": DOCUMENTS, "question": QUESTION}
    report["max_logp_difference_to_float64"] = differs = difference(model, min(chosen.tokens, 600))
    calls = systems(model, chosen.tokens)
    peak = {name: peak_bytes(call) for name, call in calls.items()}
    median = seconds(calls, chosen.repeats)
    cpu_stock, wall_stock = median["stock"]
    for name in calls:
        cpu, wall = median[name]
        extra = f"CPU {cpu:.2f} s ({cpu / cpu_stock - 1:+.1%}), wall {wall:.2f} s ({wall / wall_stock - 1:+.1%})"
        print(f"{name:>16}: {extra}, peak {peak[name] / 2**20:.0f} MiB ({peak[name] / peak['stock'] - 1:+.1%})")
    dearest = max(peak[name] for name in POLICIES) - peak["stock"]
    block = QUESTION * chosen.tokens * chosen.heads * 4
    report["extra_time_fraction"] = round(max(median[name][0] for name in POLICIES) / cpu_stock - 1, 4)
    report["extra_time_fraction_wall"] = round(max(median[name][1] for name in POLICIES) / wall_stock - 1, 4)
    report["extra_time_fraction_of"] = {name: round(cpu / cpu_stock - 1, 4) for name, (cpu, _) in median.items()}
    report["extra_memory_fraction"] = round(max(0, dearest) / peak["stock"], 4)
    report["memory_ratio_eager"] = round((peak["eager"] - peak["stock"]) / max(dearest, 5 * block), 1)
    report["peak_mib"] = {name: round(value / 2**20) for name, value in peak.items()}
    report["row_flop_fraction"] = round(flop_fraction(chosen.tokens, chosen.hidden, chosen.hidden * 11 // 4, 0.25), 5)
    report["row_flop_fraction_7b"] = round(flop_fraction(2500, 4096, 14336, 0.25), 5)
    print("difference to float64, nats:", ", ".join(f"{name} {value:.1e}" for name, value in differs.items()))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
