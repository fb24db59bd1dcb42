"""Stage reader_trace: what its loss covers, which parts of the reader it moves, and what it writes after training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from test_resume import StopAfter, assert_bit_equal
from trace_world import SHAPE, data, reader, stage, trace_of, trainer, written

from callbacks.results_table import ResultsTable
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.metrics import TraceOutcome, trace_numbers
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.records import Kept, Split, Trace, format_trace, parse_trace
from medrag_lightning.stages.answer_objective import global_answer_nll
from medrag_lightning.stages.learning_rates import LearningRates
from medrag_lightning.stages.reader_trace import NUMBERED
from medrag_lightning.trace_files import TraceRow, read_traces

DESCENT = partial(torch.optim.SGD, lr=0.05)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A reader after one epoch, and its checkpoint: enough to be another one than an untrained."""
    folder = tmp_path_factory.mktemp("short")
    module, run = stage(), trainer(folder)
    run.fit(module, datamodule=data(folder))
    run.save_checkpoint(folder / "a.ckpt", weights_only=True)
    return folder, module, run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_traces_are_learnt_to_the_letter(tmp_path):
    """Only the images tell the colours of the questions; rethinking mends what the first answers get wrong."""
    shaped = reader(**{**SHAPE, "hidden": 64, "layers": 2, "patch_px": 32})
    descent = partial(torch.optim.AdamW, lr=5e-3, betas=(0.9, 0.98))
    module = stage(made_reader=shaped, optimizer=descent, max_new_tokens=120, ablations=("initial", "no rearrange"))
    served = data(tmp_path, count=40, batch_size=4)
    run = trainer(tmp_path, max_epochs=40, check_val_every_n_epoch=40, callbacks=[ResultsTable()])
    run.fit(module, datamodule=served)
    items = served.train_dataloader().dataset
    batch = module.writer.collate([items[[key(n)]][0] for n in range(len(items))])
    told = module.writer.read(batch)
    assert len(told) >= 20
    assert [(one.written.whole(), one.faults) for one in told] == [(trace_of(one.example.query), ()) for one in told]
    run.test(module, datamodule=served, verbose=False)
    found = run.callback_metrics
    assert found["test/whole"] == found["test/final_accuracy"] == 1.0 > found["test/initial_accuracy"]
    assert found["test/mended"] > 0.0 == found["test/spoilt"]
    assert found["test/kept"] == 2.0
    assert {"test/initial/closed_accuracy", "test/no rearrange/closed_accuracy", "test/none/closed_accuracy"} <= set(found)
    own = [p for p in module.predictions if p.regime == "retrieved" and not p.system]
    assert all(len(p.cited) == 2 == len(p.scores) for p in own)


def key(place):
    return SampleKey(0, place)


def test_the_loss_covers_the_trace_alone(tmp_path):
    """Trap 11: prompt, evidence, and the headers of the chat template are no targets."""
    module, run = stage(), trainer(tmp_path, max_steps=1)
    served = data(tmp_path)
    run.fit(module, datamodule=served)
    rows = read_traces(tmp_path / "traces").by_query()
    seen = 0
    for batch in served.train_dataloader():
        for part in batch.parts:
            answers = part.rows.ids_RL
            for row, place in enumerate(part.query_of_prompt):
                text = format_trace(rows[batch.examples[place].query.id].trace)
                (ids,) = module.reader.processor.encode_answers([text])
                assert answers[row][part.rows.mask_RL[row]].tolist() == ids  # the trace and the end of the turn, no more
                assert part.rows.prompt_of_row_R[row] == row
                assert module.reader.processor.decode(ids) == text
                seen += 1
        loss = global_answer_nll(module.reader, batch, 1, module.device)
        total = sum(-module.reader.token_logp(p.prompts, p.rows).sum() for p in batch.parts)
        tokens = sum(int(p.rows.mask_RL.sum()) for p in batch.parts)
        torch.testing.assert_close(loss, total / tokens)
    assert seen == 12


def test_evidence_is_in_the_prompt_with_its_numbers(tmp_path):
    """Trap 3: a template that asks for evidence shows it, to the last token."""
    module, run = stage(), trainer(tmp_path, max_steps=1)
    served = data(tmp_path)
    run.fit(module, datamodule=served)
    for order in ("evidence_first", "query_first", "image_first"):
        other = stage(made_reader=module.reader, template=replace(NUMBERED, order=order))
        (batch,) = [other.collator(True)(served.train_dataloader().dataset[[key(0)]])]
        example, part = batch.examples[0], batch.parts[0]
        ids = part.prompts.ids_PT[0][part.prompts.mask_PT[0].bool()].tolist()
        said = module.reader.processor.tokenizer.decode(ids)
        for number, candidate in enumerate(example.candidates, start=1):
            assert f"[{number}] {candidate.document.text}" in said


