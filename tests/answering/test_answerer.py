"""One question at a time: the prompts and numbers of `test`, with citations and warnings."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
from toy import COLOURS, ToySource, data, stage, trainer

from medrag_lightning.answering import Answerer
from medrag_lightning.answering.answer import NO_ANSWER, NO_EVIDENCE, NO_THRESHOLD_FOR_WORDS, NO_WORDS, Answer
from medrag_lightning.batches import Steering, pixel_sha256
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.mixture import Fusion
from medrag_lightning.records import (
    AnswerType,
    Candidate,
    Channel,
    Document,
    Prediction,
    Query,
    Regime,
    Retrieved,
    shares_identity,
)
from medrag_lightning.stages.score import Score


class ColourSource(ToySource):
    """The three documents of the nearest mean colour; copies of the image and documents of the patient left out."""

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        self.documents, self.open = list(documents), open_image

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        return [Retrieved(query.id, self._nearest(query), "colour") for query in queries]

    def _nearest(self, query):
        if query.image is None:
            return ()
        asked = self.open(query.image)
        legal = [d for d in self.documents if shares_identity(query, d) is None]
        legal = [d for d in legal if pixel_sha256(self.open(d.image)) != pixel_sha256(asked)]
        near = sorted(legal, key=lambda d: self._distance(asked, self.open(d.image)))[:3]
        channels = (Channel.IMAGE_TO_IMAGE, Channel.IMAGE_TO_TEXT, Channel.IMAGE_TO_IMAGE)
        return tuple(Candidate(d, 0.9 - 0.1 * k, channels[k]) for k, d in enumerate(near))

    @staticmethod
    def _distance(one, other):
        return float(np.abs(np.asarray(one, float).mean((0, 1)) - np.asarray(other, float).mean((0, 1))).sum())


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A short training, its test with one query a batch, and an answerer of the same parts."""
    folder = tmp_path_factory.mktemp("answering")
    module, served = stage(), data(folder, eval_batch_size=1)
    served.source = ColourSource()
    run = trainer(folder, max_epochs=4)
    run.fit(module, datamodule=served)
    run.save_checkpoint(folder / "a.ckpt")
    run.test(module, datamodule=served, verbose=False)
    return folder, module, served, answerer_of(module, served)


def answerer_of(module, served, **settings):
    chosen = {"template": module.template, "fusion": module.fusion, "max_new_tokens": 4, **settings}
    parts = (served.documents(), served.world().open_image, served.evidence_folder())
    return Answerer(ColourSource(), module.reader, *parts, **chosen)


def test_numbers_and_answers_are_those_of_test(tested):
    _, module, served, answerer = tested
    expected = {p.query_id: p for p in module.predictions if p.regime is Regime.RETRIEVED}
    queries = served.split_queries("test")
    assert {AnswerType.OPEN, AnswerType.CLOSED} == {query.answer_type for query in queries}
    for query in queries:
        assert answerer.answer(query).prediction == expected[query.id]


def test_steered_answers_are_those_of_a_steered_test(tmp_path):
    steering = Steering("pasta", "all", gain=0.01)
    module = stage(evidence="all_in_one_prompt", steering={"retrieved": steering})
    served = data(tmp_path, eval_batch_size=1)
    served.source = ColourSource()
    trainer(tmp_path).test(module, datamodule=served, verbose=False)
    expected = {p.query_id: p for p in module.predictions if p.regime is Regime.RETRIEVED}
    settings = {"evidence": "all_in_one_prompt", "max_new_tokens": 4}
    steered, plain = (answerer_of(module, served, **settings, steering=chosen) for chosen in (steering, None))
    closed = 0
    for query in served.split_queries("test"):
        assert steered.answer(query).prediction == expected[query.id]
        closed += steered.answer(query).logp_nats != plain.answer(query).logp_nats
    assert closed
    with pytest.raises(ValueError, match="needs all evidence in one prompt"):
        answerer_of(module, served, steering=steering)


