"""What is known of candidates as numbers: no gold answer in it, no order in it but that of the search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medrag_lightning.mixture import FEATURES, QUESTION_FEATURES, candidate_features, found_by_image, question_features
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, ImageRef, Query

CHOICES = ("left", "right", "both")
QUERY = Query("q", "which side has the lesion?", ImageRef("a.png"), "left", CHOICES, AnswerType.CLOSED)
TEXTS = ("a lesion on the left", "nothing is said", "nothing is said", "the right lung")
CHANNELS = (Channel.IMAGE_TO_TEXT, Channel.TEXT_TO_TEXT, Channel.IMAGE_TO_IMAGE, Channel.LEXICAL)
FOUND = [Candidate(Document(f"d{n}", text), 0.9 - 0.2 * n, CHANNELS[n]) for n, text in enumerate(TEXTS)]
LOGP_KC = np.log(np.array([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.3, 0.4, 0.3], [0.2, 0.7, 0.1]]))


def column(name: str, query=QUERY, logp_KC=LOGP_KC) -> np.ndarray:
    return candidate_features(query, FOUND, logp_KC)[:, FEATURES.index(name)]


def test_nothing_that_only_a_teacher_knows_is_looked_at():
    told = replace(QUERY, answer="both", need="image", relevant_ids=("d0",), poison_ids=("d3",), patient_id="p")
    assert (candidate_features(QUERY, FOUND, LOGP_KC) == candidate_features(told, FOUND, LOGP_KC)).all()
    assert (question_features(QUERY) == question_features(told)).all()


def test_numbers_by_hand():
    assert candidate_features(QUERY, FOUND, LOGP_KC).shape == (4, len(FEATURES))
    assert column("probability of its answer") == pytest.approx([0.8, 0.4, 0.4, 0.7])
    assert column("margin to the next answer") == pytest.approx([0.7, 0.1, 0.1, 0.5])
    assert column("how likely the others find its answer") == pytest.approx([0.8 / 3, 1.2 / 3, 1.2 / 3, 0.9 / 3])
    assert column("its answer's words in its text") == pytest.approx([1, 0, 0, 1])
    assert column("texts that name its answer") == pytest.approx([0.25, 0.25, 0.25, 0.25])
    assert column("share of the others with the same text") == pytest.approx([0, 1 / 3, 1 / 3, 0])
    assert column("share of the question's words in the text") == pytest.approx([0.4, 0, 0, 0.2])
    assert column("found by lexical") == pytest.approx([0, 0, 0, 1])
    assert found_by_image(FOUND).tolist() == [True, False, True, False]


def test_log_probabilities_need_not_be_normalised():
    assert np.allclose(candidate_features(QUERY, FOUND, LOGP_KC), candidate_features(QUERY, FOUND, LOGP_KC - 5), atol=1e-5)


def test_an_open_question_tells_nothing_of_its_answers():
    made = candidate_features(replace(QUERY, choices=(), answer_type=AnswerType.OPEN), FOUND, None)
    first = FEATURES.index("closed")
    assert (made[:, first:] == 0).all()
    assert made[:, :first].any()


def test_equal_scores_are_no_division_by_zero():
    alike = [replace(one, score=0.0) for one in FOUND]
    assert np.isfinite(candidate_features(QUERY, alike, LOGP_KC)).all()


def test_features_of_a_question_go_by_its_words():
    other = question_features(replace(QUERY, question="which drug is given?"))
    assert other.shape == (QUESTION_FEATURES,)
    assert (other != question_features(QUERY)).any()
    assert (question_features(replace(QUERY, question="Lesion the has side which")) == question_features(QUERY)).all()


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="4 candidates, 3 choices"):
        candidate_features(QUERY, FOUND, LOGP_KC[:2])
    with pytest.raises(ValueError, match="0 candidates"):
        candidate_features(QUERY, [], None)
