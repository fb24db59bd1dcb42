"""Ranks of pairs: a table worked out by hand, chance against simulation, duplicates, ties."""

import json

import numpy as np
import pytest

from medrag_lightning.metrics import Bootstrap, chance_scores, rank_pairs, ranking_summary, ranking_table, scores_of

ONE_EACH = np.repeat(np.arange(4)[:, None], 2, axis=1)
DIRECTIONS = ("image_to_text", "text_to_image")
NAMES = ("a", "b", "c", "d")


def similar(scores):
    """Image and text vectors whose product is `scores`."""
    scores = np.asarray(scores, np.float32)
    return scores, np.eye(len(scores), dtype=np.float32)


def test_ranks_of_a_hand_made_table():
    scores = [[0.9, 0.1, 0.2, 0.3], [0.8, 0.5, 0.1, 0.1], [0.1, 0.2, 0.3, 0.9], [0.4, 0.4, 0.4, 0.4]]
    ranks = rank_pairs(*similar(scores), ONE_EACH, NAMES)
    assert ranks.rank_N["image_to_text"].tolist() == [1, 2, 2, 4]  # ties go against the right answer
    assert ranks.rank_N["text_to_image"].tolist() == [1, 1, 2, 2]
    assert scores_of(ranks, "image_to_text")["mrr"].tolist() == [1, 0.5, 0.5, 0.25]
    assert scores_of(ranks, "image_to_text")["recall@1"].tolist() == [1, 0, 0, 0]
    assert ranking_summary(ranks)["image_to_text_recall@5"] == 1


def test_copies_count_as_right_and_take_no_place():
    keys = np.array([[0, 0], [1, 1], [1, 2], [3, 1]])  # pairs 1 and 2 share an image, 1 and 3 a text
    scores = [[0.1, 0.9, 0.5, 0.9], [0.2, 0.3, 0.9, 0.3], [0.2, 0.3, 0.9, 0.3], [0.1, 0.9, 0.0, 0.9]]
    ranks = rank_pairs(*similar(scores), keys, NAMES)
    assert ranks.searched == {"image_to_text": 3, "text_to_image": 3}
    assert ranks.right_N["image_to_text"].tolist() == [1, 2, 2, 1]
    assert ranks.rank_N["image_to_text"].tolist() == [3, 1, 1, 1]
    assert ranks.right_N["text_to_image"].tolist() == [1, 2, 1, 2]


def test_equal_vectors_gain_nothing():
    same = np.ones((4, 3), np.float32)
    assert ranking_summary(rank_pairs(same, same, ONE_EACH, NAMES))["image_to_text_mrr"] == 0.25


def test_chance_is_what_random_vectors_score():
    rng = np.random.default_rng(0)
    keys = np.stack([rng.integers(0, 30, 40), rng.integers(0, 12, 40)], axis=1)
    drawn = []
    for _ in range(300):
        vectors = rng.standard_normal((2, 40, 8)).astype(np.float32)
        ranks = rank_pairs(vectors[0][keys[:, 0]], vectors[1][keys[:, 1]], keys, [str(i) for i in range(40)])
        drawn.append([ranking_summary(ranks)[f"{d}_{m}"] for d in DIRECTIONS for m in ("recall@5", "mrr")])
    exact = [chance_scores(ranks, d)[m].mean() for d in DIRECTIONS for m in ("recall@5", "mrr")]
    np.testing.assert_allclose(np.mean(drawn, axis=0), exact, atol=0.02)


def test_chance_of_single_answers_has_a_closed_form():
    ranks = rank_pairs(*similar(np.eye(4)), ONE_EACH, NAMES)
    chance = chance_scores(ranks, "image_to_text")
    assert chance["recall@1"].tolist() == [0.25] * 4
    assert chance["recall@10"].tolist() == [1.0] * 4
    assert chance["mrr"] == pytest.approx([(1 + 1 / 2 + 1 / 3 + 1 / 4) / 4] * 4)


def test_order_of_pairs_does_not_matter():
    rng = np.random.default_rng(1)
    image, text = rng.standard_normal((2, 600, 6)).astype(np.float32)  # more than one block
    keys, order = rng.integers(0, 500, (600, 2)), rng.permutation(600)
    names = [str(i) for i in range(600)]
    before = rank_pairs(image, text, keys, names)
    after = rank_pairs(image[order], text[order], keys[order], names)
    # a copy's vector is not the original's here, so which of them is searched matters; keys of one kind each do not
    assert after.right_N["image_to_text"].tolist() == before.right_N["image_to_text"][order].tolist()
    alone = np.stack([np.arange(600)] * 2, axis=1)
    before, after = rank_pairs(image, text, alone, names), rank_pairs(image[order], text[order], alone[order], names)
    assert after.rank_N["image_to_text"].tolist() == before.rank_N["image_to_text"][order].tolist()


def test_the_table_compares_and_is_honest():
    good, bad = np.eye(4, dtype=np.float32), np.roll(np.eye(4, dtype=np.float32), 1, axis=0)
    systems = {"trained": rank_pairs(good, good, ONE_EACH, NAMES), "untrained": rank_pairs(bad, good, ONE_EACH, NAMES)}
    table = ranking_table(systems, Bootstrap(resamples=100))
    assert [row.system for row in table.rows] == ["trained", "untrained", "chance"]
    assert table.differences[0].metrics["image_to_text_recall@1"].value == 1
    assert table.notes == ()
    swapped = ranking_table(dict(reversed(systems.items())), Bootstrap(resamples=100))
    assert "image to text: untrained is not shown to be better than chance" in swapped.notes
    assert "image to text: untrained - trained is not shown to be positive" in swapped.notes
    assert json.loads(json.dumps(table.as_json()))["pairs"] == 4


def test_what_does_not_fit_is_refused():
    good = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match="rows"):
        rank_pairs(good, good[:3], ONE_EACH, NAMES)
    with pytest.raises(ValueError, match="different pairs"):
        ranking_table({"a": rank_pairs(good, good, ONE_EACH, NAMES), "b": rank_pairs(good, good, ONE_EACH, "wxyz")})
    with pytest.raises(ValueError, match="no retriever"):
        ranking_table({})
    assert ranking_summary(rank_pairs(good[:0], good[:0], ONE_EACH[:0], ())) == {}
