"""Whether a search found what it was to find: a gold document among the first of the corpus that it lies in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def hit_at(found_ids: Mapping[str, Sequence[str]], relevant_ids: Collection[str], k: int) -> bool:
    """Whether a relevant document is among the first `k` that were found in its corpus (HeteroRAG: top 2 of each corpus).

    Args:
        found_ids: what was found in each corpus by its name, best first.
        relevant_ids: the documents that answer the question; any one of them will do.
        k: at least 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    wanted = set(relevant_ids)
    return any(name in wanted for ids in found_ids.values() for name in ids[:k])
