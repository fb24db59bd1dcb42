"""Searches that an expert writes for questions, without knowing their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL.Image import Image

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.audit.progress import telling
from medrag_lightning.data.replies import Replies
from medrag_lightning.data.unanswered import unanswered
from medrag_lightning.interfaces import Expert, ExploreTask, OpenImage
from medrag_lightning.records import Query, WrittenSearches, parse_searches
from medrag_lightning.score_files import query_fingerprint


@dataclass(frozen=True, slots=True)
class Explored:
    """What an expert wrote for a question.

    Attributes:
        written: the best of its replies: the one with most tags that could be read, the first of equals.
        attempts: how often it was asked.
        malformed: how many of its replies lacked a tag.
        all_faults: those of every reply.
    """

    written: WrittenSearches
    attempts: int
    malformed: int
    all_faults: tuple[str, ...]


class Asking:
    """Asks an expert for searches, and again where a tag is missing or broken.

    Args:
        expert: writes.
        replies: what it wrote before.
        corpora: what each holds, by name.
        count: queries for each corpus. Fewer are taken as they are, and told.
        most_attempts: times that it is asked again.
        at_once: questions of a batch.
        open_image: opens an image.
    """

    def __init__(
        self,
        expert: Expert,
        replies: Replies,
        corpora: Mapping[str, str],
        count: int,
        most_attempts: int,
        at_once: int,
        open_image: OpenImage,
    ) -> None:
        self.expert, self.replies, self.corpora, self.count = expert, replies, dict(corpora), count
        self.most_attempts, self.at_once, self.open_image = most_attempts, at_once, open_image

    def explore(self, queries: Sequence[Query]) -> dict[str, Explored]:
        """What was written for each question, by its id."""
        said: dict[str, list[WrittenSearches]] = {query.id: [] for query in queries}
        for attempt in range(1 + self.most_attempts):
            asked = [query for query in queries if not said[query.id] or self._lacks(said[query.id][-1])]
            if not asked:
                break
            with telling("questions explored" if attempt == 0 else f"questions asked again ({attempt})") as tell:
                for query, reply in zip(asked, self._replies(asked, attempt, tell), strict=True):
                    said[query.id].append(parse_searches(reply, list(self.corpora), self.count))
        return {name: self._best(mine) for name, mine in said.items()}

    def _replies(self, queries: Sequence[Query], attempt: int, tell: Callable[[int, int], None]) -> list[str]:
        tasks = {self._key(query, attempt): query for query in queries}

        def ask(batch: Sequence[Query]) -> list[str]:
            return self.expert.explore([self.task(query, attempt) for query in batch])

        said = self.replies.ask(tasks, ask, self.at_once, lambda done: tell(done, len(tasks)))
        return [said[self._key(query, attempt)] for query in queries]

    def task(self, query: Query, attempt: int) -> ExploreTask:
        """What the expert is shown: nothing of the answer, nor of the documents that hold it or mislead."""
        image: Image | None = None if query.image is None else self.open_image(query.image)
        return ExploreTask(unanswered(query), image, self.corpora, self.count, attempt)

    def _key(self, query: Query, attempt: int) -> str:
        return fingerprint(query_fingerprint(unanswered(query)), list(self.corpora.items()), [self.count, attempt])

    def _lacks(self, written: WrittenSearches) -> bool:
        return len(written.wordings) < len(self.corpora)

    def _best(self, said: Sequence[WrittenSearches]) -> Explored:
        best = max(said, key=lambda written: len(written.wordings))
        faults = tuple(fault for written in said for fault in written.faults)
        return Explored(best, len(said), sum(map(self._lacks, said)), faults)
