import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import ToySource, Unanswered, data, reader, stage, trainer

from callbacks.predictions_writer import PredictionsWriter
from medrag_lightning.batches import Example
from medrag_lightning.losses import answer_nll
from medrag_lightning.mixture import Fusion, geometric_closed
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.records import AnswerType, Regime


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    module, served = stage(), data(folder)
    run = trainer(folder, max_epochs=12)
    run.fit(module, datamodule=served)
    run.save_checkpoint(folder / "a.ckpt")
    results = run.test(module, datamodule=served, verbose=False)
    return folder, module, served, results


def test_learns_the_toy_and_reports_every_regime(fitted):
    _, module, served, results = fitted
    numbers = {name: value for result in results for name, value in result.items()}
    assert numbers["test/retrieved/closed_accuracy"] >= 0.7
    for regime in ("retrieved", "none", "random", "oracle"):
        assert math.isfinite(numbers[f"test/{regime}/loss"])
    counts = Counter(prediction.regime for prediction in module.predictions)
    assert set(counts.values()) == {len(served.split_queries("test"))}


def test_validate_reports_every_regime_too(fitted):
    folder, _, served, _ = fitted
    again = stage()
    loaded = {"ckpt_path": folder / "a.ckpt", "verbose": False, "weights_only": True}
    (numbers, *more) = trainer(folder).validate(again, datamodule=data(folder), **loaded)
    names = {name for part in (numbers, *more) for name in part}
    assert {"val/closed_accuracy", "val/closed_ece", "val/none/closed_accuracy", "val/random/loss"} <= names
    assert {p.regime for p in again.predictions} == set(served.regimes)


def test_predict_answers_queries_without_answers(fitted):
    folder, module, served, _ = fitted
    again = stage()
    blind = data(folder)
    blind.tables = [Unanswered(str(folder))]
    run = trainer(folder, callbacks=[PredictionsWriter()])
    run.predict(again, datamodule=blind, ckpt_path=folder / "a.ckpt", return_predictions=False, weights_only=True)
    known = {p.query_id: p.answer for p in module.predictions if p.regime is Regime.RETRIEVED}
    assert {p.query_id: p.answer for p in again.predictions} == known
    assert all(p.gold is None for p in again.predictions)
    assert len((folder / "predictions" / "predict.jsonl").read_text().splitlines()) == len(known)
    assert len(known) == len(served.split_queries("test"))


def test_the_prompt_of_training_is_that_of_evaluation(fitted):
    """JOMED J17: the same ids for the same query and candidate."""
    _, module, _, _ = fitted
    example = Example(*_example_with(1))
    one, other = (module.collator(training)([example]).parts[0].prompts for training in (True, False))
    assert torch.equal(one.ids_PT, other.ids_PT)
    assert torch.equal(one.vision["pixel_values"], other.vision["pixel_values"])


def test_predictions_cite_what_was_shown(fitted):
    _, module, _, _ = fitted
    for prediction in module.predictions:
        if prediction.regime is Regime.NONE:
            assert prediction.cited == () == prediction.weights
        if prediction.regime is Regime.RETRIEVED:
            assert len(prediction.cited) == len(prediction.weights) == 3
            assert sum(prediction.weights) == pytest.approx(1)
        if prediction.answer_type is AnswerType.CLOSED:
            assert sum(math.exp(logp) for logp in prediction.logp_nats) == pytest.approx(1)
            assert prediction.answer in prediction.choices


def test_predictions_tell_what_each_candidate_says_alone(fitted):
    _, module, _, _ = fitted
    for p in module.predictions:
        assert len(p.cited) == len(p.weights) == len(p.candidate_answers) == len(p.candidate_logp_nats) == len(p.scores)
        assert math.isfinite(p.gold_logp_nats)
        if p.answer_type is AnswerType.OPEN:
            assert p.gold_tokens > 0
            assert all(len(row) == 1 for row in p.candidate_logp_nats)
        elif p.cited:
            mixed = np.array(p.weights) @ np.exp(p.candidate_logp_nats)
            assert mixed.tolist() == pytest.approx([math.exp(logp) for logp in p.logp_nats])
            best = [p.choices[row.index(max(row))] for row in p.candidate_logp_nats]
            assert list(p.candidate_answers) == best
            assert p.gold_logp_nats == p.logp_nats[p.choices.index(p.gold)]


def test_rivals_are_read_by_the_same_reader_under_their_own_names(fitted):
    folder, _, _, _ = fitted
    again, served = stage(), data(folder, rivals={"same": ToySource()}, regimes=[Regime.RETRIEVED])
    loaded = {"ckpt_path": folder / "a.ckpt", "verbose": False, "weights_only": True}
    (*_, numbers) = trainer(folder).test(again, datamodule=served, **loaded)
    mine = {p.query_id: p for p in again.predictions if not p.system}
    theirs = {p.query_id: p for p in again.predictions if p.system == "same"}
    assert len(mine) == len(theirs) == len(served.split_queries("test"))
    assert all(p == replace(mine[name], system="same") for name, p in theirs.items())
    assert "test/same/closed_accuracy" in numbers


