"""The seams between rooms. A stage knows these, never a concrete reader, retriever or source; they meet in YAML."""

from medrag_lightning.interfaces.exploring import (
    Expert,
    ExploreTask,
    JudgeTask,
)
from medrag_lightning.interfaces.fetching import PageFilter, WebFetcher, WebPage
from medrag_lightning.interfaces.judging import PairJudge, PairTask, Verdict
from medrag_lightning.interfaces.mining import FactExtractor
from medrag_lightning.interfaces.reading import (
    AttentionReader,
    PartedReader,
    Processor,
    Reader,
    ReaderPartName,
    TunableReader,
)
from medrag_lightning.interfaces.retrieving import (
    BringsDocuments,
    CandidateSource,
    DualEncoder,
    LearnedFusion,
    QueryEncoder,
    QueryTowers,
    QuestionEncoder,
    Refreshable,
    Reranker,
    Retriever,
    SimilarityFusion,
    SimilaritySource,
    VectorSource,
)
from medrag_lightning.interfaces.rewriting import LoadingRewriter, Rewriter, RewriteTask
from medrag_lightning.interfaces.routing import ModalityRouter
from medrag_lightning.interfaces.serving import (
    CollatingStage,
    Collator,
    Feed,
    OpenImage,
    ServedStage,
    SplitChoosingStage,
    Table,
)
from medrag_lightning.interfaces.summarising import Summariser, SummaryTask
from medrag_lightning.interfaces.tracing import Teacher, TraceStep, TraceTask
from medrag_lightning.interfaces.weighing import CandidateWeigher, LearnedWeigher

__all__ = [
    "AttentionReader",
    "BringsDocuments",
    "CandidateSource",
    "CandidateWeigher",
    "CollatingStage",
    "Collator",
    "DualEncoder",
    "Expert",
    "ExploreTask",
    "FactExtractor",
    "Feed",
    "JudgeTask",
    "LearnedFusion",
    "LearnedWeigher",
    "LoadingRewriter",
    "ModalityRouter",
    "OpenImage",
    "PageFilter",
    "PairJudge",
    "PairTask",
    "PartedReader",
    "Processor",
    "QueryEncoder",
    "QueryTowers",
    "QuestionEncoder",
    "Reader",
    "ReaderPartName",
    "Refreshable",
    "Reranker",
    "Retriever",
    "RewriteTask",
    "Rewriter",
    "ServedStage",
    "SimilarityFusion",
    "SimilaritySource",
    "SplitChoosingStage",
    "Summariser",
    "SummaryTask",
    "Table",
    "Teacher",
    "TraceStep",
    "TraceTask",
    "TunableReader",
    "VectorSource",
    "Verdict",
    "WebFetcher",
    "WebPage",
]
