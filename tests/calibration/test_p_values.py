"""The Hoeffding-Bentkus p-value against exact fractions, hand values and the specification's table of required n."""

import math
from fractions import Fraction

import numpy as np
import pytest

from medrag_lightning.calibration.p_values import binomial_cdf, coin_entropy, hoeffding_bentkus, required_n, upper_bound


def plain_p_value(total, n, alpha):
    """The formulas as they are printed, in float64, the binomial one in exact fractions."""
    risk = total / n
    least = min(risk, alpha)
    h1 = sum(x * math.log(x / y) for x, y in ((least, alpha), (1 - least, 1 - alpha)) if x > 0)
    share = Fraction(alpha)
    cdf = sum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(math.ceil(total) + 1))
    return min(1.0, math.exp(-n * h1), math.e * float(cdf))


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.3), (7, 0.05), (60, 0.3), (150, 0.5), (300, 0.1)])
def test_it_is_the_printed_formula(n, alpha):
    for total in {0, 1, n // 7, n // 4, n // 3, n - 1, n}:
        if 0 <= total <= n:
            assert hoeffding_bentkus(total, n, alpha) == pytest.approx(plain_p_value(total, n, alpha), rel=1e-9)
    assert hoeffding_bentkus(n / 10, n, alpha) == pytest.approx(plain_p_value(n / 10, n, alpha), rel=1e-9)  # any loss


def test_hand_values():
    assert hoeffding_bentkus(0, 1, 0.3) == pytest.approx(0.7)  # exp(-h1(0, .3)) = 1 - .3; Bentkus gives .7 e
    assert hoeffding_bentkus(0, 10, 0.5) == pytest.approx(0.5**10)
    assert hoeffding_bentkus(5, 10, 0.3) == 1.0  # a risk above alpha shows nothing
    assert hoeffding_bentkus(0, 0, 0.3) == 1.0
    assert coin_entropy(0.3, 0.3) == pytest.approx(0)
    assert coin_entropy(0, 0.5) == pytest.approx(math.log(2))
    assert binomial_cdf(2, 4, 0.5) == pytest.approx(11 / 16)
    assert (binomial_cdf(4, 4, 0.5), binomial_cdf(-1, 4, 0.5)) == (1.0, 0.0)
    assert binomial_cdf(900, 20000, 0.05) == pytest.approx(5.26033780e-4, rel=1e-7)  # long sums stay in range


def test_p_values_grow_with_loss_and_are_valid_under_the_hypothesis():
    values = [hoeffding_bentkus(total, 80, 0.2) for total in range(81)]
    assert values == sorted(values)
    rng = np.random.default_rng(0)
    for alpha in (0.1, 0.3):  # at the edge of the hypothesis P(p <= u) <= u
        draws = [hoeffding_bentkus(int(one), 100, alpha) for one in rng.binomial(100, alpha, 4000)]
        for level in (0.02, 0.1, 0.3):
            assert np.mean(np.array(draws) <= level) <= level


def test_wrong_numbers_are_refused():
    for wrong in ((1, 10, 0.0), (1, 10, 1.0), (11, 10, 0.3), (-1, 10, 0.3), (float("nan"), 10, 0.3)):
        with pytest.raises(ValueError, match=r"alpha must lie|cannot be"):
            hoeffding_bentkus(*wrong)


def test_required_n_is_the_specification_s():
    first, always = required_n(0.20, 0.3, 0.1, 5)
    assert first == 130
    assert always == 142
    first, always = required_n(0.25, 0.3, 0.1, 5)
    assert first <= 520 <= always
    assert hoeffding_bentkus(always * 0.25, always, 0.3) <= 0.02
    assert hoeffding_bentkus((first - 1) * 0.25, first - 1, 0.3) > 0.02
    assert required_n(0.3, 0.3, 0.1) is None
    assert required_n(0.0, 0.5, 0.5) == (1, 1)


def test_the_bound_inverts_the_p_value():
    bound = upper_bound(lambda alpha: hoeffding_bentkus(20, 100, alpha), 0.05)
    assert 0.2 < bound < 0.35
    assert hoeffding_bentkus(20, 100, bound + 1e-6) <= 0.05 < hoeffding_bentkus(20, 100, bound - 1e-6)
