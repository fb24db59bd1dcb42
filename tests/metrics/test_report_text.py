"""Scores of generated reports: hand-worked, equal to the libraries over a corpus, unavailable where a package is missing."""

import importlib.util
import math
import sys
import types

import numpy as np
import pytest

from medrag_lightning.metrics import Bootstrap, report_text
from medrag_lightning.metrics.report_plugins import PLUG_INS, UnavailableError
from medrag_lightning.metrics.report_text import bleu_4, meteor, rouge_l
from medrag_lightning.records import AnswerType, Noise, NoiseKind, Prediction, Regime

GOLD = [
    "The heart is large. No effusion.",
    "the cat sat on the mat",
    "The lungs are clear of any nodule",
    "No pneumothorax is seen",
]
SAID = ["The heart is large. No nodule.", "on the mat sat the cat", "lungs are clear", None]
ONCE = np.ones((1, 4))


def prediction(number, answer, gold=None, regime=Regime.RETRIEVED, **more):
    gold = GOLD[number] if gold is None else gold
    return Prediction(f"q{number}", regime, answer, answer or "", gold, AnswerType.OPEN, **more)


def scored(predictions, from_words=4, plug_ins=(), resamples=0):
    clusters = {p.query_id: p.query_id for p in predictions}
    return report_text(predictions, clusters, Bootstrap(resamples), from_words, plug_ins)


def test_bleu_by_hand_and_over_a_corpus():
    pytest.importorskip("torchmetrics")
    from torchmetrics.text import SacreBLEUScore

    # "a b c d e" against "a b c d f": 4/5, 3/4, 2/3, 1/2 of the n-grams, equal lengths
    by_hand = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert bleu_4(["a b c d f"], ["a b c d e"])(np.ones((1, 1)))[0] == pytest.approx(by_hand)
    # short by half: 1, 1, 1, 1 and brevity exp(1 - 8 / 4)
    assert bleu_4(["a b c d e f g h"], ["A B c d"])(np.ones((1, 1)))[0] == pytest.approx(math.exp(-1))
    whole = SacreBLEUScore(lowercase=True)([answer or "" for answer in SAID], [[gold] for gold in GOLD])
    assert bleu_4(GOLD, SAID)(ONCE)[0] == pytest.approx(float(whole), abs=1e-6)
    assert bleu_4(GOLD, GOLD)(ONCE)[0] == pytest.approx(1.0)
    assert bleu_4(["a b"], ["c d"])(np.ones((1, 1)))[0] == 0.0
    assert bleu_4(["a b"], [None])(np.ones((1, 1)))[0] == 0.0


def test_bleu_of_a_resample_is_that_of_the_drawn_reports():
    pytest.importorskip("torchmetrics")
    from torchmetrics.text import SacreBLEUScore

    drawn = [0, 0, 2, 1]
    weights = np.bincount(drawn, minlength=4)[None].astype(float)
    whole = SacreBLEUScore(lowercase=True)([SAID[k] or "" for k in drawn], [[GOLD[k]] for k in drawn])
    assert bleu_4(GOLD, SAID)(weights)[0] == pytest.approx(float(whole), abs=1e-6)


def test_rouge_l_by_hand():
    pytest.importorskip("torchmetrics")
    # "lungs are clear": 3 of 3 words in order, 3 of 7 of the reference; "on the mat": 3 of 6 and of 6
    assert rouge_l(GOLD, SAID).tolist() == pytest.approx([5 / 6, 0.5, 2 * 3 / 10, 0.0], abs=1e-6)


def test_meteor_by_hand():
    pytest.importorskip("nltk")
    # the examples of the literature: 1 - 0.5 (6 / 6)^3, one chunk of six, and 6 of 7 words in two chunks
    texts = ["on the mat sat the cat", "the cat sat on the mat", "the cat was sat on the mat"]
    mean = 10 * (6 / 7) * 1 / (1 + 9 * 6 / 7)
    expected = [0.5, 1 - 0.5 / 6**3, mean * (1 - 0.5 * (2 / 6) ** 3)]
    assert meteor([GOLD[1]] * 3, texts, synonyms=False).tolist() == pytest.approx(expected)
    assert meteor(["opacities seen"], ["opacity seen"], synonyms=False)[0] > 0.9  # by its stem
    assert meteor(["a b"], [None], synonyms=False)[0] == 0.0


