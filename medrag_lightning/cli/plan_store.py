"""Evidence in a probe: an evidence store that is there is used; one that is not is built where that is quick, else computed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.cli.plan_figures import Probe
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved, shares_identity

MEASURED, BUILD_SECONDS = 16, 30.0
TRIES = 8


class RandomCandidates:
    """In place of a search whose store is not there yet: as many random documents as it would find."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.channels = list(channels)
        self._documents: Sequence[Document] = ()

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Does nothing."""

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Keeps the documents."""
        self._documents = documents

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """Documents that share nothing with the query."""
        rng = np.random.default_rng(0)
        found = []
        for query in queries:
            drawn = rng.integers(len(self._documents), size=TRIES * max(1, len(self.channels)))
            legal = [self._documents[int(n)] for n in drawn if shares_identity(query, self._documents[int(n)]) is None]
            paired = zip(legal, self.channels, strict=False)
            found.append(Retrieved(query.id, tuple(Candidate(d, 0.0, channel) for d, channel in paired), "a probe"))
        return found

    def fingerprint(self) -> str:
        """By the channels."""
        return fingerprint("random candidates of a probe", [str(channel) for channel in self.channels])


def settle_store(data: Any, temporary: Path, probe: Probe) -> None:
    """Sees to it that `data` finds candidates without writing a store of its own; what that would take goes into `probe`."""
    sources = [data.source, *data.rivals.values()]
    encoders = list(_encoders(data.source))
    documents = data.documents()
    if not encoders or not documents:
        return
    folder = data.evidence_folder()
    if folder.is_dir() and any(folder.iterdir()):
        probe.store, probe.store_bytes = "there", folder_bytes(folder)
        return
    asked = [query for queries in ("train", "val", "test") for query in data.split_queries(queries)]
    open_image = data._image_store()
    # Questions are embedded once for each source that asks with other heads; they share the store.
    seconds = [_seconds(encoder, documents, open_image) for encoder in encoders]
    for encoder, each in zip(encoders, seconds, strict=True):
        probe.store_seconds += each["image"] * sum(one.image is not None for one in [*documents, *asked])
        probe.store_seconds += each["text"] * (len(documents) + len(asked))
        probe.store_bytes += vector_bytes(encoder, documents)
    probe.store_bytes += sum(len(document.text.encode()) for document in documents)
    if probe.store_seconds <= BUILD_SECONDS:
        probe.store, probe.store_seconds = "built", 0.0  # the probe's own start takes that time
        data.cache_folder = temporary / "evidence"
        return
    probe.store = "computed"
    data.source = RandomCandidates(channels_of(data.source))
    data.rivals = {name: RandomCandidates(channels_of(rival)) for name, rival in data.rivals.items()}
    if data.noise is not None:
        data.noise = None
        probe.notes.append("the evidence store is not there yet, so what data.noise asks of the test is not counted")
    assert len(sources) == 1 + len(data.rivals)


def vector_bytes(encoder: Any, documents: Sequence[Document]) -> int:
    """The vectors of a corpus in single precision: one for each image and each text."""
    return 4 * int(encoder.dim) * sum((one.image is not None) + bool(one.text) for one in documents)


def channels_of(source: Any) -> list[Channel]:
    """The channel of each candidate that a source gives a question; empty for one that is not known here."""
    if hasattr(source, "top"):
        return [Channel.FUSED] * int(source.top)
    if hasattr(source, "per_channel"):
        return [Channel(channel) for channel, count in source.per_channel.items() for _ in range(count)]
    if hasattr(source, "pool"):  # SelectedSearch: as many as its pool at most
        return channels_of(source.pool)
    return [channel for part in getattr(source, "parts", {}).values() for channel in channels_of(part)]


def folder_bytes(folder: Path) -> int:
    """All files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _encoders(source: Any) -> Iterator[Any]:
    if hasattr(source, "encoder"):
        yield source.encoder
    elif hasattr(source, "pool"):
        yield from _encoders(source.pool)
    for part in getattr(source, "parts", {}).values():
        yield from _encoders(part)


def _seconds(encoder: Any, documents: Sequence[Document], open_image: OpenImage) -> dict[str, float]:
    """Seconds to embed one image and one text, once the weights are loaded."""
    texts = [document.text for document in documents[:MEASURED]]
    refs = [document.image for document in documents if document.image is not None][:MEASURED]
    encoder.embed_texts(texts[:1])
    began = time.perf_counter()
    encoder.embed_texts(texts)
    text = (time.perf_counter() - began) / len(texts)
    if not refs:
        return {"image": 0.0, "text": text}
    encoder.embed_images([open_image(refs[0])])
    began = time.perf_counter()
    encoder.embed_images([open_image(ref) for ref in refs])
    return {"image": (time.perf_counter() - began) / len(refs), "text": text}
