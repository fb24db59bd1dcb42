"""From a reader's words to an answer: text normalisation and the strict parser of closed answers.

Substring parsers have produced wrong tables in this field: "no" is found in "normal" and in "know", and an unparsed
answer is counted as class 0 (JOMED spec, "Metrics and analysis"). Here an answer is read only where it cannot be read
in two ways. Everything else is None: invalid, counted as wrong, and reported as a share of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

ARTICLES = frozenset({"a", "an", "the"})
NEGATIONS = frozenset({"no", "not", "non", "never", "neither", "nor", "none", "without", "unlikely", "absent"}) | {
    f"{verb}t" for verb in ("can", "canno", "isn", "doesn", "don", "won", "aren", "wasn", "didn")
}

_APOSTROPHES = re.compile(r"['\u2019\u02bc`]")
_TOKEN = re.compile(r"\d+(?:\.\d+)+|[^\W_]+")


def tokens_of(text: str) -> list[str]:
    """The words of `text`: NFKC, lower case, no apostrophes, split at all other punctuation; ``2.5`` stays one word."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _TOKEN.findall(_APOSTROPHES.sub("", folded))


def answer_tokens(text: str) -> list[str]:
    """`tokens_of` without the articles a, an, the; a text of articles only keeps them (the choice "A" is an answer)."""
    tokens = tokens_of(text)
    return [token for token in tokens if token not in ARTICLES] or tokens


def normalise_answer(text: str) -> str:
    """The form in which open answers are compared: lower case, punctuation and articles stripped, single spaces.

    A text of punctuation only ("+") keeps it.
    """
    return " ".join(answer_tokens(text)) or label_of(text)


def label_of(answer: str) -> str:
    """The class of a closed answer: the answer without case and extra space, so that "Yes" and "yes " are one."""
    return " ".join(answer.casefold().split())


def parse_closed(raw: str, choices: Sequence[str]) -> str | None:
    """The one of `choices` that `raw` states, or None where it states none, several, or denies one.

    In order: the same text; the same text once both are normalised; a single choice that occurs as whole words. An
    occurrence inside that of a longer choice does not count ("pneumonia" in "no pneumonia", where both may be
    answered). A choice after a negation is not stated ("not malignant"). Single letters are found by the first two
    rules only ("a" is also an article). An answer that asks a question is none by the third rule: the released files of
    MR-RAG's benchmark have further questions within answers ("No 2. Is there an effusion?"), and which of them is answered
    cannot be known.

    Args:
        raw: the reader's words; any string.
        choices: the closed answers.
    """
    stripped = raw.strip()
    if stripped in choices:
        return stripped
    normalised = normalise_answer(raw)
    equal = [choice for choice in choices if normalised and normalise_answer(choice) == normalised]
    if equal:
        return equal[0] if len(equal) == 1 else None
    return None if "?" in raw else stated_choice(raw, choices)


def stated_choice(text: str, choices: Sequence[str]) -> str | None:
    """The rule of whole words: the only choice that occurs in `text`, with no negation outside it and before it."""
    words = tokens_of(text)
    spans = [(start, end, choice) for choice in choices for start, end in _occurrences(words, tokens_of(choice))]
    outer = [span for span in spans if not any(_inside(span, other) for other in spans)]
    found = {choice for _, _, choice in outer}
    if len(found) != 1:
        return None
    stated = {place for start, end, _ in outer for place in range(start, end)}
    before = range(max(start for start, _, _ in outer))
    if any(words[place] in NEGATIONS for place in before if place not in stated):
        return None
    return found.pop()


def _occurrences(words: Sequence[str], choice: Sequence[str]) -> list[tuple[int, int]]:
    if not choice or (len(choice) == 1 and len(choice[0]) == 1 and choice[0].isalpha()):
        return []
    width = len(choice)
    return [(i, i + width) for i in range(len(words) - width + 1) if list(words[i : i + width]) == list(choice)]


def _inside(span: tuple[int, int, str], other: tuple[int, int, str]) -> bool:
    return other[0] <= span[0] and span[1] <= other[1] and other[1] - other[0] > span[1] - span[0]
