"""M22: pairs in both orders: hand-made shares, judges that look at places, failed calls, a judge that was the teacher."""

import pytest

from medrag_lightning.interfaces import PairJudge
from medrag_lightning.metrics import Bootstrap, OverlapJudge, Pair, preferred

PAIRS = [
    Pair("what is seen?", "a small nodule", "a small nodule", "a cyst", "p1"),
    Pair("what is seen?", "a small nodule", "no", "a nodule", "p1"),
    Pair("what is seen?", "a cyst", "cyst", "cyst", "p2"),
    Pair("what is seen?", "a cyst", "the cyst", "nothing", "p3"),
]


class Says:
    """A judge that says one thing, or fails now and then."""

    def __init__(self, verdict, fails=()):
        self.verdict, self.fails, self.asked = verdict, fails, []

    def compare(self, tasks):
        self.asked += tasks
        return [None if task.first in self.fails or task.second in self.fails else self.verdict for task in tasks]

    def fingerprint(self):
        return "says"


def test_shares_by_hand():
    told = preferred(OverlapJudge(), PAIRS, bootstrap=Bootstrap(200))
    assert (told.win.value, told.loss.value, told.tie.value) == (0.5, 0.25, 0.25)
    assert told.win_rate.value == 0.625
    assert told.swap_consistency.value == 1.0
    assert told.undecided.value == 0.0
    assert told.first_share.value == 0.5, "the rule does not look at places"
    assert told.win_rate.low <= 0.625 <= told.win_rate.high
    assert told.failed == 0
    assert told.notes == ()
    assert isinstance(OverlapJudge(), PairJudge)


def test_systems_change_places():
    swapped = [Pair(p.question, p.gold, p.theirs, p.mine, p.cluster) for p in PAIRS]
    one, other = (preferred(OverlapJudge("rouge_l"), pairs) for pairs in (PAIRS, swapped))
    assert one.win_rate.value == pytest.approx(1 - other.win_rate.value)
    assert one.win.value == other.loss.value


@pytest.mark.parametrize(("verdict", "share"), [("first", 1.0), ("second", 0.0)])
def test_a_judge_that_looks_at_places_prefers_no_one(verdict, share):
    judge = Says(verdict)
    told = preferred(judge, PAIRS)
    assert told.swap_consistency.value == 0.0
    assert told.win_rate.value == 0.5
    assert told.first_share.value == share
    assert len(judge.asked) == 8
    assert judge.asked[0].first == judge.asked[4].second == "a small nodule"


def test_ties_and_failed_calls_are_told():
    told = preferred(Says("tie"), PAIRS)
    assert (told.tie.value, told.win_rate.value, told.swap_consistency.value) == (1.0, 0.5, 1.0)
    assert told.first_share.value != told.first_share.value  # no verdict prefers one
    told = preferred(Says("first", fails=("no",)), PAIRS)
    assert (told.failed, told.win.n) == (1, 3)
    assert "1 pairs left out" in told.notes[0]
    unknown = preferred(OverlapJudge(), [*PAIRS, Pair("?", None, "a", "b", "p4")])
    assert (unknown.failed, unknown.win.n) == (1, 4)


def test_a_judge_that_was_the_teacher_is_told():
    told = preferred(Says("tie"), PAIRS, {"traces": "says", "other": "else"})
    assert len(told.notes) == 1
    assert "not independent: it is what traces learnt from" in told.notes[0]


def test_a_margin_makes_ties_and_mistakes_are_refused():
    assert preferred(OverlapJudge(margin=0.99), PAIRS).tie.value == 0.5  # 1 against 0 stays
    for settings in ({"measure": "bleu"}, {"margin": 1.0}):
        with pytest.raises(ValueError, match="must be"):
            OverlapJudge(**settings)
    with pytest.raises(ValueError, match="one verdict each"):
        preferred(Says("mine"), PAIRS)
