"""The network that weighs candidates: no order, no padding, and the gate's share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrag_lightning.batches import CandidateBatch
from medrag_lightning.interfaces import CandidateWeigher, LearnedWeigher
from medrag_lightning.mixture import FEATURES, QUESTION_FEATURES
from medrag_lightning.models.candidate_reranker import CandidateReranker, reranker_of
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, Query


def batch(count=5, pool=6, seed=0, most=(6, 4, 3, 6, 2)) -> CandidateBatch:
    draw = torch.Generator().manual_seed(seed)
    valid_BK = torch.arange(pool)[None] < torch.tensor(most)[:count, None]
    feature_BKF = torch.randn((count, pool, len(FEATURES)), generator=draw).masked_fill(~valid_BK[..., None], 0.0)
    question_BQ = torch.randn((count, QUESTION_FEATURES), generator=draw)
    by_image_BK = (torch.arange(pool) % 2 == 0)[None] & valid_BK
    logp_BKC = torch.randn((count, pool, 3), generator=draw).log_softmax(-1).masked_fill(~valid_BK[..., None], -torch.inf)
    gold_BK = logp_BKC[..., 0].masked_fill(~valid_BK, 0.0)
    gold_B = torch.zeros(count, dtype=torch.int64)
    return CandidateBatch(feature_BKF, question_BQ, by_image_BK, valid_BK, gold_BK, logp_BKC, gold_B, torch.zeros_like(gold_BK))


def spoilt(**settings) -> CandidateReranker:
    """With weights that are not those of the start."""
    made = CandidateReranker(**settings)
    made.prepare(batch())
    with torch.no_grad():
        for n, parameter in enumerate(made.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n)))
    return made.eval()


@pytest.mark.parametrize("gate", [None, 0.0, 0.3, 1.0, "learned", "by_question"])
def test_weights_sum_to_one_and_padding_has_none(gate):
    made, given = spoilt(gate=gate), batch()
    weight_BK = made.log_weights(given).exp()
    assert torch.allclose(weight_BK.sum(1), torch.ones(5), atol=1e-6)
    assert (weight_BK[~given.valid_BK] == 0).all()
    assert isinstance(made, LearnedWeigher)
    assert isinstance(made, CandidateWeigher)


def test_at_the_start_all_weigh_alike():
    made, given = CandidateReranker().eval(), batch()
    made.prepare(given)
    share_B1 = 1 / given.valid_BK.sum(1, keepdim=True)
    assert torch.allclose(made.log_weights(given).exp(), share_B1 * given.valid_BK, atol=1e-6)


@pytest.mark.parametrize("gate", [None, "by_question"])
def test_the_order_of_candidates_does_not_matter(gate):
    made, given, order = spoilt(gate=gate), batch(), torch.tensor([3, 0, 5, 1, 4, 2])
    names = ("feature_BKF", "by_image_BK", "valid_BK", "gold_logp_BK", "logp_BKC", "score_BK")
    other = replace(given, **{name: getattr(given, name)[:, order] for name in names})
    assert torch.allclose(made.log_weights(given).exp()[:, order], made.log_weights(other).exp(), atol=1e-6)


def test_more_padding_changes_nothing():
    made, given = spoilt(), batch()
    names = ("feature_BKF", "by_image_BK", "valid_BK", "gold_logp_BK", "logp_BKC", "score_BK")
    wide = {name: torch.cat([getattr(given, name), torch.zeros_like(getattr(given, name)[:, :2])], 1) for name in names}
    assert torch.allclose(made.log_weights(replace(given, **wide)).exp()[:, :6], made.log_weights(given).exp(), atol=1e-6)


def test_the_gate_gives_a_kind_its_share_or_everything_where_it_is_alone():
    made, given = spoilt(gate=0.3), batch()
    weight_BK = made.log_weights(given).exp()
    assert torch.allclose((weight_BK * given.by_image_BK).sum(1), torch.full((5,), 0.3), atol=1e-6)
    alone = replace(given, by_image_BK=torch.zeros_like(given.by_image_BK))
    assert torch.allclose(made.log_weights(alone).exp().sum(1), torch.ones(5), atol=1e-6)
    assert made.image_share(given) == pytest.approx([0.3] * 5)
    assert spoilt().image_share(given) is None


@pytest.mark.parametrize("gate", [None, 0.0, "learned", "by_question"])
def test_gradients_are_finite_and_reach_what_trains(gate):
    made, given = spoilt(gate=gate).train(), batch()
    logw_BK = made.log_weights(given)
    loss = -(logw_BK + given.gold_logp_BK).masked_fill(~given.valid_BK, -torch.inf).logsumexp(1).mean()
    loss.backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    reached = {"learned": made.gate_of_all, "by_question": made.gate_last and made.gate_last.weight}.get(gate)
    assert reached is None or reached.grad.abs().sum() > 0


def test_features_that_are_left_out_do_not_matter():
    made, given = spoilt(features=["retrieval"]), batch()
    changed = given.feature_BKF.clone()
    changed[..., FEATURES.index("probability of its answer")] += 3
    assert torch.equal(made.log_weights(given), made.log_weights(replace(given, feature_BKF=changed)))
    whole = spoilt()
    assert not torch.equal(whole.log_weights(given), whole.log_weights(replace(given, feature_BKF=changed)))


def test_one_question_weighs_as_in_a_batch_and_a_description_rebuilds_it():
    made = spoilt(gate="by_question")
    query = Query("q", "which side?", None, "left", ("left", "right"), AnswerType.CLOSED)
    channels = (Channel.IMAGE_TO_TEXT, Channel.TEXT_TO_TEXT, Channel.IMAGE_TO_IMAGE)
    found = [Candidate(Document(f"d{n}", f"text {n}"), 0.5 - 0.1 * n, channel) for n, channel in enumerate(channels)]
    logp_KC = np.log([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    weight_K = made.weights(query, found, logp_KC)
    assert weight_K.sum() == pytest.approx(1, abs=1e-12)
    again = reranker_of(made.describe(), made.state_dict())
    assert (again.weights(query, found, logp_KC) == weight_K).all()
    assert again.fingerprint() == made.fingerprint() != spoilt().fingerprint()
    assert made.weights(query, found[:1], logp_KC[:1]) == pytest.approx([1.0])


def test_settings_that_make_no_sense_are_refused():
    for wrong, told in (({"features": []}, "features"), ({"gate": 1.5}, "gate"), ({"width": 5, "heads": 2}, "width")):
        with pytest.raises(ValueError, match=told):
            CandidateReranker(**wrong)
    one_kind = replace(batch(), by_image_BK=torch.zeros((5, 6), dtype=torch.bool))
    with pytest.raises(ValueError, match="no training question has one that an image found"):
        CandidateReranker(gate="learned").prepare(one_kind)
    with pytest.raises(ValueError, match="width"):
        CandidateReranker().restore(CandidateReranker(width=16).describe())
