"""The choice with a guarantee: what is taken, what falls back, patients as units, and how often it is wrong."""

import numpy as np
import pytest

from medrag_lightning.calibration import Calibration, CalibrationSettings, Outcomes, Policy, calibrate
from medrag_lightning.calibration.artifact import write
from medrag_lightning.calibration.choosing import true_risk

KS = (1, 2, 4, 8, 16)
RISKS = np.array([0.20, 0.25, 0.29, 0.31, 0.35])  # the specification's
PROCEDURES = ("bonferroni", "fixed_sequence", "graphical", "learned_sequence")


def names(count, each=1):
    return tuple(f"p{n // each}" for n in range(count))


def drawn(rng, n, risks=RISKS, ks=KS):
    loss_KN = (rng.random((len(ks), n)) < risks[:, None]).astype(float)
    return Outcomes(ks, loss_KN, np.full((len(ks), n), np.nan), names(n))


def knowing(rng, n, each=1, ks=(0, 1, 2)):
    """Answers whose probability says how often they are right; evidence helps; questions of a patient are much alike."""
    skill = np.repeat(rng.random(-(-n // each)), each)[:n]
    rows = []
    for k in ks:
        right = np.clip(0.45 + 0.5 * skill + 0.08 * k, 0, 0.99)
        told = np.clip(right + rng.normal(0, 0.05, n), 0.01, 1)
        rows.append((told, (np.repeat(rng.random(-(-n // each)), each)[:n] >= right).astype(float)))
    return Outcomes(ks, np.stack([row[1] for row in rows]), np.stack([row[0] for row in rows]), names(n, each))


def joint(procedure, **more):
    thresholds, bare = (0.0, 0.6, 0.7, 0.8, 0.9), (None, 0.8, 0.95)
    return CalibrationSettings(0.2, 0.1, (0, 1, 2), thresholds, bare, procedure, **more)


def test_the_least_risk_of_those_that_hold_is_taken():
    loss_KN = np.zeros((3, 200))
    loss_KN[0, :30], loss_KN[1, :20], loss_KN[2, :70] = 1, 1, 1
    outcomes = Outcomes((1, 2, 4), loss_KN, np.full((3, 200), np.nan), names(200))
    found = calibrate(outcomes, CalibrationSettings(0.3, 0.1, (1, 2, 4)))
    assert [row.holds for row in found.tested] == [True, True, False]
    assert (found.guaranteed, found.chosen.policy, found.chosen.risk) == (True, Policy(2), 0.1)
    assert found.tested[0].risk < found.tested[0].bound < 0.3 < found.tested[2].bound
    assert calibrate(outcomes, CalibrationSettings(0.3, 0.1, (1, 2, 4), objective="fewest")).chosen.policy == Policy(1)
    assert (found.units, found.questions, found.ordering_units) == (200, 200, 0)


def test_nothing_holds_and_that_is_said():
    outcomes = drawn(np.random.default_rng(0), 40, RISKS + 0.2)
    found = calibrate(outcomes, CalibrationSettings(0.3, 0.1, KS))
    assert not found.guaranteed
    assert found.chosen.risk == min(row.risk for row in found.tested)
    assert calibrate(outcomes, CalibrationSettings(0.3, 0.1, KS, fallback="abstain")).chosen is None
    sure = Outcomes((1, 2), np.ones((2, 9)), np.full((2, 9), 0.3), names(9))  # nothing is answered from 0.5 on
    told = calibrate(sure, CalibrationSettings(0.3, 0.1, (1, 2), (0.5,)))
    assert told.chosen is None
    assert [row.p_value for row in told.tested] == [1, 1]


def test_a_policy_answers_at_once_or_searches_or_abstains():
    loss_KN = np.array([[0, 1, 1, 0], [0.25, 0.5, 0.75, 1.0]])
    outcomes = Outcomes((0, 3), loss_KN, np.array([[0.9, 0.6, 0.8, np.nan], [0.1, 0.7, 0.2, np.nan]]), names(4))
    loss, answered = outcomes.under(Policy(3, 0.5, 0.85))
    assert loss.tolist() == [0, 0.5, 0.75, 1.0]
    assert answered.tolist() == [True, True, False, True]  # no probability: no threshold applies
    assert outcomes.under(Policy(0, 0.7))[1].tolist() == [True, False, True, True]
    found = calibrate(outcomes, CalibrationSettings(0.5, 0.5, (3,), (0.5,), (0.85,)))
    (row,) = found.tested
    assert (row.risk, row.coverage, row.searched, row.answered) == (0.5, 0.75, 0.75, 3)
    assert str(row.policy) == "without evidence from probability 0.85; else with 3 candidates; abstains below 0.5"


def test_patients_of_several_questions_count_once():
    loss = np.zeros((1, 300))
    loss[0, :60] = 1  # ten patients of thirty questions each: all wrong for two of them
    many = Outcomes((1,), loss, np.full((1, 300), np.nan), names(300, 30))
    alone = Outcomes((1,), loss, np.full((1, 300), np.nan), names(300))
    settings = CalibrationSettings(0.3, 0.1, (1,))
    assert calibrate(alone, settings).guaranteed
    assert not calibrate(many, settings).guaranteed
    assert calibrate(many, settings).units == 10
    assert calibrate(many, settings).tested[0].risk == pytest.approx(0.2)


def test_the_grid_is_as_it_is_told():
    assert len(joint("bonferroni").policies()) == 5 + 2 * 15  # without evidence there is no answer before it
    assert joint("bonferroni").needed_ks() == (0, 1, 2)
    assert CalibrationSettings(0.2, 0.1, (2,), without_from=(0.9,)).needed_ks() == (0, 2)
    for wrong, told in (
        ({"alpha": 0}, "alpha"), ({"delta": 1}, "delta"), ({"ks": ()}, "ks"), ({"ks": (1, 1)}, "ks"),
        ({"ks": (-1,)}, "k from 0 up"),
        ({"thresholds": (1.5,)}, "threshold"), ({"ks": (0,), "without_from": (0.5,)}, "without_from needs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            CalibrationSettings(**{"alpha": 0.3, "delta": 0.1, "ks": (1,)} | wrong)
    with pytest.raises(ValueError, match=r"no outcomes with \[8, 16\]"):
        calibrate(drawn(np.random.default_rng(0), 5, RISKS[:3], KS[:3]), CalibrationSettings(0.3, 0.1, KS))
    with pytest.raises(ValueError, match=r"losses must be numbers in \[0, 1\]"):
        Outcomes((1,), np.array([[1.5]]), np.array([[1.0]]), ("p",))


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_a_number_of_candidates_violates_no_more_than_delta(procedure):
    """60 draws; scripts/bench/calibration.py makes 400."""
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(60):
        found = calibrate(drawn(rng, 300), CalibrationSettings(0.3, 0.1, KS, procedure=procedure))
        wrong += any(row.holds and risk > 0.3 for row, risk in zip(found.tested, RISKS, strict=True))
    assert wrong / 60 <= 0.1


@pytest.mark.parametrize("each", [1, 3])
def test_the_joint_choice_violates_no_more_than_delta(each):
    rng = np.random.default_rng(3)
    truth = knowing(np.random.default_rng(99), 60_000, each)
    settings = joint("graphical")
    known = {policy: true_risk(truth, policy) for policy in settings.policies()}
    wrong = abstaining = 0
    for _ in range(40):
        found = calibrate(knowing(rng, 300 * each, each), settings)
        wrong += any(row.holds and known[row.policy] > 0.2 for row in found.tested)
        abstaining += found.guaranteed and 0 < found.chosen.coverage <= 1
    assert wrong / 40 <= 0.1
    assert abstaining >= 35  # it does find something
    assert min(known.values()) < 0.2 < max(known.values())


def test_a_learned_order_needs_units_and_tells_them():
    rng = np.random.default_rng(4)
    found = calibrate(knowing(rng, 400), joint("learned_sequence"))
    assert (found.ordering_units, found.units) == (120, 280)
    assert found == calibrate(knowing(np.random.default_rng(4), 400), joint("learned_sequence"))
    with pytest.raises(ValueError, match="cannot be parted"):
        calibrate(knowing(rng, 1), joint("learned_sequence"))


def test_it_is_kept_whole_and_refused_where_it_does_not_fit(tmp_path):
    found = calibrate(knowing(np.random.default_rng(5), 400), joint("bonferroni"))
    of = {"reader": "r", "template": "t", "corpus": "c", "source": "s", "evidence": "all_in_one_prompt", "fusion": None}
    of["calibration_set"] = "q"
    path = tmp_path / "calibration.json"
    made = write(path, found, "error", "patients", of, split="val")
    assert made == Calibration.read(path)
    assert made.policy == found.chosen.policy
    assert "n = 400 patients" in made.sentence
    assert "exchangeable" in made.told["validity"]
    assert "400 patients" in made.told["validity"]
    made.check(reader="r", source="s", fusion=None)
    with pytest.raises(ValueError, match="another reader and source"):
        made.check(reader="other", source="x", corpus="c")
    path.write_text(path.read_text().replace('"alpha": 0.2', '"alpha": 0.1', 1))
    with pytest.raises(ValueError, match="not what was written"):
        Calibration.read(path)
    with pytest.raises(ValueError, match="is not there"):
        Calibration.read(tmp_path / "no.json")
    nothing = calibrate(drawn(np.random.default_rng(0), 20), CalibrationSettings(0.1, 0.1, KS, fallback="abstain"))
    empty = write(tmp_path / "empty.json", nothing, "error", "patients", of)
    assert empty.policy is None
    assert empty.sentence.startswith("no guarantee")
    assert empty.told["validity"].startswith("No guarantee")
