"""CIDEr-D: worked by hand, and equal to the authors' code where that is installed."""

import math

import numpy as np
import pytest

from medrag_lightning.metrics.cider import cider_d
from medrag_lightning.metrics.parsing import tokens_of

GOLD = ["the heart is large", "no effusion is seen", "the lungs are clear", "a nodule in the left lung is seen"]


def test_a_perfect_answer_has_ten():
    np.testing.assert_allclose(cider_d(GOLD, GOLD), 10.0)


def test_by_hand():
    """References "a b" and "c d": every n-gram has idf ln 2. The answer "a c": one of two words, no pair. Lengths are equal."""
    assert cider_d(["a b", "c d"], ["a c", "c d"]).tolist() == pytest.approx([10 * 0.5 / 4, 10 * 2 / 4])
    # one word too many: "a b a" has weights (2, 1) ln 2, clipped to (1, 1): 2 / (sqrt 5 sqrt 2); pairs (1, 1) against (1, 0)
    shared = 2 / math.sqrt(10) + 1 / math.sqrt(2)
    assert cider_d(["a b", "c d"], ["a b a", "c d"])[0] == pytest.approx(10 * math.exp(-1 / 72) * shared / 4)


def test_silence_and_words_that_nobody_uses():
    assert cider_d(GOLD, [None, "", "zebra", GOLD[3]]).tolist() == [0.0, 0.0, 0.0, pytest.approx(10.0)]
    assert cider_d(["a b"], ["a b"]).tolist() == [0.0]  # ln(1 / 1): one reference tells nothing about rarity
    assert cider_d([], []).shape == (0,)


def test_order_of_items_does_not_matter_and_case_does_not():
    answers = ["The heart is small.", "no effusion", "lungs clear", "a nodule"]
    there = cider_d(GOLD, answers)
    np.testing.assert_allclose(cider_d(GOLD[::-1], answers[::-1])[::-1], there)
    np.testing.assert_allclose(cider_d([g.upper() for g in GOLD], answers), there)
    with pytest.raises(ValueError, match="4 gold answers for 1"):
        cider_d(GOLD, ["x"])


def test_equal_to_the_authors_code():
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    rng = np.random.default_rng(0)
    words = ["heart", "lung", "is", "clear", "large", "no", "effusion", "left", "right", "seen"]

    def text() -> str:
        return " ".join(rng.choice(words, rng.integers(2, 14)))

    gold, answers = [text() for _ in range(60)], [text() for _ in range(60)]
    theirs = scorer.CiderScorer(n=4, sigma=6.0)
    for one, other in zip(gold, answers, strict=True):
        theirs += (" ".join(tokens_of(other)), [" ".join(tokens_of(one))])
    np.testing.assert_allclose(cider_d(gold, answers), theirs.compute_score()[1], rtol=1e-9, atol=1e-12)
