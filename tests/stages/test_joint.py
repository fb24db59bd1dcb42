"""Reader and retriever together: gradients, chunks, rates, hand-off of a checkpoint, resume, index refresh."""

import json

import pytest
import torch
from distill_world import ClosedTable, heads, towers, trainer
from joint_world import ADAM, joint, served
from lightning.pytorch.callbacks import ModelCheckpoint
from test_resume import StopAfter, assert_bit_equal
from toy import reader
from toy import stage as raft

from callbacks.guards import FrozenGuard
from callbacks.index_refresh import IndexRefresh
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.interfaces import ServedStage
from medrag_lightning.models.both_sides import BothSides, DistilledEncoder
from medrag_lightning.models.headed_encoder import HeadedEncoder
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.trained_backbone import TrainedBackbone
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.stages.joint import Joint, JointRates


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    return folder, ClosedTable(str(folder))


def fit(world, module, keep=None, callbacks=(), plan=None, search=None, **settings):
    folder, table = world
    chosen = {"max_epochs": 1, "callbacks": [FrozenGuard(1), *callbacks], **settings}
    fitter = trainer(folder, **chosen)
    fitter.fit(module, datamodule=served(folder, table, plan=plan, search=search))
    if keep is not None:
        fitter.save_checkpoint(keep)
    return fitter


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "joint.ckpt"
    module = joint()
    assert isinstance(module, ServedStage)
    fitter = fit(world, module, keep=path)
    return path, module, {name: float(value) for name, value in fitter.callback_metrics.items()}


def gradients(world, **settings):
    module = joint(**settings)
    fitter = fit(world, module, fast_dev_run=1)
    with torch.no_grad():
        for parameter in module.heads.towers.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        module.reader.load_state_dict(first_reader(world).state_dict(), strict=False)
    for parameter in module.parameters():
        parameter.grad = None
    module.train()
    batch = next(iter(fitter.datamodule.train_dataloader()))
    loss = module.objective(batch)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}, module, batch


def first_reader(world):
    made = reader()
    folder, table = world
    data = served(folder, table)
    data.prepare_data()
    data.setup("fit")
    made.prepare(data.training_texts())
    return made


def test_chunks_of_any_size_give_one_loss_and_one_gradient_in_both_parts(world):
    """3 candidates a query: chunks of 1, of 2, and of everything."""
    loss, grads, module, _ = gradients(world, reader_chunk=1000)
    reading = {name for name in grads if name.startswith("reader.")}
    assert reading
    assert set(grads) - reading == {name for name, _ in module.named_parameters() if name.startswith("heads.towers.")}
    assert min(max(float(grads[n].abs().max()) for n in grads if n.startswith(part)) for part in ("reader.", "heads.")) > 1e-5
    for chunk in (1, 2):
        again, others, *_ = gradients(world, reader_chunk=chunk)
        assert again == pytest.approx(loss, abs=1e-6)
        for name, value in grads.items():
            torch.testing.assert_close(others[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_it_is_the_gradient_of_the_plain_formula(world):
    """Every candidate read by itself, one row at a time, without chunks and packs."""
    loss, grads, module, batch = gradients(world, reader_chunk=4)
    module.zero_grad()
    pool, answers = batch.pools["text"], batch.answers
    frozen = module.heads.frozen_vectors(batch.inputs)
    score = torch.einsum("bd,bkd->bk", module.heads.query_vectors("text", batch.inputs, frozen), pool.passage_BKD)
    told = {}
    place = iter(batch.place_of)
    for reading in batch.readings:
        (part,) = reading.parts
        rows = part.prompts.pack_of_prompt
        plain = type(part.prompts)(**{f: getattr(part.prompts, f) for f in part.prompts.__slots__} | {"pack_of_prompt": ()})
        logp = module.reader.token_logp(plain, part.rows).sum(1)
        for prompt in range(len(rows)):
            mine = logp[part.rows.prompt_of_row_R == prompt]
            told[next(place)] = mine
    nll = []
    for b in range(len(batch)):
        posterior = torch.stack([told["text", b, k].log_softmax(0)[answers.gold_BC[b]][0].exp() for k in range(3)])
        nll.append(-((score[b] / module.t_score).softmax(0) * posterior).sum().log())
    plainly = torch.stack(nll).mean()
    assert plainly.item() == pytest.approx(loss, abs=1e-5)
    plainly.backward()
    for name, parameter in module.named_parameters():
        if name in grads:
            torch.testing.assert_close(parameter.grad, grads[name], atol=1e-5, rtol=1e-3, msg=name)


def test_the_sequence_likelihood_reads_the_gold_answer_alone(world):
    *_, closed, whole = gradients(world)
    _, grads, sequence, batch = gradients(world, likelihood="sequence")
    count = {
        name: sum(len(p.rows.ids_RL) for r in one.readings for p in r.parts) for name, one in (("all", whole), ("gold", batch))
    }
    assert count["all"] == 4 * count["gold"]
    with torch.no_grad():
        sequence.eval()
        alone, every = (
            sequence.reading.read(batch).pools["text"].logp_BKC,
            closed.eval().reading.read(whole).pools["text"].logp_BKC,
        )
    gold = batch.answers.gold_BC[:, None].expand_as(alone)
    torch.testing.assert_close(alone[gold], every[gold], atol=1e-4, rtol=0)
    assert any(name.startswith("reader.") for name in grads)


def test_each_part_has_its_own_rate_and_null_leaves_it_as_it_is(world, tmp_path):
    module = joint(learning_rates=JointRates(1e-5, 2e-3))
    fitter = fit(world, module, fast_dev_run=1)
    groups = {group["name"]: group["initial_lr"] for group in fitter.optimizers[0].param_groups}
    assert groups == {"reader": 1e-5, "retriever": 2e-3}
    alone = joint(learning_rates=JointRates(None, 1e-2))
    fit(world, alone, keep=tmp_path / "a.ckpt")
    before = first_reader(world).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in alone.reader.state_dict().items())
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in saved} == {"reader", "heads"}, "what is left as it is is handed on, too"
    raft(init_from=str(tmp_path / "a.ckpt")).load_weights_from(str(tmp_path / "a.ckpt"))
    fixed = joint(learning_rates=JointRates(3e-3, None))
    fit(world, fixed)
    first = dict(towers().image.named_parameters())
    assert all(
        torch.equal(p, first[n.split(".", 2)[2]])
        for n, p in fixed.heads.towers.named_parameters()
        if n.split(".", 2)[2] in first
    )
    assert not any(p.requires_grad for p in fixed.heads.parameters())


