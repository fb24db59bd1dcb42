"""Answers under a calibration are those that it was made from: the table's numbers, k candidates, abstention, no search."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_answerer import ColourSource
from toy import data, reader

from medrag_lightning.answering import Answerer
from medrag_lightning.answering.calibrated import ABSTAINS_FROM_ALL, WITHOUT_SEARCH, answer_by
from medrag_lightning.calibration import CalibrationSettings, Policy, calibrate
from medrag_lightning.calibration.artifact import write
from medrag_lightning.data.calibrating import Reading, measure
from medrag_lightning.data.conditions import Conditions
from medrag_lightning.data.risks import RiskSettings, Said
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.data.scoring_feed import ScoringPlan
from medrag_lightning.mixture import Fusion
from medrag_lightning.records import AnswerType, Query, Split
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.selection import Selection
from medrag_lightning.stages.score import Score

KS = (0, 1, 3)


class Told(ColourSource):
    """A source that says what it is."""

    asked = 0

    def retrieve(self, queries):
        self.asked += 1
        return super().retrieve(queries)

    def fingerprint(self):
        return "colours"


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The toy's test questions with 0, 1 and 3 candidates, by an untrained reader."""
    folder = tmp_path_factory.mktemp("calibrated")
    conditions = Conditions(first=(1, 3))
    plan = ScoringPlan(str(folder / "t"), ("test",), conditions, 8)
    stage, served = Score(reader()), data(folder, scoring=plan, only="closed")
    served.source = Told()
    score_with(folder, stage, served)
    served = data(folder, only="closed")
    served.source = Told()
    served.prepare_data()
    served.setup("predict")
    stage.reader.eval()
    return folder, stage, served, ScoreTable.open(folder / "t")


def score_with(folder, stage, served):
    from toy import trainer

    from callbacks.score_writer import ScoreWriter

    trainer(folder, callbacks=[ScoreWriter(rows_per_shard=1)]).predict(stage, served, return_predictions=False)


def answerer_of(stage, served, evidence="all_in_one_prompt", **settings):
    parts = (served.documents(), served.world().open_image, served.evidence_folder())
    return Answerer(Told(), stage.reader, *parts, template=stage.template, evidence=evidence, max_new_tokens=4, **settings)


def calibration_of(folder, served, table, policy, evidence="all_in_one_prompt"):
    """A calibration of one policy, without regard to what it costs."""
    measured = measure(served.world(), table, Split.TEST, KS, Reading(evidence))
    settings = CalibrationSettings(0.99, 0.5, (policy.k,), (policy.threshold,), (policy.without_from,), fallback="abstain")
    found = calibrate(measured.outcomes, settings)
    path = folder / f"{abs(hash((policy, evidence)))}.json"
    return measured, write(path, found, "error", measured.unit, measured.of), path


@pytest.mark.parametrize("evidence", ["all_in_one_prompt", "one_per_prompt"])
def test_answers_are_the_ones_that_were_calibrated(scored, evidence):
    folder, stage, served, table = scored
    for place, k in enumerate(KS):
        measured, told, _ = calibration_of(folder, served, table, Policy(k), evidence)
        system = answerer_of(stage, served, evidence, calibration=told)
        before = system.source.asked
        for n, query in enumerate(measured.queries):
            answer = system.answer(query)
            assert answer.probability == pytest.approx(measured.outcomes.probability_KN[place, n], abs=1e-4)
            assert float(answer.text != query.answer) == measured.outcomes.loss_KN[place, n]
            assert len(answer.citations) == k
            assert answer.guarantee == told.sentence
            assert (WITHOUT_SEARCH in answer.warnings) == (k == 0)
            assert "guarantee" in answer.to_json()
            assert "calibrated: " in str(answer)
        assert (system.source.asked == before) == (k == 0), "nothing is searched for"


def test_it_answers_at_once_or_searches_or_abstains(scored):
    folder, stage, served, table = scored
    plain, _, _ = calibration_of(folder, served, table, Policy(3))
    bare, full = plain.outcomes.probability_KN[0], plain.outcomes.probability_KN[2]
    policy = Policy(3, float(np.median(full)), float(np.median(bare)))
    measured, told, _ = calibration_of(folder, served, table, policy)
    loss, answered = measured.outcomes.under(told.policy)
    system, kinds = answerer_of(stage, served, calibration=told), set()
    for n, query in enumerate(measured.queries):
        if min(abs(bare[n] - policy.without_from), abs(full[n] - policy.threshold)) < 1e-5:
            continue  # the median itself
        answer = system.answer(query)
        at_once = bare[n] >= policy.without_from
        assert answer.abstained == (not answered[n])
        assert bool(answer.citations) == (not at_once)
        assert float(answer.text != query.answer) == loss[n]
        assert at_once == ("read_without_evidence" not in answer.seconds)
        kinds.add((bool(at_once), answer.abstained))
    assert len(kinds) >= 2


def test_a_calibration_of_another_system_is_refused(scored):
    folder, stage, served, table = scored
    _, told, _ = calibration_of(folder, served, table, Policy(1))
    with pytest.raises(ValueError, match="another evidence and fusion"):
        answerer_of(stage, served, "one_per_prompt", calibration=told)
    with pytest.raises(ValueError, match="leave abstain_below out"):
        answerer_of(stage, served, calibration=told, abstain_below=0.5)
    system = answerer_of(stage, served)
    system.source.fingerprint = lambda: "others"
    with pytest.raises(ValueError, match="another source"):
        system.calibration = told
    mixed = measure(served.world(), table, Split.TEST, KS, Reading("one_per_prompt", Fusion(temperature=0.5))).of
    assert mixed["fusion"]["temperature"] == 0.5


