"""R18: constant answers in words, the positive class, malformed answers, duplicates and shared patients."""

import json
import math
from dataclasses import replace

import pytest

from medrag_lightning.metrics import (
    Bootstrap,
    class_scores,
    cluster_of,
    control_predictions,
    parse_closed,
    patient_notes,
    protocol,
    summarise,
)
from medrag_lightning.metrics.table import Unit
from medrag_lightning.records import AnswerType, Prediction, Query, Regime

YES_NO = ("yes", "no")
SIDES = ("left", "right")
FEW = Bootstrap(resamples=200)


def prediction(i, answer, gold, choices=YES_NO, regime=Regime.RETRIEVED, **more):
    return Prediction(f"q{i}", regime, answer, answer or "", gold, AnswerType.CLOSED, choices, **more)


def clusters(n=200):
    return {f"q{i}": f"p{i}" for i in range(n)}


def published(right_yes=86, right_no=4):
    """As on the published set: 100 questions, 86 of them answered yes, and a system that is right on 80 and 4."""
    made = []
    for i in range(100):
        gold = "yes" if i < 86 else "no"
        right = i < right_yes if gold == "yes" else i - 86 < right_no
        made.append(prediction(i, gold if right else YES_NO[gold == "yes"], gold))
    return made


def test_always_yes_beats_the_system_in_words():
    found = protocol(published(80, 4), clusters(), FEW)
    (constant,) = found.constants
    assert (constant.answer, constant.accuracy.value, constant.accuracy.n) == ("yes", 0.86, 100)
    assert constant.beaten == {"retrieved": 0.84}
    assert found.notes[0] == (
        'always answering "yes" gets 86 % of the 100 closed questions with choices yes/no right: more than retrieved (84 %)'
    )


def test_a_collapsed_reader_is_as_good_as_the_constant_and_a_good_one_is_left_in_peace():
    assert protocol(published(86, 0), clusters(), FEW).notes[0].endswith("right: as much as retrieved (86 %)")
    assert protocol(published(86, 4), clusters(), FEW).notes == ()
    both = [*published(80, 4), *(prediction(i, "yes", p.gold, regime=Regime.NONE) for i, p in enumerate(published()))]
    note = protocol(both, clusters(), FEW).notes[0]
    assert note.endswith("more than retrieved (84 %), and as much as no retrieval (86 %)")


def test_a_system_that_answered_fewer_questions_is_held_against_the_constant_on_just_these():
    """Of the last 28 questions 14 are answered no: 64 % right there beat a constant that gets 50 %, 46 % do not."""
    few = published()[72:]
    better = [prediction(int(p.query_id[1:]), p.gold if i % 14 < 9 else "none", p.gold, regime=Regime.ORACLE)
              for i, p in enumerate(few)]  # fmt: skip
    worse = [replace(p, regime=Regime.POISONED, answer=p.gold if i >= 15 else "none") for i, p in enumerate(better)]
    found = protocol([*published(80, 4), *better, *worse], clusters(), FEW)
    (constant,) = found.constants
    assert constant.beaten == {"retrieved": 0.84, "poisoned": pytest.approx(13 / 28)}
    assert constant.fewer == {"oracle": (0.5, 28), "poisoned": (0.5, 28)}
    assert constant.matched == {}
    assert found.notes[0].endswith(
        "right: more than retrieved (84 %), poisoned (46 % of the 28 that it answered, this answer 50 %)"
    )


def test_constant_answers_are_of_questions_with_the_same_choices_and_not_of_a_handful():
    sides = [prediction(100 + i, "left", SIDES[i % 3 == 0], SIDES) for i in range(30)]
    rare = [prediction(150 + i, "a", "b", ("a", "b")) for i in range(9)]
    found = protocol([*published(80, 4), *sides, *rare], clusters(), FEW)
    assert [(c.choices, c.answer, c.accuracy.n) for c in found.constants] == [(YES_NO, "yes", 100), (SIDES, "left", 30)]


def test_yes_no_rows_stand_beside_both_constants_with_the_positive_class_by_name():
    found = protocol(published(80, 4), clusters(), FEW)
    assert list(found.yes_no) == ["retrieved", 'always "yes"', 'always "no"']
    row = {name: metric.value for name, metric in found.yes_no["retrieved"].items()}
    precision, recall = 80 / 90, 80 / 86
    positive, negative = 2 * precision * recall / (precision + recall), 2 * 4 / (10 + 14)
    assert row == pytest.approx(
        {"accuracy": 0.84, "macro_f1": (positive + negative) / 2, "precision": precision, "recall": recall, "f1": positive}
    )
    assert found.yes_no['always "yes"']["macro_f1"].value == pytest.approx((2 * 0.86 / 1.86) / 2)
    assert math.isnan(found.yes_no['always "no"']["precision"].value)
    assert found.as_json()["positive_class"] == "yes"
    json.dumps(found.as_json(), allow_nan=False)


