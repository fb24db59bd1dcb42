"""What one question teaches a query generator: rows of the table to learn from, and preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.data.exploration.choosing import Sorted, pairs, sort, targets
from medrag_lightning.data.exploration.plan import ExplorationPlan
from medrag_lightning.data.exploration.verdicts import Judged
from medrag_lightning.preference_files import pair_id
from medrag_lightning.records import Condition, PairKind, Preference, PreferenceSide, Query, Searches, format_searches
from medrag_lightning.search_files import SearchRow


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question, its good and bad searches, and what was drawn of them."""

    query: Query
    told: Sorted
    rows: tuple[SearchRow, ...]
    pairs: tuple[Preference, ...]


def lesson(query: Query, judged: Sequence[Judged], corpora: Sequence[str], plan: ExplorationPlan, seed: int) -> Lesson:
    """Draws depend on the seed and the question's id alone, so more questions change nothing for the others."""
    told = sort(judged, corpora, plan.no_support == "leave_out")
    drawn = targets(told, plan.targets_per_query, counter_rng(seed, "search targets", query.id))
    rows = tuple(SearchRow(query.id, query.split, searches, sample) for sample, searches in enumerate(drawn))
    sides = pairs(told, plan.pairs_per_query, plan.pairs, counter_rng(seed, "search pairs", query.id))
    return Lesson(query, told, rows, tuple(_pair(query, *both, corpora) for both in sides))


def _pair(query: Query, chosen: Searches, rejected: Searches, corpora: Sequence[str]) -> Preference:
    """Both sides are asked alike: the question and its own image, without evidence."""
    asked = Condition()
    texts = [format_searches({name: [words] for name, words in side}, corpora) for side in (chosen, rejected)]
    assert texts[0] != texts[1], query.id
    name = pair_id(query.id, PairKind.SEARCH_WORDING, None, [(asked, text) for text in texts])
    one, other = (PreferenceSide(asked, text) for text in texts)
    return Preference(name, query.id, PairKind.SEARCH_WORDING, None, one, other)
