"""The live reader gives the table's gradients; the table costs no reader call."""

import pytest
import torch
from distill_world import ClosedTable, data, heads, source, stage, towers, trainer
from toy import reader

from callbacks.score_writer import ScoreWriter
from medrag_lightning.data.scoring_feed import ScoringPlan
from medrag_lightning.models.both_sides import BothSides
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.stages.live_reading import LiveReading
from medrag_lightning.stages.score import Score

K = 7


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A table that the stage `score` has written."""
    folder = tmp_path_factory.mktemp("live")
    table = ClosedTable(str(folder))
    served = data(folder, table, None, search=source(count=K), scoring=ScoringPlan(str(folder / "scores"), ("train", "val")))
    trainer(folder, callbacks=[ScoreWriter()]).predict(Score(reader()), datamodule=served, return_predictions=False)
    return folder, table, str(folder / "scores")


def ready(scored, live, sides=("text", "image"), made=None, **settings):
    folder, table, scores = scored
    told = {"reader": reader(), "reader_chunk": settings.pop("chunk", 32)} if live else {}
    module = stage(made or heads(sides), **told, **settings)
    plan = {"open_passages": True} if made else {}
    served = data(folder, table, None if live else scores, plan, search=source(count=K))
    fitter = trainer(folder, fast_dev_run=1)
    fitter.fit(module, datamodule=served)  # connects stage, data and trainer, and takes one step
    return fitter, module, served


def gradients(scored, live, **settings):
    _, module, served = ready(scored, live, **settings)
    for parameter in module.heads.parameters():
        parameter.grad = None
    torch.manual_seed(0)
    with torch.no_grad():
        for side in module.heads.sides:
            for parameter in module.heads.towers[side].parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    batch = module._read(next(iter(served.train_dataloader())))
    loss = torch.stack([module._loss(batch, s, a, b) for s, a, b in module._trained_scores(batch)]).sum()
    loss.backward()
    return loss.item(), [p.grad for p in module.heads.parameters() if p.requires_grad], module


@pytest.mark.parametrize("gold", ["class_posterior", "class_posterior_double_softmax", "pdist", "emdr2", "loop"])
def test_live_and_table_gradients_are_equal(scored, gold):
    live, live_grads, _ = gradients(scored, live=True, gold=gold)
    loss, grads, _ = gradients(scored, live=False, gold=gold)
    assert live == pytest.approx(loss, abs=1e-6)
    assert max(float(g.abs().max()) for g in grads) > 1e-4
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(live_grads, grads, strict=True))


def test_chunks_of_any_size_give_one_loss(scored):
    """J06: 7 candidates, chunks of 5 or of everything (trap 5)."""
    odd, odd_grads, _ = gradients(scored, live=True, chunk=5)
    whole, grads, _ = gradients(scored, live=True, chunk=1000)
    assert odd == pytest.approx(whole, abs=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(odd_grads, grads, strict=True))


def test_the_reader_is_called_as_often_as_counted_and_never_with_a_table(scored):
    """J14: B x K x heads prompts a step live, each once; with the table the stage holds no reader at all."""
    _, module, served = ready(scored, live=True)
    batch = next(iter(served.train_dataloader()))
    before = module.live.prompts_read
    module._read(batch)
    assert module.live.prompts_read - before == len(batch) * K * 2
    assert not any(p.requires_grad for p in module.live.parameters())
    _, module, _ = ready(scored, live=False)
    assert module.live is None


def test_the_live_reader_is_not_in_the_checkpoint(scored, tmp_path):
    fitter, module, _ = ready(scored, live=True, sides=["text"])
    fitter.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert saved
    assert all(name.startswith("heads.towers.text.") for name in saved)
    assert not any(part.training for part in module.live.modules())


def test_table_and_reader_together_are_refused(scored):
    folder, table, scores = scored
    both = data(folder, table, scores, search=source(count=K))
    with pytest.raises(ValueError, match="table would be ignored by a live reader"):
        trainer(folder, fast_dev_run=1).fit(stage(reader=reader()), datamodule=both)
    neither = data(folder, table, None, search=source(count=K))
    with pytest.raises(ValueError, match="no score table and no reader"):
        trainer(folder, fast_dev_run=1).fit(stage(), datamodule=neither)


def test_both_sides_reach_passages_of_both_kinds(scored):
    """Passage vectors of the present towers stand in the place of the stored ones; before training they are equal."""
    _, module, served = ready(scored, live=False, made=BothSides(towers(), ["text", "image"]))
    module.heads.encoder.load_state_dict(towers().state_dict())
    batch = next(iter(served.train_dataloader()))
    for _, score_BK, frozen_BK in module.eval()._trained_scores(batch):
        assert torch.allclose(score_BK, frozen_BK, atol=1e-5)
    losses = [module._loss(batch, s, a, b) for s, a, b in module._trained_scores(batch)]
    module.zero_grad()
    torch.stack(losses).sum().backward()
    assert float(module.heads.encoder.text.table.weight.grad.abs().sum()) > 0
    assert float(module.heads.encoder.image.project.weight.grad.abs().sum()) > 0


def test_a_longest_prompt_is_refused():
    with pytest.raises(ValueError, match="reads one candidate a prompt and drops none"):
        LiveReading(reader(), None, PromptTemplate(max_prompt_tokens=99), 1)
