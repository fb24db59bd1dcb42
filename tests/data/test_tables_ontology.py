"""Ontologies: every name, definition and relation of a term stands in its document, and can be read back from it."""

import pytest
from table_files import jsonl

from medrag_lightning.data.rows import noting_rows
from medrag_lightning.data.tables import Ontology
from medrag_lightning.interfaces import Table
from medrag_lightning.records.terms import Term, plain_name, read_term, term_text

TERMS = [
    {"id": "D:1", "title": "dengue disease", "synonyms": ["Dengue Fever"], "definition": "A viral\ndisease.", "license": "CC0"},
    {"id": "D:2", "title": "viral disease", "synonyms": [], "definition": {"NCI": "By a virus.", "MSH": "Caused by viruses."}},
    {"id": "D:3", "title": "a|b syndrome", "is_a": [{"id": "D:2", "name": "viral disease"}, "rare disease"], "note": 1},
]
TRIPLES = """head\trelation\ttail
dengue disease\thas_symptom\tfever
Dengue Disease\tHas_Symptom\tFEVER
dengue disease\thas_synonym\tbreakbone fever
dengue disease\thas_synonym\tDENGUE FEVER
D:1\tis_a\tviral disease
"""


def files(folder, triples=TRIPLES):
    (folder / "triples.tsv").write_text(triples)
    return {"path": str(jsonl(folder / "terms.jsonl", TERMS)), "triples": str(folder / "triples.tsv")}


def test_a_document_a_term(tmp_path):
    table = Ontology(**files(tmp_path), name="graph")
    assert isinstance(table, Table)
    assert (table.queries(), table.roots()) == ([], [])
    one, two, three = table.documents()
    assert (one.id, one.source, one.license, one.image, one.patient_id) == ("D:1", "graph", "CC0", None, None)
    assert one.text == (
        "Term: dengue disease | Dengue Fever | breakbone fever\nDefinition: A viral disease.\nRelations:\n"
        "- dengue disease | has_symptom | fever\n- dengue disease | is_a | viral disease"
    )
    assert two.text == "Term: viral disease\nDefinition (NCI): By a virus.\nDefinition (MSH): Caused by viruses."
    term = read_term(three.id, three.text)
    assert term == Term(
        "D:3", ("a/b syndrome",), (), (("a/b syndrome", "is_a", "viral disease"), ("a/b syndrome", "is_a", "rare disease"))
    )


def test_inverse_relations_and_those_left_out(tmp_path):
    told = files(tmp_path)
    of = {document.id: read_term(document.id, document.text) for document in Ontology(**told, inverse=True).documents()}
    assert of["D:2"].relations == (("dengue disease", "is_a", "viral disease"), ("a/b syndrome", "is_a", "viral disease"))
    assert [end for _, _, end in of["D:1"].relations] == ["fever", "viral disease"]
    left = Ontology(**told, leave_out=["IS_A"]).documents()
    assert [len(read_term(d.id, d.text).relations) for d in left] == [1, 0, 0]


def test_other_kinds_of_files_and_other_names_of_keys(tmp_path):
    (tmp_path / "terms.csv").write_text(
        "id,label,synonyms,definition\nD:1,dengue disease,Dengue Fever|breakbone fever,Viral.\n"
    )
    (tmp_path / "triples.csv").write_text("subject,relation,tail\nD:1,has_symptom,fever\n")
    fields = {"title": "label", "head": "subject"}
    (one,) = Ontology(str(tmp_path / "terms.csv"), str(tmp_path / "triples.csv"), fields).documents()
    assert one.source == "terms"
    assert read_term(one.id, one.text).names == ("dengue disease", "Dengue Fever", "breakbone fever")
    with pytest.raises(ValueError, match="'head' is a key of triples, but no file of triples is named"):
        Ontology(str(tmp_path / "terms.csv"), fields=fields)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"id": "D:9"}, "key 'title' is missing"),
        ({"id": "D:9", "title": "\u0007\n"}, "'title'"),
        ({"id": "D:9", "title": "x", "synonyms": 3}, "expected a list of names"),
        ({"id": "D:9", "title": "x", "definition": {"a(b)": "text"}}, "without brackets"),
        ({"id": "D:1", "title": "x"}, "'D:1' was already used at"),
    ],
)
def test_bad_terms_are_named_by_line(tmp_path, row, told):
    path = jsonl(tmp_path / "terms.jsonl", [*TERMS, row])
    with pytest.raises(ValueError, match=rf"terms.jsonl:4: .*{told}"):
        Ontology(str(path)).documents()


def test_triples_of_nobody_are_named_by_line(tmp_path):
    told = files(tmp_path, TRIPLES + "nobody\tis_a\tdisease\nD:1\tis_a\t\n")
    with pytest.raises(
        ValueError, match=r"(?s)triples.tsv:7: head 'nobody' is neither id nor title.*triples.tsv:8: key 'tail'"
    ):
        Ontology(**told).documents()
    with noting_rows() as notes:
        assert len(Ontology(**told).documents()) == 3
    assert len(notes.faults) == 2


def test_texts_that_are_no_terms():
    told = Term("t", ("a", "b"), (("", "one."), ("MSH", "two: | three.")), (("a", "is_a", "c, d"),))
    assert read_term("t", term_text(told)) == told
    for text in ("a report", "Term: ", "Term: a\nsomething", "Term: a\nRelations:\n- a | b", "Term: a |  | b", ""):
        assert read_term("t", text) is None
    with pytest.raises(ValueError, match="no plain name"):
        Term("t", ("a | b",))
    assert plain_name(" a\0b |\u2028 c\ud800 ") == "a b / c"


@pytest.mark.data
def test_the_disease_ontology_is_read_whole(medrag_data):
    folder = medrag_data / "text"
    found = Ontology(str(folder / "disease_ontology.jsonl"), str(folder / "disease_ontology_triples.tsv")).documents()
    terms = [read_term(document.id, document.text) for document in found]
    assert len(terms) == 7556
    assert all(term_text(term) == document.text for term, document in zip(terms, found, strict=True))
    assert sum(len(term.relations) for term in terms) == 25472 - 14392
    assert sum(bool(term.definitions) for term in terms) == 5890
