"""The leak rule, and the merging of channels."""

import pytest

from medrag_lightning.records import Channel, Document, ImageRef, Query
from medrag_lightning.retrieval.ranking import Hit, interleave, leak

IMAGE, TEXT = Channel.IMAGE_TO_IMAGE, Channel.TEXT_TO_TEXT
QUERY = Query("q", "?", ImageRef("q.png"), patient_id="p", study_id="s")


def hits(channel, *rows):
    return [Hit(row, 1.0 - place / 10, channel) for place, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("document", "pixels", "reason"),
    [
        (Document("q", "x"), None, "id"),
        (Document("d", "x", patient_id="p"), None, "patient_id"),
        (Document("d", "x", study_id="s"), None, "study_id"),
        (Document("d", "x", ImageRef("q.png")), "other", "image"),
        (Document("d", "x", ImageRef("d.png")), "same", "pixels"),
        (Document("d", "x", ImageRef("d.png"), "p2", "s2"), "other", None),
        (Document("d", "x"), None, None),
    ],
)
def test_leak(document, pixels, reason):
    assert leak(QUERY, document, "same", pixels) == reason


def test_unknown_is_equal_to_nothing():
    assert leak(Query("q", "?"), Document("d", "x"), None, None) is None


def test_interleave():
    ranked = {IMAGE: hits(IMAGE, 1, 2, 3, 4), TEXT: hits(TEXT, 1, 5, 2, 6)}
    assert [hit.row for hit in interleave(ranked, {IMAGE: 2, TEXT: 2})] == [1, 5, 2, 6]
    assert [hit.row for hit in interleave(ranked, {TEXT: 2, IMAGE: 2})] == [1, 2, 5, 3]
    assert [hit.row for hit in interleave(ranked, {IMAGE: 3, TEXT: 1})] == [1, 5, 2, 3]


def test_interleave_fills_from_other_channels():
    assert [hit.row for hit in interleave({IMAGE: [], TEXT: hits(TEXT, 5, 6, 7, 8)}, {IMAGE: 2, TEXT: 2})] == [5, 6, 7, 8]
    assert [hit.row for hit in interleave({TEXT: hits(TEXT, 5)}, {IMAGE: 2, TEXT: 2})] == [5]
    assert interleave({}, {IMAGE: 2}) == []
