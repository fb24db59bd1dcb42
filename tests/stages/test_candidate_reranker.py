"""Stage candidate_reranker on planted candidates: what it finds, that it resumes, and that the answers are those of a test."""

from __future__ import annotations

from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from toy import data, trainer
from toy import stage as reading_stage

from medrag_lightning import losses
from medrag_lightning.artifacts import read_json
from medrag_lightning.data.candidate_feed import CandidateItems
from medrag_lightning.data.module import MedragData
from medrag_lightning.data.sampler import EvalSampler, ResumableLoader, TrainSampler
from medrag_lightning.mixture import Fusion
from medrag_lightning.models.candidate_reranker import CandidateReranker, TrainedCandidateReranker
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, ImageRef, Query
from medrag_lightning.stages.base import Schedule
from medrag_lightning.stages.candidate_metrics import compared, weighing_metrics
from medrag_lightning.stages.candidate_reranker import CandidateRerankerStage

CHOICES = ("yes", "no", "unsure")
CHANNELS = (Channel.IMAGE_TO_IMAGE, Channel.TEXT_TO_TEXT, Channel.IMAGE_TO_TEXT, Channel.LEXICAL)


def planted(count=240, by_kind=False, seed=0) -> CandidateItems:
    """One of four candidates says what is right, and its text alone says so; the reader is as sure with the others.

    With `by_kind` nothing but the words of the question tells whether those of the image or the others are right.
    """
    rng, scored = np.random.default_rng(seed), []
    for n in range(count):
        gold, looks = int(rng.integers(3)), bool(rng.integers(2))
        words = ("what is seen in the image?" if looks else "what does the text say?") if by_kind else "is it so?"
        query = Query(f"q{n}", words, ImageRef("a.png"), CHOICES[gold], CHOICES, AnswerType.CLOSED)
        said = rng.integers(3, size=4)
        right = [place for place in range(4) if (place % 2 == 0) == looks] if by_kind else [int(rng.integers(4))]
        said = np.array([gold if place in right else (gold + 1 + one % 2) % 3 for place, one in enumerate(said)])
        texts = [f"it is {CHOICES[one]}" if place in right and not by_kind else "nothing" for place, one in enumerate(said)]
        logp_KC = np.log(np.where(np.arange(3)[None] == said[:, None], 0.8, 0.1))
        found = [Candidate(Document(f"d{k}", text), 0.5, CHANNELS[k]) for k, text in enumerate(texts)]
        scored.append((query, found, logp_KC, gold))
    return CandidateItems(scored)


class Arrays(L.LightningDataModule):
    """Serves given items as the project's data module does."""

    def __init__(self, train: CandidateItems, val: CandidateItems) -> None:
        super().__init__()
        self.items = {"train": train, "val": val}

    def train_dataloader(self):
        sampler, place = TrainSampler(len(self.items["train"]), 64, 0), partial(MedragData._position, self)
        collate = self.trainer.lightning_module.collator(True)
        return ResumableLoader(self.items["train"], sampler=sampler, batch_size=None, collate_fn=collate, position=place)

    def val_dataloader(self):
        sampler = EvalSampler(len(self.items["val"]), 100)
        return [torch.utils.data.DataLoader(self.items["val"], sampler=sampler, batch_size=None)]

    def test_dataloader(self):
        return self.val_dataloader()


def stage(listwise=0.0, **settings) -> CandidateRerankerStage:
    torch.manual_seed(0)
    network = CandidateReranker(**{"dropout": 0.1, **settings})
    return CandidateRerankerStage(network, partial(torch.optim.Adam, lr=2e-2), Schedule("constant", 0.0), listwise)


def fit(module, folder, epochs=10, **chosen):
    fitter = trainer(folder, max_epochs=epochs, check_val_every_n_epoch=epochs, **chosen)
    fitter.fit(module, datamodule=Arrays(planted(**chosen_world(module)), planted(120, seed=1, **chosen_world(module))))
    return fitter, {name: float(value) for name, value in fitter.callback_metrics.items()}


def chosen_world(module) -> dict[str, bool]:
    return {"by_kind": module.reranker.gate is not None}


@pytest.mark.parametrize("listwise", [0.0, 0.5])
def test_it_finds_the_candidate_whose_text_bears_its_answer_out(tmp_path, listwise):
    _, found = fit(stage(listwise), tmp_path)
    assert found["val/accuracy"] > 0.95
    assert found["val/uniform_accuracy"] < 0.6 > found["val/first_accuracy"]
    assert found["val/oracle_accuracy"] == 1
    assert found["val/oracle_nll"] == pytest.approx(-np.log(0.8), abs=1e-4)


def test_without_what_tells_it_nothing_is_gained(tmp_path):
    _, found = fit(stage(features=["retrieval"]), tmp_path, epochs=5)
    assert found["val/accuracy"] < 0.6


