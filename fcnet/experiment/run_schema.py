"""What the JSON files of a run hold. A checksum that fits does not make a file correct: anybody can write one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import MAX_THREADS

if TYPE_CHECKING:
    from pathlib import Path

_MAX_KEY_LENGTH = 60

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]


class _Object(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class EpochLine(_Object):
    """A line of ``metrics.jsonl``; see `fcnet.training.records.EpochRecord`. What is not finite is null."""

    model_config = ConfigDict(extra="forbid")

    epoch: Number
    step: Number
    lr: float
    train_loss: float | None
    train_accuracy: Fraction
    validation_loss: float | None
    validation_accuracy: Fraction | None
    seconds: NonNegative
    images_per_second: NonNegative
    validation_score: float | None = None


class Histogram(_Object):
    """A histogram of a layer's activations; see `fcnet.diagnostics.layers.Histogram`."""

    low: float
    high: float
    counts: Annotated[list[Count], Field(min_length=1)]


class LayerEntry(_Object):
    """The figures of a layer in a snapshot; see `fcnet.diagnostics.layers.LayerDiagnosis`."""

    layer: Number
    units: Number
    dead: Fraction | None = None
    saturated: Fraction | None = None
    activation_mean: float | None = None
    activation_std: NonNegative | None = None
    histogram: Histogram | None = None
    weight_norm: NonNegative | None = None
    gradient_norm: NonNegative | None = None
    effective_rank: NonNegative | None = None


class SnapshotLine(_Object):
    """A line of ``diagnostics.jsonl``; see `fcnet.experiment.snapshots`."""

    epoch: Count
    step: Count
    images: Number
    dead_inputs: Fraction | None
    layers: Annotated[list[LayerEntry], Field(min_length=1)]
    warnings: list[str]
    interval: Number | None = None


class MetricEntry(_Object):
    """A metric of the test set; see `fcnet.evaluation.metric_values.MetricValue`."""

    value: float | None
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None


class CalibrationFigures(_Object):
    """The calibration on a set of images.

    ``bins`` has the count, the mean confidence and the number of correct predictions of each
    `fcnet.metrics.ConfidenceBin`.
    """

    log_loss: float | None
    calibration_error: Fraction
    bins: list[Annotated[list[float], Field(min_length=3, max_length=3)]]


class CalibrationChange(_Object):
    """The calibration on a set of images with the logits of the training, and with those divided by the temperature."""

    before: CalibrationFigures
    after: CalibrationFigures


class Calibration(_Object):
    """What ``train.calibrate`` did; see `fcnet.evaluation.temperature.TemperatureFit`."""

    temperature: Annotated[float, Field(gt=0.0)]
    reason: str | None
    gap: NonNegative | None
    validation: CalibrationChange
    test: CalibrationChange


Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class MinimumEntry(_Object):
    """The end of a search for a minimum; ``gap`` bounds its distance from the minimum, null where nothing is proven."""

    C: Annotated[float, Field(gt=0.0)]
    iterations: Count
    converged: bool
    objective: float | None
    gap: float | None


class PenaltyEntry(MinimumEntry):
    """A penalty of a probe on the held-out examples; of several folds, the worst end of a search.

    ``p_value`` is that of McNemar's test against the chosen penalty, Holm-adjusted.
    """

    accuracy: Fraction
    accuracy_interval: Interval
    log_loss: float | None
    log_loss_interval: Interval | None
    p_value: Fraction


class FewShotEntry(_Object):
    """The test accuracies with a number of examples of each class, one for each draw."""

    shots: Number
    Cs: Annotated[list[float], Field(min_length=1)]
    accuracies: Annotated[list[Fraction], Field(min_length=1)]
    mean: Fraction
    std: NonNegative | None
    interval: Interval | None


