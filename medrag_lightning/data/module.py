"""The data module: tables in, retrieved (image, text) candidates out. It serves records and never tokenises."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning as L
from torch.utils.data import DataLoader

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.checks import check_names
from medrag_lightning.data.distillation_feed import DistillationPlan
from medrag_lightning.data.duplicates import duplicated_queries
from medrag_lightning.data.evidence import EvidenceMixture
from medrag_lightning.data.exploration.plan import ExplorationPlan
from medrag_lightning.data.feed_choice import feed_of
from medrag_lightning.data.feeds import Feed, World
from medrag_lightning.data.fusion_feed import FusionPlan
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.leak_guard import LeakGuard, OnLeak
from medrag_lightning.data.noise import NoisePlan
from medrag_lightning.data.pair_feed import PairPlan
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.data.sampler import EvalSampler, Position, ResumableLoader, TrainSampler, position_of
from medrag_lightning.data.scoring_feed import ScoringPlan
from medrag_lightning.data.search_plan import SearchPlan, searched_with, target_words
from medrag_lightning.data.searching import Searching
from medrag_lightning.data.table_records import prompt_texts, queries_by_split, unique_documents
from medrag_lightning.data.trace_targets import trace_texts
from medrag_lightning.interfaces import CandidateSource, CollatingStage, ServedStage, SplitChoosingStage, Table
from medrag_lightning.records import Document, Query, Regime, Retrieved, Split

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
        rivals: other sources by name; `test` reports what the same reader makes of their candidates, beside those of
            `source`. They search the same evidence store, so their passage encoder is the one of `source`.
        only: keep closed or open questions alone; null for both.
        pair_tables: image-text pairs for the stage `retriever_contrastive`, where they are not those of the corpus.
        scoring: what the stage `score` scores.
        pairs: how the stage `retriever_contrastive` splits the corpus.
        distillation: which scores the stage `retriever_kl` learns from.
        fusion: which scores and similarities `fusion_nce` learns from; `candidate_reranker` of its table alone.
        noise: what spoilt evidence `test` reports on, beside the ordinary one (`validate`: for `source` alone); null for none.
        knowledge: the evidence sets and the other image that show what a reader relies on: what `scoring.conditions.knowledge`
            scores, what pairs are built from, and what `test` asks again; null for none.
        preference: which preference pairs are built, and where they lie.
        train_part: which training questions there are: `all`, or a part of the patients such as `1/2`.
        own_reports: tables whose documents tell the reports of test studies, to find duplicates by; they are never evidence.
        leaks: what `fit` does when held-out items share id, patient, study or picture with training questions: `refuse`, `warn`
            (the numbers are then not those of new patients), or `ignore`, which does not look. See `data/leak_guard.py`.
        exploration: how the verbs `explore` and `trace` make what a query generator, or a reader that rethinks, learns from.
        searches: what a query generator learns from, and what questions are searched with; null: with themselves.
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
        only: Literal["closed", "open"] | None = None,
        rivals: dict[str, CandidateSource] | None = None,
        pair_tables: list[Table] | None = None,
        scoring: ScoringPlan | None = None,
        pairs: PairPlan | None = None,
        distillation: DistillationPlan | None = None,
        fusion: FusionPlan | None = None,
        noise: NoisePlan | None = None,
        own_reports: list[Table] | None = None,
        knowledge: KnowledgePlan | None = None,
        preference: PreferencePlan | None = None,
        train_part: str = "all",
        leaks: OnLeak = "refuse",
        exploration: ExplorationPlan | None = None,
        searches: SearchPlan | None = None,
    ) -> None:
        super().__init__()
        self.tables, self.corpus, self.source, self.searches, self.exploration = tables, corpus, source, searches, exploration
        self.only, self.train_part, self.limits, self.leaks = only, train_part, (max_train_queries, max_eval_queries), leaks
        self.pair_tables, self.rivals, self.own_reports = list(pair_tables or []), dict(rivals or {}), list(own_reports or [])
        self.evidence, self.augmentation, self.max_pixels, self.knowledge = evidence, augmentation, max_pixels, knowledge
        self.cache_folder, self.regimes, self.preference = Path(cache_folder), [Regime(name) for name in regimes], preference
        self.batch_size, self.eval_batch_size, self.num_workers, self.seed = batch_size, eval_batch_size, num_workers, seed
        self.scoring, self.pairs, self.distillation, self.noise, self.fusion = scoring, pairs, distillation, noise, fusion
        self._begin()

    def _begin(self) -> None:
        """Nothing has been read, searched or loaded yet; settings that contradict each other are refused."""
        check_names(self.tables, list(map(str, self.regimes)), self.rivals, self.noise, self.knowledge)
        self._queries: dict[Split, list[Query]] | None = None
        self._documents, self._pair_documents = list[Document](), list[Document]()
        self._retrieved: dict[str, Retrieved] | None = None
        self._of_rival: dict[str, dict[str, Retrieved]] = {}
        self._train_loader: ResumableLoader | None = None
        self._kept_feed: Feed | None = None
        self._resume_from: dict[str, int] = {}

    def prepare_data(self) -> None:
        """Looks for leaks before training, and builds the evidence store where it is missing (one process)."""
        self._read_tables()
        if self.trainer is not None and self.trainer.state.fn == "fit":
            asked = {split: self.split_queries(split) for split in Split}
            pairs = None if self._searches() else self._pair_documents or self._documents
            LeakGuard(self.leaks, self.cache_folder).check(asked, self._image_store(), pairs)
        if self._searches():
            for source in (self.source, *self.rivals.values()):
                source.prepare(self._documents, self._image_store(), self.evidence_folder())

    def setup(self, stage: str) -> None:
        """Reads tables and finds the candidates of every query once."""
        self._read_tables()
        self._kept_feed = None
        if self._retrieved is None and self._searches():
            searching = self._searching()
            self._retrieved = searching.find(self.source, self._asked(*Split))
            self._of_rival = {name: searching.find(rival, self._asked(Split.TEST)) for name, rival in self.rivals.items()}

    def search_again(self) -> None:
        """Finds the candidates anew, after the source's vectors have changed (index refresh); loaders made later serve them."""
        self._retrieved, self._kept_feed = self._searching().find(self.source, self._asked(*Split)), None

    def _searching(self) -> Searching:
        return Searching(self._documents, self._image_store(), self.evidence_folder())

    def _asked(self, *splits: Split) -> list[Query]:
        return [query for split in splits for query in self.split_queries(split)]

    def _searches(self) -> bool:
        """Whether the stage needs candidates; without a trainer somebody looks at them by hand."""
        return self.trainer is None or self._stage().feed not in ("corpus", "pairs")

    def split_queries(self, split: str) -> list[Query]:
        """The questions of `train`, `val` or `test`, in file order."""
        self._read_tables()
        assert self._queries is not None
        return self._queries[Split(split)]

    def documents(self) -> list[Document]:
        """The evidence corpus, in table order."""
        self._read_tables()
        return self._documents

    def duplicated(self, split: str) -> dict[str, bool]:
        """Whether each question of a split has a twin in the corpus, by id (`duplicates`); only those that can be judged."""
        asked = {query.id for every in Split for query in self.split_queries(every)}
        told = [*self.documents(), *(document for table in self.own_reports for document in table.documents())]
        reports = [document for document in told if document.id not in asked]  # others are questions with their answers
        return duplicated_queries(self.split_queries(split), self.documents(), reports, self._image_store())

    def evidence_folder(self) -> Path:
        """Where the evidence store of this corpus lies; two corpora never share one."""
        told = [[d.id, d.text, str(d.image) if d.image else None] for d in self.documents()]
        return self.cache_folder / fingerprint(told)[:16]

    def training_texts(self) -> list[str]:
        """Everything that a training prompt may say; a tiny reader trains its tokenizer on it."""
        asked, documents = self.split_queries(Split.TRAIN), [*self.documents(), *self._pair_documents]
        return [*prompt_texts(asked, documents), *target_words(self.searches), *trace_texts(self.evidence.traces)]

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled training batches that resume where they stopped."""
        items = self._feed().training()
        rank, world = self._process()
        sampler = TrainSampler(len(items), self.batch_size, self.seed, rank, world)
        loading = self._loading(training=True)
        loader = ResumableLoader(items, sampler=sampler, batch_size=None, position=self._position, **loading)
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

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Validation; for a reader with its retrieved evidence, and for the verb `validate` one loader a regime."""
        alone = self.trainer is not None and self.trainer.state.fn == "validate"
        return [self._eval_loader(items) for items in self._feed().validation(alone)]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Test; for a reader one loader a regime, in the order of `regimes`, then one a rival."""
        return [self._eval_loader(items) for items in self._feed().test()]

    def predict_dataloader(self) -> DataLoader[Any]:
        """For a reader: the test queries, or those of the stage's `predicts_split`, with their retrieved evidence.

        For a stage that embeds: the corpus, every document once over all processes; for one that scores: what is missing.
        """
        return self._eval_loader(self._feed().prediction())

    def world(self) -> World:
        """What the feeds are made of."""
        assert self._queries is not None
        stage = None if self.trainer is None else self._stage()  # without one: for who looks at them by hand
        return World(
            queries=self._queries,
            documents=self._pair_documents if self._pair_documents and stage and stage.feed == "pairs" else self._documents,
            retrieved=self._retrieved or {},
            of_rival=self._of_rival,
            open_image=self._image_store(),
            source=self.source,
            mixture=self.evidence,
            one_candidate_per_prompt=isinstance(stage, CollatingStage) and stage.one_candidate_per_prompt,
            seed=self.seed,
            processes=self._process()[1],
            rivals=self.rivals,
            predicted=Split(stage.predicts_split) if isinstance(stage, SplitChoosingStage) else Split.TEST,
            knowledge=self.knowledge,
        )

    def _feed(self) -> Feed:
        """One for all loaders, so that what it reads is read once; `setup` and new candidates make way for another."""
        if self._kept_feed is None:
            self._kept_feed = feed_of(self._stage().feed, self.world(), self)
        return self._kept_feed

    def _eval_loader(self, items: Any) -> DataLoader[Any]:
        rank, world = self._process()
        sampler = EvalSampler(len(items), getattr(items, "batch_size", None) or self.eval_batch_size, rank, world)
        return DataLoader(items, sampler=sampler, batch_size=None, **self._loading(training=False))

    def _loading(self, training: bool) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "collate_fn": self._stage().collator(training),
            "persistent_workers": False,
            "multiprocessing_context": "fork" if self.num_workers else None,
            "pin_memory": self._stage_on_gpu(),
        }

    def _stage(self) -> ServedStage:
        assert self.trainer is not None, "the data module is served by a trainer"
        stage = self.trainer.lightning_module
        if not isinstance(stage, ServedStage):
            raise ValueError(f"{type(stage).__name__} has no collator; it cannot be served by {type(self).__name__}")
        return stage

    def _stage_on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _position(self) -> Position:
        assert self.trainer is not None
        return position_of(self.trainer.fit_loop)

    def _read_tables(self) -> None:
        if self._queries is None:
            asked = queries_by_split(self.tables, self.only, self.train_part, self.limits)
            self._queries = searched_with(asked, self.searches, self.trainer is None or self.trainer.local_rank == 0)
            self._documents = unique_documents(self.corpus, "data.corpus")
            self._pair_documents = unique_documents(self.pair_tables, "data.pair_tables")

    def _image_store(self) -> ImageStore:
        roots = {root for table in [*self.tables, *self.corpus, *self.pair_tables] for root in table.roots()}
        return ImageStore(sorted(roots), max_pixels=self.max_pixels)
