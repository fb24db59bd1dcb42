"""Records and arrays in, numbers with intervals out. No torch, no lightning."""

from medrag_lightning.metrics.analysis import EvidenceAnalysis, analyse
from medrag_lightning.metrics.bootstrap import Bootstrap, Metric, Statistic, paired_bootstrap, weighted_mean
from medrag_lightning.metrics.calibration import ReliabilityBin, expected_calibration_error, reliability_bins
from medrag_lightning.metrics.candidates import CandidateOracle, candidate_oracle, candidates_right
from medrag_lightning.metrics.compared import Compared, compare
from medrag_lightning.metrics.consistency import Inconsistency, inconsistency, is_inconsistent
from medrag_lightning.metrics.controls import Majority, QuestionOnly, control_predictions
from medrag_lightning.metrics.ledger import Account, Entry, Ledger, Outcome, ledger_of, sign_test
from medrag_lightning.metrics.parsing import answer_tokens, label_of, normalise_answer, parse_closed
from medrag_lightning.metrics.pseudo_relevance import PseudoRelevance, judge, judged_retrieval
from medrag_lightning.metrics.ranking import (
    PairRanks,
    RankingRow,
    RankingTable,
    chance_scores,
    rank_pairs,
    ranking_summary,
    ranking_table,
    scores_of,
)
from medrag_lightning.metrics.systems import (
    RETRIEVED,
    SYSTEM_ORDER,
    answer_correct,
    by_system,
    defining_system,
    item_correct,
    system_of,
)
from medrag_lightning.metrics.table import (
    Difference,
    ResultTable,
    Row,
    Unit,
    closed_calibration,
    cluster_of,
    item_scores,
    summarise,
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
    "RETRIEVED",
    "SYSTEM_ORDER",
    "Account",
    "Bootstrap",
    "CandidateOracle",
    "Compared",
    "Difference",
    "Entry",
    "EvidenceAnalysis",
    "Inconsistency",
    "Ledger",
    "Majority",
    "Metric",
    "Outcome",
    "PairRanks",
    "PseudoRelevance",
    "QuestionOnly",
    "RankingRow",
    "RankingTable",
    "ReliabilityBin",
    "ResultTable",
    "Row",
    "Statistic",
    "Unit",
    "accuracy",
    "analyse",
    "answer_correct",
    "answer_tokens",
    "balanced_accuracy",
    "by_system",
    "candidate_oracle",
    "candidates_right",
    "chance_scores",
    "closed_calibration",
    "cluster_of",
    "compare",
    "control_predictions",
    "correct",
    "defining_system",
    "exact_match",
    "expected_calibration_error",
    "inconsistency",
    "invalid",
    "is_inconsistent",
    "item_correct",
    "item_scores",
    "judge",
    "judged_retrieval",
    "label_of",
    "ledger_of",
    "macro_f1",
    "normalise_answer",
    "paired_bootstrap",
    "parse_closed",
    "rank_pairs",
    "ranking_summary",
    "ranking_table",
    "reliability_bins",
    "scores_of",
    "sign_test",
    "summarise",
    "system_of",
    "token_f1",
    "token_recall",
    "weighted_mean",
]
