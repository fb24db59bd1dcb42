"""Records and arrays in, numbers with intervals out. No torch, no lightning."""

from medrag_lightning.metrics.bootstrap import Bootstrap, Metric, Statistic, paired_bootstrap, weighted_mean
from medrag_lightning.metrics.calibration import ReliabilityBin, expected_calibration_error, reliability_bins
from medrag_lightning.metrics.controls import Majority, QuestionOnly, control_predictions
from medrag_lightning.metrics.parsing import answer_tokens, label_of, normalise_answer, parse_closed
from medrag_lightning.metrics.table import (
    Difference,
    ResultTable,
    Row,
    Unit,
    closed_calibration,
    cluster_of,
    item_correct,
    item_scores,
    summarise,
    system_of,
)
from medrag_lightning.metrics.vqa import (
    accuracy,
    balanced_accuracy,
    correct,
    exact_match,
    invalid,
    macro_f1,
    token_f1,
    token_recall,
)

__all__ = [
    "Bootstrap",
    "Difference",
    "Majority",
    "Metric",
    "QuestionOnly",
    "ReliabilityBin",
    "ResultTable",
    "Row",
    "Statistic",
    "Unit",
    "accuracy",
    "answer_tokens",
    "balanced_accuracy",
    "closed_calibration",
    "cluster_of",
    "control_predictions",
    "correct",
    "exact_match",
    "expected_calibration_error",
    "invalid",
    "item_correct",
    "item_scores",
    "label_of",
    "macro_f1",
    "normalise_answer",
    "paired_bootstrap",
    "parse_closed",
    "reliability_bins",
    "summarise",
    "system_of",
    "token_f1",
    "token_recall",
    "weighted_mean",
]
