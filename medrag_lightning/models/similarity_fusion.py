"""Several similarities of a query and a document as one score: f(q, d) = sum_m w_m cos_m(q, d).

Source: MR-RAG (Li et al., CVPR 2026), MCR: alpha cos(q_image, d_text) + beta cos(q_image, d_image) + gamma cos(q_text, d_text)
with three global scalars. Weights by modality and by query, which the paper names as future work, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.models.checkpoints import read_trained
from medrag_lightning.models.embedding import refuse_contradictions, weights_sha256
from medrag_lightning.models.fusion_gate import FusionGate
from medrag_lightning.models.similarities import comparable
from medrag_lightning.records import Channel, Query

STAGE, PREFIX = "fusion_nce", "fusion."
GATE_WIDTH = 16
ChannelName = Literal["image_to_text", "image_to_image", "text_to_text", "text_to_image"]
Scope = Literal["global", "per_modality", "per_query"]
Constraint = Literal["none", "softplus", "simplex"]


class WeightedSimilarities(nn.Module):
    """A learned weighted sum of similarities; implements `interfaces.LearnedFusion`.

    The shared weights are those of the published method, whatever the scope: other scopes add each query's own deviation from
    them, which starts at 0 and passes no gradient to them. So a run of another scope holds the published fit, too, and a
    modality that was not seen in training, or is unknown, is weighed by it.

    Args:
        channels: the M similarities (published: alpha, beta, gamma in this order; ``text_to_image`` may be the fourth).
        scope: ``global`` (published): one weight vector. ``per_modality``: one for each modality of the training queries.
            ``per_query``: a small gate network looks at the statistics of the query's similarities, and at its modality.
        constraint: ``none`` (published as far as known): any numbers; only their direction matters for the ranking, their
            length acts as 1/tau and may grow without end. ``simplex``: positive, summing to 1. ``softplus``: positive, of the
            fixed length 1/sqrt(M), which leaves the sharpness to tau as `simplex` does.
        standardise: zero mean and unit variance for each channel over a query's candidates; see `models.similarities`.
        tau: divides scores in the loss.
        learn_tau: whether tau trains, too, from there; with constraint ``none`` the weights' length does the same.
        gate_width: hidden units of the gate, for scope ``per_query`` only; null for 16.
    """

    def __init__(
        self,
        channels: list[ChannelName] = ["image_to_text", "image_to_image", "text_to_text"],  # noqa: B006  (never changed)
        scope: Scope = "global",
        constraint: Constraint = "none",
        standardise: bool = True,
        tau: float = 0.07,
        learn_tau: bool = False,
        gate_width: int | None = None,
    ) -> None:
        super().__init__()
        self._channels = _checked(channels)
        if tau <= 0:
            raise ValueError(f"tau must be positive, got {tau}")
        if gate_width is not None and (scope != "per_query" or gate_width < 1):
            told = "would be ignored: only scope per_query has a gate" if scope != "per_query" else "must be at least 1"
            raise ValueError(f"gate_width={gate_width} {told}; leave it out")
        self.scope, self.constraint, self.standardise, self.tau = scope, constraint, standardise, tau
        self.learn_tau, self.gate_width = learn_tau, gate_width
        self.shared = nn.Parameter(torch.full((len(channels),), 1 / len(channels) if constraint == "none" else 0.0))
        self.log_tau = nn.Parameter(torch.full((1 if self.is_shared else 2,), math.log(tau)), requires_grad=learn_tau)
        self.modalities: tuple[str, ...] = ()
        self.deviation: nn.Parameter | None = None
        self.gate: FusionGate | None = None

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The M similarities, in order."""
        return self._channels

    @property
    def is_shared(self) -> bool:
        """Whether every query has the shared weights."""
        return self.scope == "global"

    def prepare(self, modalities: Iterable[str]) -> None:
        """Makes the weights of modalities, or the gate; once."""
        if self.is_shared or self.deviation is not None or self.gate is not None:
            return
        self.modalities = tuple(sorted({_plain(name) for name in modalities}))
        if self.scope == "per_query":
            self.gate = FusionGate(len(self._channels), self.modalities, self.gate_width or GATE_WIDTH)
        elif not self.modalities:
            raise ValueError("scope per_modality: no training question tells its modality; use scope global or per_query")
        else:
            self.deviation = nn.Parameter(torch.zeros(len(self.modalities), len(self._channels)))

    def comparable(self, similarity_BKM: Tensor) -> Tensor:
        """(B, K, M) what the weights multiply; see `models.similarities.comparable`."""
        return comparable(similarity_BKM, self.standardise)

    def shared_weights(self) -> Tensor:
        """(M,) weights that do not depend on the query."""
        return self._constrained(self.shared)

    def query_weights(self, similarity_BKM: Tensor, modality: Sequence[str | None]) -> Tensor:
        """(B, M) weights of each query; the shared ones get gradient from here in scope ``global`` only."""
        if self.is_shared:
            return self.shared_weights().expand(len(modality), -1)
        names = [None if name is None else _plain(name) for name in modality]
        if self.gate is not None:
            return self._constrained(self.shared.detach() + self.gate(similarity_BKM.float(), names))
        assert self.deviation is not None, "prepare() comes first"
        place_of = {name: place for place, name in enumerate(self.modalities)}
        place_B = torch.tensor([place_of.get(name or "", -1) for name in names], device=self.shared.device)
        own_BM = self.deviation[place_B.clamp(min=0)] * (place_B >= 0)[:, None]
        return self._constrained(self.shared.detach() + own_BM)

    def modality_weights(self) -> dict[str, Tensor]:
        """(M,) weights of each modality, for scope ``per_modality``; else empty."""
        if self.deviation is None:
            return {}
        return dict(zip(self.modalities, self._constrained(self.shared + self.deviation).detach(), strict=True))

    def temperatures(self) -> tuple[Tensor, Tensor]:
        """tau of the shared weights, and of the queries' own."""
        tau = self.log_tau.exp()
        return tau[0], tau[-1]

    @torch.no_grad()
    def scores(self, similarity_BKM: NDArray[np.float32], queries: Sequence[Query]) -> NDArray[np.float32]:
        """f (B, K); NaN where a candidate has none of the similarities."""
        given_BKM = torch.from_numpy(np.ascontiguousarray(similarity_BKM, np.float32)).to(self.shared.device)
        weight_BM = self.query_weights(given_BKM, [query.modality for query in queries])
        score_BK = torch.einsum("bkm,bm->bk", self.comparable(given_BKM), weight_BM)
        return score_BK.masked_fill(given_BKM.isnan().all(-1), torch.nan).cpu().numpy()

    def fingerprint(self) -> str:
        """sha256 over settings and weights."""
        return fingerprint(self.describe(), weights_sha256(self))

    def settings(self) -> dict[str, Any]:
        """The arguments that make the same fusion before training."""
        names = ("scope", "constraint", "standardise", "tau", "learn_tau", "gate_width")
        return {"channels": [str(name) for name in self._channels], **{name: getattr(self, name) for name in names}}

    def describe(self) -> dict[str, Any]:
        """The settings, and the modalities that have weights or an input of their own."""
        return {**self.settings(), "modalities": list(self.modalities)}

    def restore(self, description: dict[str, Any]) -> None:
        """`prepare` from a checkpoint's description; ValueError where it contradicts the settings."""
        refuse_contradictions(self.settings(), {k: v for k, v in description.items() if k != "modalities"}, "fusion")
        self.prepare(description["modalities"])
        refuse_contradictions(self.describe(), description, "fusion")

    def start_from(self, description: dict[str, Any], weights: Mapping[str, Tensor], where: str) -> None:
        """Begins with another run's weights; from one of scope ``global`` the shared weights (and tau) alone are taken."""
        names = ("channels", "constraint", "standardise")
        theirs = {name: description[name] for name in names}
        refuse_contradictions({name: self.settings()[name] for name in names}, theirs, f"fusion in {where}")
        if description["scope"] != "global":
            self.restore(description)
            load_fusion(self, weights, where)
            return
        with torch.no_grad():
            self.shared.copy_(weights["shared"])
            if self.learn_tau and "log_tau" in weights:
                self.log_tau.copy_(weights["log_tau"].expand_as(self.log_tau))

    def _constrained(self, raw: Tensor) -> Tensor:
        """Weights from unconstrained numbers (..., M)."""
        if self.constraint == "none":
            return raw
        if self.constraint == "simplex":
            return raw.softmax(-1)
        return functional.normalize(functional.softplus(raw), dim=-1) / math.sqrt(len(self._channels))


