"""Makes a question of a dialogue stand alone by rules: what it leaves out is the entity that was named last."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import RewriteTask

RULES = 1  # raise it with every change of what is written
MOST_WORDS = 8  # of an entity; a longer run of words is a sentence without punctuation
_NO_NAMES = """
    a an the this that these those it its they them their there here he she his her him i you we my your our me us
    is are was were be been being am do does did done has have had having can could may might must shall should will would
    and or but nor so than then if because while as of in on at to from by with without for about into onto over under between
    during after before above below through per via against
    what which who whom whose when where why how many much long often far left right upper lower
    yes no not none nothing any some all each every both either neither other another same more most less least very too also
    only just still again already yet ever never please okay ok thanks
    show shows shown see sees seen look looks looking like tell tells told say says said mean means name names know known give
    gives given find finds found need needs needed treat treats treated treatment cause causes caused happen happens
    describe describes explain explains
    one two three four five six seven eight nine ten first second third former latter
    image picture photo scan"""
_FUNCTION_WORDS = frozenset(_NO_NAMES.split())
_WORD = re.compile(r"[^\W_](?:[\w'/-]*[\w])?")
_LEAD = re.compile(r"^\s*(?:(?:and|or|so|then|also|but|ok|okay|well)\b[\s,]*)+", re.IGNORECASE)
_ABOUT = re.compile(r"^\s*(?:what|how)\s+about\s+", re.IGNORECASE)
_OWN = re.compile(r"\b(?:its|their)\s+(?P<what>[\w-]+)", re.IGNORECASE)
_NAMED = re.compile(
    r"\b(?:this|that|these|those|the)\s+(?:same\s+)?(?:disease|condition|disorder|finding|findings|lesion|lesions|abnormality|"
    r"illness|diagnosis|problem)\b",
    re.IGNORECASE,
)
_POINTED = re.compile(r"\b(?:this|that|these|those)\b(?=\s*(?:[?.!,]|$|is\b|are\b|was\b|were\b|mean\b|be\b))", re.IGNORECASE)
_IT = re.compile(r"\b(?:it|they|them)\b", re.IGNORECASE)


class RulesRewriter:
    """Puts the entity that was named last in a dialogue where a question points to it or leaves it out; `interfaces.Rewriter`.

    A question is completed where it begins like a continuation (*and*, *or*, *what about*), holds a pronoun (*it*, *its*,
    *they*, *them*, *their*, a bare *this* or *that*, *this finding*), or names nothing itself. In the rewritten question
    *its risk* becomes *the risk of ENTITY*, another pronoun ENTITY, and where there is none ENTITY stands before the question.

    An entity is one of `names`, else the longest run of words in a sentence's part that are no function words, question words
    or numbers; runs of several words go before single ones, later turns before earlier ones, and in a turn the answer before
    the question (single words of any answer before those of any question).

    It knows no grammar. It errs where the entity is not the one named last (*the former*, a comparison on the way), where two
    are meant, and takes a pronoun for the entity where it means nothing (*is it likely that ...*). It knows English alone, is
    always the same, and costs microseconds.

    Args:
        names: what may be an entity, such as the terms of a graph; null for any run of words.
    """

    def __init__(self, names: list[str] | None = None) -> None:
        if names is not None and not any(name.strip() for name in names):
            raise ValueError("RulesRewriter: names holds no name; leave it null for any run of words")
        told = sorted({_one_line(name) for name in names or () if name.strip()}, key=lambda name: (-len(name), name))
        self.names = None if names is None else told
        choice = "|".join(re.escape(name) for name in told)
        self._known = None if names is None else re.compile(rf"(?<![\w-])(?:{choice})(?![\w-])", re.IGNORECASE)

    def rewrite(self, tasks: Sequence[RewriteTask]) -> list[str | None]:
        """A standalone question a task, or the question itself where it needs none or nothing was named before."""
        return [self._rewritten(task) for task in tasks]

    def fingerprint(self) -> str:
        """The rules and the names."""
        return fingerprint("rules rewriter", RULES, self.names)

    def _rewritten(self, task: RewriteTask) -> str:
        asked = _one_line(task.question)
        bare = _ABOUT.sub("", _LEAD.sub("", asked)) or asked
        points = any(pattern.search(bare) for pattern in (_OWN, _NAMED, _POINTED, _IT))
        if bare == asked and not points and any(True for _ in self._several(asked)):
            return asked
        entity = self._last_named(task.history)
        if entity is None or (not points and entity.casefold() in bare.casefold()):
            return asked
        for pattern in (_OWN, _NAMED, _POINTED, _IT):
            if found := pattern.search(bare):
                put = f"the {found['what']} of {entity}" if pattern is _OWN else entity
                return bare[: found.start()] + put + bare[found.end() :]
        return f"{entity} , {bare}"

    def _last_named(self, history: Sequence[tuple[str, str]]) -> str | None:
        questions, answers = ([turn[side] for turn in reversed(history)] for side in (0, 1))
        both = [text for pair in zip(answers, questions, strict=True) for text in pair]
        for runs, texts in ((self._several, both), (self._single, answers), (self._single, questions)):
            for text in texts:
                found = list(runs(text))
                if found:  # the longest, and of equals the last
                    return max(reversed(found), key=lambda run: len(run.split()))
        return None

    def _several(self, text: str) -> Iterator[str]:
        """Runs of several words, or known names of any length."""
        if self._known is not None:
            yield from (found[0] for found in self._known.finditer(_one_line(text)))
        else:
            yield from (run for run in _runs(text) if " " in run)

    def _single(self, text: str) -> Iterator[str]:
        if self._known is None:
            yield from (run for run in _runs(text) if " " not in run)


def _runs(text: str) -> Iterator[str]:
    """The longest runs of words that are not function words, number or punctuation."""
    run: list[str] = []
    end = 0
    for found in [*_WORD.finditer(text), None]:
        joined = found is not None and not text[end : found.start()].strip()
        content = found is not None and found[0].casefold() not in _FUNCTION_WORDS and not found[0].isdigit()
        if run and not (joined and content):
            if len(run) <= MOST_WORDS:
                yield " ".join(run)
            run = []
        if found is not None:
            end = found.end()
            if content:
                run.append(found[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())
