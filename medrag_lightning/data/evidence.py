"""Which evidence a sample is shown: the training mixture of JOMED and RAFT, and the regimes of an evaluation.

Source: JOMED Section 3 (one candidate a prompt, K samples a query); RAFT (arXiv 2403.10131, Section 3) for the share of
prompts without the relevant document and for distractors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.batches import pixel_sha256
from medrag_lightning.data.trace_targets import TraceTargets
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.records import Candidate, Channel, Document, Query, Regime, Retrieved, shares_identity


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class EvidenceMixture:
    """What training prompts show.

    Args:
        samples_per_query: training samples made of each query an epoch (JOMED: as many as there are candidates, 4). With
            one candidate a prompt, the candidates take turns over samples and epochs without replacement.
        no_evidence_share: share of samples with no evidence at all, so that the no-retrieval row is a fair one.
        without_relevant_share: share of the other samples whose relevant document (known relevant ones; otherwise the best
            candidate) is replaced by a random one (RAFT's 1 - P).
        distractors: random documents added to each prompt; only where all evidence stands in one prompt.
        shuffle: whether the evidence of one prompt is put in random order; only where all evidence stands in one prompt.
        substitute: words that are exchanged for one another, anew for every sample, in the evidence and the gold answer of
            questions whose answer is one of them (data/substitution.py): what a reader could learn by heart it must then read.
            For answers that stand in the evidence alone, such as a grade; what the image shows would become wrong.
        traces: the traces that stage reader_trace learns from (verb `trace`), and no other. Each names its own evidence, in its
            order, so that nothing above changes what its prompt shows.
    """

    samples_per_query: int = 4
    no_evidence_share: float = 0.15
    without_relevant_share: float = 0.0
    distractors: int = 0
    shuffle: bool = True
    substitute: tuple[str, ...] = ()
    traces: TraceTargets | None = None

    def __post_init__(self) -> None:
        if len(self.substitute) == 1 or len(set(self.substitute)) != len(self.substitute) or "" in self.substitute:
            raise ValueError(f"evidence.substitute needs at least two words, each once, got {list(self.substitute)}")
        if self.samples_per_query < 1:
            raise ValueError(f"samples_per_query must be at least 1, got {self.samples_per_query}")
        if self.distractors < 0:
            raise ValueError(f"distractors must not be negative, got {self.distractors}")
        for name in ("no_evidence_share", "without_relevant_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


class EvidencePicker:
    """Picks evidence for queries by counter-based draws: the same (seed, epoch, query, sample) always gives the same.

    Args:
        documents: the corpus.
        retrieved: candidates by query id.
        mixture: the training mixture.
        one_per_prompt: whether a training prompt shows one candidate (JOMED) or all of them.
        seed: of every draw.
        open_image: opens images, so that a copy of the query's image under another name is never drawn; null to compare
            names only. Candidates that were searched are held to this rule by their source.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        retrieved: Mapping[str, Retrieved],
        mixture: EvidenceMixture,
        one_per_prompt: bool,
        seed: int,
        open_image: OpenImage | None = None,
    ) -> None:
        if one_per_prompt and mixture.distractors:
            raise ValueError(
                f"distractors={mixture.distractors} would be ignored: the stage shows one candidate a prompt. "
                "Set distractors to 0, or the stage's evidence to all_in_one_prompt."
            )
        self.documents = list(documents)
        self.by_id = {document.id: document for document in documents}
        self.retrieved, self.mixture, self.one_per_prompt, self.seed = retrieved, mixture, one_per_prompt, seed
        self.open_image = open_image

    def for_training(self, query: Query, sample: int, epoch: int) -> tuple[Candidate, ...]:
        """Evidence of the `sample`-th training prompt of `query` in `epoch`."""
        rng = counter_rng(self.seed, "evidence", epoch, query.id, sample)
        found = list(self.retrieved[query.id].candidates)
        if not found or rng.random() < self.mixture.no_evidence_share:
            return ()
        drop_relevant = rng.random() < self.mixture.without_relevant_share
        if self.one_per_prompt:
            turn = epoch * self.mixture.samples_per_query + sample
            cycle, place = divmod(turn, len(found))
            found = [found[int(counter_rng(self.seed, "turn", query.id, cycle).permutation(len(found))[place])]]
        if drop_relevant:
            relevant = set(query.relevant_ids) or {self.retrieved[query.id].candidates[0].id}
            kept = [candidate for candidate in found if candidate.id not in relevant]
            lost, draw = len(found) - len(kept), int(rng.integers(2**31))
            found = kept + self.random_documents(query, lost, draw, {c.id for c in kept} | relevant)
        if self.mixture.distractors:
            found += self.random_documents(query, self.mixture.distractors, int(rng.integers(2**31)), {c.id for c in found})
        if self.mixture.shuffle and not self.one_per_prompt:
            found = [found[int(place)] for place in rng.permutation(len(found))]
        return tuple(found)

    def for_regime(self, query: Query, regime: Regime) -> tuple[Candidate, ...]:
        """Evidence of `query` in an evaluation; as many random documents as were retrieved, drawn once for all epochs."""
        if regime is Regime.NONE:
            return ()
        found = self.retrieved[query.id].candidates
        if regime is Regime.RETRIEVED:
            return found
        if regime is Regime.RANDOM:
            draw = int(counter_rng(self.seed, "random evidence", query.id).integers(2**31))
            return tuple(self.random_documents(query, len(found), draw, set()))
        ids = query.relevant_ids if regime is Regime.ORACLE else query.poison_ids
        return tuple(Candidate(self.by_id[name], 1.0, Channel.GIVEN) for name in ids)

    def random_documents(self, query: Query, count: int, draw: int, excluded: set[str]) -> list[Candidate]:
        """`count` distinct legal documents for `query`, none of `excluded` (ids); fewer only if the corpus has no more.

        More of the same draw begin with the same documents.
        """
        places = without_repeats(counter_rng(self.seed, "documents", draw), len(self.documents))
        found = self.legal_documents(query, (self.documents[place] for place in places), count, excluded)
        return [Candidate(document, 0.0, Channel.GIVEN) for document in found]

    def legal_documents(self, query: Query, offered: Iterable[Document], count: int, excluded: set[str]) -> list[Document]:
        """The first `count` distinct documents of `offered` that may be evidence for `query`, none of `excluded` (ids)."""
        picked: list[Document] = []
        taken, shown = set(excluded), self._pixels(query) if count else None
        for document in offered:
            if len(picked) >= count:
                break
            if document.id in taken or shares_identity(query, document) is not None:
                continue
            if shown is None or self._pixels(document) != shown:
                picked.append(document)
                taken.add(document.id)
        return picked

    def _pixels(self, item: Query | Document) -> str | None:
        """sha256 of the pixels of an item's image; None without one, or where images are not to be opened."""
        return None if item.image is None or self.open_image is None else pixel_sha256(self.open_image(item.image))


def without_repeats(rng: np.random.Generator, size: int) -> Iterator[int]:
    """The numbers below `size` in random order; cheap for the first few even when `size` is millions."""
    seen: set[int] = set()
    for place in rng.integers(size, size=min(size, 256)).tolist() if size else []:
        if place not in seen:
            seen.add(place)
            yield place
    for place in rng.permutation(size).tolist():
        if place not in seen:
            yield place
