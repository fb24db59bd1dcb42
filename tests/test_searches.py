"""The text of searches: a round trip, and a parser that survives any string (H16)."""

from __future__ import annotations

import numpy as np
import pytest

from medrag_lightning.records import format_searches, parse_searches
from medrag_lightning.records.searches import MOST_CHARS

CORPORA = ["research", "wiki", "book", "guideline", "graph"]
INNER = [
    *("hazard of mri nodule red", "nodule , treated by", ";", " ; ", " ", "\n", "é", "肺", "a" * 400, "\ud800", "\0", "<", ">"),
]
PIECES = [
    *(f"<{name}>" for name in CORPORA),
    *(f"</{name}>" for name in CORPORA),
    *(
        "<",
        ">",
        "</",
        "/>",
        "< research >",
        "</ research >",
        "<RESEARCH>",
        "<research",
        "research>",
        "<research/>",
        "<x>",
        "</x>",
    ),
    *("<research<wiki>>", "<<graph>>", "<!-- -->", "<?xml?>", "&lt;wiki&gt;", "```", "**"),
    *(";", ";;", " ; ", ",", " ", "\n", "\t", "\0", "\x1b[31m", "\u2028", "\u202e", "\ud800", "\udfff", "\ufeff", "\u200b"),
    *("hazard of mri nodule red", "nodule , treated by", "é", "肺", "😀", "a" * 400, "1", "-", "'", '"', "\\", "%s", "{0}"),
]


def scrambled(rng: np.random.Generator) -> str:
    """A text of pieces; one in two begins as a sound text of which some pieces are changed."""
    count = int(rng.integers(0, 24))
    parts = [PIECES[place] for place in rng.integers(0, len(PIECES), count)]
    if rng.random() < 0.5:
        sound: list[str] = []
        for name in CORPORA:
            inside = INNER if rng.random() < 0.9 else PIECES
            sound += [f"<{name}>", *(inside[place] for place in rng.integers(0, len(inside), 4)), f"</{name}>"]
        for _ in range(int(rng.integers(0, 3))):
            place = int(rng.integers(len(sound)))
            sound[place : place + int(rng.integers(0, 2))] = parts[: int(rng.integers(0, 3))]
        parts = sound
    text = "".join(parts)
    if rng.random() < 0.1 and text:
        cut = sorted(rng.integers(0, len(text) + 1, 2).tolist())
        text = text[: cut[0]] + text[cut[1] :]
    return text


def survive(count: int, seed: int) -> int:
    """Parses `count` texts, checks what comes out, and tells how many could be read in full."""
    rng, whole = np.random.default_rng(seed), 0
    for _ in range(count):
        text, most = scrambled(rng), int(rng.integers(1, 7))
        written = parse_searches(text, CORPORA, most)
        assert set(written.wordings) <= set(CORPORA), text
        assert list(written.wordings) == [name for name in CORPORA if name in written.wordings], text
        for mine in written.wordings.values():
            assert len(mine) <= most, text
            assert len(set(mine)) == len(mine), text
            assert all(0 < len(words) <= MOST_CHARS and words.encode() and words == words.strip() for words in mine), text
        if len(written.wordings) < len(CORPORA):
            assert written.faults, text
        assert (written.first() is None) == (not written.wordings), text
        again = parse_searches(format_searches(written.wordings, CORPORA), CORPORA, most)
        assert again.faults == (), text
        assert {name: mine for name, mine in again.wordings.items() if mine} == {
            name: mine for name, mine in written.wordings.items() if mine
        }, text
        whole += len(written.wordings) == len(CORPORA)
    return whole


def test_five_thousand_scrambled_texts_are_survived():
    assert survive(5_000, seed=0) > 500


@pytest.mark.slow
def test_a_hundred_thousand_scrambled_texts_are_survived():
    assert survive(100_000, seed=1) > 10_000


def test_random_bytes_are_survived():
    rng = np.random.default_rng(2)
    for _ in range(2_000):
        text = rng.bytes(int(rng.integers(0, 200))).decode("latin-1")
        parse_searches(text, CORPORA, 2)
        parse_searches(f"<wiki>{text}</wiki>", CORPORA, 2)


def test_long_texts_take_no_long_time():
    for piece in ("<wiki>", "<" * 3, "< ", "</ ", "<wiki>a;", "<a" * 2):
        parse_searches(piece * 50_000, CORPORA, 6)


@pytest.mark.parametrize(
    ("text", "most", "wordings", "faults"),
    [
        ("<wiki>a; b</wiki><graph>t , r</graph>", 2, {"wiki": ("a", "b"), "graph": ("t , r",)}, 0),
        ("<wiki></wiki><graph> ; </graph>", 2, {"wiki": (), "graph": ()}, 0),
        ("<wiki>a; b; c</wiki><graph></graph>", 2, {"wiki": ("a", "b c"), "graph": ()}, 1),
        ("<wiki>a; b</wiki><graph></graph>", 1, {"wiki": ("a b",), "graph": ()}, 1),
        ("<wiki>a; a;  a </wiki><graph></graph>", 3, {"wiki": ("a",), "graph": ()}, 0),
        ("<graph>t , r</graph> words <wiki>a</wiki> more", 1, {"wiki": ("a",), "graph": ("t , r",)}, 0),
        ("<wiki>a<wiki>b</wiki><graph></graph>", 1, {"graph": ()}, 1),
        ("<wiki>a<graph>b</graph></wiki>", 1, {"graph": ("b",)}, 1),
        ("</wiki>a<wiki><graph>b</graph>", 1, {"graph": ("b",)}, 1),
        ("<wiki>a < b > c</wiki><graph></graph>", 1, {"wiki": ("a b c",), "graph": ()}, 0),
        ("<wiki>a</wiki><graph></graph><book>c</book>", 1, {"wiki": ("a",), "graph": ()}, 1),
        ("nothing", 1, {}, 2),
    ],
)
def test_what_is_read(text, most, wordings, faults):
    written = parse_searches(text, ["wiki", "graph"], most)
    assert written.wordings == wordings
    assert len(written.faults) == faults


@pytest.mark.parametrize(
    "wordings",
    [
        {"book": ["a"]},
        {"wiki": ["a;b"]},
        {"wiki": ["a<b"]},
        {"wiki": [" a"]},
        {"wiki": [""]},
        {"wiki": ["x" * 301]},
        {"wiki": ["a\nb"]},
    ],
)
def test_what_would_not_be_read_again_is_not_written(wordings):
    with pytest.raises(ValueError, match=r"there is no corpus|cannot be written"):
        format_searches(wordings, ["wiki", "graph"])
