"""The records that every room passes on: plain, frozen, typed, standard library only.

A *query* is one question about one image of one patient. A *document* is one (image, text) item of the evidence
corpus. A *candidate* is a document that was found for a query, with the score and the channel that found it.
"""

from medrag_lightning.records.cases import (
    REPORTS,
    AnswerType,
    Candidate,
    Channel,
    Document,
    ImageRef,
    Query,
    Regime,
    Retrieved,
    Split,
    shares_identity,
    unique_by_id,
)
from medrag_lightning.records.outcomes import (
    ABLATED,
    Condition,
    ImageShown,
    Noise,
    NoiseKind,
    Prediction,
    Score,
    Variant,
)
from medrag_lightning.records.preferences import (
    Knowledge,
    PairKind,
    Preference,
    PreferenceSide,
    knowledge_of,
)
from medrag_lightning.records.searches import (
    Searches,
    WrittenSearches,
    format_searches,
    parse_searches,
)
from medrag_lightning.records.traces import (
    Kept,
    Trace,
    WrittenTrace,
    format_trace,
    kept_faults,
    parse_trace,
)

__all__ = [
    "ABLATED",
    "REPORTS",
    "AnswerType",
    "Candidate",
    "Channel",
    "Condition",
    "Document",
    "ImageRef",
    "ImageShown",
    "Kept",
    "Knowledge",
    "Noise",
    "NoiseKind",
    "PairKind",
    "Prediction",
    "Preference",
    "PreferenceSide",
    "Query",
    "Regime",
    "Retrieved",
    "Score",
    "Searches",
    "Split",
    "Trace",
    "Variant",
    "WrittenSearches",
    "WrittenTrace",
    "format_searches",
    "format_trace",
    "kept_faults",
    "knowledge_of",
    "parse_searches",
    "parse_trace",
    "shares_identity",
    "unique_by_id",
]
