"""The table: rows in order, honest notes, nothing that cannot be computed shown as 0."""

import json
import math
import random

import pytest

from medrag_lightning.metrics import Bootstrap, Unit, cluster_of, control_predictions, summarise
from medrag_lightning.metrics.table import closed_calibration
from medrag_lightning.records import AnswerType, ImageRef, Prediction, Query, Regime

YES_NO = ("yes", "no")
FEW = Bootstrap(resamples=200)


def prediction(number, regime, answer, gold, logp=(), need=None):
    return Prediction(f"q{number}", regime, answer, answer or "", gold, AnswerType.CLOSED, YES_NO, logp, need=need)


def world(accuracy, regime, n=200, seed=0):
    rng = random.Random(seed)
    made = []
    for i in range(n):
        gold = YES_NO[i % 2]
        right = rng.random() < accuracy
        answer = gold if right else YES_NO[1 - i % 2]
        logp = tuple(math.log(0.8 if choice == answer else 0.2) for choice in YES_NO)
        made.append(prediction(i, regime, answer, gold, logp, need="report" if i % 4 else "image"))
    return made


def queries(n=200):
    return [
        Query(f"q{i}", f"question {i % 7}", answer=YES_NO[i % 2], choices=YES_NO, answer_type=AnswerType.CLOSED,
              patient_id=f"p{i // 4}") for i in range(n)
    ]  # fmt: skip


def test_rows_differences_and_needs():
    table = summarise([*world(0.5, Regime.NONE), *world(0.9, Regime.RETRIEVED, seed=1)], settings=FEW)
    assert [row.system for row in table.rows] == ["retrieved", "no retrieval"]
    retrieved = table.rows[0].metrics
    assert 0.85 < retrieved["closed_accuracy"].value < 0.95
    assert retrieved["closed_accuracy"].low < retrieved["closed_accuracy"].value < retrieved["closed_accuracy"].high
    assert retrieved["closed_ece"].value == pytest.approx(abs(retrieved["closed_accuracy"].value - 0.8), abs=1e-9)
    assert retrieved["open_token_recall"].reason == "no open questions"
    assert math.isnan(retrieved["open_token_recall"].value)
    (gap,) = table.differences
    assert (gap.baseline, gap.metric, gap.excludes_zero) == ("no retrieval", "closed_accuracy", True)
    assert {(row.need, row.system) for row in table.needs} == {
        (need, system) for need in ("image", "report") for system in ("retrieved", "no retrieval")
    }
    assert table.notes == ()


def test_a_null_result_is_said_out_loud():
    controls, _ = control_predictions(queries(), queries())
    table = summarise([*world(0.5, Regime.RETRIEVED), *world(0.5, Regime.NONE), *controls], settings=FEW)
    assert table.notes[0].startswith("in closed accuracy, retrieved is not shown to be better than no retrieval, ")
    assert "question-only" in table.notes[0]
    table = summarise([*world(0.3, Regime.RETRIEVED), *world(0.8, Regime.NONE, seed=3)], settings=FEW)
    assert "in closed accuracy, retrieved is worse than no retrieval" in table.notes


def test_invalid_answers_and_missing_probabilities_are_reported():
    mine = [prediction(0, Regime.RETRIEVED, None, "yes"), prediction(1, Regime.RETRIEVED, "no", "no")]
    metrics = summarise(mine, settings=FEW).rows[0].metrics
    assert metrics["closed_invalid"].value == 0.5
    assert metrics["closed_accuracy"].value == 0.5
    assert metrics["closed_ece"].reason == "answers carry no probabilities"


def test_json_and_records_hold_every_number_without_nan():
    table = summarise(world(0.7, Regime.RETRIEVED), settings=FEW)
    text = json.dumps(table.as_json(), allow_nan=False)
    assert '"open_token_recall": {"value": null' in text
    records = table.as_records()
    assert {"system", "need", "metric", "value", "low", "high", "n", "reason"} == set(records[0])
    assert len(records) == 9 * 3


def test_open_questions_have_their_own_columns():
    answers = {"q0": "left lobe", "q1": "lung", "q2": None}
    mine = [Prediction(q, Regime.NONE, a, a or "", "the left lobe", AnswerType.OPEN) for q, a in answers.items()]
    metrics = summarise(mine, settings=FEW).rows[0].metrics
    assert metrics["open_token_recall"].value == pytest.approx(1 / 3)
    assert metrics["open_exact_match"].value == pytest.approx(1 / 3)
    assert metrics["open_invalid"].value == pytest.approx(1 / 3)
    assert metrics["closed_accuracy"].reason == "no closed questions"


def test_clusters_fall_back_to_the_finer_unit():
    known = Query("q", "?", image=ImageRef("a.png"), study_id="s", patient_id="p")
    image_only, bare = Query("r", "?", image=ImageRef("a.png")), Query("s", "?")
    by_patient = cluster_of([known, image_only, bare], Unit.PATIENT)
    assert by_patient == {"q": "patient:p", "r": "image:a.png", "s": "query:s"}
    assert cluster_of([known], Unit.STUDY) == {"q": "study:s"}
    assert cluster_of([known], Unit.QUERY) == {"q": "query:q"}


def test_faults_are_refused():
    with pytest.raises(ValueError, match="'q0' more than once"):
        summarise([*world(1, Regime.NONE, 2), *world(1, Regime.NONE, 1)], settings=FEW)
    with pytest.raises(ValueError, match="'q1' has a prediction but no cluster"):
        summarise(world(1, Regime.NONE, 2), {"q0": "p"}, FEW)
    with pytest.raises(ValueError, match="normalised over the choices"):
        closed_calibration([prediction(0, Regime.NONE, "yes", "yes", (0.0, 0.0))])


def test_left_out_and_unequal_coverage_are_noted():
    unknown = prediction(999, Regime.RETRIEVED, "yes", None)
    table = summarise([*world(0.9, Regime.RETRIEVED), *world(0.5, Regime.NONE, 50), unknown], settings=FEW)
    assert table.notes[0] == "1 predictions without a gold answer are left out"
    assert table.notes[1].startswith("other queries stand behind no retrieval")
    assert table.differences[0].difference.n == 50
