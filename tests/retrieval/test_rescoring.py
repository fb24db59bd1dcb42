"""Exact scores do not depend on company, and the best of them come in the order of a sort by two keys."""

import numpy as np

from medrag_lightning.retrieval.rescoring import PAIR_CHUNK, best, pair_scores


def test_scores_are_those_of_each_pair_alone():
    rng = np.random.default_rng(0)
    queries, vectors = rng.standard_normal((4, 33), np.float32), rng.standard_normal((500, 33)).astype(np.float16)
    who = np.repeat([0, 1, 3], [1, 3 * PAIR_CHUNK + 5, PAIR_CHUNK])  # query 2 has none
    row = rng.integers(500, size=len(who))
    alone = [np.dot(queries[q].astype(np.float64), vectors[r].astype(np.float64)) for q, r in zip(who, row, strict=True)]
    np.testing.assert_array_equal(pair_scores(queries, vectors, who, row, np.float64), np.float32(alone))
    quick = pair_scores(queries, vectors, who, row, np.float32)
    np.testing.assert_allclose(quick, alone, atol=1e-5)
    one_by_one = [pair_scores(queries[q][None], vectors, np.array([0]), row[n : n + 1], np.float32) for n, q in enumerate(who)]
    np.testing.assert_array_equal(quick, np.concatenate(one_by_one))


def test_best_sorts_by_score_then_row():
    """Scores of both signs, zeros of both signs (which are equal), infinities and many ties."""
    rng = np.random.default_rng(1)
    values = np.float32([-np.inf, -2, -1.5, -1e-45, -0.0, 0.0, 1e-45, 0.3, 0.3000001, 7, np.inf])
    who = np.repeat(np.arange(6), 40)
    row = np.concatenate([rng.permutation(2**32 - 1 - np.arange(40)) for _ in range(6)])
    score = rng.choice(values, len(who))
    scores, rows, enough = best(who, row, score, 6, 25)
    order = np.lexsort((row, -score, who)).reshape(6, 40)[:, :25]
    np.testing.assert_array_equal(rows, row[order])
    np.testing.assert_array_equal(scores, score[order])
    assert enough.all()


def test_best_says_who_had_too_few():
    scores, rows, enough = best(np.array([0, 0, 2]), np.array([5, 4, 9]), np.float32([1, 1, -3]), 4, 2)
    assert enough.tolist() == [True, False, False, False]
    assert rows[0].tolist() == [4, 5]
    assert scores.shape == (4, 2)
    assert (rows < 10).all()  # still rows that there are
    nothing = np.zeros(0, np.int64)
    assert not best(nothing, nothing, np.zeros(0, np.float32), 2, 3)[2].any()
