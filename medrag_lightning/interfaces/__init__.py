"""The seams between rooms. A stage knows these, never a concrete reader, retriever or source; they meet in YAML."""

from medrag_lightning.interfaces.exploring import (
    Expert,
    ExploreTask,
    JudgeTask,
)
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
from medrag_lightning.interfaces.rewriting import Rewriter, RewriteTask
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
from medrag_lightning.interfaces.tracing import Teacher, TraceStep, TraceTask

__all__ = [
    "AttentionReader",
    "CandidateSource",
    "CollatingStage",
    "Collator",
    "DualEncoder",
    "Expert",
    "ExploreTask",
    "FactExtractor",
    "Feed",
    "JudgeTask",
    "LearnedFusion",
    "ModalityRouter",
    "OpenImage",
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
    "Table",
    "Teacher",
    "TraceStep",
    "TraceTask",
    "TunableReader",
    "VectorSource",
]
