"""The analyses of retrieval against a table worked out by hand (JOMED J15)."""

import json
import math

import pytest

from medrag_lightning.metrics import Bootstrap, Outcome, analyse, is_inconsistent, sign_test, system_of
from medrag_lightning.records import AnswerType, Prediction, Regime

CHOICES = ("yes", "no", "maybe")
FEW = Bootstrap(resamples=200)
# query: gold, the answer of each candidate alone, the fused answer, the answer without evidence
TABLE = {
    "q0": ("yes", ("yes", "yes", "yes"), "yes", "no"),
    "q1": ("yes", ("yes", "no", "no"), "no", "yes"),
    "q2": ("yes", ("no", "no", "no"), "no", "no"),
    "q3": ("maybe", ("yes", "no", "no"), "maybe", "no"),  # the mixture picks what no candidate picks
    "q4": ("yes", (None, "yes", "yes"), "yes", "yes"),  # an invalid answer is an answer of its own, and wrong
    "q5": ("no", (), None, "no"),  # nothing was found, and the words could not be read
}


def logp(answer, gold):
    """Probability 0.8 for the answer given, the rest shared; an invalid answer is unsure."""
    share = {choice: 1 / 3 if answer is None else 0.8 if choice == answer else 0.1 for choice in CHOICES}
    return tuple(math.log(share[choice]) for choice in CHOICES)


def prediction(name, answer, regime, alone=(), gold="yes", system=""):
    row = logp(answer, gold)
    cited = tuple(f"{name}-d{k}" for k in range(len(alone)))
    return Prediction(
        name, regime, answer, answer or "what?", gold, AnswerType.CLOSED, CHOICES, row, cited=cited,
        candidate_answers=alone, candidate_logp_nats=tuple(logp(one, gold) for one in alone), system=system,
        gold_logp_nats=row[CHOICES.index(gold)],
    )  # fmt: skip


def retrieved(system=""):
    return [prediction(n, said, Regime.RETRIEVED, alone, gold, system) for n, (gold, alone, said, _) in TABLE.items()]


def without():
    return [prediction(name, said, Regime.NONE, (), gold) for name, (gold, _, _, said) in TABLE.items()]


@pytest.fixture(scope="module")
def analysis():
    return analyse([*retrieved(), *without()], settings=FEW)


def test_share_of_inconsistent_retrieval_is_exact(analysis):
    assert [is_inconsistent(p) for p in retrieved()] == [False, True, False, True, True, False]
    found = analysis.inconsistency
    assert found.defining == "retrieved"
    assert (found.share[AnswerType.CLOSED].value, found.share[AnswerType.CLOSED].n) == (0.5, 6)
    assert AnswerType.OPEN not in found.share


def test_accuracy_on_and_off_the_inconsistent_subset(analysis):
    on, off = analysis.inconsistency.parts["inconsistent"], analysis.inconsistency.parts["consistent"]
    assert on["closed_accuracy"]["retrieved"].value.value == pytest.approx(2 / 3)
    assert on["closed_accuracy"]["no retrieval"].value.value == pytest.approx(2 / 3)
    assert off["closed_accuracy"]["retrieved"].value.value == pytest.approx(1 / 3)
    assert off["closed_accuracy"]["no retrieval"].value.value == pytest.approx(1 / 3)
    gap = on["closed_accuracy"]["no retrieval"].reference_minus
    assert (gap.value, gap.n) == (pytest.approx(0), 3)
    assert gap.low < 0 < gap.high
    assert on["closed_accuracy"]["retrieved"].reference_minus is None
    assert on["closed_macro_f1"]["retrieved"].value.value == pytest.approx((2 / 3 + 1 + 0) / 3)  # yes, maybe, no
    assert on["open_token_recall"] == {}


def test_macro_f1_differences_are_differences_of_macro_f1(analysis):
    rows = analysis.inconsistency.parts["inconsistent"]["closed_macro_f1"]
    gap = rows["retrieved"].value.value - rows["no retrieval"].value.value
    assert rows["no retrieval"].reference_minus.value == pytest.approx(gap)


def test_oracle_is_the_share_with_any_candidate_right(analysis):
    oracle = analysis.candidates.oracle["retrieved"].value
    assert (oracle.value, oracle.n) == (0.5, 6)
    single = [metric.value for metric in analysis.candidates.single["retrieved"]]
    assert single == [pytest.approx(2 / 6), pytest.approx(2 / 5), pytest.approx(2 / 5)]
    assert all(value <= oracle.value for value in single)
    assert "no retrieval" not in analysis.candidates.oracle


def test_the_fused_answer_may_exceed_the_oracle():
    only = analyse([p for p in retrieved() if p.query_id == "q3"], settings=FEW).candidates
    assert only.oracle["retrieved"].value.value == 0
    assert only.regret["retrieved"].value.value == -1


def test_regret_is_oracle_minus_system(analysis):
    regret = analysis.candidates.regret["retrieved"].value
    assert regret.value == 0.5 - 3 / 6
    assert regret.low < 0 < regret.high


