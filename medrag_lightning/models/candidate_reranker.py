"""A small network that weighs the candidates of a question by all that is known of them, and MIRA's gate between two kinds.

Source: ours, for the gap that JOMED (arXiv 2508.17394) leaves between its mixture and its best single candidate; the gate is
MIRA's adaptive fusion (arXiv 2507.07902, E = a Att(E_img) + (1 - a) Att(E_txt)) over answers in the place of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import CandidateBatch
from medrag_lightning.mixture import FEATURES, GROUPS, QUESTION_FEATURES, candidate_features, found_by_image, question_features
from medrag_lightning.models.checkpoints import read_trained
from medrag_lightning.models.embedding import refuse_contradictions, weights_sha256
from medrag_lightning.records import Candidate, Query

STAGE, PREFIX = "candidate_reranker", "reranker."
FeatureGroup = Literal["retrieval", "documents", "answers"]
Gate = Literal["learned", "by_question"]


class CandidateReranker(nn.Module):
    """Weights w_K over candidates; implements `interfaces.LearnedWeigher`. The order of the candidates does not matter.

    Every candidate goes through one layer together with the question, looks at the others once (attention), and gets a number;
    a softmax makes weights of them. At the start all weights are alike.

    Args:
        features: the groups of features that are looked at; see `mixture.candidate_features`.
        gate: null: one softmax over all candidates. Otherwise candidates that the question's image found and those that a text
            found are weighed apart, and the former get the share a of the weight: a number in [0, 1]; ``learned``, one number
            for all questions; or ``by_question``. Where only one kind was found, it gets everything.
        width: of the layers.
        heads: of the attention; must divide `width`.
        dropout: while training.
        sees_question: whether the question's words (hashed) stand beside the features; the gate sees them anyway.
    """

    mean_F: Tensor
    std_F: Tensor
    used_F: Tensor

    def __init__(
        self,
        features: list[FeatureGroup] = ["retrieval", "documents", "answers"],  # noqa: B006  (never changed)
        gate: float | Gate | None = None,
        width: int = 32,
        heads: int = 2,
        dropout: float = 0.2,
        sees_question: bool = True,
    ) -> None:
        super().__init__()
        if not features or len(set(features)) != len(features) or set(features) - set(GROUPS):
            raise ValueError(f"features must name some of {list(GROUPS)}, each once; got {features}")
        if isinstance(gate, int | float) and not 0 <= gate <= 1:
            raise ValueError(f"gate must be in [0, 1], `learned`, `by_question` or null; got {gate}")
        if width < 1 or width % heads or not 0 <= dropout < 1:
            raise ValueError(f"need heads that divide width, and dropout in [0, 1); got {width=}, {heads=}, {dropout=}")
        self.features, self.gate, self.width, self.heads = list(features), gate, width, heads
        self.dropout, self.sees_question = dropout, sees_question
        shown = QUESTION_FEATURES if sees_question else 0
        self.first = nn.Linear(len(FEATURES) + shown, width)
        self.others = nn.MultiheadAttention(width, heads, dropout=0.0, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.second, self.last = nn.Linear(2 * width, width), nn.Linear(width, 1)
        self.direct = nn.Linear(len(FEATURES), 1, bias=False)
        for layer in (self.last, self.direct):
            nn.init.zeros_(layer.weight)
        self.gate_of_all = nn.Parameter(torch.zeros(1)) if gate == "learned" else None
        self.gate_first = nn.Linear(QUESTION_FEATURES, width) if gate == "by_question" else None
        self.gate_last = nn.Linear(width, 1) if gate == "by_question" else None
        if self.gate_last is not None:
            nn.init.zeros_(self.gate_last.weight)
            nn.init.zeros_(self.gate_last.bias)
        used = [name in features for name, names in GROUPS.items() for _ in names]
        self.register_buffer("used_F", torch.tensor(used, dtype=torch.float32), persistent=False)
        self.register_buffer("mean_F", torch.zeros(len(FEATURES)), persistent=False)
        self.register_buffer("std_F", torch.ones(len(FEATURES)), persistent=False)

    def prepare(self, seen: CandidateBatch) -> None:
        """Takes mean and standard deviation of every feature from all training candidates."""
        if self.gate is not None:
            kinds = [bool((seen.valid_BK & (seen.by_image_BK == kind)).any()) for kind in (True, False)]
            if not all(kinds):
                lacking = "an image" if not kinds[0] else "a text"
                raise ValueError(
                    f"gate={self.gate} weighs candidates found by an image against those found by a text, and no training "
                    f"question has one that {lacking} found; give data.source channels of both kinds (FusedSearch names none)"
                )
        known_NF = seen.feature_BKF[seen.valid_BK].double()
        self._scale(known_NF.mean(0).float(), known_NF.std(0, correction=0).float())

    def log_weights(self, batch: CandidateBatch) -> Tensor:
        """float32 (B, K): log w, normalised over the candidates; -inf on padding."""
        logit_BK, valid_BK = self._logits(batch), batch.valid_BK
        if self.gate is None:
            return _log_softmax(logit_BK, valid_BK)
        image_BK, text_BK = valid_BK & batch.by_image_BK, valid_BK & ~batch.by_image_BK
        share_B2 = self._log_shares(batch)
        only_B = ~(image_BK.any(1) & text_BK.any(1))
        share_B2 = share_B2.masked_fill(only_B[:, None], 0.0)
        image = _log_softmax(logit_BK, image_BK) + share_B2[:, :1]
        text = _log_softmax(logit_BK, text_BK) + share_B2[:, 1:]
        return torch.where(image_BK, image, text)

    def image_share(self, batch: CandidateBatch) -> Tensor | None:
        """(B,): the share a of the candidates found by the image, before it is known which kinds there are; None without."""
        return None if self.gate is None else self._log_shares(batch)[:, 0].exp()

    @torch.no_grad()
    def weights(
        self, query: Query, candidates: Sequence[Candidate], logp_KC: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """w_K of one question, in float64; evaluation mode is the caller's concern (`TrainedCandidateReranker` sees to it)."""
        device, count = self.first.weight.device, len(candidates)
        feature_KF = torch.from_numpy(candidate_features(query, candidates, logp_KC)).to(device)
        nothing = torch.zeros((1, count), device=device)
        batch = CandidateBatch(
            feature_KF[None],
            torch.from_numpy(question_features(query))[None].to(device),
            torch.from_numpy(found_by_image(candidates))[None].to(device),
            torch.ones((1, count), dtype=torch.bool, device=device),
            nothing,
            nothing[..., None],
            torch.full((1,), -1, device=device),
            nothing,
        )
        weight_K = self.log_weights(batch)[0].double().exp().cpu().numpy()
        shared: NDArray[np.float64] = weight_K / weight_K.sum()
        return shared

    def fingerprint(self) -> str:
        """sha256 over settings, scales and weights."""
        return fingerprint(self.describe(), weights_sha256(self))

    def settings(self) -> dict[str, Any]:
        """The arguments that make the same network before training."""
        return {name: getattr(self, name) for name in ("features", "gate", "width", "heads", "dropout", "sees_question")}

    def describe(self) -> dict[str, Any]:
        """The settings, the names of the features and their scales."""
        scales = {"mean": self.mean_F.tolist(), "std": self.std_F.tolist()}
        return {"settings": self.settings(), "names": list(FEATURES), **scales}

    def restore(self, description: Mapping[str, Any]) -> None:
        """The scales of a checkpoint; ValueError where its settings or its features are others."""
        told = {**description["settings"], "names": description["names"]}
        mine = {**self.settings(), "names": list(FEATURES)}
        refuse_contradictions(mine, told, "candidate re-ranker")
        self._scale(torch.tensor(description["mean"]), torch.tensor(description["std"]))

    def _scale(self, mean_F: Tensor, std_F: Tensor) -> None:
        self.mean_F.copy_(mean_F)
        self.std_F.copy_(std_F)

    def _logits(self, batch: CandidateBatch) -> Tensor:
        scaled_BKF = (batch.feature_BKF - self.mean_F) / self.std_F.clamp(min=1e-3)
        shown_BKF = (scaled_BKF.clamp(-5, 5) * self.used_F).masked_fill(~batch.valid_BK[..., None], 0.0)
        seen = [shown_BKF]
        if self.sees_question:
            seen.append(batch.question_BQ[:, None].expand(-1, shown_BKF.shape[1], -1))
        own = functional.dropout(torch.relu(self.first(torch.cat(seen, -1))), self.dropout, self.training)
        padding_BK = ~batch.valid_BK
        padding_BK = padding_BK & batch.valid_BK.any(1, keepdim=True)  # a row of padding alone must not become NaN
        looked, _ = self.others(own, own, own, key_padding_mask=padding_BK, need_weights=False)
        both = torch.cat([own, self.norm(own + looked)], -1)
        deep = functional.dropout(torch.relu(self.second(both)), self.dropout, self.training)
        logit_BK: Tensor = (self.last(deep) + self.direct(shown_BKF)).squeeze(-1).float()
        return logit_BK

    def _log_shares(self, batch: CandidateBatch) -> Tensor:
        """(B, 2): log a and log (1 - a)."""
        if self.gate_first is not None and self.gate_last is not None:
            raw_B1 = self.gate_last(torch.tanh(self.gate_first(batch.question_BQ))).float()
        elif self.gate_of_all is not None:
            raw_B1 = self.gate_of_all.float().expand(len(batch), 1)
        else:
            assert self.gate is not None
            assert not isinstance(self.gate, str)
            share = torch.tensor([self.gate, 1 - self.gate], dtype=torch.float32, device=batch.question_BQ.device)
            return share.log().expand(len(batch), 2)
        return torch.cat([functional.logsigmoid(raw_B1), functional.logsigmoid(-raw_B1)], 1)


