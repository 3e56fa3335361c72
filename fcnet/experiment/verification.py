"""Makes the stored results of a run again from its model and its test images, and compares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fcnet.evaluation.full_evaluation import evaluate_fully
from fcnet.evaluation.metric_values import metric_values
from fcnet.evaluation.prediction_files import read_predictions
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count

if TYPE_CHECKING:
    from fcnet.data.batches import Batches
    from fcnet.evaluation.predictions import Predictions
    from fcnet.experiment.image_classifier import ImageClassifier
    from fcnet.experiment.run_folder import Run

ROUNDING = 1e-4
"""The largest difference of a probability, or of a score relative to it, between devices and numbers of threads."""


class Check(NamedTuple):
    """One comparison.

    Attributes:
        line: what was compared, and the largest difference.
        is_equal: False if they differ by more than rounding.
    """

    line: str
    is_equal: bool


def verify_results(run: Run, classifier: ImageClassifier, test: Batches) -> list[Check]:
    """Compares the stored predictions and test scores of a run with those of its model.

    Sums over other numbers of threads, or on another device, round differently. Differences up to `ROUNDING` are said
    and count as equal, and so do other classes of images whose two largest probabilities differ by no more.

    Args:
        run: the run, with its model.
        classifier: the model of the run.
        test: the run's own test images, on the device of the model.

    Returns:
        One check of the predictions, and one of the summary.
    """
    result, made, scores = evaluate_fully(classifier.model, test)
    computed = {"test_accuracy": result.accuracy, "test_loss": result.loss}
    computed |= {each.name: each.value for each in metric_values(result, scores) if each.value is not None}
    return [_check_predictions(run, made), _check_summary(run, computed, made)]


def _check_predictions(run: Run, made: Predictions) -> Check:
    try:
        stored = read_predictions(run.path)
    except UserError as error:
        return Check(f"predictions: not compared: {error}", is_equal=False)
    if stored is None:
        has_some = (run.path / "predictions.json").is_file()
        reason = "those of another model" if has_some else f"{run.path}/predictions.json: no such file"
        return Check(f"predictions: not compared: {reason}", is_equal=not has_some)
    return _compare_predictions(stored, made)


def _compare_predictions(stored: Predictions, made: Predictions) -> Check:
    """Compares predictions image by image."""
    count = len(made.labels)
    if len(stored.labels) != count:
        return Check(f"predictions: {len(stored.labels):,} are stored for {count:,} test images", is_equal=False)
    for name in ("labels", "rows"):
        if changed := int((getattr(stored, name) != getattr(made, name)).sum()):
            return Check(f"predictions: {name} of {format_count(changed, 'image')} differ", is_equal=False)
    images = format_count(count, "image")
    differences = [stored.probabilities - made.probabilities, stored.true_probabilities - made.true_probabilities]
    largest = max(each.abs().max().item() for each in differences)
    is_other = stored.classes[:, 0] != made.classes[:, 0]
    gaps = stored.probabilities[:, 0] - stored.probabilities[:, 1]
    if largest == 0.0 and torch.equal(stored.classes, made.classes):
        return Check(f"predictions: equal, {images}", is_equal=True)
    verdict = (
        "equal up to rounding"
        if (is_equal := largest <= ROUNDING and not (is_other & (gaps > ROUNDING)).any())
        else "different"
    )
    others = f"{int(is_other.sum()):,} of {images} with another class"
    return Check(f"predictions: {verdict}, {others}, probabilities by up to {largest:.1e}", is_equal)


def _check_summary(run: Run, computed: dict[str, float], made: Predictions) -> Check:
    """Compares the test scores; an accuracy may differ by the images whose two largest probabilities are equal."""
    if not run.finished:
        return Check(f"summary: not compared: {run.path}/summary.json: no such file", is_equal=True)
    summary = run.summary()
    stored: dict[str, Any] = {name: summary[name] for name in ("test_accuracy", "test_loss")}
    stored |= {name: entry["value"] for name, entry in (summary.get("test_metrics") or {}).items()}
    differences = {
        name: abs(value - computed.get(name, math.nan)) / max(abs(value), 1.0)
        for name, value in stored.items()
        if value is not None
    }
    missing = "" if summary.get("test_metrics") else "; test_metrics are not stored"
    scores = format_count(len(differences), "score")
    name = max(differences, key=lambda key: math.inf if math.isnan(differences[key]) else differences[key])
    if differences[name] == 0.0:
        return Check(f"summary: equal, {scores}{missing}", is_equal=True)
    gaps = made.probabilities[:, 0] - made.probabilities[:, 1]
    tolerance = ROUNDING + float((gaps <= ROUNDING).double().mean())
    is_equal = all(difference <= tolerance for difference in differences.values())
    verdict = "equal up to rounding" if is_equal else "different"
    found = f"{name} {stored[name]:.6g} is stored, {computed.get(name, math.nan):.6g} is the model's"
    return Check(f"summary: {verdict}, {scores}, by up to {differences[name]:.1e}: {found}{missing}", is_equal)
