from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from medrag_lightning.data.evidence import EvidenceMixture, EvidencePicker
from medrag_lightning.records import Candidate, Channel, Document, ImageRef, Query, Regime, Retrieved

DOCUMENTS = [Document(f"d{n}", f"report {n}", patient_id=f"p{n}") for n in range(20)]
QUERY = Query("q", "?", patient_id="p19", relevant_ids=("d0",), poison_ids=("d7",))
FOUND = Retrieved("q", tuple(Candidate(DOCUMENTS[n], 1 - n / 10, Channel.IMAGE_TO_IMAGE) for n in range(4)))


def picker(one=True, **mixture):
    return EvidencePicker(DOCUMENTS, {"q": FOUND}, EvidenceMixture(**mixture), one, seed=0)


def ids(candidates):
    return [candidate.id for candidate in candidates]


def test_one_candidate_a_prompt_takes_turns_without_replacement():
    pick = picker(no_evidence_share=0.0, samples_per_query=3)
    shown = [ids(pick.for_training(QUERY, sample, epoch)) for epoch in range(4) for sample in range(3)]
    assert all(len(names) == 1 for names in shown)
    assert Counter(name for names in shown for name in names) == {"d0": 3, "d1": 3, "d2": 3, "d3": 3}


def test_all_in_one_prompt_shuffles_and_adds_distractors():
    pick = picker(one=False, no_evidence_share=0.0, distractors=2)
    shown = [ids(pick.for_training(QUERY, 0, epoch)) for epoch in range(50)]
    assert all(len(set(names)) == 6 and {"d0", "d1", "d2", "d3"} <= set(names) for names in shown)
    assert len({tuple(names) for names in shown}) > 40
    assert all("d19" not in names for names in shown)


def test_shares_are_kept():
    pick = picker(one=False, no_evidence_share=0.25, without_relevant_share=0.5)
    shown = [ids(pick.for_training(QUERY, 0, epoch)) for epoch in range(2000)]
    empty = sum(not names for names in shown) / 2000
    with_relevant = sum("d0" in names for names in shown) / 2000
    assert empty == pytest.approx(0.25, abs=0.04)
    assert with_relevant == pytest.approx(0.375, abs=0.04)
    assert all(len(names) in (0, 4) for names in shown)


def test_the_best_candidate_counts_as_relevant_where_none_is_known():
    plain = Query("q", "?", patient_id="p19")
    pick = picker(one=False, no_evidence_share=0.0, without_relevant_share=1.0)
    shown = [ids(pick.for_training(plain, 0, epoch)) for epoch in range(20)]
    assert all("d0" not in names and {"d1", "d2", "d3"} < set(names) for names in shown)


def test_draws_repeat_by_counter():
    first, again = picker(one=False, distractors=3), picker(one=False, distractors=3)
    again.for_training(QUERY, 5, 5)
    assert ids(first.for_training(QUERY, 1, 2)) == ids(again.for_training(QUERY, 1, 2))


def test_regimes():
    pick = picker()
    assert ids(pick.for_regime(QUERY, Regime.RETRIEVED)) == ["d0", "d1", "d2", "d3"]
    assert ids(pick.for_regime(QUERY, Regime.NONE)) == []
    assert ids(pick.for_regime(QUERY, Regime.ORACLE)) == ["d0"]
    assert ids(pick.for_regime(QUERY, Regime.POISONED)) == ["d7"]
    random = ids(pick.for_regime(QUERY, Regime.RANDOM))
    assert len(set(random)) == 4
    assert "d19" not in random
    assert random == ids(picker().for_regime(QUERY, Regime.RANDOM))


def test_a_copy_of_the_querys_image_under_another_name_is_never_drawn():
    grey = {ref: Image.new("RGB", (4, 4), (n, n, n)) for n in range(20) if (ref := ImageRef(f"{n}.png"))}
    grey[ImageRef("q.png")] = grey[ImageRef("5.png")].copy()
    pictured = [replace(document, image=ImageRef(f"{n}.png")) for n, document in enumerate(DOCUMENTS)]
    query, opened = replace(QUERY, image=ImageRef("q.png")), []

    def open_image(ref):
        opened.append(ref)
        return grey[ref]

    mixture, found = EvidenceMixture(distractors=3, no_evidence_share=0.0), {"q": FOUND}
    pick = EvidencePicker(pictured, found, mixture, False, seed=0, open_image=open_image)
    assert "d5" not in ids(pick.random_documents(query, 20, draw=0, excluded=set()))
    assert len(pick.random_documents(query, 20, draw=0, excluded=set())) == 18, "nor that of the same patient"
    assert all("d5" not in ids(pick.for_training(query, 0, epoch)) for epoch in range(30))
    opened.clear()
    assert pick.for_regime(query, Regime.NONE) == ()
    assert not opened


def test_random_evidence_stops_where_the_corpus_ends():
    small = EvidencePicker(DOCUMENTS[18:], {"q": FOUND}, EvidenceMixture(), True, seed=0)
    assert ids(small.for_regime(QUERY, Regime.RANDOM)) == ["d18"]


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match="distractors=2"):
        picker(one=True, distractors=2)


@pytest.mark.parametrize("bad", [{"samples_per_query": 0}, {"distractors": -1}, {"no_evidence_share": 1.5}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        EvidenceMixture(**bad)
