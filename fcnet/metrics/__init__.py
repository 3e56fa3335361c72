"""Metrics and tests: accuracy, per-class metrics, rankings, calibration, intervals, and comparisons.

They take sequences, NumPy arrays and tensors. Counts are whole numbers, and nothing may be NaN.
"""

from fcnet.metrics.calibration import ConfidenceBin, calibration_error, confidence_bins
from fcnet.metrics.confusion import MAX_TABLE_CLASSES, ConfusedPair, Confusion
from fcnet.metrics.counts import ClassMetrics, accuracy, class_metrics
from fcnet.metrics.intervals import difference_interval, wilson_interval
from fcnet.metrics.ranking import (
    ClassRanking,
    average_precision,
    class_rankings,
    mean_average_precision,
    mean_roc_auc,
    rank_class,
    roc_auc,
)
from fcnet.metrics.significance import holm_adjust, homogeneity_test, mcnemar_test, two_proportion_test

__all__ = [
    "MAX_TABLE_CLASSES",
    "ClassMetrics",
    "ClassRanking",
    "ConfidenceBin",
    "ConfusedPair",
    "Confusion",
    "accuracy",
    "average_precision",
    "calibration_error",
    "class_metrics",
    "class_rankings",
    "confidence_bins",
    "difference_interval",
    "holm_adjust",
    "homogeneity_test",
    "mcnemar_test",
    "mean_average_precision",
    "mean_roc_auc",
    "rank_class",
    "roc_auc",
    "two_proportion_test",
    "wilson_interval",
]
