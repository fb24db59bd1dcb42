"""No pair leaks, and how near pairs are to corpus and test is counted; samples name nobody."""

import json
from dataclasses import replace

import pytest
from knowledge_world import documents, query, world_of

from medrag_lightning.data.pair_samples import LINES, PAGE, write_samples
from medrag_lightning.data.pair_statistics import LeakCheck, counted
from medrag_lightning.records import (
    Condition,
    Document,
    ImageRef,
    ImageShown,
    Knowledge,
    PairKind,
    Preference,
    PreferenceSide,
    Split,
)

MINE, HELD = query(1, patient_id="pa", study_id=None), query(2, Split.TEST, patient_id="pb", study_id=None)
OTHER = query(5, patient_id="pc", study_id=None)
CORPUS = [*documents(), Document("own", "words", None, "pa"), Document("mine", "", MINE.image), Document("q1", "again")]


def pair(evidence=("r3", "t1"), image_of="r4", one=MINE, name="x"):
    shown = PreferenceSide(Condition(tuple(evidence)), "yes", -0.25, 2)
    other = PreferenceSide(Condition(tuple(evidence), ImageShown.OTHER, image_of), "yes")
    return Preference(name, one.id, PairKind.CROSS_MODALITY, None, shown, other)


def leaks(**settings):
    return LeakCheck(**{"queries": [MINE, HELD, OTHER], "documents": CORPUS, "held_out": [HELD], **settings})


@pytest.mark.parametrize(
    ("leaking", "why"),
    [
        (pair(evidence=("r3", "own")), "shows 'own', which shares its patient_id: a leak"),
        (pair(evidence=("mine",)), "shows 'mine', which shares its image: a leak"),
        (pair(evidence=("q1",)), "shows 'q1', which shares its id: a leak"),
        (pair(image_of="mine"), "shows 'mine', which shares its image: a leak"),
        (pair(evidence=("gone",)), r"shows 'gone', which is not in data\.corpus"),
        (pair(image_of="gone"), r"shows 'gone', which is not in data\.corpus"),
        (pair(image_of="q1"), "shares its id: a leak"),
    ],
)
def test_a_leak_is_refused(leaking, why):
    with pytest.raises(ValueError, match=why):
        leaks().check([pair(), leaking])


def test_held_out_questions_train_nothing():
    allowed = [pair(), pair(one=HELD), pair(image_of="q5")]
    leaks(held_out=[]).check(allowed)
    for wrong in (pair(one=HELD), pair(image_of="q2")):
        with pytest.raises(ValueError, match="'q2' is a question held out for validation or test: a leak"):
            leaks().check([pair(), wrong])


def test_nearness_is_counted():
    near = replace(OTHER, id="q9", patient_id="pb", image=ImageRef("q9.png"))
    pairs = [pair(), pair(one=OTHER), pair(one=near), pair(one=near)]
    assert leaks(queries=[MINE, HELD, OTHER, near]).nearness(pairs) == {
        "pairs_whose_own_documents_others_may_retrieve": 1,  # those of MINE
        "pairs_of_the_same_case_as_a_held_out_question": 2,
    }


def test_pairs_are_counted_by_kind_and_evidence():
    told = [pair(), replace(pair(), kind=PairKind.ROBUSTNESS, knowledge=Knowledge.BOTH, weight=3.0)]
    assert counted(told) == {
        "cross_modality": {"pairs": 1, "weight": 1, "questions": 1},
        "knowledge_robustness of both": {"pairs": 1, "weight": 3, "questions": 1},
        "all": {"pairs": 2, "weight": 4, "questions": 1},
    }


def test_samples_show_words_of_every_kind_and_name_nobody(tmp_path):
    one = query(1, patient_id="PATIENT", study_id="STUDY")
    corpus = [
        Document("secret-1", "<b>bold</b> report", ImageRef("a.png"), "PATIENT-2", "STUDY-2"),
        Document("secret-2", "", ImageRef("b.png"), "PATIENT-3"), Document("secret-3", "a text"),
    ]  # fmt: skip
    world = world_of(queries=[one], corpus=corpus)
    shown = ("secret-1", "secret-3")
    looks = [pair(shown, f"secret-{n % 2 + 1}", one, f"c{n}") for n in range(9)]
    said = PreferenceSide(Condition(shown), ""), PreferenceSide(Condition((), ImageShown.CORRUPTED, corruption="replace"), "no")
    rest = [Preference("k", one.id, kind, Knowledge.BOTH, looks[0].chosen, other) for kind, other in
            zip((PairKind.UTILISATION, PairKind.ROBUSTNESS), said, strict=True)]  # fmt: skip
    write_samples(tmp_path, world, {Split.TRAIN: looks, Split.VAL: rest}, 4)
    rows = [json.loads(line) for line in (tmp_path / LINES).read_text().splitlines()]
    kinds = [str(kind) for kind in PairKind if kind is not PairKind.SEARCH_WORDING]
    assert [row["kind"] for row in rows] == [*kinds, "cross_modality"]
    first = rows[0]
    assert first["chosen"]["evidence"] == [
        {"kind": "reports", "text": "<b>bold</b> report"}, {"kind": "documents", "text": "a text"},
    ]  # fmt: skip
    assert (first["chosen"]["image"], first["chosen"]["reference_nats"], first["chosen"]["tokens"]) == ("its own", -0.25, 2)
    assert first["rejected"]["image"].startswith("another, whose report says: ")
    assert rows[2]["rejected"]["image"] == "its own, spoilt: replace"
    page, lines = (tmp_path / PAGE).read_text(), (tmp_path / LINES).read_text()
    assert "&lt;b&gt;bold&lt;/b&gt; report" in page
    assert "(no words)" in page
    assert "<script" not in page
    assert "http" not in page
    for text in (page, lines):
        assert not any(name in text for name in ("PATIENT", "STUDY", "secret", one.id))
    write_samples(tmp_path / "none", world, {Split.TRAIN: looks}, 0)
    assert not (tmp_path / "none").exists()