@pytest.mark.parametrize(
    ("rates", "moved"),
    [
        ({"projector": 0.1}, {"projector"}),
        ({"projector": 0.1, "language_model": 0.2}, {"projector", "language_model"}),
        ({"projector": 0.1, "language_model": 0.2, "vision": 0.3}, {"projector", "language_model", "vision"}),
    ],
)
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "idefics3"])
def test_only_parts_with_a_rate_have_gradients_and_each_has_its_own(tmp_path, family, rates, moved):
    shaped = reader(family=family, heads=4, hidden=64)
    module = stage(made_reader=shaped, optimizer=DESCENT, learning_rates=LearningRates(**rates))
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(module, datamodule=data(tmp_path))
    groups = {group["name"]: group for group in run.optimizers[0].param_groups}
    assert {name: group["initial_lr"] for name, group in groups.items()} == rates
    assert all(parameter.grad is not None for group in groups.values() for parameter in group["params"])
    own = {id(parameter) for group in groups.values() for parameter in group["params"]}
    assert all(p.grad is None and not p.requires_grad for p in module.parameters() if id(p) not in own)
    names = {name for name, parameter in module.named_parameters() if id(parameter) in own}
    parts = {"vision" if "vision" in n or "visual" in n else "language" for n in names if not is_projector(n)}
    assert parts == {part.removesuffix("_model") for part in moved - {"projector"}}
    assert any(map(is_projector, names))


def is_projector(name):
    return any(part in name for part in ("multi_modal_projector", "merger", "connector"))


def test_a_part_that_cannot_be_trained_is_refused(tmp_path):
    adapted = reader(adapter=LoraSettings(rank=2))
    module = stage(made_reader=adapted, learning_rates=LearningRates(projector=0.1, language_model=0.1))
    with pytest.raises(ValueError, match=r"nothing of the reader's projector is trainable.*projector: true"):
        trainer(tmp_path).fit(module, datamodule=data(tmp_path))
    with pytest.raises(ValueError, match="not all null"):
        LearningRates()


def test_the_second_phase_starts_from_the_first(tmp_path):
    served = data(tmp_path)
    first, run = stage(learning_rates=LearningRates(projector=0.1), optimizer=DESCENT), trainer(tmp_path)
    run.fit(first, datamodule=served)
    run.save_checkpoint(tmp_path / "first.ckpt", weights_only=True)
    kept = torch.load(tmp_path / "first.ckpt", weights_only=True)["state_dict"]
    assert kept
    assert all(map(is_projector, kept))
    both = LearningRates(projector=1e-9, language_model=1e-9)
    second = stage(learning_rates=both, optimizer=DESCENT, init_from=str(tmp_path / "first.ckpt"))
    run = trainer(tmp_path, max_steps=1)
    run.fit(second, datamodule=served)
    mine = dict(second.named_parameters())
    for name, value in kept.items():
        torch.testing.assert_close(mine[name].detach(), value, atol=1e-6, rtol=0)
    run.save_checkpoint(tmp_path / "second.ckpt", weights_only=True)
    back = stage(learning_rates=LearningRates(projector=0.1), init_from=str(tmp_path / "second.ckpt"))
    with pytest.raises(ValueError, match="this run freezes"):
        trainer(tmp_path).fit(back, datamodule=served)
    whole = stage(init_from=str(tmp_path / "first.ckpt"))
    trainer(tmp_path, max_steps=1).fit(whole, datamodule=served)
    again = stage(learning_rates=both)
    trainer(tmp_path).test(again, datamodule=served, ckpt_path=tmp_path / "second.ckpt", weights_only=True, verbose=False)
    assert again.reader.fingerprint() == second.reader.fingerprint()


