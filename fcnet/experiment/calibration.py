"""Calibrates the trained model of an experiment, ``train.calibrate``, and measures what that changes.

The temperature is fitted after the training, to the validation images. No checkpoint knows of it: a run that resumes
fits it again, and one that continues to more epochs goes on from weights without it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.predictions import PredictionCollector
from fcnet.evaluation.temperature import divide_logits, fit_temperature
from fcnet.metrics import calibration_error

if TYPE_CHECKING:
    from fcnet.data.batches import Batches
    from fcnet.experiment.build import Experiment
    from fcnet.models.mlp import MLP


def calibrate(experiment: Experiment) -> dict[str, Any]:
    """Divides the logits of a trained model by the temperature that fits the validation images; collective.

    Args:
        experiment: the experiment at the end of its training, with validation images.

    Returns:
        The entry ``calibration`` of ``summary.json``; see `fcnet.experiment.run_schema.Calibration`.
    """
    classifier, validation = experiment.classifier, experiment.training.validation
    assert validation is not None
    sets = {"validation": validation, "test": experiment.test}
    before = {name: _measure(classifier.model, batches) for name, batches in sets.items()}
    fit, after = fit_temperature(classifier.model, validation), before
    if fit.reason is None:
        divide_logits(classifier.model, fit.temperature)
        classifier.temperature = fit.temperature
        after = {name: _measure(classifier.model, batches) for name, batches in sets.items()}
    return {
        "temperature": fit.temperature,
        "reason": fit.reason,
        "gap": _finite_or_none(fit.gap),
        **{name: {"before": before[name], "after": after[name]} for name in sets},
    }


def _measure(model: MLP, batches: Batches) -> dict[str, Any]:
    """Returns the log loss, the calibration error and the bins behind it, in JSON types."""
    collector = PredictionCollector()
    loss = evaluate(model, batches, on_batch=collector.update).loss
    bins = collector.compute().confidence_bins()
    return {
        "log_loss": _finite_or_none(loss),
        "calibration_error": calibration_error(bins),
        "bins": [[each.count, each.confidence, each.num_correct] for each in bins],
    }


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
