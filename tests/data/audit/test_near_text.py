"""Reports of nearly the same words are found among many; one that says the opposite is not the same."""

import random

from medrag_lightning.data.audit.near_text import near_texts, normalised

REPORT = (
    "The cardiac silhouette is of usual size. The lungs are clear and there is a small round opacity in the apex. "
    "Several calcified lymph nodes are seen near the hilum. The bones show mild degenerative change of the spine."
)


def others(count=300):
    rng = random.Random(0)
    words = [f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400)]
    return [" ".join(rng.choices(words, k=30)) for _ in range(count)]


def test_spacing_case_and_a_word_do_not_hide_a_report():
    changed = REPORT.upper().replace(". ", ".\n\n").replace("SEVERAL", "SOME")
    assert near_texts([normalised(changed)], [*others(), normalised(REPORT)]) == [(0, 300)]
    assert near_texts([normalised(REPORT)], others()) == []


def test_what_says_the_opposite_is_another_report():
    pool = [normalised(REPORT)]
    for one, another in (("a small round", "no small round"), ("usual size", "increased size"), ("Several", "3")):
        assert one in REPORT
        assert near_texts([normalised(REPORT.replace(one, another))], pool) == []


def test_short_texts_are_alike_by_chance():
    assert near_texts([normalised("No acute disease.")], [normalised("No acute disease.")]) == []
    assert near_texts([], ["a b c"]) == near_texts(["a b c"], []) == []
