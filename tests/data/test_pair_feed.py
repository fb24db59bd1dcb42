"""Image-text pairs: which are held out, and that no copy stands on both sides."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.facts import TermFacts
from medrag_lightning.data.factual_plan import FactualPlan
from medrag_lightning.data.feeds import World
from medrag_lightning.data.pair_feed import PairFeed, PairPlan
from medrag_lightning.data.pair_split import KeyedDocument, split_pairs
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.records import Document, ImageRef, Split


def keyed(count=60, **changes):
    made = []
    for n in range(count):
        fields = {"patient_id": f"p{n}", "study_id": None, "image_key": f"i{n}", "text_key": f"t{n}"}
        fields |= {name: change(n) for name, change in changes.items()}
        document = Document(f"d{n:03}", f"text {n}", ImageRef(f"{n}.png"), fields["patient_id"], fields["study_id"])
        made.append(KeyedDocument(document, fields["image_key"], fields["text_key"]))
    return made


def sides(found, key):
    return {split: {key(pair) for pair in pairs} for split, pairs in found.items()}


def disjoint(found, key):
    held = list(sides(found, key).values())
    return not any(held[a] & held[b] for a in range(3) for b in range(a))


def test_shares_are_met_and_order_is_kept():
    found = split_pairs(keyed(), PairPlan(val_share=0.2, test_share=0.1))
    assert {split: len(pairs) for split, pairs in found.items()} == {Split.TRAIN: 42, Split.VAL: 12, Split.TEST: 6}
    assert [pair.document.id for pair in found[Split.TRAIN]] == sorted(pair.document.id for pair in found[Split.TRAIN])


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("patient_id", lambda pair: pair.document.patient_id),
        ("image_key", lambda pair: pair.image_key),
        ("text_key", lambda pair: pair.text_key),
    ],
)
def test_what_belongs_together_stays_together(field, key):
    for seed in range(5):
        found = split_pairs(keyed(**{field: lambda n: f"x{n // 3}"}), PairPlan(seed=seed))
        assert disjoint(found, key)


def test_a_study_counts_where_the_patient_is_not_known():
    pairs = keyed(patient_id=lambda n: None, study_id=lambda n: f"s{n // 2}")
    assert disjoint(split_pairs(pairs, PairPlan()), lambda pair: pair.document.study_id)


def test_chains_of_copies_stay_together():
    pairs = keyed(image_key=lambda n: f"i{n // 2}", patient_id=lambda n: f"p{(n + 1) // 2}" if n < 10 else f"q{n}")
    found = split_pairs(pairs, PairPlan(val_share=0.3, test_share=0.3))
    assert len({split for split, members in found.items() for pair in members if pair.document.id < "d010"}) == 1


def test_a_label_may_stand_on_both_sides():
    pairs = keyed(text_key=lambda n: f"label {n % 2}")
    found = split_pairs(pairs, PairPlan())
    assert all(len(texts) == 2 for texts in sides(found, lambda pair: pair.text_key).values())
    with pytest.raises(ValueError, match="none for val, test"):
        split_pairs(pairs, PairPlan(max_copies=30))


def test_the_split_does_not_depend_on_order_and_follows_its_seed():
    ids = lambda found: sides(found, lambda pair: pair.document.id)  # noqa: E731
    assert ids(split_pairs(keyed(), PairPlan())) == ids(split_pairs(keyed()[::-1], PairPlan()))
    assert ids(split_pairs(keyed(), PairPlan())) != ids(split_pairs(keyed(), PairPlan(seed=1)))


def test_numbers_may_stand_for_shares():
    """H04: 2000/2000/rest: the sizes as set, and the same seed gives the same ids."""
    found = split_pairs(keyed(), PairPlan(val_size=7, test_size=13))
    assert [len(found[split]) for split in (Split.TRAIN, Split.VAL, Split.TEST)] == [40, 7, 13]
    assert split_pairs(keyed(), PairPlan(val_size=7, test_size=13)) == found
    assert split_pairs(keyed(), PairPlan(val_size=7, test_size=13, seed=1)) != found
    paired = split_pairs(keyed(patient_id=lambda n: f"x{n // 2}"), PairPlan(val_size=7, test_share=0.1))
    assert [len(paired[split]) for split in (Split.TRAIN, Split.VAL, Split.TEST)] == [48, 6, 6]  # no patient has one pair
    for sizes in ({"val_size": 60}, {"val_size": 30, "test_size": 30}):
        with pytest.raises(ValueError, match="leave none for"):
            split_pairs(keyed(), PairPlan(**sizes))


def of_kinds(count=60, **changes):
    """Half of them CT, a third MR, the rest US."""
    kind = lambda n: "CT" if n % 2 else "MR" if n % 3 else "US"  # noqa: E731
    return [
        dataclasses.replace(pair, document=dataclasses.replace(pair.document, modality=kind(n)))
        for n, pair in enumerate(keyed(count, **changes))
    ]


def test_each_modality_gives_its_own_part_and_all_choices_of_modalities_agree():
    for plan in ({"test_share": 0.2, "val_share": 0.1}, {"test_size": 2, "val_size": 1}):
        whole = split_pairs(of_kinds(), PairPlan(per_modality=True, **plan))
        for kinds in ("CT", "MR", "US", ["CT", "US"]):
            found = split_pairs(of_kinds(), PairPlan(per_modality=True, modality=kinds, **plan))
            assert found == {s: [pair for pair in whole[s] if pair.document.modality in kinds] for s in Split}
        counts = {s: [sum(pair.document.modality == kind for pair in whole[s]) for kind in ("CT", "MR", "US")] for s in Split}
        wanted = {"test_share": [6, 4, 2], "test_size": [2, 2, 2]}[next(iter(plan))]
        assert counts[Split.TEST] == wanted
        assert counts[Split.VAL] == [n // 2 for n in wanted]
    apart = split_pairs([pair for pair in of_kinds() if pair.document.modality == "CT"], PairPlan(test_share=0.2))
    assert len(apart[Split.TEST]) == 6


def test_a_patient_of_two_modalities_stays_on_one_side_of_both():
    pairs = of_kinds(patient_id=lambda n: f"x{n // 2}")
    found = split_pairs(pairs, PairPlan(per_modality=True, val_share=0.2, test_share=0.2))
    assert disjoint(found, lambda pair: pair.document.patient_id)
    both = [{p.document.modality for p in found[Split.TEST] if p.document.patient_id == f"x{n}"} for n in range(30)]
    assert any(len(kinds) == 2 for kinds in both)


@pytest.mark.parametrize(
    "wrong",
    [
        {"val_size": 0},
        {"test_size": 0},
        {"modality": []},
        {"val_share": 0},
        {"test_share": 0.95},
        {"max_copies": 0},
        {"max_text_chars": 0},
    ],
)
def test_plans_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="pairs: "):
        PairPlan(**wrong)


@pytest.fixture
def world(tmp_path):
    rng = np.random.default_rng(0)
    documents = []
    for n in range(30):
        path = tmp_path / f"{n}.png"
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
        documents.append(
            Document(f"d{n}", f"Report  {n}" if n else " \n", ImageRef(str(path)), modality="CT" if n % 3 else "MR")
        )
    documents.append(Document("words only", "words"))
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(World))
    return World(**nothing | {"documents": documents, "open_image": lambda ref: Image.open(ref.path).convert("RGB"), "seed": 0})


def test_only_documents_with_image_and_words_of_the_modality_are_pairs(world):
    ids = lambda plan: {p.document.id for pairs in PairFeed(world, plan, None).splits.values() for p in pairs}  # noqa: E731
    assert ids(PairPlan()) == {f"d{n}" for n in range(1, 30)}
    assert ids(PairPlan(modality="MR")) == {f"d{n}" for n in range(3, 30, 3)}
    assert ids(PairPlan(modality=["MR", "CT"])) == ids(PairPlan())
    assert ids(PairPlan(modality="MR", per_modality=True)) == ids(PairPlan(modality="MR"))
    with pytest.raises(ValueError, match="'US'; there are 'CT', 'MR'"):
        PairFeed(world, PairPlan(modality="US"), None)
    with pytest.raises(ValueError, match="none of the corpus's 0 documents"):
        PairFeed(dataclasses.replace(world, documents=[]), PairPlan(), None)


def test_sizes_that_are_not_reached_are_told(world, caplog):
    world.documents[:] = [dataclasses.replace(d, patient_id=f"p{n // 3}") for n, d in enumerate(world.documents)]
    PairFeed(world, PairPlan(val_size=3, test_size=4), None)
    assert "test_size asks for 4, 3 are held out: the groups left did not fit" in caplog.text
    assert "val_size" not in caplog.text
    world.documents[:] = [dataclasses.replace(document, patient_id=None) for document in world.documents]
    PairFeed(world, PairPlan(val_size=1, test_size=12, per_modality=True, modality=["CT", "MR"]), None)
    assert "test_size asks for 12 of each of 2 modalities, 12 are held out" in caplog.text  # nine of MR are too few


def test_keys_are_of_the_pixels_and_of_the_words(world):
    copied = dataclasses.replace(world.documents[5], id="copy", text="REPORT 5")
    feed = PairFeed(dataclasses.replace(world, documents=[*world.documents, copied]), PairPlan(), None)
    both = [pair for pairs in feed.splits.values() for pair in pairs if pair.document.id in ("d5", "copy")]
    assert both[0].image_key == both[1].image_key
    assert both[0].text_key == both[1].text_key


def test_training_pairs_are_augmented_alike_each_time_and_evaluation_pairs_never(world):
    feed = PairFeed(world, PairPlan(max_text_chars=6), Augmentation(0.3, 0.3, 0.3))
    items, keys = feed.training(), [SampleKey(0, 0), SampleKey(1, 0)]
    first, later = items[keys]
    assert first.document.text == "Report"
    assert first.image.tobytes() == items[keys][0].image.tobytes() != later.image.tobytes()
    assert first.image_key == later.image_key
    held = feed.validation(alone=False)[0]
    assert held[[SampleKey(0, 0)]][0].image.tobytes() == held[[SampleKey(1, 0)]][0].image.tobytes()
    with pytest.raises(ValueError, match="stage embed"):
        feed.prediction()


def test_twins_lend_their_texts_and_held_out_texts_are_never_lent(world):
    """Four texts state the same two facts in other words; the swapped text is a training pair's, drawn anew each epoch."""
    words = ["Edema and effusion.", "Effusions, oedema.", "oedema, pleural fluid", "Pleural effusion; edema"]
    documents = [dataclasses.replace(d, text=f"{words[n % 4]} Film {n}") for n, d in enumerate(world.documents[:30])]
    changed = dataclasses.replace(world, documents=documents)
    plan = PairPlan(0.2, 0.2, factual=FactualPlan(TermFacts(), 0.75, 2, swap_share=0.5))
    items = PairFeed(changed, plan, None).training()
    keys = [SampleKey(place, epoch) for epoch in range(4) for place in range(len(items))]
    pairs = items[keys]
    own = {pair.document.id: pair.document.text for pair in items.pairs}
    swapped = [pair for pair in pairs if pair.document.text != own[pair.document.id]]
    assert 0.3 < len(swapped) / len(pairs) < 0.7
    assert {pair.document.text for pair in pairs} <= set(own.values())
    texts = {pair.document.text: pair.text_key for pair in items.pairs}
    assert all(pair.text_key == texts.get(pair.document.text, pair.text_key) for pair in pairs)
    assert [pair.document.text for pair in items[keys]] == [pair.document.text for pair in pairs]
    held = PairFeed(changed, plan, None).test()[0]
    assert all(pair.document.text == changed.documents[int(pair.document.id[1:])].text for pair in held[[SampleKey(0, 0)]])
    assert pairs[0].facts.number_F.tolist() == [0, 1]


def test_without_a_plan_no_pair_has_facts(world):
    assert PairFeed(world, PairPlan(), None).training()[[SampleKey(0, 0)]][0].facts is None