def test_the_prompt_is_byte_identical_from_training_to_answering(tested):
    """JOMED J17: stage 1, scoring, test and answering, for one query and one candidate."""
    _, module, served, answerer = tested
    query = served.split_queries("test")[0]
    example = answerer.example(query)
    alone = type(example)(
        example.query, Regime.RETRIEVED, example.candidates[:1], example.query_image, example.candidate_images[:1]
    )
    scoring = Score(module.reader, module.template).collator(training=False)
    makers = (module.collator(True), scoring, module.collator(False), answerer.encode)
    first, *others = (make([alone] if make != answerer.encode else alone).parts[0].prompts for make in makers)
    for other in others:
        assert torch.equal(first.ids_PT, other.ids_PT)
        assert torch.equal(first.vision["pixel_values"], other.vision["pixel_values"])
    tested_batch = module.collator(False)([example])
    asked_batch = answerer.encode(example)
    for mine, theirs in zip(asked_batch.parts, tested_batch.parts, strict=True):
        assert torch.equal(mine.prompts.ids_PT, theirs.prompts.ids_PT)
        assert torch.equal(mine.rows.ids_RL, theirs.rows.ids_RL)


def test_a_file_an_array_item_and_an_open_image_give_the_same_answer(tested):
    folder, _, served, answerer = tested
    query = next(q for q in served.split_queries("test") if q.answer_type is AnswerType.CLOSED)
    image = served.world().open_image(query.image)
    image.save(folder / "asked.png")
    given = {"choices": query.choices, "patient_id": query.patient_id}
    by_file = answerer.ask(query.question, folder / "asked.png", **given)
    by_item = answerer.ask(query.question, str(query.image), **given)
    by_pixels = answerer.ask(query.question, image, **given)
    expected = answerer.answer(query)
    for answer in (by_file, by_item, by_pixels):
        assert (answer.text, answer.logp_nats) == (expected.text, expected.logp_nats)
        assert answer.citations == expected.citations
    assert not answerer._asked


def test_answers_cite_what_they_rest_on(tested):
    _, _, served, answerer = tested
    answer = answerer.answer(served.split_queries("test")[1])
    assert len(answer.citations) == 3
    assert sum(citation.weight for citation in answer.citations) == pytest.approx(1)
    for citation in answer.citations:
        assert citation.text.startswith("it is ")
        assert citation.alone in COLOURS
    assert any("licence" in warning for warning in answer.warnings), "the toy documents have none"
    assert answer.prediction.gold == served.split_queries("test")[1].answer


def test_only_what_fitted_into_the_prompt_is_cited_and_the_rest_is_told(tested):
    _, module, served, _ = tested
    query = next(q for q in served.split_queries("test") if q.image is not None)
    whole = answerer_of(module, served, evidence="all_in_one_prompt")
    all_of_it = whole.answer(query)
    room = int(whole.encode(whole.example(query)).parts[0].prompts.mask_PT.sum()) - 1
    template = replace(module.template, max_prompt_tokens=room)
    answer = answerer_of(module, served, evidence="all_in_one_prompt", template=template).answer(query)
    shown, dropped = all_of_it.prediction.cited[:-1], all_of_it.prediction.cited[-1:]
    assert answer.prediction.cited == tuple(c.document_id for c in answer.citations) == shown
    assert answer.prediction.dropped == dropped
    assert f"evidence that did not fit into the prompt and was not read: {dropped[0]}" in str(answer)
    assert not any("did not fit" in warning for warning in all_of_it.warnings)


def test_without_evidence_it_says_so(tested):
    _, _, _, answerer = tested
    answer = answerer.ask("which colour?", choices=tuple(COLOURS))
    assert answer.citations == ()
    assert NO_EVIDENCE in answer.warnings
    assert answer.text in COLOURS
    assert answerer.ask("name the colour").choices == ()


