"""An answerer whose searches a query generator writes answers as the test does whose searches `predict` wrote."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
from search_world import CORPORA, WordSource, data, trainer
from search_world import stage as generating
from toy import stage

from callbacks.search_table_writer import SearchTableWriter
from medrag_lightning.answering import Answerer
from medrag_lightning.data.search_plan import SearchPlan
from medrag_lightning.records import WrittenSearches


class Painter:
    """Stands for a generator that has learnt: it asks the corpus `wiki` for what the question's image shows."""

    def __init__(self, generator) -> None:
        self.reader, self.corpora = generator.reader, CORPORA

    def write(self, queries, images):
        return [self._one(image) for image in images]

    def read(self, batch):
        raise AssertionError("predict is given the images")

    @staticmethod
    def _one(image):
        r, g, b = image.resize((1, 1)).getpixel((0, 0))
        colour = "red" if r > max(g, b) + 60 else "green" if g > max(r, b) + 60 else "blue" if b > max(r, g) + 60 else "grey"
        return WrittenSearches({"wiki": (f"{colour} use",)}, ())


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A reader that was trained and tested on a table of searches; the searches are those of a barely trained generator."""
    folder = tmp_path_factory.mktemp("searched")
    generator = generating(optimizer=partial(torch.optim.AdamW, lr=5e-3))
    trainer(folder, max_epochs=3).fit(generator, datamodule=data(folder))
    plan = SearchPlan(written=str(folder / "written"))
    predicting = trainer(folder, callbacks=[SearchTableWriter()])
    predicting.predict(generator, data(folder, plan=plan, eval_batch_size=1), return_predictions=False)
    served = data(folder, plan=SearchPlan(table=str(folder / "written")), eval_batch_size=1)
    module, run = stage(), trainer(folder)
    run.fit(module, datamodule=served)
    run.test(module, datamodule=served, verbose=False)
    return folder, generator, module, served


def answerer(module, served, generator):
    parts = (served.documents(), served.world().open_image, served.evidence_folder())
    return Answerer(WordSource(), module.reader, *parts, template=module.template, max_new_tokens=4, generator=generator)


def test_an_answer_is_that_of_the_test(tested):
    _, generator, module, served = tested
    made = answerer(module, served, generator.writer)
    told = {p.query_id: p for p in module.predictions if p.regime == "retrieved"}
    asked = {query.id: query for query in served.split_queries("test")}
    assert len(told) == len(asked) == 8
    for name, query in asked.items():
        answer = made.answer(query)
        assert answer.prediction == told[name]
        assert made.example(query).query.searches == query.searches


def test_what_was_written_decides_what_is_found(tested):
    _, generator, module, served = tested
    query = served.split_queries("test")[0]
    painted = answerer(module, served, Painter(generator)).example(query)
    (candidate,) = painted.candidates
    colour = dict(painted.query.searches)["wiki"].split()[0]
    assert candidate.id == f"wiki-{colour}"
    assert candidate.id.endswith(query.answer)
