import pytest

from medrag_lightning.records import AnswerType, Document, ImageRef, Query, shares_identity, unique_by_id


def test_image_ref_text_form_round_trips():
    for text in ("images/a.png", "odd#name.png", "set.npz#train_images/12"):
        assert str(ImageRef.parse(text)) == text
    assert ImageRef.parse("set.npz#train_images/12") == ImageRef("set.npz", "train_images", 12)


def test_gold_index():
    query = Query("q", "?", answer="no", choices=("yes", "no"), answer_type=AnswerType.CLOSED)
    assert query.gold_index == 1
    assert Query("q", "?", answer="a mass").gold_index == -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "maybe", "choices": ("yes", "no")}, "maybe"),
        ({"choices": ("yes",)}, "two choices"),
        ({"choices": ("yes", "yes")}, "repeat"),
    ],
)
def test_bad_closed_questions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Query("q", "?", answer_type=AnswerType.CLOSED, **change)


def test_open_question_with_choices_is_refused():
    with pytest.raises(ValueError, match="open question"):
        Query("q", "?", choices=("a", "b"))


@pytest.mark.parametrize(
    ("mine", "theirs", "reason"),
    [
        ({}, {"id": "q"}, "id"),
        ({"study_id": "s"}, {"study_id": "s"}, "study_id"),
        ({"patient_id": "p"}, {"patient_id": "p"}, "patient_id"),
        ({"image": ImageRef("a.png")}, {"image": ImageRef("a.png")}, "image"),
        ({"patient_id": "p"}, {"patient_id": "other"}, None),
        ({}, {}, None),
    ],
)
def test_leak_rule(mine, theirs, reason):
    query = Query(**{"id": "q", "question": "?", **mine})
    document = Document(**{"id": "d", "text": "report", **theirs})
    assert shares_identity(query, document) == reason


def test_unknown_identity_is_equal_to_nothing():
    assert shares_identity(Query("q", "?"), Document("d", "text")) is None


def test_repeated_ids_are_named():
    with pytest.raises(ValueError, match="'d'"):
        unique_by_id([Document("d", "a"), Document("d", "b")], "corpus")


def test_a_document_needs_something():
    with pytest.raises(ValueError, match="neither"):
        Document("d")
