"""Whether a frozen reader was right, by its score table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from medrag_lightning.data.pair_rules import Said
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.metrics import exact_match, rouge_l, token_f1
from medrag_lightning.metrics.bootstrap import Floats
from medrag_lightning.records import AnswerType, Condition, Query, Score

OPEN_METRICS: Mapping[str, Callable[[Sequence[str], Sequence[str | None]], Floats]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
}
_ROWS = 1024  # rows of the table kept at hand: those of a question or two


class Judge:
    """What was answered under a condition, and whether that is right.

    A closed question: the most likely choice (the first of equals) must be the gold one. An open one: `open_metric` of gold
    answer and the reader's own words must reach `open_threshold`.

    Args:
        table: the scores.
        plan: metric and threshold.
    """

    def __init__(self, table: ScoreTable, plan: PreferencePlan) -> None:
        self.folder, self.metric, self.threshold = table.folder, OPEN_METRICS[plan.open_metric], plan.open_threshold
        self._row: Callable[[str, Condition], Score] = lru_cache(_ROWS)(table.score)

    def said(self, query: Query, condition: Condition) -> Said | None:
        """The answer; None for an open question that was scored without the reader's own words.

        Raises:
            ValueError: the row is missing, or is of another question.
        """
        score = self._checked(query, condition)
        if query.answer_type is AnswerType.CLOSED:
            best = score.logp_nats.index(max(score.logp_nats))
            return Said(condition, score.answers[best], best == query.gold_index)
        if score.generated is None:
            return None
        words = score.generated.strip()
        return Said(condition, words, bool(self.metric([str(query.answer)], [words or None])[0] >= self.threshold))

    def reference(self, query: Query, condition: Condition, answer: str) -> tuple[float | None, int]:
        """Log-probability of `answer` under `condition` (nats, summed over tokens), and its tokens; (None, 0) if not scored."""
        score = self._checked(query, condition)
        if answer not in score.answers:
            return None, 0
        place = score.answers.index(answer)
        return score.logp_nats[place], score.token_counts[place]

    def _checked(self, query: Query, condition: Condition) -> Score:
        score = self._row(query.id, condition)
        closed = query.answer_type is AnswerType.CLOSED
        wanted = query.choices if closed else (query.answer,)
        if score.answers != wanted or (closed and score.gold_index != query.gold_index):
            raise ValueError(
                f"the score table {self.folder} scored query {query.id!r} with the answers {list(score.answers)}, gold number "
                f"{score.gold_index}; the data have {list(wanted)} and {query.gold_index}; score it again in another folder"
            )
        return score
