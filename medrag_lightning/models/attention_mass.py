"""Where the question's tokens look: attention by segment and by document in every layer, from the rows alone."""

from __future__ import annotations

import torch
from torch import Tensor

from medrag_lightning.batches import AttentionMass, EncodedPrompts, Role, TokenRoles
from medrag_lightning.models import scoring
from medrag_lightning.models.families import Family
from medrag_lightning.models.steering import EVIDENCE, layer_count, steered
from medrag_lightning.models.vision_cache import Features

_SEGMENT_OF_ROLE = {**dict.fromkeys(EVIDENCE, 0), Role.QUERY_IMAGE: 1, Role.QUESTION: 2}
_REST = 3


@torch.no_grad()
def attention_mass(
    model: torch.nn.Module,
    family: Family,
    prompts: EncodedPrompts,
    features: list[Features] | None = None,
    factor_L: Tensor | None = None,
) -> AttentionMass:
    """One forward pass over `prompts`, steered if they say so; the question's rows alone are computed again.

    No layer returns its attention (R x S numbers a head are made and summed up at once, not T x T kept), so the stock kernel
    stays in place. See `steered` for what is refused.
    """
    if prompts.roles is None:
        raise ValueError("attention mass needs to know which token is what: encode the prompts with roles=True")
    if not bool((prompts.roles.role_PT == list(Role).index(Role.QUESTION)).any(1).all()):
        raise ValueError("a prompt has no question token, so there is no attention of its question to look at")
    gathered = _Mass(prompts.roles, layer_count(model))
    with steered(model, family, prompts, factor_L, gathered):
        inputs = scoring.model_inputs(model, family, prompts, features)
        place = scoring.positions(model, family, prompts)
        model(**inputs, position_ids=place, use_cache=False, logits_to_keep=1)
    return gathered.read_out()


class _Mass:
    """Sums of attention; a `MassRecorder`."""

    def __init__(self, roles: TokenRoles, layers: int) -> None:
        count = roles.strength_PK.shape[1]
        segment_of = [_SEGMENT_OF_ROLE.get(role, _REST) for role in Role] + [_REST]  # -1 takes the last
        segment_PT = torch.tensor(segment_of, device=roles.role_PT.device)[roles.role_PT.long()]
        number_K = torch.arange(count, device=roles.role_PT.device)
        of_document_PTK = roles.document_PT[:, :, None] == number_K
        of_segment_PTS = torch.nn.functional.one_hot(segment_PT, _REST + 1)
        self._group_PTG = torch.cat([of_segment_PTS, of_document_PTK], 2).float()
        self._shown_PK = of_document_PTK.any(1)
        self._of_layer: list[Tensor | None] = [None] * layers

    def record(self, layer: int, weights_BHRS: Tensor, watched_BR: Tensor) -> None:
        """Mean over heads and watched rows, summed over each group's columns."""
        share_BR = watched_BR.float() / watched_BR.sum(1, keepdim=True)
        mean_BS = (weights_BHRS.mean(1) * share_BR[:, :, None]).sum(1)
        self._of_layer[layer] = (mean_BS.float()[:, None] @ self._group_PTG)[:, 0]

    def read_out(self) -> AttentionMass:
        """What was gathered."""
        mass_PLG = torch.stack([mass for mass in self._of_layer if mass is not None], 1)
        assert mass_PLG.shape[1] == len(self._of_layer), "a layer did not report its attention"
        document_PLK = mass_PLG[:, :, _REST + 1 :].masked_fill(~self._shown_PK[:, None], torch.nan)
        return AttentionMass(mass_PLG[:, :, : _REST + 1], document_PLK)