def test_class_scores_take_an_invalid_answer_as_wrong_for_its_class_only():
    scores = class_scores(["yes", "yes", "no", "no"], ["yes", None, None, "Yes"], "yes")
    once = [[1.0] * 4]
    import numpy as np

    values = {name: float(statistic(np.array(once))[0]) for name, statistic in scores.items()}
    assert values == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


RELEASED = [  # as in the released IU files: gold, what was said, how it is read
    ("no", "- No", "no"),  # a list's dash says nothing: there is one way to read it
    ("no", "No 2. Is there pleural effusion? No", None),
    ("no", "1. Is there a pneumothorax?\n2. Are the lungs clear?", None),
    ("yes", "Is there no cardiomegaly?", None),
    ("yes", "1. Yes 2. No", None),
    ("no", "It cannot be determined from the report.", None),
    ("no", "Cannot be determined", None),
    ("yes", "not mentioned", None),
    ("no", "Normal", None),
    ("yes", "Yes.", "yes"),
    ("no", "No, there is no pneumothorax.", "no"),
    ("yes", "N/A", None),
]


@pytest.mark.parametrize(("gold", "said", "read"), RELEASED)
def test_released_answers_are_read_strictly(gold, said, read):
    assert parse_closed(said, YES_NO) == read


def test_malformed_answers_land_in_invalid_beside_the_baselines():
    made = [prediction(i, parse_closed(said, YES_NO), gold) for i, (gold, said, _) in enumerate(RELEASED)]
    queries = [Query(p.query_id, f"is there {i} ?", answer=p.gold, choices=YES_NO, answer_type=AnswerType.CLOSED)
               for i, p in enumerate(made)]  # fmt: skip
    controls, _ = control_predictions(queries, queries)
    groups = cluster_of(queries, Unit.PATIENT)
    rows = {row.system: row.metrics for row in summarise([*made, *controls], groups, FEW).rows}
    assert rows["retrieved"]["closed_invalid"].value == pytest.approx(9 / 12)
    assert rows["retrieved"]["closed_accuracy"].value == pytest.approx(3 / 12)
    assert rows["question-only"]["closed_accuracy"].n == rows["majority"]["closed_accuracy"].n == 12
    found = protocol([*made, *controls], groups, FEW)
    assert found.notes[0] == (
        'always answering "no" gets 58 % of the 12 closed questions with choices yes/no right: more than retrieved (25 %)'
    )


def test_scores_without_duplicates():
    mine = published(80, 4)
    copies = {p.query_id: p.answer == p.gold and int(p.query_id[1:]) < 40 for p in mine}
    found = protocol(mine, clusters(), FEW, copies)
    rest = found.without_duplicates["retrieved"]["closed_accuracy"]
    assert (rest.value, rest.n) == (pytest.approx(44 / 60), 60)
    assert found.duplicated == (40, 100, 100)
    assert found.without_duplicates["retrieved"]["open_token_recall"].reason == "no open question that is no duplicate"
    assert "duplicates: 40 of 100 test questions have a twin in the corpus" in found.notes[-1]


def test_what_cannot_be_judged_is_in_no_row_without_duplicates():
    found = protocol(published(80, 4), clusters(), FEW, {f"q{i}": i == 0 for i in range(50)})
    assert found.duplicated == (1, 50, 100)
    assert found.without_duplicates["retrieved"]["closed_accuracy"].n == 49
    assert "1 of 50 test questions (50 more could not be judged)" in found.notes[-1]
    assert "not computed" in protocol(published(), clusters(), FEW, {}).notes[-1]
    assert protocol(published(), clusters(), FEW, {f"q{i}": False for i in range(100)}).without_duplicates == {}


def test_shared_patients_are_counted():
    def asked(*patients):
        return [Query(f"{i}", "?", patient_id=name) for i, name in enumerate(patients)]

    assert patient_notes(asked("a", "b"), asked("c", "c", "d"), ["e", None]) == [
        "patient-disjoint: 0 of 2 test patients occur in training questions; 0 have documents in the corpus"
    ]
    assert patient_notes(asked("a", "c"), asked("c", "d", None), ["d", "c"]) == [
        "patient-disjoint: 1 of 2 test patients occur in training questions: NOT patient-disjoint; 2 have documents in the "
        "corpus, never shown to their own questions; 1 of 3 test questions name no patient"
    ]
    assert patient_notes(asked("a"), asked("c"), None)[0].endswith("the corpus is not known")
    assert patient_notes(asked("a"), asked(None), []) == ["patient-disjoint: not known, the test questions name no patients"]
    assert patient_notes([], [], []) == []
