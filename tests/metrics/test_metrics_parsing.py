"""The strict parser: never a substring, never a guess, never an exception."""

import random

import pytest

from medrag_lightning.metrics import normalise_answer, parse_closed

YES_NO = ("yes", "no")
GRADES = ("grade 1", "grade 10", "no finding")


@pytest.mark.parametrize(
    ("raw", "choices", "answer"),
    [
        ("yes", YES_NO, "yes"),
        ("  No. ", YES_NO, "no"),
        ("- No", YES_NO, "no"),
        ("Yes, there is a mass.", YES_NO, "yes"),
        ("the answer is no", YES_NO, "no"),
        ("no, no", YES_NO, "no"),
        ("normal", YES_NO, None),
        ("I don't know", YES_NO, None),
        ("nodule", YES_NO, None),
        ("yes and no", YES_NO, None),
        ("not sure, maybe yes", YES_NO, None),
        ("cannot be determined", YES_NO, None),
        ("", YES_NO, None),
        ("grade 10", GRADES, "grade 10"),
        ("I see grade 10 here", GRADES, "grade 10"),
        ("grade", GRADES, None),
        ("grade 1 or grade 10", GRADES, None),
        ("there is no finding", GRADES, "no finding"),
        ("not malignant", ("malignant", "benign"), None),
        ("malignant, not benign", ("malignant", "benign"), None),
        ("a benign lesion", ("malignant", "benign"), "benign"),
        ("no pneumonia", ("pneumonia", "no pneumonia"), "no pneumonia"),
        ("a mass", ("A", "B"), None),
        ("B", ("A", "B"), "B"),
        ("a", ("A", "B"), "A"),
        ("+", ("+", "-"), "+"),
        ("4", ("1", "2", "3", "4"), "4"),
        ("grade 4 retinopathy", ("1", "2", "3", "4"), "4"),
        ("2.5", ("2", "5"), None),
        ("Left Temporal-Lobe", ("left temporal lobe", "right temporal lobe"), "left temporal lobe"),
        ("YES", ("Yes", "yes"), None),
        ("Yes", ("Yes", "yes"), "Yes"),
    ],
)
def test_reads_only_what_is_stated(raw, choices, answer):
    assert parse_closed(raw, choices) == answer


def test_any_string_gives_a_choice_or_none():
    rng = random.Random(0)
    pieces = ["no", "yes", "not", "NO!", " ", "\n", "\u2019", "\ud800", "é", "٣", "1.5", "...", "\x00", "grade 1", "ﬁ", "an"]
    for _ in range(3000):
        raw = "".join(rng.choice([*pieces, chr(rng.randrange(0x10FFFF))]) for _ in range(rng.randrange(9)))
        for choices in (YES_NO, GRADES, ("", "+"), ("A", "\ud800")):
            assert parse_closed(raw, choices) in {None, *choices}
        normalise_answer(raw)


@pytest.mark.parametrize("choice", ["yes", "no", "grade 1", "grade 10", "no finding"])
def test_a_choice_parses_to_itself_in_any_dress(choice):
    choices = (*YES_NO, *GRADES)
    for dress in (choice, choice.upper(), f" {choice}. ", f"The {choice}!", f"**{choice}**", choice.title()):
        assert parse_closed(dress, choices) == choice


def test_normalisation():
    assert normalise_answer("The  Left-sided, MASS (an old one).") == "left sided mass old one"
    assert normalise_answer("2.5 cm") == "2.5 cm"
    assert normalise_answer("A") == "a"
    assert normalise_answer(" + ") == "+"
