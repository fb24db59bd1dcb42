"""The similarity channels that can be searched: which side asks, which is searched."""

from __future__ import annotations

from collections.abc import Mapping

from medrag_lightning.records import Channel
from medrag_lightning.retrieval.store import Side

SIDES_OF: dict[Channel, tuple[Side, Side]] = {
    Channel.IMAGE_TO_IMAGE: ("image", "image"),
    Channel.IMAGE_TO_TEXT: ("image", "text"),
    Channel.TEXT_TO_TEXT: ("text", "text"),
    Channel.TEXT_TO_IMAGE: ("text", "image"),
}


def checked_channels(per_channel: Mapping[str, int], shared_space: bool) -> dict[Channel, int]:
    """Channels by name; ValueError for one that cannot be searched, has no share, or compares vectors of separate spaces."""
    searched = ", ".join(SIDES_OF)
    if not per_channel:
        raise ValueError(f"per_channel is empty: name at least one of {searched}, or use NoEvidence")
    for name, count in per_channel.items():
        if name not in list(SIDES_OF):
            raise ValueError(f"per_channel: {name!r} is no channel that can be searched; choose from {searched}")
        if count < 1:
            raise ValueError(f"per_channel: {name} must be at least 1, got {count}; leave the channel out instead")
        asking, side = SIDES_OF[Channel(name)]
        if asking != side and not shared_space:
            raise ValueError(
                f"per_channel: {name} compares {asking}s with {side}s, but the encoder keeps them in separate spaces; "
                "use image_to_image or text_to_text, or an encoder of one space (HfDualEncoder)"
            )
    return {Channel(name): count for name, count in per_channel.items()}