def test_texts_of_any_kind_are_survived_and_counted(short):
    folder, module, run = short
    run.test(module, datamodule=data(folder), verbose=False)
    found = run.callback_metrics
    assert 0 <= found["test/whole"] <= 1
    assert found["test/fell_back"] == 1.0
    own = [p for p in module.predictions if not p.system and p.regime == "retrieved"]
    assert all(p.answer in p.choices and len(p.logp_nats) == 4 for p in own if p.choices)  # scored, whatever was written
    generated = stage(made_reader=module.reader, closed_answers="generated")
    generated._prepared = True
    trainer(folder).test(generated, datamodule=data(folder), verbose=False)
    closed = [p for p in generated.predictions if p.choices and not p.system]
    assert all(p.answer is None for p in closed if not parse_trace(p.raw).answer())


def test_bad_tables_are_refused_and_failed_traces_told(tmp_path, caplog):
    failed = TraceRow("q0", Split.TRAIN, ("d4",), (True,), None, reason="the call failed in step final")
    traces = written(tmp_path, q0=failed)
    served = data(tmp_path, traces=traces)
    with caplog.at_level("INFO"):
        trainer(tmp_path, max_steps=1).fit(stage(), datamodule=served)
    told = "11 traces to learn from, of 12 questions; 1 failed and are left out: the call failed in step final (1)"
    assert told in caplog.text
    lies = Trace((Kept(1, "it is blue"),), "red", "so it is", "red")
    for trace, ids, why in (
        (lies, ("d4", "d8"), "not its own"),
        (trace_of_red(), ("gone", "d8"), "does not hold"),
        (trace_of_red(), ("d0", "d8"), "shares its patient_id"),
    ):
        written(tmp_path, q0=TraceRow("q0", Split.TRAIN, ids, (True, True), trace))
        with pytest.raises(ValueError, match=why):
            trainer(tmp_path).fit(stage(), datamodule=data(tmp_path, traces=traces))


def trace_of_red():
    return Trace((Kept(1, "it is red"),), "red", "so it is", "red")


def test_what_a_prompt_does_not_show_is_never_a_target(tmp_path):
    short_texts = replace(NUMBERED, max_evidence_chars=16, max_prompt_tokens=20)
    with pytest.raises(ValueError, match="has room for"):
        trainer(tmp_path).fit(stage(template=short_texts), datamodule=data(tmp_path))
    with pytest.raises(ValueError, match="names evidence by its number"):
        stage(template=PromptTemplate(evidence_prefix="report: "))
    with pytest.raises(ValueError, match="change the numbers"):
        stage(template=replace(NUMBERED, kinds="documents_first"))


def test_another_template_is_refused(short, tmp_path):
    folder, _, _ = short
    other = stage(template=replace(NUMBERED, order="query_first"))
    with pytest.raises(ValueError, match="another prompt template"):
        trainer(tmp_path).test(other, datamodule=data(folder), ckpt_path=folder / "a.ckpt", weights_only=True)


@pytest.mark.parametrize("steps", [1, 3])
def test_resume_is_bit_equal(tmp_path, steps):
    def run(folder, stop_after=None, resume=False):
        module = stage(dropout=0.2, learning_rates=LearningRates(projector=1e-3, language_model=1e-2))
        keep = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1, save_top_k=0)
        callbacks = [keep] if stop_after is None else [StopAfter(stop_after), keep]
        fitter = trainer(folder, max_epochs=2, enable_checkpointing=True, callbacks=callbacks, limit_val_batches=1)
        try:
            served = data(folder, decoded=1)
            fitter.fit(module, datamodule=served, ckpt_path=folder / "last.ckpt" if resume else None, weights_only=True)
        except SystemExit:
            assert stop_after is not None
        return {name: value.detach().clone() for name, value in module.named_parameters()}

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=steps)
    assert_bit_equal(run(tmp_path / "parts", resume=True), whole)


def test_the_numbers_of_traces_by_hand():
    rows = [
        TraceOutcome("a", True, (), False, 2, 5, False, True),
        TraceOutcome("b", True, ("no image is kept",), False, 0, 5, True, False),
        TraceOutcome("c", False, ("<final> is missing",), True, None, 5, True, True),
        TraceOutcome("d", True, (), False, None, 0, None, None),
    ]
    told = trace_numbers(rows)
    assert told == pytest.approx(
        {
            "whole": 0.75, "faultless": 0.5, "fell_back": 0.25, "kept": 1.0,
            "initial_accuracy": 2 / 3, "final_accuracy": 2 / 3, "mended": 1 / 3, "spoilt": 1 / 3,
        }
    )  # fmt: skip
    assert trace_numbers([]) == {}