def test_a_run_folder_gives_the_same_answerer(tested, monkeypatch):
    folder, _, served, answerer = tested
    monkeypatch.setenv("TOY_FOLDER", str(folder))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(run_config()))
    again = Answerer.from_run(path, folder / "a.ckpt")
    query = served.split_queries("test")[0]
    assert again.answer(query).prediction == answerer.answer(query).prediction
    fused = Answerer.from_run(path, folder / "a.ckpt", Fusion(temperature=1.0))
    assert fused.answer(query).prediction.weights != again.answer(query).prediction.weights
    monkeypatch.delenv("TOY_FOLDER")
    with pytest.raises(ValueError, match="TOY_FOLDER is not set"):
        Answerer.from_run(path, folder / "a.ckpt")


def run_config():
    """What a run of these parts would have written."""
    tiny = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1}
    tiny |= {"image_side_px": 32, "vocabulary": 320}
    backbone = {"class_path": "medrag_lightning.models.tiny.TinyBackbone", "init_args": tiny}
    reader = {"class_path": "medrag_lightning.models.hf_reader.HfReader", "init_args": {"backbone": backbone}}
    table = [{"class_path": "toy.ToyTable", "init_args": {"folder": "${TOY_FOLDER}"}}]
    adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}}
    return {
        "seed_everything": 0,
        "trainer": {"max_epochs": 4},
        "model": {
            "class_path": "medrag_lightning.stages.reader_raft.ReaderRaft",
            "init_args": {"reader": reader, "optimizer": adamw, "max_new_tokens": 4},
        },
        "data": {
            "class_path": "medrag_lightning.data.module.MedragData",
            "init_args": {
                "tables": table, "corpus": table, "source": {"class_path": f"{__name__}.ColourSource"},
                "cache_folder": "${run_folder}/evidence",
            },
        },
    }  # fmt: skip


def test_a_config_of_something_else_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("trainer: {}\n")
    with pytest.raises(ValueError, match="needs the keys model and data"):
        Answerer.from_run(path, tmp_path / "a.ckpt")
    path.write_text("model: {class_path: medrag_lightning.stages.embed.Embed}\ndata: {}\n")
    with pytest.raises(ValueError, match=r"config\.yaml: not the config of a run of stage reader_raft"):
        Answerer.from_run(path, tmp_path / "a.ckpt")


def test_evidence_of_the_same_patient_is_refused_whatever_the_source_says(tested):
    _, _, served, answerer = tested

    class Leaking(ColourSource):
        def retrieve(self, queries):
            return [Retrieved(q.id, (Candidate(self.documents[3], 1.0, Channel.GIVEN),), "leak") for q in queries]

    answerer = answerer_of(*tested[1:3])
    answerer.source = Leaking()
    answerer.source.load(served.documents(), served.world().open_image, Path())
    with pytest.raises(ValueError, match="'d3' shares its patient_id"):
        answerer.ask("which colour?", patient_id="p3")


def test_bad_questions_and_settings_are_refused(tested):
    _, module, served, answerer = tested
    with pytest.raises(ValueError, match="blank"):
        answerer.ask("  ")
    with pytest.raises(ValueError, match="two choices"):
        answerer.ask("which?", choices=("red",))
    with pytest.raises(ValueError, match="low_margin"):
        answerer_of(module, served, low_margin=2.0)


def test_warnings_of_a_close_call_a_disagreement_and_words_that_fit_nothing():
    found = tuple(Candidate(Document(f"d{k}", "text", license="CC0"), 0.5, Channel.IMAGE_TO_TEXT) for k in range(2))
    close = Prediction(
        "q", Regime.RETRIEVED, None, "perhaps", None, AnswerType.CLOSED, ("yes", "no"), (math.log(0.52), math.log(0.48)),
        cited=("d0", "d1"), weights=(0.5, 0.5), candidate_answers=("yes", "no"),
    )  # fmt: skip
    warned = " | ".join(Answer.of(close, found, low_margin=0.1).warnings)
    for words in ("fit none of the choices: 'perhaps'", "close: yes 0.52, no 0.48", "lead to different answers"):
        assert words in warned
    assert "licence" not in warned
    assert "close" not in " ".join(Answer.of(close, found, low_margin=0.01).warnings)


