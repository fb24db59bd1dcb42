"""A search for each modality, and the way of a query to the one that knows images like its own (HeteroRAG's ModCLIPs; H11)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import CandidateSource, ModalityRouter, OpenImage
from medrag_lightning.records import Candidate, Document, ImageRef, Query, Retrieved
from medrag_lightning.retrieval.building import Report
from medrag_lightning.retrieval.parted import PartedSearch

logger = logging.getLogger(__name__)
Route = Literal["given", "predicted", "given_else_predicted"]
REFUSE, ALL = "refuse", "all"
IMAGES_AT_ONCE = 64


class RoutedSearch(PartedSearch):
    """Candidates of a query: what the part of its modality finds; each part has an encoder, and a folder, of its own.

    What no part searches (documents of other modalities, or of none) gives no evidence and is told. The leak rule is that of
    the parts. It may itself be a part of a `CorpusSearch` (``reports``), or a rival of another search. The parts make their
    stores in this process: vectors of the stage `embed` are of the whole corpus and are not used.

    Args:
        parts: what searches each modality; a part's name is the modality (case does not count), or see `of`.
        route: ``given``: by `Query.modality`. ``predicted``: by what `router` makes of the query's image.
            ``given_else_predicted``: the latter only where no part is known for the former.
        router: `models.linear_router.LinearRouter`, or `models.prompt_router.PromptRouter`, which learns nothing. It is taught
            with the names of the parts; null with route ``given``.
        other: what a query does whose part is not known: ``refuse`` is an error that names it; ``all`` asks every part and
            takes their candidates in turn, as many as one part gives; or the name of a part. Their number is told.
        of: which modalities a part searches, where they are not its name: ``{radiology: [CT, X-ray, MRI]}``; ``""`` stands for
            documents whose modality is not told.
        min_probability: a router that is less sure does not know.
    """

    kinds: ClassVar[tuple[str, str, str]] = ("modality", "modalities", "modality")

    def __init__(
        self,
        parts: dict[str, CandidateSource],
        route: Route = "given",
        router: ModalityRouter | None = None,
        other: str = REFUSE,
        of: dict[str, list[str]] | None = None,
        min_probability: float = 0.0,
    ) -> None:
        super().__init__(parts, of)
        if reserved := {REFUSE, ALL} & set(parts):
            raise ValueError(f"RoutedSearch: no part may be called {min(reserved)!r}, which is a value of other; see `of`")
        if route not in get_args(Route):
            raise ValueError(f"RoutedSearch: route is one of {', '.join(get_args(Route))}, got {route!r}")
        if (router is None) != (route == "given"):
            told = "needs a router: models.linear_router.LinearRouter" if router is None else "would never ask its router"
            raise ValueError(f"RoutedSearch: route {route} {told}")
        if other not in (REFUSE, ALL, *parts):
            raise ValueError(f"RoutedSearch: other is {REFUSE}, {ALL} or a part ({', '.join(parts)}), got {other!r}")
        if not 0 <= min_probability <= 1 or (min_probability and router is None):
            raise ValueError(f"RoutedSearch: min_probability is a number from 0 to 1 for a router, got {min_probability}")
        for name, part in parts.items():
            if told := getattr(part, "corpus", ""):
                raise ValueError(f"RoutedSearch: part {name!r} has corpus: {told}, but all parts are one corpus; leave it out")
        self.route, self.router, self.other, self.min_probability = route, router, other, min_probability
        self._open_image: OpenImage | None = None
        self._seen: dict[ImageRef, str | None] = {}

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Prepares every part, then the router; ValueError where the corpus has nothing for one of them."""
        super().prepare(documents, open_image, folder)
        if self.router is not None:
            self.router.prepare(self._labelled(documents), open_image, folder)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Loads every part, and the router."""
        super().load(documents, open_image, folder)
        self._open_image, self._seen = open_image, {}
        if self.router is not None:
            self.router.load(self._labelled(documents), open_image, folder)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The candidates that each query's part finds."""
        provenance = self.fingerprint()
        routes = self.routes(queries)
        found: list[list[tuple[Candidate, ...]]] = [[] for _ in queries]
        for name, part in self.parts.items():
            places = [place for place, route in enumerate(routes) if route in (name, ALL)]
            asked = [queries[place] for place in places]
            for place, one in zip(places, part.retrieve(asked) if asked else [], strict=True):
                found[place].append(one.candidates)
        return [Retrieved(query.id, _in_turn(lists), provenance) for query, lists in zip(queries, found, strict=True)]

    def routes(self, queries: Sequence[Query]) -> list[str]:
        """The part that each query asks, or ``all``.

        Raises:
            ValueError: the part of a query is not known, and `other` refuses.
        """
        given = [None if q.modality is None else self._part_of_kind.get(self._plain(q.modality)) for q in queries]
        known = [None] * len(queries) if self.route == "predicted" else given
        if self.router is not None:
            told = self._predicted([q for q, one in zip(queries, known, strict=True) if one is None])
            known = [one or (told.get(q.image) if q.image else None) for q, one in zip(queries, known, strict=True)]
        lost = [query for query, one in zip(queries, known, strict=True) if one is None]
        if lost:
            self._tell_lost(lost, len(queries))
        routes = [one or self.other for one in known]
        if queries:
            counted = ", ".join(f"{count} to {name}" for name, count in sorted(Counter(routes).items()))
            both = [(a, b) for a, b in zip(given, known, strict=True) if a and b] if self.route == "predicted" else []
            agreed = f"; {sum(a == b for a, b in both)} of {len(both)} as their modality says" if both else ""
            logger.info("queries by modality (%s): %s%s", self.route, counted, agreed)
        return routes

    def fingerprint(self) -> str:
        """Those of parts and router, what they search, and how a query finds its part."""
        told = [[name, sorted(map(self._plain, self.of[name])), part.fingerprint()] for name, part in self.parts.items()]
        router = [self.router.fingerprint(), self.min_probability] if self.router is not None else None
        return fingerprint("routed", told, self.route, router, self.other)

    @classmethod
    def belongs_to(cls, document: Document) -> str:
        """Its modality."""
        return document.modality or ""

    @staticmethod
    def _plain(kind: str) -> str:
        """So that ``CT`` and ``ct`` are one modality."""
        return kind.strip().casefold()

    def _labelled(self, documents: Sequence[Document]) -> list[Document]:
        """The documents with an image that a part searches, each with its part's name in the place of its modality."""
        parts = [self._part_of_kind.get(self._plain(self.belongs_to(document))) for document in documents]
        return [replace(d, modality=part) for d, part in zip(documents, parts, strict=True) if part and d.image is not None]

    def _predicted(self, queries: Sequence[Query]) -> dict[ImageRef, str | None]:
        """The part of each image, as the router tells; None where it is not sure. An image is looked at once."""
        if self._open_image is None or self.router is None:
            raise RuntimeError("RoutedSearch knows no documents before load()")
        images = [image for image in dict.fromkeys(query.image for query in queries) if image and image not in self._seen]
        report = Report("query images routed", len(images), None)
        for start in range(0, len(images), IMAGES_AT_ONCE):
            part = images[start : start + IMAGES_AT_ONCE]
            for image, (name, probability) in zip(part, self._ask_router(part), strict=True):
                self._seen[image] = name if probability >= self.min_probability else None
            report.done(start + len(part))
        return self._seen

    def _ask_router(self, images: Sequence[ImageRef]) -> list[tuple[str, float]]:
        assert self.router is not None
        assert self._open_image is not None
        told = self.router.modalities([self._open_image(image) for image in images])
        if wrong := sorted({name for name, _ in told} - set(self.parts)):
            raise ValueError(f"the router of RoutedSearch told {wrong[0]!r}; its parts are {', '.join(self.parts)}")
        return told

    def _tell_lost(self, lost: Sequence[Query], count: int) -> None:
        why = {
            "given": "tell no modality that a part searches",
            "predicted": "have no image, or one that the router is not sure about",
            "given_else_predicted": "tell no modality that a part searches, and the router is not sure or sees no image",
        }[self.route]
        if self.other == REFUSE:
            raise ValueError(
                f"RoutedSearch: {len(lost)} of {count} queries {why}, such as {lost[0].id!r} (modality {lost[0].modality!r}); "
                f"the parts are {', '.join(self.parts)}. Tell it (answer --modality), name it in `of`, or set other"
            )
        logger.warning("%d of %d queries %s: they go to %s", len(lost), count, why, self.other)


def _in_turn(lists: Sequence[tuple[Candidate, ...]]) -> tuple[Candidate, ...]:
    """The candidates of one part as they are; of several in turn, best first, as many as the longest list has."""
    longest = max((len(one) for one in lists), default=0)
    mixed = [one[place] for place in range(longest) for one in lists if place < len(one)]
    return tuple(mixed[:longest])
