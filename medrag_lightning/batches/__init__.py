"""The shape legend and the typed batches.

Shape suffixes, used for every tensor in this project:

    B  queries in a batch            K  candidates of a query         C  closed answers of a query
    P  prompts in a batch            R  rows = (prompt, answer) pairs T  tokens of a prompt, padded
    L  tokens of an answer, padded   V  vocabulary                    M  similarity channels
    D  width of an embedding         N  items of a data set           F  bins, folds, resamples; features
    Q  features of a question

An *example* is one query with its evidence and open images, not tokenised: what the data module serves. A *prompt* is a
list of segments. A *reader batch* is P encoded prompts and the R answer rows that are to be scored after them.
"""

from medrag_lightning.batches.candidates import CandidateBatch
from medrag_lightning.batches.fusion import FusionBatch
from medrag_lightning.batches.preference import PreferenceBatch, PreferenceExample
from medrag_lightning.batches.reading import (
    AnswerRows,
    EncodedPrompts,
    Example,
    Prompt,
    ReaderBatch,
    ReaderPart,
    Role,
    Segment,
    split_by_length,
)
from medrag_lightning.batches.retrieval import (
    CandidatePool,
    DistillExample,
    Embedded,
    EmbedItem,
    Pair,
    PairBatch,
    StatedFacts,
    pixel_sha256,
)
from medrag_lightning.batches.steering import SEGMENTS, AttentionMass, Direction, Steering, SteeringPolicy, TokenRoles

__all__ = [
    "SEGMENTS",
    "AnswerRows",
    "AttentionMass",
    "CandidateBatch",
    "CandidatePool",
    "Direction",
    "DistillExample",
    "EmbedItem",
    "Embedded",
    "EncodedPrompts",
    "Example",
    "FusionBatch",
    "Pair",
    "PairBatch",
    "PreferenceBatch",
    "PreferenceExample",
    "Prompt",
    "ReaderBatch",
    "ReaderPart",
    "Role",
    "Segment",
    "StatedFacts",
    "Steering",
    "SteeringPolicy",
    "TokenRoles",
    "pixel_sha256",
    "split_by_length",
]
