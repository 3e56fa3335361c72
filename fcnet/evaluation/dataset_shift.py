"""Compares another dataset with the data of a run: class frequencies, pixel statistics and accuracy.

C classes, c channels. "Run" stands for the data of the run, "other" for the other dataset.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from fcnet.data.store.store import mean_and_std
from fcnet.metrics import difference_interval, homogeneity_test, two_proportion_test
from fcnet.runtime.formatting import format_count, format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.data.batches import Batches

SIGNIFICANT = 0.05
"""The significance level of the tests."""
NOTABLE = 0.1
"""The smallest differences of pixels that are described: of the mean, in standard deviations; of the std, relative."""
_MIN_STANDARD_ERRORS = 3.0
_MAX_NAMED_CLASSES = 3


@dataclass(frozen=True)
class ClassShare:
    """The frequency of one class.

    Attributes:
        run: the fraction of the run's training images.
        other: the fraction of the other images.
        p: the p-value of `fcnet.metrics.two_proportion_test` for this class alone.
    """

    run: float
    other: float
    p: float


@dataclass(frozen=True)
class ClassShift:
    """The frequencies of all classes.

    Attributes:
        shares: one entry per class, in the order of the classes.
        total_variation: the total variation distance of the frequencies, half the sum of the absolute differences.
        p: the p-value of `fcnet.metrics.homogeneity_test` for all classes together.
    """

    shares: tuple[ClassShare, ...]
    total_variation: float
    p: float


@dataclass(frozen=True)
class PixelShift:
    """Means and standard deviations of pixels / 255, one value per channel.

    Attributes:
        mean: the mean of the other images.
        std: the standard deviation of the other images.
        run_mean: the mean of the run's training images.
        run_std: the standard deviation of the run's training images.
        mean_error: the standard error of ``mean``, from the variance between images.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    run_mean: tuple[float, ...]
    run_std: tuple[float, ...]
    mean_error: tuple[float, ...]

    @property
    def mean_shift(self) -> tuple[float, ...]:
        """The differences of the means, in standard deviations of the run."""
        return tuple((m - r) / s for m, r, s in zip(self.mean, self.run_mean, self.run_std, strict=True))

    @property
    def std_ratio(self) -> tuple[float, ...]:
        """The ratios of the standard deviations, other / run."""
        return tuple(s / r for s, r in zip(self.std, self.run_std, strict=True))


@dataclass(frozen=True)
class AccuracyShift:
    """The accuracy on other images, compared with that on the run's own test images.

    Attributes:
        run: the accuracy on the run's test images.
        run_images: the number of the run's test images.
        other: the accuracy on the other images.
        difference: other − run.
        interval: the 95% confidence interval of the difference, Newcombe's.
        p: the p-value of `fcnet.metrics.two_proportion_test`.
    """

    run: float
    run_images: int
    other: float
    difference: float
    interval: tuple[float, float]
    p: float


def class_shift(run: Sequence[int], other: Sequence[int]) -> ClassShift:
    """Compares class frequencies.

    Args:
        run: the number of training images of each of the C classes.
        other: the number of other images of each class.

    Example:
        >>> class_shift([50, 50], [90, 10]).total_variation
        0.4
    """
    total_run, total_other = sum(run), sum(other)
    shares = tuple(
        ClassShare(m / total_run, n / total_other, two_proportion_test(n, total_other, m, total_run))
        for m, n in zip(run, other, strict=True)
    )
    distance = sum(abs(share.other - share.run) for share in shares) / 2
    return ClassShift(shares, distance, homogeneity_test(run, other))


def pixel_shift(batches: Batches, mean: torch.Tensor, std: torch.Tensor) -> PixelShift:
    """Compares the pixel statistics of a set of images with those of a run.

    Args:
        batches: the uint8 images.
        mean: float32 (c,), the mean of pixels / 255 of the run's training images.
        std: float32 (c,), their standard deviation.
    """
    area = math.prod(batches.images.shape[2:])
    moments = torch.cat(
        [_moments(batches.images[rows]) for rows in batches.rows.to(batches.images.device).split(batches.batch_size)]
    )
    other_mean, other_std = mean_and_std(moments, area)
    means = moments[:, 0].double() / (255 * area)
    # Pixels of one image are not independent, so the unit of the error is the image. One image has no deviation: 0.
    error = means.std(0, correction=min(1, len(means) - 1)) / math.sqrt(len(means))
    columns = (other_mean, other_std, mean, std, error)
    return PixelShift(*(tuple(column.tolist()) for column in columns))


def accuracy_shift(num_correct: int, count: int, run_accuracy: float, run_images: int) -> AccuracyShift:
    """Compares the accuracy on other images with that on the run's own test images.

    Args:
        num_correct: the number of other images that are classified correctly.
        count: the number of other images.
        run_accuracy: ``test_accuracy`` of the run's summary.
        run_images: ``test_images`` of the run's summary.

    Example:
        >>> shift = accuracy_shift(60, 100, 0.9, 200)
        >>> round(shift.difference, 6), shift.p < 1e-6
        (-0.3, True)
    """
    counts = num_correct, count, round(run_accuracy * run_images), run_images
    return AccuracyShift(
        run=run_accuracy,
        run_images=run_images,
        other=num_correct / count,
        difference=num_correct / count - run_accuracy,
        interval=difference_interval(*counts),
        p=two_proportion_test(*counts),
    )


