"""The text of traces: a round trip, a parser that survives any string, and evidence that is kept word for word (M06, M10)."""

from __future__ import annotations

import numpy as np
import pytest

from medrag_lightning.records import Kept, Trace, format_trace, kept_faults, parse_trace
from medrag_lightning.records.traces import STEPS

SOUND = Trace(
    (Kept(2, "The nodule is calcified ... no contrast."), Kept(1)), "benign", "1. It is.\n2. Evidence 2 says so.", "benign"
)
TEXTS = ["Chest film.", "The nodule is calcified, round. It is small; no contrast. 1 ... 2", ""]
PIECES = [
    *(f"<{name}>" for name in STEPS),
    *(f"</{name}>" for name in STEPS),
    *(
        "< final >",
        "</ final >",
        "<FINAL>",
        "<final",
        "final>",
        "<final/>",
        "<x>",
        "<<rethink>>",
        "<",
        ">",
        "</",
        "&lt;final&gt;",
    ),
    *(
        "[1]",
        "[2] ",
        "[0]",
        "[-1]",
        "[99999999]",
        "[1] a",
        "[٣] b",
        "[",
        "]",
        "\n",
        "\n[1] x\n",
        "\n[1] y\n",
        " ... ",
        "...",
        "\n\n",
    ),
    *(
        " ",
        "\t",
        "\0",
        "\x1b[31m",
        "\u2028",
        "\u202e",
        "\ud800",
        "\ufeff",
        "é",
        "肺",
        "😀",
        "a" * 400,
        "yes",
        "1.",
        "%s",
        "{0}",
        "\\",
    ),
]


def scrambled(rng: np.random.Generator) -> str:
    """A text of pieces; one in two is a sound text of which some pieces are changed."""
    parts = [PIECES[place] for place in rng.integers(0, len(PIECES), int(rng.integers(0, 24)))]
    if rng.random() < 0.5:
        sound: list[str] = []
        for name in STEPS:
            sound += [f"<{name}>", *(PIECES[place] for place in rng.integers(20, len(PIECES), 3)), f"</{name}>"]
        for _ in range(int(rng.integers(0, 3))):
            place = int(rng.integers(len(sound)))
            sound[place : place + int(rng.integers(0, 2))] = parts[: int(rng.integers(0, 3))]
        parts = sound
    return "".join(parts)


def survive(count: int, seed: int) -> int:
    """Parses `count` texts, checks what comes out, and tells how many could be read in full."""
    rng, whole = np.random.default_rng(seed), 0
    for _ in range(count):
        read = parse_trace(scrambled(rng))
        numbers = [one.number for one in read.kept or ()]
        assert len(set(numbers)) == len(numbers)
        kept_faults(read.kept or (), TEXTS, [True, False, True])
        if (trace := read.whole()) is not None:
            again = parse_trace(format_trace(trace))
            assert again.whole() == trace
            assert not again.faults
            whole += 1
        else:
            assert read.faults
    return whole


def test_a_trace_is_read_as_it_was_written() -> None:
    read = parse_trace(format_trace(SOUND))
    assert read.whole() == SOUND
    assert read.faults == ()
    nothing = Trace((), "a", "b", "c")
    assert parse_trace(format_trace(nothing)).whole() == nothing


def test_five_thousand_strings_are_survived() -> None:
    assert survive(5_000, seed=0) > 250


@pytest.mark.slow
def test_a_hundred_thousand_strings_are_survived() -> None:
    assert survive(100_000, seed=1) > 5_000


@pytest.mark.parametrize(
    ("text", "answer", "fault"),
    [
        ("<initial>yes</initial><rethink>no</rethink>", "yes", "<final> is missing"),
        ("<initial>yes</initial><final>no</final>", "no", "<rethink> is missing"),
        ("<initial>yes</initial><final> </final>", "yes", "<final> is blank"),
        ("<final>a</final><final>b</final>", None, "<final> does not open once and close once"),
        ("<final>a<rethink>b</rethink></final>", None, "a tag stands inside <final>"),
        ("<final>a</final><initial>b</initial>", "a", "the steps are not in their order"),
        ("yes", None, "<initial> is missing"),
    ],
)
def test_of_a_broken_trace_what_can_be_read_is_read_and_the_fault_is_told(text: str, answer: str | None, fault: str) -> None:
    read = parse_trace(text)
    assert read.answer() == answer
    assert fault in read.faults
    assert read.whole() is None


@pytest.mark.parametrize(
    "trace",
    [
        Trace((), "", "b", "c"),
        Trace((), "a", "b", "c </final>"),
        Trace((), "a ", "b", "c"),
        Trace((Kept(1), Kept(1)), "a", "b", "c"),
        Trace((Kept(0),), "a", "b", "c"),
        Trace((Kept(1, "two\nlines"),), "a", "b", "c"),
    ],
)
def test_what_would_not_be_read_as_the_same_is_not_written(trace: Trace) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        format_trace(trace)


@pytest.mark.parametrize(
    ("kept", "fault"),
    [
        ([Kept(2, "The nodule is calcified ... no contrast."), Kept(1)], None),
        ([Kept(2, "1 ... 2"), Kept(3)], None),
        ([Kept(2, "no contrast. ... The nodule is calcified"), Kept(1)], "the text kept of evidence 2 is not its own"),
        ([Kept(2, "The nodule is benign"), Kept(1)], "the text kept of evidence 2 is not its own"),
        ([Kept(2, "It is small"), Kept(1, "It is small")], "the text kept of evidence 1 is not its own"),
        ([Kept(4, "x"), Kept(1, "Chest film.")], "there is no evidence 4: 3 were retrieved"),
        ([Kept(1)], "no text is kept"),
        ([Kept(2, "It is small")], "no image is kept"),
        ([], "no image is kept"),
    ],
)
def test_evidence_is_kept_word_for_word_with_a_text_and_an_image(kept: list[Kept], fault: str | None) -> None:
    faults = kept_faults(kept, TEXTS, [True, False, True])
    assert faults == [] if fault is None else fault in faults
