"""Pairs that would train nothing, or against another reference than is meant: told before the first step, or soon after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.distributed
from torch import Tensor

from medrag_lightning.batches import PreferenceBatch, PreferenceExample
from medrag_lightning.records import PairKind, Preference
from medrag_lightning.stages.preference_collator import same_for_reader

_ROUNDING = 1e-5  # of a log-probability in float32, relative; also its least unit in nats


@runtime_checkable
class PairSamples(Protocol):
    """A data set of pairs that can be looked at before training."""

    def of_each_kind(self, count: int) -> list[PreferenceExample]:
        """The first `count` pairs of each kind, opened."""
        ...


def refuse_same_sides(batch: PreferenceBatch) -> None:
    """ValueError names a kind of which every pair in `batch` shows and says the same to the reader on both sides.

    Its margin would be zero by construction: loss ln 2, and no gradient, for as long as it trains (MMed-RAG, issue 3).
    """
    same_B = same_for_reader(batch)
    for kind in dict.fromkeys(pair.kind for pair in batch.pairs):
        of_kind = [(pair, same) for pair, same in zip(batch.pairs, same_B, strict=True) if pair.kind is kind]
        if all(same for _, same in of_kind):
            first = of_kind[0][0]
            raise ValueError(
                f"preference pairs of kind {str(kind)!r} would train nothing: for the reader both sides are the same (prompt "
                f"tokens, images and answer) in all of {len(of_kind)} pairs looked at, the first is {first.id!r} of query "
                f"{first.query_id!r}: their margin is zero by construction. Does the reader's processor take images, and "
                "does the template show what the sides differ in? Else leave the kind out (data.preference.kinds)."
            )


def refuse_other_reference(batch: PreferenceBatch, live_B2: Tensor, tolerance_nats: float) -> float:
    """The largest difference between stored and live reference (0 where nothing is stored).

    Raises:
        ValueError: it is above the tolerance; the message has both values of the worst pair.
    """
    stored_B2 = batch.reference_B2.to(live_B2)
    difference_B2 = (stored_B2 - live_B2).abs().nan_to_num(-1.0)
    place = int(difference_B2.argmax())
    worst, pair = float(difference_B2.flatten()[place]), batch.pairs[place // 2]
    if worst <= tolerance_nats:
        return max(worst, 0.0)
    side, answer = [("chosen", pair.chosen.answer), ("rejected", pair.rejected.answer)][place % 2]
    raise ValueError(
        f"the stored reference is not this reader's: pair {pair.id!r}, {side} answer {answer!r}: stored "
        f"{float(stored_B2.flatten()[place]):.6f} nats, with the adapter off {float(live_B2.flatten()[place]):.6f} (tolerance "
        f"{tolerance_nats}). The reference is the reader that the score table was made with, with the same template and data: "
        "give its checkpoint to the reader's backbone (models.trained_backbone.TrainedBackbone) and tune a fresh adapter; or "
        "score and build pairs anew. Where the table was scored in another precision, raise check_tolerance; reference: "
        "adapter_off takes the live one."
    )


class BlindnessWatch:
    """Looks for a reader that does not see the query's image.

    Such a reader gives one answer the same log-probability under two images, so that pairs that differ in the image alone
    have a margin of zero for ever. It is told by the log-probabilities themselves: a reader that sees the image differs
    between them before any training.
    """

    def __init__(self) -> None:
        self.pairs, self.largest = 0, 0.0

    def observe(self, pairs: Sequence[Preference], policy_B2: Tensor) -> None:
        """Takes the pairs of a batch that differ in the image alone."""
        chosen = [i for i, pair in enumerate(pairs) if differs_in_image_alone(pair)]
        if chosen:
            logp_B2 = policy_B2.detach()[chosen].float()
            scale_B = logp_B2.abs().amax(1).clamp(min=1.0)
            self.pairs += len(chosen)
            self.largest = max(self.largest, float(((logp_B2[:, 0] - logp_B2[:, 1]).abs() / scale_B).max()))

    def verdict(self, world_size: int, device: torch.device) -> str | None:
        """What to tell of a blind reader; None for one that sees, or without such pairs. Every process calls this."""
        seen = torch.tensor([self.largest, float(self.pairs)], device=device)
        if world_size > 1:
            torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
        if not seen[1] or float(seen[0]) > _ROUNDING:
            return None
        return (
            "this reader does not see the query's image: in every pair so far whose sides differ in the image alone, the "
            f"answer is as likely with either image (largest relative difference {float(seen[0]):.1e}). Their margin "
            "stays zero and they train nothing. Check that the reader's processor and model take images, or leave "
            f"{PairKind.CROSS_MODALITY} out of data.preference.kinds."
        )


def differs_in_image_alone(pair: Preference) -> bool:
    """Whether both sides have the same answer and the same evidence, and so another image."""
    chosen, rejected = pair.chosen, pair.rejected
    return chosen.answer == rejected.answer and chosen.condition.evidence_ids == rejected.condition.evidence_ids
