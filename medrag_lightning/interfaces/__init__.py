"""The seams between rooms. A stage knows these, never a concrete reader, retriever or source; they meet in YAML."""

from medrag_lightning.interfaces.exploring import (
    Expert,
    ExploreTask,
    JudgeTask,
)
from medrag_lightning.interfaces.mining import FactExtractor
from medrag_lightning.interfaces.reading import (
    AttentionReader,
    Processor,
    Reader,
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
from medrag_lightning.interfaces.weighing import CandidateWeigher, LearnedWeigher

__all__ = [
    "AttentionReader",
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
    "ModalityRouter",
    "OpenImage",
    "Processor",
    "QueryEncoder",
    "QueryTowers",
    "QuestionEncoder",
    "Reader",
    "Refreshable",
    "Reranker",
    "Retriever",
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
