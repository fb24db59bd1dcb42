"""Substituted answers: evidence and answer change together, nothing else does, and what cannot be read stays."""

import numpy as np
import pytest

from medrag_lightning.batches import Example
from medrag_lightning.data.evidence import EvidenceMixture
from medrag_lightning.data.substitution import substituted
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, Query, Regime

WORDS = ("one", "two", "three")
DOCUMENTS = (Document("d1", "grade one, not twofold or tone"), Document("d2", "grade two then one"))


def _example(answer: str = "one", choices: tuple[str, ...] = WORDS, shown: bool = True) -> Example:
    kind = AnswerType.CLOSED if choices else AnswerType.OPEN
    query = Query("q", "which grade is not two?", answer=answer, choices=choices, answer_type=kind)
    return Example(query, Regime.RETRIEVED, tuple(Candidate(d, 0.5, Channel.GIVEN) for d in DOCUMENTS) if shown else ())


def test_evidence_and_answer_change_together() -> None:
    seen = set()
    for seed in range(30):
        made = substituted(_example(), WORDS, np.random.default_rng(seed))
        first, second = (candidate.document.text for candidate in made.candidates)
        new = first.split()[1].rstrip(",")
        assert made.query.answer == new
        assert first == f"grade {new}, not twofold or tone"  # whole words alone
        assert second.split()[3] == new
        assert second.split()[1] in set(WORDS) - {new}
        assert (made.query.choices, made.query.question) == (WORDS, "which grade is not two?")
        assert [c.id for c in made.candidates] == ["d1", "d2"]
        seen.add(new)
    assert seen == set(WORDS)


def test_a_draw_depends_on_its_stream_alone_and_open_questions_change_too() -> None:
    first, again = (substituted(_example(choices=()), WORDS, np.random.default_rng(3)) for _ in range(2))
    assert first == again
    assert any(substituted(_example(choices=()), WORDS, np.random.default_rng(s)).query.answer != "one" for s in range(9))


def test_what_cannot_be_read_stays() -> None:
    for example in (_example(answer="left", choices=("left", "right")), _example(shown=False)):
        assert substituted(example, WORDS, np.random.default_rng(0)) is example


def test_choices_that_lack_a_word_and_useless_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"query 'q': its choices \['one', 'two'\] lack some of evidence.substitute"):
        substituted(_example(choices=("one", "two")), WORDS, np.random.default_rng(0))
    for words in (("one",), ("one", "one"), ("one", "")):
        with pytest.raises(ValueError, match="needs at least two words, each once"):
            EvidenceMixture(substitute=words)