def test_jomeds_fusion_adds_log_scores(fitted):
    folder, _, _, _ = fitted
    again = stage(fusion=Fusion("logit_mixture", "divide_by_max", 1.0))
    trainer(folder).test(again, datamodule=data(folder), ckpt_path=folder / "a.ckpt", verbose=False, weights_only=True)
    for p in again.predictions:
        if p.answer_type is AnswerType.CLOSED and p.cited:
            logp_C = geometric_closed(np.array(p.candidate_logp_nats), np.array(p.weights))
            assert p.logp_nats == pytest.approx(logp_C.tolist())
            assert p.answer == p.choices[logp_C.argmax()]


def test_validate_tunes_the_fusion_and_fit_does_not(fitted):
    folder, module, _, _ = fitted
    assert module.tuned_fusion is None
    again = stage()
    trainer(folder).validate(again, datamodule=data(folder), ckpt_path=folder / "a.ckpt", verbose=False, weights_only=True)
    assert again.tuned_fusion.nll_nats <= again.tuned_fusion.before_nats


def test_fusion_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match="would be ignored"):
        stage(evidence="all_in_one_prompt", fusion=Fusion(temperature=1.0))


def test_checkpoint_holds_what_trains_and_names_its_stage(fitted):
    folder, module, _, _ = fitted
    checkpoint = torch.load(folder / "a.ckpt", weights_only=True)
    assert checkpoint["medrag"]["stage"] == "reader_raft"
    assert checkpoint["medrag"]["description"]["prompt_order"] == "evidence_first"
    assert set(checkpoint["state_dict"]) == module.trainable_names()


def test_checkpoint_restores_the_same_predictions(fitted):
    folder, module, _, _ = fitted
    again = stage()
    trainer(folder).test(again, datamodule=data(folder), ckpt_path=folder / "a.ckpt", verbose=False, weights_only=True)
    assert again.predictions == module.predictions


def test_init_from_starts_from_the_weights_but_not_the_step(fitted):
    folder, module, _, _ = fitted
    new = stage(init_from=str(folder / "a.ckpt"))
    run = trainer(folder, max_steps=0)
    run.fit(new, datamodule=data(folder))
    assert run.global_step == 0
    old = dict(module.named_parameters())
    assert all(torch.equal(value, old[name]) for name, value in new.named_parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": PromptTemplate(order="query_first")}, "prompt order 'evidence_first'"),
        ({"evidence": "all_in_one_prompt"}, "one_per_prompt"),
    ],
)
def test_another_order_or_layout_is_refused(fitted, change, message):
    folder, _, _, _ = fitted
    with pytest.raises(ValueError, match=message):
        trainer(folder).test(stage(**change), datamodule=data(folder), ckpt_path=folder / "a.ckpt", weights_only=True)


def test_another_order_can_be_allowed(fitted):
    folder, _, _, _ = fitted
    changed = stage(template=PromptTemplate(order="query_first"), allow_order_change=True)
    trainer(folder).test(changed, datamodule=data(folder), ckpt_path=folder / "a.ckpt", verbose=False, weights_only=True)
    assert changed.predictions


def test_a_checkpoint_of_another_stage_is_refused(fitted):
    folder, _, _, _ = fitted
    checkpoint = torch.load(folder / "a.ckpt", weights_only=True)
    checkpoint["medrag"]["stage"] = "retriever_kl"
    torch.save(checkpoint, folder / "other.ckpt")
    with pytest.raises(ValueError, match="init_from"):
        trainer(folder).fit(stage(), datamodule=data(folder), ckpt_path=folder / "other.ckpt", weights_only=True)


def batch_of(served_folder, training, layout="one_per_prompt"):
    """A batch made as a loader would, without a trainer."""
    module, served = stage(evidence=layout), data(served_folder)
    module.reader.prepare(served.training_texts())
    trainer(served_folder, max_steps=0).fit(module, datamodule=served)
    loader = served.train_dataloader() if training else served.test_dataloader()[0]
    return module, next(iter(loader))


def test_jomed_makes_one_sample_of_each_draw_and_one_prompt_a_candidate(tmp_path):
    _, batch = batch_of(tmp_path, training=True)
    assert all(len(example.candidates) <= 1 for example in batch.examples)
    assert sum(len(part.query_of_prompt) for part in batch.parts) == len(batch.examples) == 6
    _, batch = batch_of(tmp_path, training=False)
    assert sum(len(part.query_of_prompt) for part in batch.parts) == 3 * len(batch.examples)