def test_meteor_with_synonyms_needs_wordnet_and_never_fetches_it(monkeypatch):
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(UnavailableError, match="WordNet is not on this machine"):
        meteor(GOLD, SAID)


def test_reports_are_the_open_questions_with_long_answers():
    short = Prediction("q9", Regime.RETRIEVED, "yes", "yes", "yes it is", AnswerType.OPEN)
    spoilt = prediction(3, "x", noise=Noise(NoiseKind.IRRELEVANT, 0.5))
    alone = [prediction(n, None, regime=Regime.NONE) for n in range(4)]
    found = scored([*(prediction(n, SAID[n]) for n in range(4)), short, *alone, spoilt])
    assert list(found.rows) == ["retrieved", "no retrieval"]
    assert {metric.n for metric in found.rows["retrieved"].values()} == {4}
    assert found.rows["retrieved"]["cider_d"].value > found.rows["no retrieval"]["cider_d"].value == 0
    assert "4 words or more" in found.notes[0]
    assert scored([short]).rows == {}
    assert scored([short]).notes == ()


def test_intervals_are_bootstrapped_by_cluster():
    pytest.importorskip("torchmetrics")
    mine = [prediction(n, (GOLD * 9)[n] if n % 3 else "clear", (GOLD * 9)[n]) for n in range(36)]
    row = scored(mine, resamples=200).rows["retrieved"]
    for name in ("bleu_4", "rouge_l", "cider_d"):
        assert row[name].low < row[name].value < row[name].high
    one = report_text(mine, dict.fromkeys((p.query_id for p in mine), "p"), Bootstrap(200), 4).rows["retrieved"]["bleu_4"]
    assert math.isnan(one.low)


def test_what_is_not_installed_is_said_and_not_replaced(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torchmetrics", "nltk") else real(name))
    found = scored([prediction(n, SAID[n]) for n in range(4)], plug_ins=["ratescore"])
    row = found.rows["retrieved"]
    missing = {name for name, metric in row.items() if math.isnan(metric.value)}
    assert missing == {"bleu_4", "rouge_l", "meteor", "meteor_without_synonyms", "ratescore"}
    assert all("not installed" in row[name].reason for name in missing)
    assert any("torchmetrics is not installed" in note for note in found.notes)
    assert row["cider_d"].value > 0
    assert found.as_json()["rows"]["retrieved"]["bleu_4"]["value"] is None


def planted(monkeypatch, name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    module.__spec__ = importlib.util.spec_from_loader(name, None)
    monkeypatch.setitem(sys.modules, name, module)


class ByRows:
    """Gives a constant in the place of a package's rows; keeps what it was shown."""

    shown: list = []  # noqa: RUF012

    def __init__(self, **settings):
        pass

    def __call__(self, hyps, refs):
        self.shown.append((hyps, refs))
        return 0.5, [0.5] * len(hyps), None, None

    def compute_score(self, answers, gold):
        return [0.25] * len(answers)


@pytest.mark.parametrize(
    ("name", "package", "member", "value"),
    [
        ("ratescore", "RaTEScore", "RaTEScore", 0.25),
        ("radgraph", "radgraph", "F1RadGraph", 0.5),
        ("chexbert", "f1chexbert", "F1CheXbert", 0.5),
    ],
)
def test_a_plug_in_that_is_there_is_used(monkeypatch, name, package, member, value):
    planted(monkeypatch, package, **{member: ByRows})
    assert PLUG_INS[name].scores(GOLD[::-1], SAID[::-1]).tolist() == [0.0] + [value] * 3
    assert scored([prediction(n, SAID[n]) for n in range(4)], plug_ins=[name]).rows["retrieved"][name].value == 0.75 * value


def test_a_plug_in_that_fails_is_unavailable(monkeypatch):
    def no_weights(**settings):
        raise OSError("no weights here")

    planted(monkeypatch, "radgraph", F1RadGraph=no_weights)
    with pytest.raises(UnavailableError, match="radgraph fails: OSError: no weights here"):
        PLUG_INS["radgraph"].scores(GOLD, SAID)
    planted(monkeypatch, "radgraph", F1RadGraph=lambda **settings: lambda hyps, refs: (0, [float("nan")]))
    with pytest.raises(UnavailableError, match="gave 1 scores for 3 reports"):
        PLUG_INS["radgraph"].scores(GOLD, SAID)
    assert PLUG_INS["radgraph"].scores(GOLD, [None] * 4).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="'blue' is none of ratescore"):
        scored([prediction(0, "x")], plug_ins=["blue"])
