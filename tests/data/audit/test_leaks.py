"""Every kind of leak is found once, told without patient or study, and rated by what it spoils."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from medrag_lightning.data.audit.answerable import blind_accuracy
from medrag_lightning.data.audit.image_pass import image_facts
from medrag_lightning.data.audit.leaks import KINDS, find_leaks
from medrag_lightning.records import AnswerType, Document, ImageRef, Query, Split

LONG = "the lungs are clear and the heart is of usual size with a calcified node near the hilum and mild scoliosis of the spine"


def asked(name, split="train", **told):
    return Query(name, told.pop("question", "what is it?"), split=Split(split), **told)


def found(queries, corpus=(), facts=None, **settings):
    by_split = {split: [query for query in queries if query.split is split] for split in Split}
    return {(leak.kind, *leak.between): leak for leak in find_leaks(by_split, corpus, facts or {}, **settings)}


def test_nothing_in_common_is_no_leak():
    queries = [
        asked("a", patient_id="p1", study_id="s1"),
        asked("b", "val", patient_id="p2"),
        asked("c", "test", study_id="s3"),
    ]
    assert found(queries, [Document("d", "text", patient_id="p9")]) == {}


@pytest.mark.parametrize(("field", "kind"), [("patient_id", "same_patient"), ("study_id", "same_study")])
def test_a_patient_in_two_splits(field, kind):
    queries = [
        asked("a", **{field: "x:MRN77"}),
        asked("b", "test", **{field: "x:MRN77"}),
        asked("c-MRN77", "test", **{field: "x:MRN77"}),
    ]
    told = found(queries)
    assert set(told) == {(kind, "train", "test")}
    leak = told[kind, "train", "test"]
    assert (leak.severity, leak.count, leak.refuses, leak.where) == ("error", 2, True, "split test")
    assert leak.what.startswith(f"1 {field.removesuffix('_id')} of train is also in test, in 2 questions")
    assert "MRN77" not in repr(leak)
    assert "test question 2 ('c-***')" in leak.examples[1]


def test_validation_and_test_are_warned_about():
    told = found([asked("a", "val", patient_id="p1"), asked("b", "test", patient_id="p1")])
    assert told["same_patient", "val", "test"].severity == "warning"


def test_ids_and_image_files():
    image = ImageRef("/data/p17/film.png")
    told = found([asked("a", image=image, patient_id="p17"), asked("a", "val", image=image)])
    assert {kind for kind, *_ in told} == {"same_id", "same_image"}
    assert "[film.png]" in told["same_image", "train", "val"].what
    assert "p17" not in repr(told)


@pytest.fixture
def films(tmp_path):
    """Eight films that differ, a re-saved copy of the first two, a mirrored one, two black ones; and their facts."""
    rng = np.random.default_rng(0)
    drawn = [
        Image.fromarray(rng.integers(0, 255, (32, 32)).astype(np.uint8)).convert("RGB").resize((128, 128)) for _ in range(8)
    ]
    made = {f"f{n}.png": one for n, one in enumerate(drawn)} | {"copy0.png": drawn[0], "copy1.jpg": drawn[1]}
    made |= {"mirror2.png": drawn[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((90, 90))}
    made |= {name: Image.new("RGB", (96, 96)) for name in ("black1.png", "black2.png")}
    for name, image in made.items():
        image.save(tmp_path / name, **({"quality": 40} if name.endswith("jpg") else {"compress_level": 1}))
    ref = {name.split(".")[0]: ImageRef(str(tmp_path / name)) for name in made}
    return ref, image_facts(list(ref.values()), [tmp_path])


def test_pixels_and_pictures(films):
    ref, facts = films
    train = [asked(f"t{n}", image=ref[f"f{n}"]) for n in range(8)] + [asked("b1", image=ref["black1"])]
    test = [asked(name, "test", image=ref[name]) for name in ("copy0", "copy1", "mirror2", "black2")]
    told = found([*train, *test], facts=facts)
    assert set(told) == {("same_image", "train", "test"), ("near_duplicate_image", "train", "test")}
    same, near = told["same_image", "train", "test"], told["near_duplicate_image", "train", "test"]
    assert same.count == 1
    assert "[copy0.png] and train question 1 ('t0')" in same.what
    assert "same bytes" in same.what or "same pixels" in same.what
    assert (near.count, near.severity) == (2, "error")
    assert [example.split("(")[1].split(")")[0] for example in near.examples] == ["'copy1'", "'mirror2'"]
    assert found([*train, asked("c", "test", image=ref["black2"])], facts=facts) == {}


def test_the_corpus_beyond_the_leak_rule(films):
    ref, facts = films
    corpus = [
        Document("d0", "x", ref["f0"], patient_id="p9"),
        Document("d1", "x", ref["f1"], patient_id="p1"),
        Document("d3", "x", ref["f3"]),
        Document("d4", "x", ref["f4"]),
    ]
    test = [
        asked("q0", "test", image=ref["copy0"], patient_id="p0"),
        asked("q1", "test", image=ref["copy1"], patient_id="p1"),
        asked("q3", "test", image=ref["f3"]),
    ]
    told = found(test, corpus, facts)
    assert set(told) == {("corpus_duplicate_image", "corpus", "test"), ("corpus_shares_identity", "corpus", "test")}
    unseen, kept = told["corpus_duplicate_image", "corpus", "test"], told["corpus_shares_identity", "corpus", "test"]
    assert (unseen.severity, unseen.count) == ("warning", 1)  # q1's copy is its own patient's, which the rule sees
    assert "test question 1 ('q0')" in unseen.what
    assert (kept.severity, kept.count) == ("note", 2)


def test_reports_of_the_same_words():
    corpus = [
        Document("own", LONG, study_id="s1"),
        Document("twin", LONG.replace("mild", "slight"), study_id="s2", patient_id="p2"),
    ]
    queries = [asked("t", answer=LONG.replace("scoliosis", "curvature")), asked("q", "test", study_id="s1", patient_id="p1")]
    told = found(queries, corpus)
    assert told["corpus_near_duplicate_report", "corpus", "test"].severity == "warning"
    assert told["near_duplicate_report", "train", "test"].count == 1
    assert not {kind for kind, *_ in found(queries, corpus, words=False)} & {
        "near_duplicate_report",
        "corpus_near_duplicate_report",
    }
    form = [Document(f"form{n}", LONG, study_id=f"f{n}", patient_id=f"f{n}") for n in range(3)]
    shared = found([queries[1]], [corpus[0], *form])  # a form that many reports follow
    assert {kind for kind, *_ in shared} == {"corpus_shares_identity"}


def closed(name, split, question, answer):
    return asked(name, split, question=question, answer=answer, choices=("yes", "no"), answer_type=AnswerType.CLOSED)


def test_words_that_give_the_answer_away():
    def ask(n, split, tells):
        answer = "yes" if n * 7 % 10 < 5 else "no"
        hint = {"yes": "definitely", "no": "hardly"}[answer] if tells else ("definitely", "hardly")[n % 3 == 0]
        return closed(f"{split}{n}", split, f"is there {hint} a finding of kind {n % 4}?", answer)

    for tells in (True, False):
        queries = [ask(n, split, tells) for split, count in (("train", 80), ("test", 40)) for n in range(count)]
        told = found(queries)
        assert (("answerable_without_image", "train", "test") in told) is tells
    blind = blind_accuracy([q for q in queries if q.split == "train"], [q for q in queries if q.split == "test"])
    assert blind.floor == 0.5


def test_kinds_that_are_meant():
    queries = [asked("a", patient_id="p"), asked("b", "test", patient_id="p")]
    assert found(queries, allowed_overlap=["same_patient"])["same_patient", "train", "test"].severity == "note"
    with pytest.raises(ValueError, match="'same_pation'"):
        found(queries, allowed_overlap=["same_pation"])
    assert len(set(KINDS)) == len(KINDS)


def test_a_leak_is_a_finding():
    leak = found([asked("a", patient_id="p"), asked("b", "test", patient_id="p")])["same_patient", "train", "test"]
    assert set(dataclasses.asdict(leak.finding())) == {"kind", "severity", "where", "what", "remedy"}


def test_the_audit_needs_neither_torch_nor_lightning():
    blocked = (
        "import sys; [sys.modules.update({n: None}) for n in ('torch', 'lightning', 'sklearn', 'transformers', 'jsonargparse')]"
    )
    code = f"{blocked}; from medrag_lightning.data.audit.leaks import find_leaks; print(find_leaks({{}}, [], {{}}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "[]", ran.stderr