def test_a_run_that_was_tested_with_the_number_answers_by_the_whole_choice(scored):
    """Its source takes one candidate by itself; the choice is three, or none."""
    folder, stage, served, table = scored
    one = calibration_of(folder, served, table, Policy(1))[2]
    measured, told, _ = calibration_of(folder, served, table, Policy(3))
    expected = [answerer_of(stage, served, calibration=told).answer(query) for query in measured.queries]
    system = answerer_of(stage, served)
    system.source = SelectedSearch(system.source, Selection("calibrated", calibration=str(one)))
    with pytest.raises(ValueError, match="another source"):
        system.calibration = told
    answer_by(system, told)
    answers = [system.answer(query) for query in measured.queries]
    assert [answer.logp_nats for answer in answers] == [answer.logp_nats for answer in expected]
    assert {len(answer.citations) for answer in answers} == {3}


def test_a_system_that_nothing_is_known_of_abstains_from_everything(scored):
    folder, stage, served, table = scored
    measured = measure(served.world(), table, Split.TEST, KS, Reading())
    found = calibrate(measured.outcomes, CalibrationSettings(0.01, 0.1, (1,), fallback="abstain"))
    told = write(folder / "nothing.json", found, "error", measured.unit, measured.of)
    answer = answerer_of(stage, served, calibration=told).answer(measured.queries[0])
    assert answer.abstained
    assert answer.reason == ABSTAINS_FROM_ALL
    assert "no guarantee" in answer.guarantee


def test_a_selection_reads_the_number(scored):
    folder, _, served, table = scored
    measured, _, path = calibration_of(folder, served, table, Policy(1))
    rule = Selection("calibrated", calibration=str(path))
    source = SelectedSearch(served.source, rule)
    assert [len(one.candidates) for one in source.retrieve(measured.queries)] == [1] * len(measured.queries)
    assert rule.settled() == Selection("first_k", 1)
    assert rule.fingerprint() != Selection("first_k", 1).fingerprint()
    source.pool.fingerprint = lambda: "others"
    with pytest.raises(ValueError, match="another source"):
        source.retrieve(measured.queries)
    del source.pool.fingerprint
    joint = calibration_of(folder, served, table, Policy(3, 0.5))[2]
    with pytest.raises(ValueError, match="no number of candidates"):
        SelectedSearch(served.source, Selection("calibrated", calibration=str(joint))).retrieve(measured.queries)
    with pytest.raises(ValueError, match="use NoEvidence"):
        Selection("calibrated", calibration=str(calibration_of(folder, served, table, Policy(0))[2])).settled()
    for wrong in ({"rule": "calibrated"}, {"calibration": "x"}, {"rule": "calibrated", "calibration": "x", "k": 3}):
        with pytest.raises(ValueError, match=r"selection\.(calibration|k)"):
            Selection(**wrong)


def test_what_is_missing_is_told(scored, tmp_path):
    _, _, served, table = scored
    world = served.world()
    with pytest.raises(ValueError, match=r"score with scoring\.splits \[test\].*first: \[1, 2\]"):
        measure(world, table, Split.TEST, (1, 2), Reading())
    with pytest.raises(ValueError, match=r"no test question has 9 candidates, the most are 3"):
        measure(world, table, Split.TEST, (1, 9), Reading())
    with pytest.raises(ValueError, match=r"no val question can be calibrated on: .* not scored"):
        measure(world, table, Split.VAL, (1,), Reading())
    with pytest.raises(ValueError, match="the risk missed_finding is not defined for"):
        measure(world, table, Split.TEST, (1,), Reading(risk=RiskSettings("missed_finding")))
    red = measure(world, table, Split.TEST, (1,), Reading(risk=RiskSettings("hallucinated_finding", ("red",))))
    assert all(query.answer != "red" for query in red.queries)
    assert sum(red.left_out.values()) + len(red.queries) == len(served.split_queries("test"))
    assert red.unit == "patients"
    json.dumps(red.of)
    with pytest.raises(ValueError, match="the risk lost_words is not defined for"):
        measure(world, table, Split.TEST, (1,), Reading(risk=RiskSettings("lost_words")))


def test_risks_by_hand():
    closed = Query("q", "?", None, "no", ("yes", "no"), AnswerType.CLOSED)
    opened = Query("q", "?", None, "left lung", (), AnswerType.OPEN)
    yes, no = Said("yes", 0.75, 0.25), Said("no", 0.6, 0.6)
    assert [RiskSettings().loss(closed, one) for one in (yes, no)] == [1, 0]
    assert [RiskSettings("hallucinated_finding").loss(closed, one) for one in (yes, no)] == [1, 0]
    assert RiskSettings("doubt").loss(closed, yes) == 0.75
    assert not RiskSettings("missed_finding").applies(closed)
    assert not RiskSettings("lost_words").applies(closed)
    assert not RiskSettings("doubt").applies(opened)
    nan = float("nan")
    assert RiskSettings("lost_words", open_metric="token_f1").loss(opened, Said("left", nan, nan)) == pytest.approx(1 / 3)
    assert RiskSettings(open_metric="token_f1", open_threshold=0.6).loss(opened, Said("left", nan, nan)) == 0
    assert RiskSettings().loss(opened, Said("", nan, nan)) == 1