def test_a_checkpoint_gives_a_reader_to_every_stage_that_reads(trained, world, tmp_path):
    path, module, _ = trained
    json.dumps(torch.load(path, weights_only=True)["medrag"])
    mine = module.reader.state_dict()
    tested = raft()
    tested.load_weights_from(str(path))
    assert all(torch.equal(tested.reader.state_dict()[name], value) for name, value in mine.items())
    folder, table = world
    fitter = trainer(folder)
    found = fitter.test(raft(), datamodule=served(folder, table), ckpt_path=path, weights_only=True, verbose=False)
    assert "test/retrieved/closed_accuracy" in found[0]
    base = HfReader(TrainedBackbone(reader().backbone, str(path)), freeze="all_but_adapter")
    base.prepare([])
    assert all(torch.equal(base.core.state_dict()[n.removeprefix("model.")], v) for n, v in mine.items())
    again = joint(reader_from=str(path), heads_from=str(path))
    start = fit(world, again, limit_train_batches=0)
    assert start is not None
    assert all(torch.equal(again.state_dict()[name], value) for name, value in module.state_dict().items())


def test_and_a_retriever_that_asks_with_its_heads(trained, world):
    path, module, _ = trained
    headed = HeadedEncoder(towers(), text_head=str(path))
    folder, table = world
    data = served(folder, table)
    data.prepare_data()
    images = [data._image_store()(query.image) for query in data.split_queries("val")]
    inputs = module.heads.encoder.image_inputs(images)
    with torch.no_grad():
        mine = module.eval().heads.query_vectors("text", inputs, module.heads.frozen_vectors(inputs))
    torch.testing.assert_close(torch.from_numpy(headed.embed_queries(images, "text")), mine, atol=1e-6, rtol=0)


def test_validation_tells_the_marginal_likelihood_of_both(trained):
    _, _, found = trained
    named = {"loss", "even_loss", "top1_accuracy", "fused_accuracy", "expected_gold", "oracle", "frozen_loss"}
    assert {f"val/{name}" for name in named} <= set(found)
    assert found["val/oracle"] >= found["val/top1_accuracy"]
    assert found["val/loss"] != found["val/frozen_loss"]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_resume_gives_the_same_weights(world, tmp_path, steps):
    """2 steps an epoch; dropout and augmentation on; both parts start from a checkpoint."""
    folder, table = world
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)

    def run(stop=None, resume=False):
        module = joint(heads(mode="train"), dropout=0.2)
        callbacks = [keep] if stop is None else [StopAfter(stop), keep]
        fitter = trainer(tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=callbacks)
        data = served(folder, table, augmentation=Augmentation())
        try:
            fitter.fit(module, datamodule=data, ckpt_path=tmp_path / "last.ckpt" if resume else None, weights_only=True)
        except SystemExit:
            assert stop is not None
        return fitter.global_step, {name: value.detach().clone() for name, value in module.named_parameters()}

    total, whole = run()
    assert steps < total
    run(stop=steps)
    again, resumed = run(resume=True)
    assert again == total
    assert_bit_equal(resumed, whole)


def test_both_sides_train_and_the_index_is_refreshed_without_new_scores(world, tmp_path):
    module = joint(BothSides(towers(), ["text"]))
    told = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1, "keep": tmp_path / "both.ckpt"}
    fit(world, module, callbacks=[IndexRefresh(1)], plan={"open_passages": True}, **told)
    moved = DistilledEncoder(towers(), str(tmp_path / "both.ckpt"))
    assert not torch.equal(
        torch.from_numpy(moved.embed_texts(["it is red"])), torch.from_numpy(towers().embed_texts(["it is red"]))
    )


def test_settings_that_make_no_sense_are_refused(world, tmp_path, trained):
    for wrong in ({"t_score": 0.0}, {"top": 0}, {"reader_chunk": 0}, {"template": PromptTemplate(max_prompt_tokens=9)}):
        with pytest.raises(ValueError, match=r"t_score|reader_chunk|max_prompt_tokens"):
            joint(**wrong)
    with pytest.raises(ValueError, match="both null"):
        JointRates(None, None)
    with pytest.raises(ValueError, match="must be positive"):
        JointRates(reader=-1.0)
    frozen = Joint(HfReader(reader().backbone, freeze="all_but_adapter"), heads(), ADAM)
    with pytest.raises(ValueError, match=r"learning_rates\.reader would be ignored"):
        fit(world, frozen, fast_dev_run=1)
    with pytest.raises(ValueError, match="trained with another template"):
        joint(template=PromptTemplate(order="question_first")).accept(trained[1].describe())
    with pytest.raises(ValueError, match="another encoder than the heads"):
        fit(world, joint(heads(seed=1)), fast_dev_run=1)
