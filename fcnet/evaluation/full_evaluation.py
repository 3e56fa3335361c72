"""One pass over a set of images for everything that is computed from it: counts, predictions and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.predictions import PredictionCollector
from fcnet.evaluation.scores import ScoreCollector

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fcnet.data.batches import Batches
    from fcnet.evaluation.classification import Evaluation
    from fcnet.evaluation.predictions import Predictions
    from fcnet.evaluation.scores import ScoreMetrics


class FullEvaluation(NamedTuple):
    """All results on one set of images.

    Attributes:
        result: the mean loss and the counts of predictions.
        predictions: the prediction for each image.
        scores: the figures that follow from the logits.
    """

    result: Evaluation
    predictions: Predictions
    scores: ScoreMetrics


def evaluate_fully(model: nn.Module, batches: Batches) -> FullEvaluation:
    """Evaluates a model on a set of images; collective, every rank must call it.

    Args:
        model: images -> logits (B,) for two classes, or (B, C).
        batches: the labelled images, on the device of the model.

    Raises:
        UserError: there are no images.

    Example:
        >>> import torch
        >>> from fcnet import MLP
        >>> from fcnet.data.batches import Batches
        >>> found = evaluate_fully(MLP(4, (), 3), Batches(torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])))
        >>> found.result.count == len(found.predictions.labels) == found.scores.count == 6
        True
    """
    predictions, scores = PredictionCollector(batches), ScoreCollector()

    def collect(logits: Tensor, labels: Tensor) -> None:
        predictions.update(logits, labels)
        scores.update(logits, labels)

    result = evaluate(model, batches, on_batch=collect)
    return FullEvaluation(result, predictions.compute(), scores.compute())