def test_a_gate_by_question_turns_to_the_image_where_the_question_does(tmp_path):
    """M16: a is high on questions of the image, low on others; a fixed share cannot do both."""
    module = stage(gate="by_question", sees_question=False)
    _, found = fit(module, tmp_path)
    held_out = planted(120, by_kind=True, seed=1).everything
    looks_B = held_out.logp_BKC[:, 0].argmax(-1) == held_out.gold_B
    share_B = module.reranker.eval().image_share(held_out).detach()
    assert share_B[looks_B].mean() > 0.9
    assert share_B[~looks_B].mean() < 0.1
    assert found["val/accuracy"] > 0.95
    _, fixed = fit(stage(gate="learned", sees_question=False), tmp_path, epochs=4)
    assert fixed["val/accuracy"] < 0.9


def test_a_test_writes_its_comparison(tmp_path):
    module = stage()
    fitter, _ = fit(module, tmp_path, epochs=2)
    fitter.test(module, datamodule=Arrays(planted(), planted(50, seed=2)), verbose=False)
    told = read_json(tmp_path / "candidate_comparison.json")
    assert set(told) == {"re-ranked", "uniform", "first", "chance", "oracle"}
    assert told["oracle"]["accuracy"] == 1
    assert 0.1 < told["chance"]["accuracy"] < 0.4


def test_a_resumed_run_is_bit_equal_and_its_checkpoint_weighs(tmp_path):
    served, whole, half, resumed = partial(Arrays, planted(), planted(120, seed=1)), stage(), stage(), stage()
    fitter = trainer(tmp_path, max_epochs=2)
    fitter.fit(whole, datamodule=served())
    fitter.save_checkpoint(tmp_path / "whole.ckpt")
    fit_half = trainer(tmp_path, max_epochs=1)
    fit_half.fit(half, datamodule=served())
    fit_half.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, max_epochs=2).fit(resumed, datamodule=served(), ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    trained, given = TrainedCandidateReranker(str(tmp_path / "whole.ckpt")).loaded(), planted(20, seed=3).everything
    assert torch.allclose(trained.log_weights(given), whole.reranker.eval().log_weights(given), atol=1e-4)
    with pytest.raises(ValueError, match="there is no such checkpoint; fit the stage candidate_reranker first"):
        TrainedCandidateReranker(str(tmp_path / "no.ckpt")).fingerprint()


def test_metrics_by_hand():
    given = planted(30, seed=4).everything
    found = compared(given)
    assert found["oracle_accuracy"].mean() == 1
    assert found["chance_accuracy"].mean() == pytest.approx(0.25)
    best = torch.where(given.logp_BKC.argmax(-1) == given.gold_B[:, None], 0.0, -torch.inf)
    perfect = weighing_metrics(best, given)
    assert perfect["accuracy"].mean() == 1
    assert torch.allclose(perfect["nll"], torch.full((30,), -float(np.log(0.8))), atol=1e-5)


def test_a_test_of_a_reader_weighs_by_it(tmp_path):
    class First:
        """All the weight on the last candidate."""

        def weights(self, query, candidates, logp_KC):
            assert (logp_KC is None) == (not query.choices)
            return np.eye(len(candidates))[-1]

        def fingerprint(self):
            return "last"

    module = reading_stage(candidate_reranker=First())
    trainer(tmp_path).test(module, datamodule=data(tmp_path), verbose=False)
    mixed = [one for one in module.predictions if len(one.weights) > 1]
    assert mixed
    for one in mixed:
        assert one.weights[-1] == 1
        assert one.answer == one.candidate_answers[-1] or not one.choices


def test_settings_that_would_be_ignored_are_refused():
    weigher = CandidateReranker()
    with pytest.raises(ValueError, match="all evidence stands in one prompt"):
        reading_stage(candidate_reranker=weigher, evidence="all_in_one_prompt")
    with pytest.raises(ValueError, match="would be ignored, a re-ranker weighs"):
        reading_stage(candidate_reranker=weigher, fusion=Fusion(temperature=0.5))
    with pytest.raises(ValueError, match="logit_mixture"):
        reading_stage(candidate_reranker=weigher, fusion=Fusion(mode="logit_mixture"))
    with pytest.raises(ValueError, match="scored answers"):
        reading_stage(candidate_reranker=weigher, closed_answers="generated")
    with pytest.raises(ValueError, match="listwise"):
        stage(listwise=-1.0)


def test_the_listwise_loss_by_hand():
    logw_BK = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5], [1.0, 1.0, 1.0]]))
    right_BK = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    value_B, counts_B = losses.right_candidates(logw_BK, right_BK, torch.ones((3, 3), dtype=torch.bool))
    assert counts_B.tolist() == [True, False, False]
    assert value_B[0] == pytest.approx(-(np.log(0.5) + np.log(0.25)) / 2)
    assert value_B[1:].tolist() == [0, 0]
    logit_K = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    losses.right_candidates(logit_K.log_softmax(1), right_BK[:1], torch.ones((1, 3), dtype=torch.bool))[0].sum().backward()
    assert torch.allclose(logit_K.grad, logit_K.detach().softmax(1) - torch.tensor([[0.5, 0.5, 0.0]]), atol=1e-6)
    apart = torch.tensor([[-np.log(2), -np.log(2), -40.0]])
    assert losses.right_candidates(apart, right_BK[:1], torch.ones((1, 3), dtype=torch.bool))[0] == pytest.approx(np.log(2))
