"""The report's parts on generated reports, evidence by corpus, and what had no room: there only when there is something."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))
import report as bench

from callbacks.predictions_writer import prediction_row
from medrag_lightning.artifacts import write_jsonl
from medrag_lightning.handoff.report import write_report
from medrag_lightning.handoff.report.predictions import read_predictions
from medrag_lightning.metrics import Bootstrap, report_text
from medrag_lightning.records import AnswerType, Prediction, Regime

TITLES = ("Generated reports", "Evidence by corpus", "Evidence without room")
GOLD = "the heart is of normal size and the lungs are clear without consolidation effusion or pneumothorax today as before"


@pytest.fixture
def run(tmp_path):
    """12 questions of 3 documents each, all of them reports, nothing dropped, nothing generated."""
    return bench.make_run(tmp_path / "made", 12, 3, image_px=32)


def page_of(run):
    told = write_report(run)
    return told, told.path.read_text()


def add_books(run):
    """Every third document is a text without an image, of the corpus `book`; the last candidate of some has no room."""
    rows = [json.loads(line) for line in (run.parents[1] / "corpus.jsonl").read_text().splitlines()]
    books = {row["id"] for n, row in enumerate(rows) if n % 3 == 2}
    rows = [
        {k: v for k, v in row.items() if k != "image"} | {"source": "book <b>"} if row["id"] in books else row for row in rows
    ]
    write_jsonl(run.parents[1] / "corpus.jsonl", rows)
    path = run / "predictions" / "test.jsonl"
    before, made = read_predictions(path), []
    for number, one in enumerate(before):
        cut = one.cited and number % 4 == 1
        made.append(replace(one, cited=one.cited[:-1], dropped=one.cited[-1:], **_shorter(one)) if cut else one)
    write_jsonl(path, map(prediction_row, made))
    return made, books


def _shorter(one):
    names = ("weights", "scores", "channels", "candidate_logp_nats", "candidate_answers")
    return {name: getattr(one, name)[:-1] for name in names}


def test_nothing_is_said_where_there_is_nothing(run):
    told, page = page_of(run)
    assert not [title for title in TITLES if title in page]
    assert not set(TITLES) & {title for title, _ in told.absent}, "what does not concern a run is not called missing"


def test_evidence_is_counted_by_corpus(run):
    made, books = add_books(run)
    _, page = page_of(run)
    assert "Evidence by corpus</h2>" in page
    assert "Evidence without room</h2>" in page
    shown = [name for one in made for name in one.cited]
    cut = [name for one in made for name in one.dropped]
    from_books = len(books & set(shown))
    assert 0 < from_books < len(shown)
    assert len(cut) > 2
    cells = f"<td>{from_books}</td><td>{100 * from_books / len(shown):.1f} %</td>"
    assert f'<th scope="row">book &lt;b&gt;</th><td>{len(books)}</td>{cells}' in page
    assert f"{sum(bool(one.dropped) for one in made)} of 12 questions had more evidence" in page
    assert f"{len(cut)} of {len(cut) + len(shown)} candidates were left out" in page
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("corpus.jsonl", "gone.jsonl"))
    _, page = page_of(run)
    assert "Evidence by corpus" not in page, "without tables no document has a corpus"
    assert "not in the tables" in page


def reports(run, plug_ins=()):
    """Scores of three generated reports, as a test writes them into its results."""
    said = [GOLD, "the lungs are clear", "there is a large effusion on the left side of the chest"]
    shared = {"gold": GOLD, "answer_type": AnswerType.OPEN}
    made = [Prediction(f"r{n}", Regime.RETRIEVED, text, text, **shared) for n, text in enumerate(said)]
    made += [Prediction(f"r{n}", Regime.NONE, "clear", "clear", **shared) for n in range(3)]
    found = report_text(made, {f"r{n}": str(n) for n in range(3)}, Bootstrap(resamples=100), 10, plug_ins)
    path = run / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reports": found.as_json()}))
    return found


def test_scores_of_reports_stand_with_their_intervals_and_what_is_lacking_is_named(run):
    pytest.importorskip("torchmetrics")
    found = reports(run, ("radgraph",))
    _, page = page_of(run)
    assert "Generated reports</h2>" in page
    rouge = found.rows["retrieved"]["rouge_l"]
    assert f"<td>{rouge.value:.3f} [{rouge.low:.3f}, {rouge.high:.3f}]</td>" in page
    assert "BLEU-4 over all of them at once" in page
    assert "RadGraph F1: unavailable: radgraph is not installed" in page
    assert '<th scope="col">RadGraph F1</th>' not in page, "no column for what is not there"


def test_a_fit_that_was_too_short_for_a_curve_is_not_called_untrained(run):
    (run / "metrics.csv").write_text("epoch,step,val/loss\n0,4,1.5\n")
    absent = dict(write_report(run).absent)
    assert absent["Learning curves"].startswith("this run trained nothing")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"")
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "trainer: {log_every_n_steps: 50}\n")
    absent = dict(write_report(run).absent)
    assert absent["Learning curves"].startswith("the fit logged fewer than 2 values")
    assert "every 50 steps (trainer.log_every_n_steps)" in absent["Learning curves"]
