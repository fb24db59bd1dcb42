"""The scores that a source gives documents which it did not find: what it thinks of evidence put in by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from medrag_lightning.interfaces import CandidateSource, SimilaritySource
from medrag_lightning.records import Channel, Query

CHUNK = 4096  # queries whose similarities are held at once


@runtime_checkable
class Fused(Protocol):
    """A source whose candidates are scored by a fusion of similarities, relative to the other candidates of the query."""

    def fused_scores(self, queries: Sequence[Query], ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """The scores of documents as if they stood among the candidates that the source finds."""
        ...


def own_scores(
    source: CandidateSource,
    system: str,
    queries: Sequence[Query],
    ids: Sequence[Sequence[str]],
    channels: Sequence[Sequence[Channel]],
) -> list[list[float]]:
    """For each query and each of its documents, the score that `source` gives it in the channel beside it.

    NaN where the document lacks the side that the channel compares.

    Raises:
        ValueError: the source cannot tell similarities, or a channel is none that it could search.
    """
    if not isinstance(source, SimilaritySource):
        raise ValueError(
            f"noise.scores=own: the source of {system!r}, {type(source).__name__}, cannot tell how similar a document is that "
            "it did not find; use kept, or LiveSearch or FusedSearch"
        )
    fused = source if isinstance(source, Fused) else None
    asked = sorted({channel for row in channels for channel in row})
    if any(not (one.compares_vectors or (one is Channel.FUSED and fused is not None)) for one in asked):
        told = ", ".join(map(str, asked))
        raise ValueError(f"noise.scores=own: candidates of {system!r} have scores of no similarity (channels {told}); use kept")
    scores: list[list[float]] = []
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        by_channel = {channel: _scores(source, fused, queries[part], ids[part], channel) for channel in asked}
        for row, mine in enumerate(channels[part]):
            scores.append([by_channel[channel][row][place] for place, channel in enumerate(mine)])
    return scores


def _scores(
    source: SimilaritySource,
    fused: Fused | None,
    queries: Sequence[Query],
    ids: Sequence[Sequence[str]],
    channel: Channel,
) -> list[list[float]]:
    if channel is not Channel.FUSED:
        return [found_KM[:, 0].tolist() for found_KM in source.similarities(queries, ids, [channel])]
    assert fused is not None
    return fused.fused_scores(queries, ids)