def test_ledger_of_every_question(analysis):
    outcomes = {entry.query_id: entry.outcome for entry in analysis.ledger.entries}
    assert outcomes == {
        "q0": Outcome.HELPED, "q1": Outcome.HURT, "q2": Outcome.BOTH_WRONG,
        "q3": Outcome.HELPED, "q4": Outcome.BOTH_RIGHT, "q5": Outcome.HURT,
    }  # fmt: skip
    account = analysis.ledger.accounts["retrieved"]
    assert (account.helped, account.hurt, account.unchanged, account.p_value) == (2, 2, 2, 1.0)
    gains = {entry.query_id: entry.gold_gain_nats for entry in analysis.ledger.entries}
    assert gains["q0"] == pytest.approx(math.log(0.8 / 0.1))
    assert json.dumps(analysis.ledger.entries[0].as_json(), allow_nan=False)


def test_sign_test_is_the_exact_one_of_mcnemar():
    from scipy.stats import binomtest

    assert sign_test(0, 0) == 1.0
    for wins, losses in ((0, 6), (1, 9), (12, 3), (5, 5), (700, 800)):
        assert sign_test(wins, losses) == pytest.approx(binomtest(wins, wins + losses).pvalue)
        assert sign_test(wins, losses) == sign_test(losses, wins)


def test_pseudo_relevance_is_a_rise_of_the_gold_answer_over_no_evidence(analysis):
    """q0: all three raise it; q1 to q4: none does beyond 0.8; q3's candidates leave it at 0.1."""
    found = analysis.relevance
    assert (found.judged, found.relevant) == (15, 3)
    precision = found.measures["precision"]["retrieved"].value
    assert (precision.value, precision.n) == (pytest.approx(1 / 5), 5)
    assert found.measures["recall"]["retrieved"].value.value == 1.0
    assert found.measures["recall_at_1"]["retrieved"].value.value == pytest.approx(1 / 3)
    assert (found.measures["mrr"]["retrieved"].value.value, found.measures["mrr"]["retrieved"].value.n) == (1.0, 1)


def test_pseudo_recall_is_over_the_pool_of_all_systems():
    rival = [prediction("q0", "yes", Regime.RETRIEVED, ("no", "yes"), system="rival")]
    rival = [Prediction(**{n: getattr(p, n) for n in p.__slots__} | {"cited": ("x", "q0-d0")}) for p in rival]
    found = analyse([*retrieved(), *without(), *rival], settings=FEW).relevance.measures
    assert found["recall"]["rival"].value.value == pytest.approx(1 / 3)
    assert found["mrr"]["rival"].value.value == 0.5
    assert found["mrr"]["rival"].reference_minus.value == 0.5
    assert "no retrieval" not in found["mrr"]


def test_open_questions_are_judged_by_exact_match_and_per_token_likelihood():
    common = {"answer_type": AnswerType.OPEN, "gold": "left lung"}
    shown = Prediction(
        "o", Regime.RETRIEVED, "the left lung", "the left lung", cited=("a", "b"), candidate_answers=("left lung.", "heart"),
        candidate_logp_nats=((-0.2,), (-0.95,)), gold_logp_nats=-0.5, **common,
    )  # fmt: skip
    alone = Prediction("o", Regime.NONE, "heart", "heart", gold_logp_nats=-1.0, **common)
    found = analyse([shown, alone], settings=FEW, margin_nats=0.1)
    assert found.inconsistency.share[AnswerType.OPEN].value == 1
    assert found.candidates.oracle["retrieved"].value.value == 1
    assert found.ledger.accounts["retrieved"].helped == 1
    assert (found.relevance.judged, found.relevance.relevant) == (2, 1)
    on = found.inconsistency.parts["inconsistent"]["open_token_recall"]
    assert (on["retrieved"].value.value, on["no retrieval"].value.value) == (1.0, 0.0)


def test_the_undistilled_rival_defines_the_subset_unless_another_is_named():
    rival = retrieved("contrastive")
    assert [system_of(p) for p in rival] == ["contrastive"] * 6
    everyone = [*retrieved(), *without(), *rival]
    assert analyse(everyone, settings=FEW).inconsistency.defining == "contrastive"
    assert analyse(everyone, settings=FEW, inconsistent_by="retrieved").inconsistency.defining == "retrieved"
    with pytest.raises(ValueError, match="inconsistent_by='text head' is no system of this test"):
        analyse(everyone, settings=FEW, inconsistent_by="text head")


def test_what_cannot_be_computed_says_why():
    in_one_prompt = [Prediction("q", Regime.RETRIEVED, "yes", "yes", "yes", AnswerType.CLOSED, CHOICES, cited=("a", "b"))]
    found = analyse(in_one_prompt, settings=FEW)
    assert "one by one" in found.inconsistency.reason
    assert "one by one" in found.candidates.reason
    assert "regime `none`" in found.ledger.reason
    assert "regime `none`" in found.relevance.reason
    text = json.dumps(found.as_json(), allow_nan=False)
    assert "one by one" in text
    nothing = analyse([], settings=FEW)
    assert nothing.inconsistency.reason
    with pytest.raises(ValueError, match="margin"):
        analyse([*retrieved(), *without()], settings=FEW, margin_nats=-1)


def test_unknown_gold_answers_are_left_out():
    blind = Prediction("q9", Regime.RETRIEVED, "yes", "yes", None, AnswerType.CLOSED, CHOICES, candidate_answers=("yes",))
    assert analyse([*retrieved(), blind], settings=FEW).candidates.oracle["retrieved"].value.n == 6
