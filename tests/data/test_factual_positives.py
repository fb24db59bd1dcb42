"""Reports that state the same: what a text states, whose positives they are, and what a retriever learns from it."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from medrag_lightning.data.facts import LabelFacts, ModelFacts, TermFacts, WordFacts
from medrag_lightning.data.factual_plan import FactualPlan
from medrag_lightning.data.factual_positives import FactualPositives, fact_f1
from medrag_lightning.interfaces import FactExtractor
from medrag_lightning.losses import clip_softmax, contrastive_loss, duplicates, factual_twins, siglip
from medrag_lightning.metrics.ranking import rank_pairs
from medrag_lightning.records import Document
from medrag_lightning.records.terms import Term, term_text


def texts(*said):
    return [Document(f"d{n}", text) for n, text in enumerate(said)]


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("Small effusion.", {"pleural effusion"}),
        ("No effusion or pneumothorax. There is edema.", {"no pleural effusion", "no pneumothorax", "edema"}),
        ("No evidence of pneumonia, but a nodule.", {"no pneumonia", "lung lesion"}),
        ("Without consolidation\nCardiomegaly", {"no consolidation", "cardiomegaly"}),
        ("Pneumothorax is absent.", {"no pneumothorax"}),
        ("Fracture was ruled out; pleural thickening", {"no fracture", "pleural other"}),
        ("No change of the effusion", {"pleural effusion"}),
        ("Effusion on the left, no effusion on the right", {"pleural effusion"}),
        ("The enlarged heart is not new", {"cardiomegaly"}),
        ("Nothing that is listed", set()),
    ],
)
def test_terms_are_affirmed_or_denied(text, stated):
    assert TermFacts().facts(texts(text)) == [stated]


def test_terms_of_an_ontology_by_any_name_the_longest_first():
    class Terms:
        def documents(self):
            terms = [Term("1", ("effusion", "fluid")), Term("2", ("pleural effusion", "PE", "hydrothorax"))]
            return [Document(term.id, term_text(term)) for term in terms]

    found = TermFacts(ontology=Terms()).facts(texts("a pleural effusion", "hydrothorax", "fluid", "pe"))
    assert found == [{"pleural effusion"}, {"pleural effusion"}, {"effusion"}, set()]  # two letters mean too much
    Terms.documents = lambda self: texts("no term")
    with pytest.raises(ValueError, match="none of the 1 documents"):
        TermFacts(ontology=Terms())
    with pytest.raises(ValueError, match="terms is empty"):
        TermFacts({})


def test_words_that_some_say():
    found = WordFacts(min_documents=2, max_share=0.5).facts(
        texts("scar in ct", "scar in mri", "no polyp ct", "no polyp ct", "ct")
    )
    assert found == [{"scar"}, {"scar"}, {"no polyp"}, {"no polyp"}, set()]


def test_labels_of_a_file(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("id,mesh,edema,nodule\nd0,Scar; Effusion ,1,0\nd1,todo,-1.0,1.0\nx,y,0,\n", encoding="utf-8")
    extractor = LabelFacts(str(file), ["mesh", "edema", "nodule"], leave_out=["TODO"])
    assert extractor.facts(texts("a", "b", "c")) == [{"scar", "effusion", "edema"}, {"nodule"}, set()]
    with pytest.raises(ValueError, match="no row has the id of a document"):
        extractor.facts([Document("other", "t")])
    (tmp_path / "labels.jsonl").write_text('{"id": "d0", "cuis": {"a": 1}}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"labels.jsonl:1: key 'cuis' holds"):
        LabelFacts(str(tmp_path / "labels.jsonl"), ["cuis"]).facts(texts("a"))


def test_models_say_that_they_are_unavailable():
    with pytest.raises(ValueError, match="unavailable: radgraph is not installed"):
        ModelFacts("radgraph").facts(texts("a"))
    with pytest.raises(ValueError, match="model must be one of"):
        ModelFacts("bert")  # type: ignore[arg-type]
    assert all(isinstance(one, FactExtractor) for one in (ModelFacts("chexbert"), TermFacts(), WordFacts()))
    assert TermFacts().fingerprint() != TermFacts({"scar": []}).fingerprint()


def world(count, seed=0, kinds=9, most=5):
    rng = np.random.default_rng(seed)
    facts = [frozenset(f"f{k}" for k in rng.permutation(kinds)[: int(rng.integers(most + 1))]) for _ in range(count)]
    return [Document(f"d{n}", "t", patient_id=f"p{n // 3}" if n % 5 else None) for n in range(count)], facts


@pytest.mark.parametrize("threshold", [0.3, 0.5, 2 / 3, 0.75, 0.8, 1.0])
@pytest.mark.parametrize("same_patient", [False, True])
def test_positives_are_those_of_comparing_all_with_all(threshold, same_patient):
    for seed in range(4):
        documents, facts = world(60, seed)
        found = FactualPositives(documents, facts, threshold, 1, same_patient)
        for place, mine in enumerate(documents):
            wanted = [
                other
                for other, theirs in enumerate(documents)
                if other != place
                and fact_f1(facts[place], facts[other]) >= threshold - 1e-9
                and (same_patient or mine.patient_id is None or mine.patient_id != theirs.patient_id)
            ]
            assert found.of(place) == wanted
            assert found.count(place) == len(wanted)


def test_draws_are_even_and_never_of_the_own_patient():
    documents = [Document(f"d{n}", "t", patient_id="p" if n < 40 else f"q{n}") for n in range(44)]
    found = FactualPositives(documents, [frozenset("ab")] * 44, 1.0)
    rng = np.random.default_rng(0)
    drawn = [found.draw(0, rng) for _ in range(400)]
    assert set(drawn) == {40, 41, 42, 43}
    assert min(drawn.count(place) for place in (40, 41, 42, 43)) > 60
    assert found.draw(0, np.random.default_rng(5)) == found.draw(0, np.random.default_rng(5))
    alone = FactualPositives(documents[:3], [frozenset("ab")] * 3, 1.0)
    assert alone.draw(0, rng) is None
    assert alone.statistics()["with_positives"] == 0


def test_many_equal_reports_are_one_group():
    documents, facts = world(20_000, kinds=4, most=3)
    began = time.perf_counter()
    found = FactualPositives(documents, facts, 0.6)
    assert found.statistics()["positives_most"] > 1000  # all pairs would be some hundred million
    assert time.perf_counter() - began < 20


def numbered(facts, **settings):
    return torch.from_numpy(np.stack([one.number_F for one in FactualPlan(TermFacts(), **settings).numbered(facts)]))


def test_twins_of_a_batch_are_those_of_the_definition():
    _, facts = world(40, 3)
    fact_BF = numbered(facts)
    for threshold in (0.5, 2 / 3, 1.0):
        expected = torch.tensor([[fact_f1(a, b) >= threshold - 1e-9 for b in facts] for a in facts])
        assert torch.equal(factual_twins(fact_BF, fact_BF, threshold), expected)
    assert factual_twins(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(3, 0, dtype=torch.int64), 0.5).sum() == 0


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("block_rows", [None, 5])
def test_the_blockwise_loss_counts_twins_as_positives(kind, block_rows):
    _, facts = world(12, 1)
    made = torch.nn.functional.normalize(torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    image, text = (one.clone().requires_grad_() for one in made)
    keys = torch.arange(12)[:, None].repeat(1, 2)
    scale, bias = torch.tensor(2.0), torch.tensor(-3.0) if kind == "siglip" else None
    positive = duplicates(keys, keys) | factual_twins(numbered(facts), numbered(facts), 0.5)
    assert positive.sum() > 14
    wanted = clip_softmax(image, text, scale, positive) if bias is None else siglip(image, text, scale, bias, positive)
    grads = torch.autograd.grad(wanted, (image, text))
    marked = torch.cat([keys, numbered(facts)], dim=1)
    loss = contrastive_loss(kind, image, text, marked, scale, bias, block_rows, fact_f1=0.5)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, (image, text)), grads, atol=1e-6, rtol=1e-4)


def test_a_twin_is_a_right_answer_where_it_is_asked_for():
    image = np.eye(3, dtype=np.float32)
    text = np.roll(image, 1, axis=0)  # each image is nearest to the text of the next pair
    keys = np.arange(3)[:, None].repeat(2, axis=1)
    alike = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    plain, twins = rank_pairs(image, text, keys, "abc"), rank_pairs(image, text, keys, "abc", lambda rows: alike[rows])
    assert plain.rank_N["image_to_text"].tolist() == [3, 3, 3]
    assert twins.rank_N["image_to_text"].tolist() == [1, 2, 3]
    assert twins.right_N["image_to_text"].tolist() == [2, 2, 1]


def test_plans_that_make_no_sense_are_refused(tmp_path):
    for wrong in ({"threshold": 0.0}, {"swap_share": 2.0}, {"min_facts": 0}):
        with pytest.raises(ValueError, match=r"pairs.factual: threshold"):
            FactualPlan(TermFacts(), **wrong)
    with pytest.raises(ValueError, match="TermFacts finds 2 facts in none of 1 texts"):
        FactualPlan(TermFacts()).stated(texts("edema"))
    plan = FactualPlan(TermFacts(), min_facts=1, statistics=str(tmp_path / "s.json"))
    documents = texts("edema", "oedema", "nodule")
    plan.positives(documents, plan.stated(documents))
    assert json.loads((tmp_path / "s.json").read_text())["with_positives"] == 2