class TrainedCandidateReranker:
    """What a run of stage `candidate_reranker` has learned; implements `interfaces.CandidateWeigher`. Loaded when needed.

    Args:
        checkpoint: the ``.ckpt`` file; it says how the network is made.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self._made: CandidateReranker | None = None

    def weights(
        self, query: Query, candidates: Sequence[Candidate], logp_KC: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """w_K; see `CandidateReranker.weights`."""
        return self.loaded().weights(query, candidates, logp_KC)

    def fingerprint(self) -> str:
        """sha256 over settings, scales and weights; where the checkpoint lies does not matter."""
        return self.loaded().fingerprint()

    def loaded(self) -> CandidateReranker:
        """The network, in evaluation; ValueError where the checkpoint is missing, or of another stage."""
        if self._made is None:
            description, weights = read_trained(self.checkpoint, STAGE, PREFIX, "TrainedCandidateReranker")
            self._made = reranker_of(description, weights)
        return self._made


def reranker_of(description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> CandidateReranker:
    """A network from what `describe` told and its weights, in evaluation; ValueError where they do not fit."""
    made = CandidateReranker(**description["settings"])
    made.restore(description)
    made.load_state_dict(dict(weights))
    return made.requires_grad_(False).eval()


def _log_softmax(logit_BK: Tensor, shown_BK: Tensor) -> Tensor:
    """Over the shown ones; -inf elsewhere. A row that shows nothing is -inf throughout, and has a zero gradient."""
    nothing_B1 = ~shown_BK.any(1, keepdim=True)
    masked_BK = logit_BK.masked_fill(~(shown_BK | nothing_B1), -torch.inf)
    return masked_BK.log_softmax(1).masked_fill(~shown_BK, -torch.inf)
