"""The results of a probe: the model, the predictions for the test split, tables, and the summary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fcnet.config.schema import Config, Data, Model, Optimizer, Train
from fcnet.config.toml import dump_config
from fcnet.data.features.statistics import feature_mean_and_std
from fcnet.evaluation.full_evaluation import evaluate_fully
from fcnet.evaluation.metric_values import summary_entries
from fcnet.evaluation.prediction_files import write_predictions
from fcnet.experiment.build import open_data, test_batches
from fcnet.experiment.environment import describe_environment
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import LogisticRegression
from fcnet.probe.few_shot import summarize, test_accuracies
from fcnet.probe.selection import equal_range
from fcnet.runtime import distributed
from fcnet.runtime.files import ChecksummedFolder
from fcnet.runtime.formatting import csv_text, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from fcnet.data.features.joined_rows import JoinedRows
    from fcnet.linear_model import LogisticPath
    from fcnet.probe.arguments import Settings
    from fcnet.probe.procedure import Outcome
    from fcnet.probe.run import ProbeRun
    from fcnet.probe.selection import HeldOut
    from fcnet.probe.training_data import TrainingData

COLUMNS = (
    *("fold", "C", "iterations", "converged", "objective", "gap", "examples", "accuracy", "accuracy_low"),
    *("accuracy_high", "log_loss", "log_loss_low", "log_loss_high", "p_value"),
)
"""The columns of ``probe.csv``."""
FEW_SHOT_COLUMNS = ("shots", "draw", "C", "converged", "objective", "gap", "validation_accuracy", "test_accuracy")
"""The columns of ``few_shot.csv``."""


class _Test(NamedTuple):
    """The figures of the test split.

    Attributes:
        figures: entries of the summary.
        few_shots: the accuracy of each few-shot fit.
        fingerprint: that of the data with all splits.
        notes: sentences on what is not used.
    """

    figures: dict[str, Any]
    few_shots: list[float]
    fingerprint: str
    notes: tuple[str, ...]


def make_classifier(
    path: LogisticPath, x: Tensor | JoinedRows, classes: Sequence[str], *, normalize: bool
) -> ImageClassifier:
    """Returns the first regression of a path as a model of the features as they are.

    It standardizes features by the mean and standard deviation of ``x``, also where the penalty did not: in float32,
    the digits of features with a large mean would cancel otherwise.

    Args:
        path: the regression, of all classes, on the features ``x``.
        x: (N, D).
        classes: the class names.
        normalize: whether the rows of ``x`` have been scaled to unit norm, which the model then does as well.
    """
    mean, std = feature_mean_and_std(x, torch.arange(len(x)))
    weight, bias = path.coef[0] * std.double(), path.intercept[0] + path.coef[0] @ mean.double()
    model = LogisticRegression.from_weights(weight.float(), bias.float())
    classifier = ImageClassifier(
        model, classes=classes, shape=(x.shape[1],), mean=mean, std=std, l2_normalize=normalize
    )
    return classifier.eval()


def configuration(features: str, settings: Settings) -> Config:
    """Returns the configuration that tells other commands of the data and the kind of the model."""
    data = Data(
        source="features",
        path=features,
        validation=settings.validation or 0.0,
        standardize=settings.standardize,
        feature_column=settings.feature_column,
        label_column=settings.label_column,
    )
    train = Train(epochs=1, batch_size="all")
    return Config(
        seed=settings.seed, data=data, model=Model(kind="logistic"), optimizer=Optimizer(name="lbfgs"), train=train
    )


def write_results(
    run: ProbeRun, features: str, settings: Settings, data: TrainingData, x: Tensor | JoinedRows, outcome: Outcome,
    device: torch.device, seconds: float,
) -> tuple[str, ...]:  # fmt: skip
    """Evaluates the chosen model on the test split, and writes all results; the summary is the last file; collective.

    Args:
        run: the run folder.
        features: the path of the features.
        settings: the settings.
        data: the examples.
        x: (N, D), their features.
        outcome: what was fitted and chosen.
        device: the device for the test split.
        seconds: the seconds of all fits.

    Returns:
        Sentences on what of the data is not used.
    """
    config = configuration(features, settings)
    with distributed.long_work():
        classifier = make_classifier(outcome.refit, x, data.classes, normalize=settings.l2_normalize).to(device)
    test = _evaluate(classifier, config, outcome, device) if data.has_test else None
    with distributed.long_work():
        if distributed.rank() == 0:
            _write_files(run, config, settings, data, outcome, classifier, test, device, seconds)
    return () if test is None else test.notes


def _write_files(
    run: ProbeRun, config: Config, settings: Settings, data: TrainingData, outcome: Outcome,
    classifier: ImageClassifier, test: _Test | None, device: torch.device, seconds: float,
) -> None:  # fmt: skip
    files = ChecksummedFolder(run.path)
    run.run.remove_results()
    environment = describe_environment(
        device, seed=settings.seed, data=data.fingerprint if test is None else test.fingerprint
    )
    classifier.save(run.path / "model", {"environment": environment, "probe": {"C": float(outcome.refit.Cs[0])}})
    if test is not None:
        predictions = test.figures.pop("predictions")
        write_predictions(run.path, predictions, classifier.classes, test.fingerprint)
    files.write("probe.csv", csv_text([COLUMNS, *_rows(outcome)]).encode())
    few_shots = [] if test is None else test.few_shots
    if few_shots:
        files.write("few_shot.csv", csv_text([FEW_SHOT_COLUMNS, *_few_shot_rows(outcome, few_shots)]).encode())
    files.write("config.toml", dump_config(config).encode())
    chosen, pooled = outcome.chosen, outcome.pooled
    no_test = {"test_accuracy": None, "test_interval": None, "test_loss": None, "test_images": 0}
    counts = data.y.bincount(minlength=len(data.classes)).tolist()
    run.run.finish(
        {
            **(no_test if test is None else test.figures),
            "validation_accuracy": pooled.accuracy(chosen),
            "validation_loss": float(pooled.log_loss[chosen]),
            "epochs": 1,
            "best_epoch": 1,
            "steps": max(1, int(outcome.refit.iterations[0])),
            "train_seconds": seconds,
            "parameters": sum(parameter.numel() for parameter in classifier.model.parameters()),
            "train_images": len(data.y),
            "class_images": dict(zip(data.classes, counts, strict=True)),
            "validation_images": pooled.count,
            "warnings": [*convergence_warnings(outcome, settings), *choice_advice(outcome, settings)],
            **environment,
            "probe": probe_entry(outcome, settings, few_shots),
        }
    )


def _evaluate(classifier: ImageClassifier, config: Config, outcome: Outcome, device: torch.device) -> _Test:
    """Reads the test split for the first time; collective."""
    with distributed.long_work():
        store = open_data(config.data)
    result, predictions, scores = evaluate_fully(classifier.model, test_batches(store, classifier, device))
    figures = {
        **summary_entries(result, scores, classifier.classes),
        "test_images": result.count,
        "predictions": predictions,
    }
    few_shots = test_accuracies(
        outcome.few_shots, store.test.pixels, store.test.labels, normalize=classifier.l2_normalize
    )
    return _Test(figures, few_shots, store.fingerprint, store.notes)


def convergence_warnings(outcome: Outcome, settings: Settings) -> list[str]:
    """Returns sentences on what is no minimum."""
    lines, remedy = [], "a larger --max-iter or --tol changes that"
    ends = [_worst_end(outcome.paths, k) for k in range(len(settings.Cs))]
    if unconverged := [end for end in ends if not end["converged"]]:
        where = "" if len(outcome.paths) == 1 else " in one or more folds"
        penalties = ", ".join(f"{end['C']:g}" for end in unconverged)
        lines.append(
            f"not converged to a tolerance of {settings.tol:g}{where}: C = {penalties}; the objectives exceed their "
            f"minima by {_describe_gaps(unconverged)}; {remedy}"
        )
    if not bool(outcome.refit.converged[0]):
        gap = _describe_gaps([_worst_end([outcome.refit], 0)])
        lines.append(
            f"the model is no minimum: its search has not converged, and its objective exceeds the minimum by {gap}; "
            f"{remedy}"
        )
    if num := sum(fit.num_unconverged > 0 for fit in outcome.few_shots):
        lines.append(
            f"{num:,} of {format_count(len(outcome.few_shots), 'few-shot fit')} had penalties that did not converge"
        )
    return lines


def choice_advice(outcome: Outcome, settings: Settings) -> list[str]:
    """Returns a sentence on a choice at an end of the range."""
    if len(settings.Cs) == 1 or outcome.chosen not in (0, len(settings.Cs) - 1):
        return []
    end = "smallest" if outcome.chosen == 0 else "largest"
    chosen = f"the chosen C = {settings.Cs[outcome.chosen]:g} is the {end} that was tried"
    return [f"{chosen}: the best one may lie beyond it, which --Cs can try"]


def _describe_gaps(ends: Sequence[dict[str, Any]]) -> str:
    """Returns how far from their minima searches may have ended, relative to the objectives."""
    if any(end["gap"] is None or not end["objective"] for end in ends):
        return "an unknown amount"
    return f"a fraction of at most {max(end['gap'] / end['objective'] for end in ends):.1e}"


def probe_entry(outcome: Outcome, settings: Settings, few_shots: Sequence[float]) -> dict[str, Any]:
    """Returns the entry ``probe`` of ``summary.json``; see `fcnet.experiment.run_schema.ProbeEntry`."""
    first, last = equal_range(outcome.p_values, outcome.chosen)
    return {
        "C": settings.Cs[outcome.chosen],
        "validation": settings.validation,
        "folds": settings.folds,
        "l2_normalize": settings.l2_normalize,
        "standardize": settings.standardize,
        "class_weight": settings.class_weight,
        "tol": settings.tol,
        "max_iter": settings.max_iter,
        "equal_range": [settings.Cs[first], settings.Cs[last]],
        "penalties": [
            {
                **_worst_end(outcome.paths, k),
                "accuracy": outcome.pooled.accuracy(k),
                "accuracy_interval": list(outcome.pooled.accuracy_interval(k)),
                "log_loss": _finite(outcome.pooled.log_loss[k]),
                "log_loss_interval": _interval(outcome.pooled, k),
                "p_value": outcome.p_values[k],
            }
            for k in range(len(settings.Cs))
        ],
        "refit": _worst_end([outcome.refit], 0),
        "few_shot": list(_few_shot_entries(outcome, settings, few_shots)),
    }


def _worst_end(paths: Sequence[LogisticPath], k: int) -> dict[str, Any]:
    """Returns the end of the search with the largest gap among those of one penalty."""
    return {
        "C": float(paths[0].Cs[k]),
        "iterations": max(int(path.iterations[k]) for path in paths),
        "converged": all(bool(path.converged[k]) for path in paths),
        "objective": _finite(max(path.objective[k] for path in paths)),
        "gap": _finite(max(path.gap[k] for path in paths)),
    }


def _few_shot_entries(outcome: Outcome, settings: Settings, accuracies: Sequence[float]) -> Iterator[dict[str, Any]]:
    for shots in settings.shots:
        found = [
            (float(fit.path.Cs[0]), accuracy)
            for fit, accuracy in zip(outcome.few_shots, accuracies, strict=True)
            if fit.shots == shots
        ]
        penalties, values = zip(*found, strict=True)
        mean, std, interval = summarize(values)
        yield {
            "shots": shots,
            "Cs": list(penalties),
            "accuracies": list(values),
            "mean": mean,
            "std": std,
            "interval": None if interval is None else list(interval),
        }


def _rows(outcome: Outcome) -> Iterator[list[Any]]:
    """Yields the rows of ``probe.csv``: those of each fold, those of all held-out examples, and the last search."""
    several = len(outcome.paths) > 1
    for number, (path, held_out) in enumerate(zip(outcome.paths, outcome.held_out, strict=True), 1):
        for k in range(len(path.Cs) * several):
            yield [number, *_end_cells([path], k), *_held_out_cells(held_out, k), None]
    for k, p_value in enumerate(outcome.p_values):
        p_cell = None if k == outcome.chosen else p_value
        yield ["all", *_end_cells(outcome.paths, k), *_held_out_cells(outcome.pooled, k), p_cell]
    yield ["refit", *_end_cells([outcome.refit], 0), *[None] * 8]


def _end_cells(paths: Sequence[LogisticPath], k: int) -> list[Any]:
    return list(_worst_end(paths, k).values())


def _held_out_cells(held_out: HeldOut, k: int) -> list[Any]:
    loss: Sequence[float | None] = _interval(held_out, k) or [None, None]
    return [
        held_out.count,
        held_out.accuracy(k),
        *held_out.accuracy_interval(k),
        _finite(held_out.log_loss[k]),
        *loss,
    ]


def _few_shot_rows(outcome: Outcome, accuracies: Sequence[float]) -> Iterator[list[Any]]:
    for fit, accuracy in zip(outcome.few_shots, accuracies, strict=True):
        path = fit.path
        yield [
            fit.shots,
            fit.repeat,
            float(path.Cs[0]),
            bool(path.converged[0]),
            _finite(path.objective[0]),
            _finite(path.gap[0]),
            fit.validation_accuracy,
            accuracy,
        ]


def _interval(held_out: HeldOut, k: int) -> list[float] | None:
    interval = held_out.log_loss_interval(k)
    return list(interval) if interval is not None and all(map(math.isfinite, interval)) else None


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