def test_all_in_one_prompt_shows_every_candidate(tmp_path):
    _, batch = batch_of(tmp_path, training=False, layout="all_in_one_prompt")
    assert sum(len(part.query_of_prompt) for part in batch.parts) == len(batch.examples)
    assert all(count == 4 for part in batch.parts for count in part.prompts.images_of_prompt)


def test_only_answer_tokens_carry_loss(tmp_path):
    """Changing the target at any unsupervised place changes nothing; changing any supervised one does."""
    module, batch = batch_of(tmp_path, training=True)
    module.reader.eval()
    part = batch.parts[0]
    logp_RL = module.reader.token_logp(part.prompts, part.rows).detach()
    loss = answer_nll(logp_RL, part.rows.mask_RL)
    for row in range(logp_RL.shape[0]):
        for token in range(logp_RL.shape[1]):
            changed = logp_RL.clone()
            changed[row, token] -= 3.0
            same = torch.equal(answer_nll(changed, part.rows.mask_RL), loss)
            assert same == (not part.rows.mask_RL[row, token])


def test_padding_ids_and_masked_prompt_ids_do_not_change_the_loss(tmp_path):
    """Every token that is padding, in prompt or answer, may hold any id: the loss is the same."""
    module, batch = batch_of(tmp_path, training=True)
    module.reader.eval()
    for part in batch.parts:
        loss = answer_nll(module.reader.token_logp(part.prompts, part.rows), part.rows.mask_RL)
        part.rows.ids_RL[~part.rows.mask_RL] = 20
        part.prompts.ids_PT[part.prompts.mask_PT == 0] = 20
        again = answer_nll(module.reader.token_logp(part.prompts, part.rows), part.rows.mask_RL)
        torch.testing.assert_close(again, loss, atol=1e-6, rtol=0)


def test_loss_equals_the_plain_causal_lm_loss(tmp_path):
    """JOMED J10: token ids, labels and loss as a plain Hugging Face run of each sample alone would have them."""
    module, batch = batch_of(tmp_path, training=True)
    module.reader.eval()
    model = module.reader.model
    total, count = 0.0, 0
    for part in batch.parts:
        images = 0
        for row, prompt in enumerate(part.rows.prompt_of_row_R.tolist()):
            real = part.prompts.mask_PT[prompt].bool()
            ids = torch.cat([part.prompts.ids_PT[prompt][real], part.rows.ids_RL[row][part.rows.mask_RL[row]]])
            labels = ids.clone()
            labels[: int(real.sum())] = -100
            held = part.prompts.images_of_prompt[prompt]
            pixels = part.prompts.vision["pixel_values"][images : images + held]
            images += held
            seen = torch.ones_like(ids)[None]
            out = model(input_ids=ids[None], attention_mask=seen, pixel_values=pixels, labels=labels[None])
            tokens = int(part.rows.mask_RL[row].sum())
            total, count = total + out.loss.item() * tokens, count + tokens
    losses = [answer_nll(module.reader.token_logp(p.prompts, p.rows), p.rows.mask_RL, count).item() for p in batch.parts]
    assert sum(losses) == pytest.approx(total / count, abs=1e-5)


def test_generated_closed_answers_are_parsed_strictly(tmp_path):
    module, served = stage(closed_answers="generated"), data(tmp_path)
    trainer(tmp_path).test(module, datamodule=served, verbose=False)
    closed = [p for p in module.predictions if p.answer_type is AnswerType.CLOSED]
    assert all(p.answer is None or p.answer in p.choices for p in closed)
    assert any(p.answer is None for p in closed), "an untrained reader babbles"


def test_one_candidate_training_prompt_refuses_several():
    module = stage()
    module.reader.prepare(["a b c"])
    collate = RaftCollator(module.reader.processor, PromptTemplate(), True, training=True)
    many = Example(*_example_with(2))
    with pytest.raises(ValueError, match="2 candidates"):
        collate([many])


def _example_with(count):
    from PIL import Image

    from medrag_lightning.records import Candidate, Channel, Document, Query

    found = tuple(Candidate(Document(f"d{n}", "text"), 1.0, Channel.GIVEN) for n in range(count))
    return Query("q", "?", answer="a"), Regime.RETRIEVED, found, Image.new("RGB", (32, 32)), (None,) * count


def test_the_reader_must_have_something_to_train(tmp_path):
    frozen = stage()
    frozen.reader = reader()
    frozen.reader.freeze = "all_but_adapter"
    with pytest.raises(ValueError, match="nothing is trainable"):
        trainer(tmp_path).fit(frozen, datamodule=data(tmp_path))
