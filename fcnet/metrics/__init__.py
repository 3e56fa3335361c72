"""Metrics and tests: accuracy, per-class metrics, rankings, calibration, intervals, and comparisons.

They take sequences, NumPy arrays and tensors. Counts are whole numbers, and nothing may be NaN.
"""

from fcnet.metrics.bootstrap import average_intervals, bootstrap_interval
from fcnet.metrics.calibration import ConfidenceBin, calibration_error, confidence_bins
from fcnet.metrics.confusion import MAX_TABLE_CLASSES, ConfusedPair, Confusion
from fcnet.metrics.counts import (
    AverageMetrics,
    ClassMetrics,
    accuracy,
    average_metrics,
    class_metrics,
    mean_class_accuracy,
)
from fcnet.metrics.intervals import difference_interval, influence_interval, mean_interval, wilson_interval
from fcnet.metrics.probabilities import brier_score, log_loss, top_k_accuracy
from fcnet.metrics.ranking import (
    ClassRanking,
    RankingInfluences,
    average_precision,
    class_rankings,
    mean_average_precision,
    mean_roc_auc,
    rank_class,
    rank_class_with_influences,
    roc_auc,
)
from fcnet.metrics.significance import holm_adjust, homogeneity_test, mcnemar_test, two_proportion_test

__all__ = [
    "MAX_TABLE_CLASSES",
    "AverageMetrics",
    "ClassMetrics",
    "ClassRanking",
    "ConfidenceBin",
    "ConfusedPair",
    "Confusion",
    "RankingInfluences",
    "accuracy",
    "average_intervals",
    "average_metrics",
    "average_precision",
    "bootstrap_interval",
    "brier_score",
    "calibration_error",
    "class_metrics",
    "class_rankings",
    "confidence_bins",
    "difference_interval",
    "holm_adjust",
    "homogeneity_test",
    "influence_interval",
    "log_loss",
    "mcnemar_test",
    "mean_average_precision",
    "mean_class_accuracy",
    "mean_interval",
    "mean_roc_auc",
    "rank_class",
    "rank_class_with_influences",
    "roc_auc",
    "top_k_accuracy",
    "two_proportion_test",
    "wilson_interval",
]