@dataclass(frozen=True)
class DatasetShift:
    """The differences between another dataset and the data of a run.

    Attributes:
        classes: the class frequencies; None if the run has no class counts.
        pixels: the pixel statistics; None for features.
        accuracy: the accuracy; None if the run has no test accuracy.
    """

    classes: ClassShift | None
    pixels: PixelShift | None
    accuracy: AccuracyShift | None

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Returns the JSON-able content of the comparison; ``classes`` are the names of the C classes."""
        shares = None
        if self.classes is not None:
            rows = zip(classes, self.classes.shares, strict=True)
            shares = asdict(self.classes) | {"shares": [{"class": name, **asdict(share)} for name, share in rows]}
        pixels = None
        if self.pixels is not None:
            pixels = asdict(self.pixels) | {"mean_shift": self.pixels.mean_shift, "std_ratio": self.pixels.std_ratio}
        accuracy = None if self.accuracy is None else asdict(self.accuracy)
        return {"classes": shares, "pixels": pixels, "accuracy": accuracy, "description": self.describe(classes)}

    def describe(self, classes: Sequence[str]) -> list[str]:
        """Describes the comparison, one line each for classes, pixels and accuracy."""
        lines = [] if self.classes is None else [_describe_classes(self.classes, classes)]
        lines += [] if self.pixels is None else [_describe_pixels(self.pixels)]
        return lines if self.accuracy is None else [*lines, _describe_accuracy(self.accuracy)]


def _describe_classes(shift: ClassShift, classes: Sequence[str]) -> str:
    statistics = f"(total variation {shift.total_variation:.2f}; {_format_p_value(shift.p)})"
    if shift.p >= SIGNIFICANT:
        return f"classes: no significant difference from training {statistics}"
    rows = sorted(zip(classes, shift.shares, strict=True), key=lambda row: -abs(row[1].other - row[1].run))
    # Many small changes can be significant together although none is significant alone.
    changed = [(name, share) for name, share in rows if share.p < SIGNIFICANT] or rows[:_MAX_NAMED_CLASSES]
    named = ", ".join(
        f"{name} {format_percent(share.run, 1)} → {format_percent(share.other, 1)}"
        for name, share in changed[:_MAX_NAMED_CLASSES]
    )
    more = f" and {len(changed) - _MAX_NAMED_CLASSES} more" if len(changed) > _MAX_NAMED_CLASSES else ""
    return f"classes: frequencies differ from training: {named}{more} {statistics}"


def _describe_pixels(shift: PixelShift) -> str:
    differences = []
    mean_shift = sum(shift.mean_shift) / len(shift.mean_shift)
    std_ratio = sum(shift.std_ratio) / len(shift.std_ratio)
    if any(map(_is_notable, shift.mean_shift, shift.mean_error, shift.run_std)):
        if abs(mean_shift) >= NOTABLE:
            differences.append("brighter" if mean_shift > 0 else "darker")
        if max(shift.mean_shift) - min(shift.mean_shift) >= NOTABLE:
            differences.append("different colors")
    if abs(std_ratio - 1.0) >= NOTABLE:
        differences.append("higher contrast" if std_ratio > 1.0 else "lower contrast")
    mean, run_mean = (sum(values) / len(values) for values in (shift.mean, shift.run_mean))
    return (
        f"pixels: {', '.join(differences) or 'similar to training'} (mean {mean:.3f}, in training {run_mean:.3f}: "
        f"{mean_shift:+.2f} standard deviations; standard deviation × {std_ratio:.2f})"
    )


def _is_notable(mean_shift: float, error: float, std: float) -> bool:
    """Returns whether the mean of a channel differs notably, and by more than the sampling error of these images."""
    return abs(mean_shift) >= max(NOTABLE, _MIN_STANDARD_ERRORS * error / std)


def _describe_accuracy(shift: AccuracyShift) -> str:
    low, high = shift.interval
    verdict = "not significantly different from"
    if shift.p < SIGNIFICANT:
        verdict = f"significantly {'higher' if shift.difference > 0 else 'lower'} than"
    return (
        f"accuracy: {format_percent(shift.other)}, {verdict} the {format_percent(shift.run)} on the run's own "
        f"{format_count(shift.run_images, 'test image')} ({100 * shift.difference:+.2f} points, "
        f"95% interval {100 * low:+.2f} to {100 * high:+.2f}; {_format_p_value(shift.p)})"
    )


def _format_p_value(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


def _moments(pixels: torch.Tensor) -> torch.Tensor:
    """Computes the sums of x and x² of each image and channel, int64 (B, 2, c), of uint8 (B, c, H, W)."""
    values = pixels.flatten(2).to(torch.int64)
    return torch.stack([values.sum(2), values.square().sum(2)], dim=1).cpu()