class TrainedFusion:
    """What a run of stage `fusion_nce` has learned; implements `interfaces.SimilarityFusion`. Loaded when first needed.

    Args:
        checkpoint: the ``.ckpt`` file; it says what channels, scope and so on it has.
        shared: whether every query gets the shared weights, the published method, whatever the scope of the run.
    """

    def __init__(self, checkpoint: str, shared: bool = False) -> None:
        self.checkpoint, self.shared = checkpoint, shared
        self._fusion: WeightedSimilarities | None = None

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Those of the run."""
        return self._loaded().channels

    def scores(self, similarity_BKM: NDArray[np.float32], queries: Sequence[Query]) -> NDArray[np.float32]:
        """f (B, K); NaN where a candidate has none of the similarities."""
        return self._loaded().scores(similarity_BKM, queries)

    def fingerprint(self) -> str:
        """sha256 over settings and weights; where the checkpoint lies does not matter."""
        return self._loaded().fingerprint()

    def _loaded(self) -> WeightedSimilarities:
        if self._fusion is None:
            description, weights = read_trained(self.checkpoint, STAGE, PREFIX, "TrainedFusion")
            settings = {name: value for name, value in description.items() if name != "modalities"}
            made = WeightedSimilarities(**settings)
            made.restore(description)
            load_fusion(made, weights, self.checkpoint)
            if self.shared:
                made, trained = WeightedSimilarities(**settings | {"scope": "global", "gate_width": None}), made
                load_fusion(made, {"shared": trained.shared.detach(), "log_tau": trained.log_tau.detach()[:1]}, self.checkpoint)
            self._fusion = made.requires_grad_(False).eval()
        return self._fusion


class FixedFusion:
    """Weights by hand: a single similarity, a uniform sum, or weights found elsewhere; implements `SimilarityFusion`.

    Args:
        weights: by channel; ``{image_to_text: 1}`` ranks the candidates by one similarity.
        standardise: as in `WeightedSimilarities`.
    """

    def __init__(self, weights: dict[ChannelName, float], standardise: bool = True) -> None:
        self._channels, self.standardise = _checked(list(weights)), standardise
        if not all(math.isfinite(value) for value in weights.values()) or not any(weights.values()):
            raise ValueError(f"weights must be finite and not all 0, got {weights}")
        self.weight_M = torch.tensor(list(weights.values()))

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels that have a weight."""
        return self._channels

    def scores(self, similarity_BKM: NDArray[np.float32], queries: Sequence[Query]) -> NDArray[np.float32]:
        """f (B, K); NaN where a candidate has none of the similarities."""
        given_BKM = torch.from_numpy(np.ascontiguousarray(similarity_BKM, np.float32))
        score_BK = comparable(given_BKM, self.standardise) @ self.weight_M
        return score_BK.masked_fill(given_BKM.isnan().all(-1), torch.nan).numpy()

    def fingerprint(self) -> str:
        """sha256 over the weights and `standardise`."""
        return fingerprint([str(name) for name in self._channels], self.weight_M.tolist(), self.standardise)


def load_fusion(fusion: WeightedSimilarities, weights: Mapping[str, Tensor], where: str) -> None:
    """Puts trained weights in place; ValueError unless they are exactly those that train."""
    trained = {name for name, parameter in fusion.named_parameters() if parameter.requires_grad}
    mine = {name: value for name, value in weights.items() if name != "log_tau" or fusion.learn_tau}
    if set(mine) != trained:
        raise ValueError(f"{where}: the weights of the fusion do not fit: {sorted(set(mine) ^ trained)} differ by name")
    fusion.load_state_dict(mine, strict=False)


def _checked(channels: Sequence[str]) -> tuple[Channel, ...]:
    if not channels or len(set(channels)) != len(channels):
        raise ValueError(f"channels must name at least one similarity, each once; got {list(channels)}")
    return tuple(Channel(name) for name in channels)


def _plain(modality: str) -> str:
    """So that ``CT`` and ``ct`` are one modality."""
    return modality.strip().casefold()