def test_probability_and_abstention_follow_the_answer_and_the_threshold():
    fields = ("q", Regime.RETRIEVED, "no", "no", None, AnswerType.CLOSED, ("yes", "no"), (math.log(0.3), math.log(0.7)))
    closed = Prediction(*fields)
    for threshold, abstains in ((None, False), (0.7 - 1e-9, False), (0.71, True)):
        answer = Answer.of(closed, (), 0.1, threshold)
        assert answer.probability == pytest.approx(0.7)
        assert answer.abstained is abstains
        assert answer.text == "no", "what it would have said stays readable"
        assert answer.reason == ("its probability 0.700 is below 0.71, under which this system abstains" if abstains else "")
    words = Prediction("q", Regime.RETRIEVED, "an effusion", "an effusion", None, AnswerType.OPEN)
    assert Answer.of(words, (), 0.1).probability is None
    assert NO_THRESHOLD_FOR_WORDS in Answer.of(words, (), 0.1, 0.9).warnings
    assert not Answer.of(words, (), 0.1, 0.9).abstained
    for kind, reason in ((AnswerType.CLOSED, NO_WORDS), (AnswerType.OPEN, NO_ANSWER)):
        choices = ("yes", "no") if kind is AnswerType.CLOSED else ()
        unsaid = Answer.of(Prediction("q", Regime.RETRIEVED, None, "", None, kind, choices, (-1.0,) * len(choices)), (), 0.1)
        assert (unsaid.abstained, unsaid.reason, unsaid.probability) == (True, reason, None)


def test_the_threshold_of_the_system_is_used_and_checked(tested):
    _, module, served, _ = tested
    answerer = answerer_of(module, served, abstain_below=1.0)
    answer = answerer.ask("which colour?", choices=tuple(COLOURS))
    assert answer.abstained
    assert set(answer.seconds) == {"retrieve", "encode", "read"}
    assert min(answer.seconds.values()) >= 0
    answerer.abstain_below = None
    assert not answerer.ask("which colour?", choices=tuple(COLOURS)).abstained
    with pytest.raises(ValueError, match="abstain_below must be a probability"):
        answerer.abstain_below = 1.5


def test_hostile_questions_and_images_are_refused_before_anything_is_read(tested, tmp_path):
    answerer = tested[3]
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to("/etc/passwd")
    for name, why in {
        "https://x.org/a.png": "is a URL", "file:///etc/passwd": "is a URL", "//server/share/a.png": "network path",
        r"\\server\share\a.png": "network path", "a\0.png": "control character", "/dev/zero": "is a device",
        str(tmp_path / "pipe.png"): "is a named pipe", str(tmp_path): "is a folder", "/etc/passwd": "not an image",
        str(tmp_path / "in" / "link.png"): "lies outside", "gone.png": "no such image file",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=why):
            answerer.ask("which colour?", name)
    for question, choices, why in (
        ("x" * 20_000, (), "more than 10000 characters"),
        ("which?", ("a", " "), "none of them blank"),
        ("which?", "yes", "must be a list"),
        ("which?", tuple(map(str, range(2000))), "more than 1000"),
    ):
        with pytest.raises(ValueError, match=why):
            answerer.ask(question, choices=choices)


def test_text_and_json_hold_no_control_characters_and_no_identifiers():
    document = Document("d\x1b[2J", "line\x1b[31m one\ntwo", patient_id="h:SECRET", study_id="h:STUDY", license="CC0")
    found = (Candidate(document, 0.5, Channel.IMAGE_TO_TEXT),)
    said = Prediction("q", Regime.RETRIEVED, "yes\x07", "yes\x07", None, AnswerType.OPEN, cited=("d",), weights=(1.0,))
    answer = Answer.of(said, found, 0.1)
    text, row = str(answer), json.dumps(answer.to_json())
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text)
    assert "SECRET" not in text + row
    assert "STUDY" not in text + row
    assert "licence CC0" in text
