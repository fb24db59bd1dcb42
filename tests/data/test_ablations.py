"""Knowledge ablations: which evidence a row of them has, that nothing else changes, and that they are read and told."""

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from toy import ToySource, ToyTable, stage, trainer

from callbacks.predictions_writer import PredictionsWriter
from callbacks.results_table import ResultsTable
from medrag_lightning.batches import Steering
from medrag_lightning.data.ablations import ablated
from medrag_lightning.data.evidence import EvidenceMixture
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.module import MedragData
from medrag_lightning.records import Candidate, Channel, Document, ImageRef, Retrieved

PICTURE = Document("r", "a report", ImageRef("a.png"), source="hospital")
BOOK, WIKI = Document("b", "a chapter", source="book"), Document("w", "an entry", source="wiki")
CORPUS = [PICTURE, BOOK, WIKI, Document("unused", "an abstract", source="research")]
FOUND = {
    "q": Retrieved("q", tuple(Candidate(d, 0.9 - n / 10, Channel.GIVEN) for n, d in enumerate((WIKI, PICTURE, BOOK))), "p"),
    "bare": Retrieved("bare", (Candidate(BOOK, 0.5, Channel.GIVEN),), "p"),
}


def ids(found):
    return {name: [candidate.id for candidate in one.candidates] for name, one in found.items()}


def test_each_part_of_the_corpus_is_left_out_once():
    rows = ablated(FOUND, CORPUS, ["each", "book"])
    assert list(rows) == ["without reports", "without documents", "without book", "without wiki", "without research"]
    assert ids(rows["without reports"]) == {"q": ["w", "b"], "bare": ["b"]}
    assert ids(rows["without documents"]) == {"q": ["r"], "bare": []}
    assert ids(rows["without book"]) == {"q": ["w", "r"], "bare": []}
    assert ids(rows["without research"]) == ids(FOUND)
    assert rows["without book"]["q"].candidates[1] == FOUND["q"].candidates[1]
    assert ablated(FOUND, CORPUS, []) == {}


def test_one_corpus_of_texts_is_the_documents():
    assert list(ablated(FOUND, [PICTURE, BOOK], ["each"])) == ["without reports", "without documents"]
    assert list(ablated(FOUND, [BOOK, Document("x", "of no corpus")], ["each"])) == ["without documents", "without book"]


def test_a_corpus_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no 'books'; there are reports, documents, book, wiki, research, each"):
        ablated(FOUND, CORPUS, ["books"])


class TwoCorpora(ToyTable):
    def documents(self):
        return [*super().documents(), BOOK, WIKI, CORPUS[-1]]


class Mixed(ToySource):
    def retrieve(self, queries):
        mine = [Candidate(d, 0.3, Channel.TEXT_TO_TEXT) for d in (BOOK, WIKI)]
        pictures = {r.query_id: [c for c in r.candidates if c.document.image] for r in super().retrieve(queries)}
        return [Retrieved(name, (*found, *mine), "toy") for name, found in pictures.items()]


def served(folder, **settings):
    table = TwoCorpora(str(folder))
    chosen = {"evidence": EvidenceMixture(samples_per_query=1), "cache_folder": str(folder / "evidence"), **settings}
    return MedragData([table], [table], Mixed(), regimes=["retrieved", "none"], batch_size=6, **chosen)


def test_a_test_reads_every_ablation_as_a_row_and_steers_it_like_the_whole(tmp_path):
    module = stage(evidence="all_in_one_prompt", steering={"": Steering("paper", "all", gain=3.0, steer_generated=True)})
    plan = KnowledgePlan(systems=(), leave_out=("each",))
    run = trainer(tmp_path, callbacks=[PredictionsWriter(), ResultsTable(resamples=100)])
    run.test(module, datamodule=served(tmp_path, knowledge=plan), verbose=False)
    rows = {name: [p for p in module.predictions if p.system == name] for name in {p.system for p in module.predictions}}
    assert set(rows) == {"", "without reports", "without documents", "without book", "without wiki", "without research"}
    assert all(not any(cited in ("b", "w") for cited in p.cited) for p in rows["without documents"])
    assert all(set(p.cited) <= {"b", "w"} and p.cited for p in rows["without reports"])
    own = {p.query_id: p.logp_nats for p in rows[""] if p.cited}
    assert {p.query_id: p.logp_nats for p in rows["without research"]} == own  # nothing is taken, so the prompt is the same
    (path,) = Path(tmp_path).rglob("results.csv")
    told = {row["system"] for row in csv.DictReader(path.open())}
    assert {"retrieved", "without book", "no retrieval"} <= told


def test_a_rival_is_not_called_like_an_ablation(tmp_path):
    with pytest.raises(ValueError, match="knowledge ablation"):
        served(tmp_path, rivals={"without wiki": Mixed()}, knowledge=KnowledgePlan(leave_out=("wiki",)))
