"""What may be evidence for a query, and how the lists of several channels become one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medrag_lightning.records import Channel, Document, Query, shares_identity


@dataclass(frozen=True, slots=True)
class Hit:
    """A document's number in the corpus, its score, and the channel that found it."""

    row: int
    score: float
    channel: Channel


def leak(query: Query, document: Document, query_sha256: str | None, document_sha256: str | None) -> str | None:
    """Says why `document` must not be evidence for `query`: an identity in common, or the same pixels under another name.

    JOMED spec, trap 14 and J16. `query_sha256` and `document_sha256` are `pixel_sha256` of the images, None without one.
    """
    reason = shares_identity(query, document)
    if reason is None and query_sha256 is not None and query_sha256 == document_sha256:
        return "pixels"
    return reason


def interleave(ranked: Mapping[Channel, Sequence[Hit]], per_channel: Mapping[Channel, int]) -> list[Hit]:
    """Takes hits in turn, best first, until each channel has given its share of different documents.

    A document that two channels found counts for the first; the other gives its next one. Places that a channel cannot fill
    (the query has no image, say) go to the others in turn. `ranked` needs as many hits a channel as there are places.
    """
    total = sum(per_channel.values())
    waiting = {channel: iter(ranked.get(channel, ())) for channel in per_channel}
    hits: list[Hit] = []
    taken: set[int] = set()
    _take_turns(waiting, dict(per_channel), total, hits, taken)
    _take_turns(waiting, dict.fromkeys(per_channel, total), total, hits, taken)
    return hits


def in_turn(ranked: Mapping[Channel, Sequence[Hit]]) -> list[Hit]:
    """Every channel's hits, best first, channels in turn; a document that several channels found comes several times."""
    longest = max((len(hits) for hits in ranked.values()), default=0)
    return [hits[place] for place in range(longest) for hits in ranked.values() if place < len(hits)]


def _take_turns(
    waiting: Mapping[Channel, Iterator[Hit]], share: dict[Channel, int], total: int, hits: list[Hit], taken: set[int]
) -> None:
    while any(share.values()):
        for channel in share:
            if not share[channel] or len(hits) == total:
                share[channel] = 0
                continue
            hit = next((hit for hit in waiting[channel] if hit.row not in taken), None)
            if hit is None:
                share[channel] = 0
            else:
                share[channel] -= 1
                hits.append(hit)
                taken.add(hit.row)
