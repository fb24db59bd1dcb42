"""The data module: tables in, retrieved (image, text) candidates out. It serves records and never tokenises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from torch.utils.data import DataLoader

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.evidence import EvidenceMixture, EvidencePicker
from medrag_lightning.data.examples import CorpusItems, EvalExamples, TrainExamples
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.sampler import EvalSampler, Position, ResumableLoader, TrainSampler
from medrag_lightning.interfaces import CandidateSource, CollatingStage, Collator, Table
from medrag_lightning.records import Document, Query, Regime, Retrieved, Split, shares_identity, unique_by_id

RegimeName = Literal["retrieved", "none", "random", "oracle", "poisoned"]


class MedragData(L.LightningDataModule):
    """Queries of one or more tables, each with its retrieved candidates.

    Candidates are searched once, in the main process; loader workers only open images. A candidate never shares id,
    study, patient or image with its query, whatever the source says.

    Args:
        tables: where the questions come from.
        corpus: where the evidence comes from; a table may stand in both (its training items then serve as evidence).
        source: finds candidates.
        evidence: what training prompts show.
        batch_size: training samples a process and step.
        eval_batch_size: queries a process and step in validation, test and prediction.
        num_workers: loader processes; results do not depend on it.
        seed: of order, evidence and augmentation.
        regimes: the evidence regimes that `test` reports. `oracle` and `poisoned` need a generated world.
        augmentation: changes of training query images; null for none.
        cache_folder: where evidence stores are kept and reused.
        max_pixels: larger images are refused before they are decoded.
        max_train_queries, max_eval_queries: keep the first so many queries of a split, in file order; null for all.
    """

    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        tables: list[Table],
        corpus: list[Table],
        source: CandidateSource,
        evidence: EvidenceMixture = EvidenceMixture(),  # noqa: B008  (frozen)
        batch_size: int = 16,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        regimes: list[RegimeName] = ["retrieved", "none", "random"],  # noqa: B006  (never changed)
        augmentation: Augmentation | None = None,
        cache_folder: str = "runs/evidence",
        max_pixels: int = 50_000_000,
        max_train_queries: int | None = None,
        max_eval_queries: int | None = None,
    ) -> None:
        super().__init__()
        if not tables:
            raise ValueError("data.tables is empty: name at least one table with questions")
        if len(set(regimes)) != len(regimes):
            raise ValueError(f"data.regimes repeats a regime: {regimes}")
        self.tables, self.corpus, self.source = tables, corpus, source
        self.evidence, self.seed, self.augmentation = evidence, seed, augmentation
        self.regimes = [Regime(name) for name in regimes]
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.cache_folder, self.max_pixels = Path(cache_folder), max_pixels
        self.limits = {Split.TRAIN: max_train_queries, Split.VAL: max_eval_queries, Split.TEST: max_eval_queries}
        self._queries: dict[Split, list[Query]] | None = None
        self._documents: list[Document] = []
        self._retrieved: dict[str, Retrieved] = {}
        self._train_loader: ResumableLoader | None = None
        self._resume_from: dict[str, int] = {}

    def prepare_data(self) -> None:
        """Builds the evidence store where it is missing (one process)."""
        self._read_tables()
        self.source.prepare(self._documents, self._image_store(), self.evidence_folder())

    def setup(self, stage: str) -> None:
        """Reads tables and finds the candidates of every query once."""
        self._read_tables()
        assert self._queries is not None
        if self._retrieved:
            return
        self.source.load(self._documents, self._image_store(), self.evidence_folder())
        wanted = [query for split in Split for query in self._queries[split]]
        for query, found in zip(wanted, self.source.retrieve(wanted), strict=True):
            if found.query_id != query.id:
                raise ValueError(f"{found.provenance}: candidates of query {found.query_id!r} in the place of {query.id!r}")
            for candidate in found.candidates:
                if reason := shares_identity(query, candidate.document):
                    raise ValueError(
                        f"{found.provenance}: candidate {candidate.id!r} shares its {reason} with query {query.id!r}"
                    )
            self._retrieved[query.id] = found

    def split_queries(self, split: str) -> list[Query]:
        """The questions of `train`, `val` or `test`, in file order."""
        self._read_tables()
        assert self._queries is not None
        return self._queries[Split(split)]

    def documents(self) -> list[Document]:
        """The evidence corpus, in table order."""
        self._read_tables()
        return self._documents

    def evidence_folder(self) -> Path:
        """Where the evidence store of this corpus lies; two corpora never share one."""
        told = [[d.id, d.text, str(d.image) if d.image else None] for d in self.documents()]
        return self.cache_folder / fingerprint(told)[:16]

    def training_texts(self) -> list[str]:
        """Everything that a training prompt may say; a tiny reader trains its tokenizer on it."""
        words = [document.text for document in self.documents()]
        for query in self.split_queries(Split.TRAIN):
            words += [query.question, *query.choices, query.answer or ""]
        return words

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled training batches that resume where they stopped."""
        queries = [query for query in self.split_queries(Split.TRAIN) if query.answer is not None]
        if not queries:
            raise ValueError("no training question has an answer; check the tables' splits")
        examples = TrainExamples(queries, self._picker(), self._image_store(), self.augmentation, self.seed)
        rank, world = self._process()
        sampler = TrainSampler(len(examples), self.batch_size, self.seed, rank, world)
        loader = ResumableLoader(
            examples, sampler=sampler, batch_size=None, position=self._position, **self._loading(training=True)
        )
        if self._resume_from:
            loader.load_state_dict(self._resume_from)
        self._train_loader = loader
        return loader

    def state_dict(self) -> dict[str, int]:
        """How far training has come; in every checkpoint."""
        return {} if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Kept until the training loader is made: its workers start to prefetch at once, so it must know by then."""
        self._resume_from = dict(state)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """The validation queries with their retrieved evidence; for the verb `validate`, one loader a regime."""
        if self.trainer is not None and self.trainer.state.fn == "validate":
            return [self._eval_loader(Split.VAL, regime) for regime in self.regimes]
        return self._eval_loader(Split.VAL, Regime.RETRIEVED)

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """One loader a regime, in the order of `regimes`."""
        return [self._eval_loader(Split.TEST, regime) for regime in self.regimes]

    def predict_dataloader(self) -> DataLoader[Any]:
        """For a reader: the test queries with their retrieved evidence; they may have no answers.

        For a stage that embeds: the corpus, as lists of EmbedItem, every document once over all processes.
        """
        if self.trainer is not None and isinstance(self.trainer.lightning_module, CollatingStage):
            return self._eval_loader(Split.TEST, Regime.RETRIEVED)
        rank, world = self._process()
        items = CorpusItems(self.documents(), self._image_store())
        sampler = EvalSampler(len(items), self.eval_batch_size, rank, world)
        return DataLoader(items, sampler=sampler, batch_size=None, num_workers=self.num_workers)

    def _eval_loader(self, split: Split, regime: Regime) -> DataLoader[Any]:
        queries = self.split_queries(split)
        picker = self._picker()
        if regime in (Regime.ORACLE, Regime.POISONED):
            queries = [q for q in queries if (q.relevant_ids if regime is Regime.ORACLE else q.poison_ids)]
            if not queries:
                raise ValueError(f"regime {regime!s} needs a generated world that knows such documents; {split} has none")
        rank, world = self._process()
        sampler = EvalSampler(len(queries), self.eval_batch_size, rank, world)
        examples = EvalExamples(queries, picker, regime, self._image_store())
        return DataLoader(examples, sampler=sampler, batch_size=None, **self._loading(training=False))

    def _loading(self, training: bool) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "collate_fn": self._collator(training),
            "persistent_workers": False,
            "multiprocessing_context": "fork" if self.num_workers else None,
            "pin_memory": self._stage_on_gpu(),
        }

    def _picker(self) -> EvidencePicker:
        one = self._stage().one_candidate_per_prompt
        return EvidencePicker(self._documents, self._retrieved, self.evidence, one, self.seed)

    def _collator(self, training: bool) -> Collator:
        return self._stage().collator(training)

    def _stage(self) -> CollatingStage:
        assert self.trainer is not None, "the data module is served by a trainer"
        stage = self.trainer.lightning_module
        if not isinstance(stage, CollatingStage):
            raise ValueError(f"{type(stage).__name__} has no collator; it cannot be served by {type(self).__name__}")
        return stage

    def _stage_on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _position(self) -> Position:
        """Where training stands when a checkpoint is written; see the restart stages of Lightning's fit loop."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        batches: Any = loop.epoch_loop.batch_progress.current
        under_way = epochs.started > epochs.processed
        return Position(epochs.processed, batches.processed if under_way else 0)

    def _read_tables(self) -> None:
        if self._queries is not None:
            return
        queries = [query for table in self.tables for query in table.queries()]
        unique_by_id(queries, "data.tables")
        documents = [document for table in self.corpus for document in table.documents()]
        unique_by_id(documents, "data.corpus")
        self._queries = {s: [q for q in queries if q.split is s][: self.limits[s]] for s in Split}
        self._documents = documents

    def _image_store(self) -> ImageStore:
        roots: Sequence[Path] = [root for table in [*self.tables, *self.corpus] for root in table.roots()]
        return ImageStore(sorted(set(roots)), max_pixels=self.max_pixels)
