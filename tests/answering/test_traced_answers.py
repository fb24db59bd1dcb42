"""An answerer that writes traces says what the test says, to the letter, and tells how it came to it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
from toy import ToySource
from trace_world import data, stage, trainer, written

from medrag_lightning.answering import Answerer
from medrag_lightning.answering.traced import KEPT_UNREAD, NO_LAST_ANSWER, NOTHING_KEPT
from medrag_lightning.batches import Steering
from medrag_lightning.reading.trace_writer import TraceWriter


class Scripted(TraceWriter):
    """Writes what it is told, with the reader's scores."""

    text = ""

    def read(self, batch, rearranges=True):
        return [self._traced(example, self.text) for example in batch.examples]


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    served = data(folder, eval_batch_size=1, regimes=["retrieved"])
    module, run = stage(ablations=()), trainer(folder, max_epochs=6, check_val_every_n_epoch=6)
    run.fit(module, datamodule=served)
    run.test(module, datamodule=served, verbose=False)
    tests = list(module.predictions)
    run.predict(module, datamodule=served, return_predictions=False)
    run.save_checkpoint(folder / "a.ckpt", weights_only=True)
    return folder, module, served, tests


def answerer(module, served, tracer=None, **settings):
    parts = (served.documents(), served.world().open_image, served.evidence_folder())
    chosen = {"template": module.template, "evidence": "all_in_one_prompt", "tracer": tracer or module.writer, **settings}
    return Answerer(ToySource(), module.reader, *parts, **chosen)


def test_answers_are_those_of_test_and_of_predict(tested):
    _, module, served, tests = tested
    made = answerer(module, served)
    told, predicted = ({p.query_id: p for p in predictions} for predictions in (tests, module.predictions))
    for query in served.split_queries("test"):
        answer = made.answer(query)
        assert answer.trace.text == answer.prediction.raw == told[query.id].raw == predicted[query.id].raw
        assert answer.prediction == told[query.id] == predicted[query.id]
        assert set(answer.seconds) == {"retrieve", "encode", "trace", "read"}
        assert [citation.document_id for citation in answer.citations] == list(answer.prediction.cited)


def scripted(module, text):
    writer = Scripted(module.reader, module.template, 8)
    writer.text = text
    return writer


def test_it_cites_what_it_keeps_and_nothing_that_is_not_there(tested):
    _, module, served, _ = tested
    text = (
        "<rearrange>\n[3] it is\n[7] made up\n[1]\n</rearrange>\n<initial>red</initial>\n<rethink>no</rethink>\n"
        "<final>it is blue</final>"
    )
    query = next(query for query in served.split_queries("test") if query.choices)
    made = answerer(module, served, scripted(module, text), closed_answers="generated")
    shown = [candidate.id for candidate in made.example(query).candidates]
    answer = made.answer(query)
    assert answer.text == "blue"
    assert [citation.document_id for citation in answer.citations] == [shown[2], shown[0]]
    assert [(kept.number, kept.document_id) for kept in answer.trace.kept] == [(3, shown[2]), (1, shown[0])]
    assert "there is no evidence 7" in answer.warnings[-1]
    assert "kept: [3]" in str(answer)
    assert answer.to_json()["trace"]["initial"] == "red"
    assert answer.probability is not None
    assert made.answer(replace(query, choices=(), answer_type=type(query.answer_type).OPEN)).text == "it is blue"


def test_texts_that_are_no_trace_fall_back_and_say_so(tested):
    _, module, served, _ = tested
    query = next(query for query in served.split_queries("test") if query.choices)
    for text, needed in (
        ("", {KEPT_UNREAD, NO_LAST_ANSWER}),
        ("<final>", {KEPT_UNREAD, NO_LAST_ANSWER}),
        ("<rearrange>\n</rearrange>\n<initial>red</initial>", {NOTHING_KEPT, NO_LAST_ANSWER}),
    ):
        answer = answerer(module, served, scripted(module, text)).answer(query)
        assert answer.text in query.choices  # the likeliest choice after what was written
        assert needed <= set(answer.warnings)
        assert len(answer.citations) == (0 if NOTHING_KEPT in needed else 3)
        generated = answerer(module, served, scripted(module, text), closed_answers="generated").answer(query)
        assert (generated.text, generated.abstained) == (("red", False) if "red" in text else (None, True))


def test_settings_that_would_be_ignored_are_refused(tested):
    _, module, served, _ = tested
    for settings, why in (
        ({"evidence": "one_per_prompt"}, "evidence='one_per_prompt' would be ignored"),
        ({"steering": Steering("mass_preserving", "all", gain=2.0)}, "would be ignored"),
        ({"tracer": TraceWriter(stage().reader, module.template, 8)}, "its reader must be the answerer's"),
    ):
        with pytest.raises(ValueError, match=why):
            answerer(module, served, **settings)


def test_an_answerer_comes_from_a_run(tested):
    folder, _, served, tests = tested
    small = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "image_side_px": 32}
    backbone = {"class_path": "medrag_lightning.models.tiny.TinyBackbone", "init_args": {**small, "vocabulary": 400}}
    reading = {"class_path": "medrag_lightning.models.hf_reader.HfReader", "init_args": {"backbone": backbone}}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
    model = {"reader": reading, "optimizer": optimizer, "max_new_tokens": 70}
    table = {"class_path": "toy.ToyTable", "init_args": {"folder": str(folder)}}
    settings = {"tables": [table], "corpus": [table], "source": {"class_path": "toy.ToySource"}}
    settings |= {"cache_folder": str(folder / "evidence"), "evidence": {"traces": {"folder": str(written(folder))}}}
    told = {
        "model": {"class_path": "medrag_lightning.stages.reader_trace.ReaderTrace", "init_args": model},
        "data": {"class_path": "medrag_lightning.data.module.MedragData", "init_args": settings},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(told))
    made = Answerer.from_run(folder / "config.yaml", folder / "a.ckpt")
    assert made.answer(served.split_queries("test")[0]).prediction == tests[0]
