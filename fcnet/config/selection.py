"""The validation figures that can choose the best epoch and rank trials: names, words, and which of two is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fcnet.runtime.formatting import format_percent

if TYPE_CHECKING:
    from collections.abc import Mapping

Selection = Literal[
    "validation_accuracy",
    "validation_loss",
    "mean_class_accuracy",
    "macro_f1",
    "mean_average_precision",
    "roc_auc",
    "brier_score",
    "top_5_accuracy",
]


@dataclass(frozen=True)
class Criterion:
    """A figure of the validation set by which models are compared.

    Attributes:
        name: the value of ``train.select``.
        short_label: the figure in words, without its set.
        column: where records and summaries hold the figure; ``validation_score`` unless they have it anyway.
        lower_is_better: whether a smaller figure is the better one; all others rise.
        needs_logits: whether it follows from the logits of all images and not from a loss and counts.

    Example:
        >>> loss = CRITERIA["validation_loss"]
        >>> loss.is_better(0.3, than=0.4), loss.is_better(0.4, than=0.4), loss.is_better(math.nan, than=0.4)
        (True, False, False)
        >>> loss.format(0.31254), CRITERIA["macro_f1"].format(0.31254, std=0.001)
        ('0.3125', '31.25% ± 0.10')
    """

    name: Selection
    short_label: str
    column: str = "validation_score"
    lower_is_better: bool = False
    needs_logits: bool = False

    @property
    def label(self) -> str:
        """The figure in words."""
        return f"validation {self.short_label}"

    @property
    def title(self) -> str:
        """The figure in words, as the title of a chart."""
        return f"Validation {self.short_label}"

    @property
    def is_fraction(self) -> bool:
        """Whether values are from 0 to 1, and written as percentages."""
        return not self.lower_is_better

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Returns whether a value is better than another. One that is None, NaN or infinite is worse than all others.

        A tie is not better, so the first of equals stays.
        """
        if value is None or not math.isfinite(value):
            return False
        if than is None or not math.isfinite(than):
            return True
        return value < than if self.lower_is_better else value > than

    def find(self, figures: Mapping[str, Any]) -> float | None:
        """Returns this figure among those of an epoch or of a run; None if it is absent or not finite."""
        value: float | None = figures.get(self.column)
        return value

    def sort_key(self, value: float) -> float:
        """Returns a number that is lower for a better value, to sort by; NaN comes last."""
        if math.isnan(value):
            return math.inf
        return value if self.lower_is_better else -value

    def format(self, value: float, std: float | None = None) -> str:
        """Returns a value as text, with its standard deviation if there is one: a fraction as a percentage."""
        if self.is_fraction:
            return format_percent(value) + ("" if std is None else f" ± {100 * std:.2f}")
        return f"{value:.4f}" + ("" if std is None else f" ± {std:.4f}")


DEFAULT_SELECTION: Selection = "validation_accuracy"
"""The criterion of all runs before there was a choice."""

CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion("validation_accuracy", "accuracy", "validation_accuracy"),
        Criterion("validation_loss", "loss", "validation_loss", lower_is_better=True),
        Criterion("mean_class_accuracy", "mean class accuracy"),
        Criterion("macro_f1", "macro F1"),
        Criterion("mean_average_precision", "mAP", needs_logits=True),
        Criterion("roc_auc", "ROC AUC", needs_logits=True),
        Criterion("brier_score", "Brier score", lower_is_better=True, needs_logits=True),
        Criterion("top_5_accuracy", "top-5 accuracy", needs_logits=True),
    )
}
"""All criteria by name."""
