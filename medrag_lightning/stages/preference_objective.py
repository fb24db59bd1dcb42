"""What stage `reader_preference` minimises: log-probabilities of both sides of each pair in, one number a pair out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medrag_lightning import losses
from medrag_lightning.losses import PreferenceKind


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class PreferenceLoss:
    """The loss and its settings; formulas in `losses.preference_loss`.

    Args:
        kind: `dpo`, `ipo`, `hinge` or `robust`.
        beta: how closely the reader is held to its reference (HeteroRAG does not say; MMed-RAG and RULE: 0.1).
        label_smoothing: share of pairs taken to be labelled the wrong way round, in [0, 0.5); for `dpo` and `robust` alone.
        length_normalised: divide each side's log-probability by its tokens (with `ipo`: as in IPO's experiments and in trl).
        nll_weight: weight of the chosen answers' NLL (nats a token) beside the loss, so that their own likelihood, and with it
            the form of an answer, is not unlearned; 0 for none.
    """

    kind: PreferenceKind = "dpo"
    beta: float = 0.1
    label_smoothing: float = 0.0
    length_normalised: bool = False
    nll_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.beta > 0 or self.nll_weight < 0:
            raise ValueError(f"loss needs beta > 0 and nll_weight >= 0, got {self.beta} and {self.nll_weight}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"loss.label_smoothing must lie in [0, 0.5), got {self.label_smoothing}")
        if self.label_smoothing and self.kind not in ("dpo", "robust"):
            raise ValueError(f"label_smoothing={self.label_smoothing} would be ignored by loss {self.kind}; leave it out")
        if self.kind == "robust" and not self.label_smoothing:
            raise ValueError("loss robust without label_smoothing is dpo; give the share of flipped labels, or choose dpo")

    def values(self, policy_B2: Tensor, reference_B2: Tensor, tokens_B2: Tensor) -> Tensor:
        """The loss of each pair, (B,)."""
        margin_B = losses.preference_margin(policy_B2, reference_B2, tokens_B2 if self.length_normalised else None)
        return losses.preference_loss(self.kind, margin_B, self.beta, self.label_smoothing)
