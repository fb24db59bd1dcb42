"""Whether searches find what answers a question: gold documents among the first of any corpus that was asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def hit_at(found_ids: Mapping[str, Sequence[str]], relevant_ids: Collection[str], k: int) -> bool:
    """Whether a right document is among the first `k` that were found in any corpus (HeteroRAG: hit@2).

    Args:
        found_ids: documents found in each corpus, best first; none where a corpus was not asked.
        relevant_ids: the right documents. Those of a kind that was not searched do not count against it.
        k: how many of each corpus are looked at, at least 1.
    """
    assert k >= 1
    return any(name in relevant_ids for found in found_ids.values() for name in found[:k])