class ProbeEntry(_Object):
    """What ``python -m fcnet.probe`` chose, and by what.

    ``validation`` is the share of the training examples to choose by; null with ``folds`` or a validation split.
    ``equal_range`` holds the first and the last penalty around the chosen one that do not differ from it beyond chance.
    """

    C: Annotated[float, Field(gt=0.0)]
    validation: Fraction | None
    folds: Count | None
    l2_normalize: bool
    standardize: bool
    class_weight: str | None
    tol: Annotated[float, Field(gt=0.0)]
    max_iter: Number
    equal_range: Interval
    penalties: Annotated[list[PenaltyEntry], Field(min_length=1)]
    refit: MinimumEntry
    few_shot: list[FewShotEntry]


class Summary(_Object):
    """``summary.json``: the figures of a finished run, and the environment in which it was trained.

    A probe has one epoch, and its steps are those of the last search. Without a test split it has no test figures.
    """

    test_accuracy: Fraction | None
    test_interval: Annotated[list[Fraction], Field(min_length=2, max_length=3)] | None
    test_loss: float | None
    test_metrics: dict[str, MetricEntry] | None = None
    validation_accuracy: Fraction | None
    validation_loss: float | None
    validation_score: float | None = None
    epochs: Number
    best_epoch: Number
    steps: Number
    train_seconds: NonNegative
    parameters: Count
    train_images: Number
    class_images: dict[str, Count] | None = None
    class_average_precision: dict[str, Fraction | None] | None = None
    validation_images: Count
    test_images: Count
    warnings: list[str]
    device: str
    processor: str
    threads: Number
    ranks: Number
    fcnet: str
    torch: str
    python: str
    platform: str
    seed: int
    data: str
    init_from: dict[str, str] | None = None
    calibration: Calibration | None = None
    probe: ProbeEntry | None = None

    @model_validator(mode="after")
    def _check_test_figures(self) -> Summary:
        is_missing = [self.test_accuracy is None, self.test_interval is None, self.test_images == 0]
        if any(is_missing) and not (all(is_missing) and self.probe is not None):
            raise ValueError("a run needs test figures, unless it is a probe of data without a test split")
        return self


class GitCommit(_Object):
    """The commit of the working folder of a command, and whether tracked files differed from it."""

    commit: str
    modified: bool


class CommandEntry(_Object):
    """A line of ``commands.jsonl``; see `fcnet.experiment.provenance`."""

    time: str
    command: str
    fcnet: str
    git: GitCommit | None
    sources: dict[str, str]


class DataIdentity(_Object):
    """The content of the data of a run; see `fcnet.experiment.run_identity.run_identity`."""

    fingerprint: str
    classes: list[str]
    shape: list[int]
    images: Annotated[list[Count], Field(min_length=2, max_length=3)]
    source: dict[str, str | int | list[int]]


class CheckpointEntries(_Object):
    """The entries of a checkpoint's metadata besides the state of the training."""

    data: DataIdentity
    config: dict[str, JsonValue]
    fcnet: str
    torch: str
    ranks: Number
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)]


def check_object(schema: type[BaseModel], content: object, file: Path) -> None:
    """Checks that a JSON value from a file has the structure of a schema.

    Raises:
        UserError: it has not; the message names the file and the first key at fault.
    """
    try:
        schema.model_validate(content)
    except ValidationError as errors:
        first = errors.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))[:_MAX_KEY_LENGTH]
        raise UserError(f"{file} is damaged: {f'{key}: ' if key else ''}{first['msg'].lower()}") from None


def check_lines(schema: type[BaseModel], lines: object, file: Path) -> None:
    """Checks that a list from a file holds the lines of a schema, in order of their epochs, each once.

    Raises:
        UserError: it does not; the message names the file and the line.
    """
    if not isinstance(lines, list):
        raise UserError(f"{file} is damaged: expected a list of lines, got {type(lines).__name__}")
    last = -1
    for number, line in enumerate(lines, 1):
        check_object(schema, line, file)
        if line["epoch"] <= last or (schema is EpochLine and line["epoch"] != number):
            raise UserError(f"{file} is damaged: line {number} must not be that of epoch {line['epoch']}")
        last = line["epoch"]
