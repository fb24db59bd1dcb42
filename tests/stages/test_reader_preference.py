import math
from dataclasses import replace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from preference_world import ADAMW, PairData, pairs_of, pairs_with_reference, reader, stage, trainer
from test_resume import StopAfter, assert_bit_equal

from callbacks.guards import FrozenGuard
from medrag_lightning.data.pair_rules import READING
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.stages.preference_objective import PreferenceLoss


class Steps(L.Callback):
    """Keeps what was logged at every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.steps.append({name: float(value) for name, value in trainer.logged_metrics.items()})


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return pairs_with_reference(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, stored):
    folder = tmp_path_factory.mktemp("tuned")
    module, seen = stage(), Steps()
    run = trainer(folder, max_epochs=5, callbacks=[seen, FrozenGuard(sample_every_n_steps=1)], log_every_n_steps=1)
    run.fit(module, datamodule=PairData(folder, stored))
    run.save_checkpoint(folder / "tuned.ckpt")
    return folder, module, seen.steps, {name: float(value) for name, value in run.callback_metrics.items()}


def test_the_first_step_is_at_the_reference(tuned):
    """H24, P03: policy = reference gives ln 2 and margins of zero; the reference is the reader with its adapter off."""
    first = tuned[2][0]
    assert first["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert all(abs(value) < 1e-5 for name, value in first.items() if name.endswith(("margin", "gain")))


def test_every_kind_moves_apart_on_questions_it_was_not_tuned_on(tuned):
    numbers = tuned[3]
    assert numbers["val/loss"] < math.log(2) - 0.005
    for kind in READING:
        assert numbers[f"val/{kind}_margin"] > 0.01
        assert numbers[f"val/{kind}_accuracy"] > 0.5
        gains = [numbers[f"val/{kind}_{side}_gain"] for side in ("chosen", "rejected")]
        assert gains[0] - gains[1] == pytest.approx(numbers[f"val/{kind}_margin"], abs=1e-5)
        assert numbers[f"val/{kind}_chosen_logp"] < 0


def test_the_checkpoint_holds_the_adapter_alone_and_the_base_stays_as_it_was(tuned, stored):
    """H25. FrozenGuard has compared every frozen weight, bit by bit."""
    folder, module, _, _ = tuned
    checkpoint = torch.load(folder / "tuned.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == module.trainable_names()
    assert all("lora_" in name for name in checkpoint["state_dict"])
    assert sum(v.numel() for v in checkpoint["state_dict"].values()) < 0.05 * sum(p.numel() for p in module.parameters())
    assert set(checkpoint["medrag"]["description"]) == {"reader", "prompt_order", "template", "evidence"}


def test_a_stored_reference_gives_what_the_live_one_gives(tuned, stored, tmp_path):
    """H24: the same run with the adapter off at every step; the dropout of the adapter does not reach the reference."""
    runs = []
    for how, made in (("stored", stored), ("adapter_off", pairs_of), ("checked", pairs_of)):
        module, seen = stage(dropout=0.3, reference=how), Steps()
        fitter = trainer(tmp_path, max_steps=4, callbacks=[seen], log_every_n_steps=1, limit_val_batches=0)
        fitter.fit(module, datamodule=PairData(tmp_path, made))
        runs.append(seen.steps)
    for mine, live, lacking in zip(*runs, strict=True):
        assert mine.keys() == live.keys()
        exact = [name for name in mine if not name.endswith("accuracy")]  # at margins of 1e-7 it is rounding
        assert [mine[name] for name in exact] == pytest.approx([live[name] for name in exact], abs=2e-5)
        assert live == lacking, "what is not stored is computed"


def test_another_readers_reference_is_refused(stored, tmp_path):
    other, served = stage(made_reader=reader(seed=1)), PairData(tmp_path, stored)
    with pytest.raises(ValueError, match=r"answer .*: stored -\d+\.\d+ nats, with the adapter off -\d+\.\d+.*TrainedBackbone"):
        trainer(tmp_path).fit(other, datamodule=served)
    unchecked = stage(made_reader=reader(seed=1), reference="stored")
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(unchecked, datamodule=served)


def test_half_precision_is_compared_less_closely(stored, tmp_path):
    settings = {"max_steps": 1, "limit_val_batches": 0, "precision": "bf16-mixed"}
    served, module = PairData(tmp_path, stored), stage()
    trainer(tmp_path, **settings).fit(module, datamodule=served)
    assert module._tolerance() == 0.5
    with pytest.raises(ValueError, match="raise check_tolerance"):
        trainer(tmp_path, **settings).fit(stage(check_tolerance=1e-6), datamodule=served)


def test_another_readers_tokens_are_refused(stored, tmp_path):
    def longer(query):
        return [replace(pair, chosen=replace(pair.chosen, tokens=pair.chosen.tokens + 1)) for pair in stored(query)]

    with pytest.raises(ValueError, match="tokens here and had"):
        trainer(tmp_path).fit(stage(), datamodule=PairData(tmp_path, longer))


def test_going_on_keeps_the_reference_of_the_run_before(tuned, stored, tmp_path):
    """The margins go on from where they were."""
    again, seen = stage(init_from=str(tuned[0] / "tuned.ckpt")), Steps()
    run = trainer(tmp_path, max_steps=1, callbacks=[seen], log_every_n_steps=1, limit_val_batches=0)
    run.fit(again, datamodule=PairData(tmp_path, stored))
    assert seen.steps[0]["train/margin"] > 0.02


def test_the_reference_of_a_second_stage_is_what_the_first_one_made(tuned, tmp_path):
    """P03, trap 7: over `TrainedBackbone` it is; with `init_from` it would be the reader before both, and that is refused."""
    weights = str(tuned[0] / "tuned.ckpt")
    scored = pairs_with_reference(tmp_path, made_reader=reader(tuned=weights))
    second, seen = stage(made_reader=reader(tuned=weights)), Steps()
    run = trainer(tmp_path, max_steps=1, callbacks=[seen], log_every_n_steps=1, limit_val_batches=0)
    run.fit(second, datamodule=PairData(tmp_path, scored))
    assert seen.steps[0]["train/margin"] == pytest.approx(0, abs=1e-5)
    policy = tuned[1].reader.eval()
    batch = second.collator(training=False)(run.train_dataloader.dataset.of_each_kind(4)).to("cpu")
    live_B2 = second._live_reference(batch)
    with torch.no_grad():
        logp_R = policy.token_logp(batch.prompts, batch.rows).sum(1)
    torch.testing.assert_close(live_B2, torch.stack([logp_R[batch.chosen_B], logp_R[batch.rejected_B]], 1), atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="TrainedBackbone"):
        trainer(tmp_path, max_steps=1).fit(stage(init_from=weights), datamodule=PairData(tmp_path, scored))


def test_a_reader_without_an_adapter_has_no_reference(tmp_path):
    with pytest.raises(ValueError, match=r"as its reference.*adapter.*TrainedBackbone"):
        trainer(tmp_path).fit(stage(made_reader=reader(adapter=False)), datamodule=PairData(tmp_path))


def test_a_text_only_processor_is_refused_before_the_first_step(tmp_path):
    """P02, H24: with one prompt for both sides the loss would stay ln 2 for ever."""
    module, seen = stage(), Steps()
    module.template = _WithoutImages()
    with pytest.raises(ValueError, match=r"'cross_modality' would train nothing.*zero by construction"):
        trainer(tmp_path, callbacks=[seen]).fit(module, datamodule=PairData(tmp_path))
    assert not seen.steps


class _WithoutImages(PromptTemplate):
    def build(self, example, shown=None):
        return super().build(replace(example, query_image=None), shown)


class Blind(HfReader):
    """Takes images and looks at none of them."""

    def token_logp(self, prompts, rows):
        vision = {name: value * 0 for name, value in prompts.vision.items()}
        self.vision_cache.clear()
        return super().token_logp(replace(prompts, vision=vision), rows)


def test_a_reader_that_does_not_see_its_image_is_told(tmp_path):
    made, seen = reader(kind=Blind), Steps()
    run = trainer(tmp_path, max_steps=3, callbacks=[seen], log_every_n_steps=1, limit_val_batches=0)
    with pytest.warns(UserWarning, match="does not see the query's image"):
        run.fit(stage(made_reader=made, blind_after=3), datamodule=PairData(tmp_path))
    assert all(abs(step.get("train/cross_modality_margin", 0.0)) < 1e-5 for step in seen.steps)
    assert abs(seen.steps[-1]["train/knowledge_utilisation_margin"]) > 1e-4, "the others train"
    refusing = stage(made_reader=reader(kind=Blind), blind_after=2, refuse_blind=True)
    with pytest.raises(ValueError, match="does not see"):
        trainer(tmp_path, max_epochs=2).fit(refusing, datamodule=PairData(tmp_path))


def test_a_reader_that_sees_is_not_suspected(stored, tmp_path, recwarn):
    trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(stage(blind_after=1), datamodule=PairData(tmp_path, stored))
    assert not [w for w in recwarn if "does not see" in str(w.message)]


def test_no_pairs_is_an_error_with_the_statistics(tmp_path):
    nothing = PairData(tmp_path, lambda query: [], statistics={"right with K": 3})
    with pytest.raises(ValueError, match=r"no preference pair of split 'train'.*right with K"):
        trainer(tmp_path).fit(stage(), datamodule=nothing)


def test_without_validation_pairs_there_is_no_validation(tmp_path):
    run = trainer(tmp_path, max_epochs=1)
    run.fit(stage(), datamodule=PairData(tmp_path, splits=("train",)))
    assert not [name for name in run.callback_metrics if name.startswith("val/")]


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_other_verbs_name_the_stage_to_use(verb, tmp_path):
    with pytest.raises(ValueError, match="reader_raft"):
        getattr(trainer(tmp_path), verb)(stage(), datamodule=PairData(tmp_path))


def test_another_prompt_order_is_refused(tuned, tmp_path, stored):
    folder, _, _, _ = tuned
    other = stage(template=PromptTemplate(order="query_first"), init_from=str(folder / "tuned.ckpt"))
    with pytest.raises(ValueError, match="prompt order 'evidence_first'"):
        trainer(tmp_path).fit(other, datamodule=PairData(tmp_path, stored))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "ipo", "label_smoothing": 0.1}, "would be ignored"),
        ({"kind": "robust"}, "is dpo"),
        ({"label_smoothing": 0.5}, r"\[0, 0.5\)"),
        ({"beta": 0.0}, "beta > 0"),
    ],
)
def test_loss_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PreferenceLoss(**settings)


@pytest.mark.parametrize(
    "loss", [PreferenceLoss("ipo", beta=0.5, length_normalised=True), PreferenceLoss(nll_weight=1.0), PreferenceLoss("hinge")]
)
def test_the_other_losses_train(loss, stored, tmp_path):
    seen = Steps()
    run = trainer(tmp_path, max_epochs=3, callbacks=[seen], log_every_n_steps=1)
    run.fit(stage(loss=loss), datamodule=PairData(tmp_path, stored, batch_size=24))
    losses = [step["train/loss"] for step in seen.steps]
    assert losses[-1] < losses[0]
    if loss.nll_weight:
        numbers = {name: float(value) for name, value in run.callback_metrics.items()}
        assert numbers["val/loss"] == pytest.approx(0.69 + numbers["val/chosen_nll"], abs=0.1)


def fitted(folder, stored, stop_after=None, resume=False, **settings):
    module = stage(dropout=0.2, optimizer=ADAMW)
    keep = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1, save_top_k=0)
    callbacks = [keep] if stop_after is None else [StopAfter(stop_after), keep]
    fitter = trainer(folder, max_epochs=2, enable_checkpointing=True, callbacks=callbacks, limit_val_batches=1, **settings)
    try:
        last = folder / "last.ckpt" if resume else None
        fitter.fit(module, datamodule=PairData(folder, stored), ckpt_path=last, weights_only=True)
    except SystemExit:
        assert stop_after is not None
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def test_resume_is_bit_equal(stored, tmp_path):
    """H25; mid-epoch and at its end, with some of the references live."""

    def some(query):
        *kept, last = stored(query)
        return [*kept, replace(last, chosen=replace(last.chosen, reference_nats=None))]

    (tmp_path / "whole").mkdir()
    whole = fitted(tmp_path / "whole", some)
    for steps in (2, 6):
        folder = tmp_path / str(steps)
        folder.mkdir()
        fitted(folder, some, stop_after=steps)
        assert_bit_equal(fitted(folder, some, resume=True), whole)
