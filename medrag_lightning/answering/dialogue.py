"""A question of a dialogue, as an answerer takes it: its history is checked, and it is made to stand alone before a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medrag_lightning.answering.answer import Answer
from medrag_lightning.data.cached_rewriter import CachedRewriter
from medrag_lightning.data.dialogues import History, as_history
from medrag_lightning.interfaces import Rewriter, RewriteTask
from medrag_lightning.records import Query

MOST_TURNS, MOST_CHARS, MOST_CHOICES = 100, 10_000, 1000
FAILED = "the question could not be rewritten with what was said before it, so it was searched with as it is"
UNUSED = "what was said before this question was not used: this system neither rewrites questions nor shows earlier turns"


class Dialogues:
    """Rewrites questions that have a history.

    Args:
        rewriter: what writes; None leaves questions as they are. Of one behind a cache the cache is left out, since what a
            deployer is asked is nobody else's to keep; its time limit stays.
    """

    def __init__(self, rewriter: Rewriter | None) -> None:
        self.rewriter: Rewriter | None = rewriter
        if isinstance(rewriter, CachedRewriter):
            self.rewriter = rewriter.rewriter
            limits = rewriter.timeout_seconds, rewriter.batch_size, rewriter.most_failures
            self._asked = CachedRewriter(rewriter.rewriter, None, *limits)
        elif rewriter is not None:
            self._asked = CachedRewriter(rewriter, None)

    def rewritten(self, query: Query) -> Query:
        """The query with its rewritten question; as it is without a history or a rewriter, or where that failed."""
        if self.rewriter is None or not query.history:
            return query
        (text,) = self._asked.rewrite([RewriteTask(query.question, query.history)])
        self._asked.forget()
        return replace(query, rewritten=text)

    def told(self, answer: Answer, query: Query, searched: bool, shows_history: bool) -> Answer:
        """The answer with what was searched for it, and a warning where the history was of no use.

        Args:
            answer: the answer.
            query: as `rewritten` gave it.
            searched: whether anything was searched.
            shows_history: whether the reader saw the earlier turns.
        """
        if not query.history or (self.rewriter is None and shows_history):
            return answer
        if self.rewriter is None or (searched and query.rewritten is None):
            answer = replace(answer, warnings=(UNUSED if self.rewriter is None else FAILED, *answer.warnings))
        return replace(answer, rewritten=query.rewritten if searched else None)


def checked_history(history: Sequence[Sequence[str]]) -> History:
    """The earlier turns of a question that somebody asks; ValueError where they are no pairs, blank, too many or too long."""
    turns = as_history("history", list(history))
    if len(turns) > MOST_TURNS or any(len(part) > MOST_CHARS for turn in turns for part in turn):
        most = f"{MOST_TURNS} turns, or one of more than {MOST_CHARS} characters"
        raise ValueError(f"the history has more than {most}; shorten it")
    return turns


def check_asked(question: str, choices: Sequence[str]) -> None:
    """ValueError where a question or its choices cannot be asked."""
    if not question.strip():
        raise ValueError("the question is blank")
    if len(question) > MOST_CHARS or any(len(choice) > MOST_CHARS for choice in choices):
        raise ValueError(f"the question or a choice has more than {MOST_CHARS} characters; ask one question at a time")
    if isinstance(choices, str) or any(not choice.strip() for choice in choices):
        raise ValueError(f"choices must be a list of words, none of them blank, got {choices!r}")
    if len(choices) > MOST_CHOICES:
        raise ValueError(f"{len(choices)} choices are more than {MOST_CHOICES}; ask an open question instead")
