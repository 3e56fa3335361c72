"""How other images differ from those of a run: in the shares of their classes, in their pixels, in how many are hit.

C classes and channels of c.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from fcnet.data.store.store import mean_and_std
from fcnet.metrics import difference_interval, homogeneity_test, two_proportion_test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.data.batches import Batches

SIGNIFICANT = 0.05
"""Below this probability a difference is said to be more than chance."""
NOTABLE = 0.1
"""From this share of a standard deviation, or of its ratio, on a difference of pixels is named."""
_MIN_STANDARD_ERRORS = 3.0
_MAX_NAMED = 3


@dataclass(frozen=True)
class ClassShare:
    """How often a class is, in the run's training images and in the others.

    Attributes:
        run: as a fraction.
        other: likewise.
        p: how probable a difference this large is by chance, of this class alone; see `two_proportion_test`.
    """

    run: float
    other: float
    p: float


@dataclass(frozen=True)
class ClassShift:
    """All classes' shares.

    Attributes:
        shares: in the order of the classes.
        total_variation: half the sum of the absolute differences: the share of images that would have to be of
            another class.
        p: how probable differences this large are by chance, all together; see `homogeneity_test`.
    """

    shares: tuple[ClassShare, ...]
    total_variation: float
    p: float


@dataclass(frozen=True)
class PixelShift:
    """Means and standard deviations of pixels / 255, a value a channel.

    Attributes:
        mean: of the other images.
        std: likewise.
        run_mean: of the run's training images.
        run_std: likewise.
        mean_error: the standard error of ``mean``, from image to image.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    run_mean: tuple[float, ...]
    run_std: tuple[float, ...]
    mean_error: tuple[float, ...]

    @property
    def mean_shift(self) -> tuple[float, ...]:
        """The differences of the means, in the run's standard deviations."""
        return tuple((m - r) / s for m, r, s in zip(self.mean, self.run_mean, self.run_std, strict=True))

    @property
    def std_ratio(self) -> tuple[float, ...]:
        """The standard deviations over the run's."""
        return tuple(s / r for s, r in zip(self.std, self.run_std, strict=True))


@dataclass(frozen=True)
class AccuracyShift:
    """The accuracy on other images against that on the run's own test images.

    Attributes:
        run: on the run's.
        run_images: how many they are.
        other: on the others.
        difference: other − run.
        interval: the difference's, 95 %, by Newcombe.
        p: how probable a difference this large is by chance.
    """

    run: float
    run_images: int
    other: float
    difference: float
    interval: tuple[float, float]
    p: float


def class_shift(run: Sequence[int], other: Sequence[int]) -> ClassShift:
    """Compares the shares of the classes.

    Args:
        run: the number of images of each class, C of them.
        other: likewise of the other images.

    Example:
        >>> class_shift([50, 50], [90, 10]).total_variation
        0.4
    """
    all_run, all_other = sum(run), sum(other)
    shares = tuple(
        ClassShare(mine / all_run, theirs / all_other, two_proportion_test(theirs, all_other, mine, all_run))
        for mine, theirs in zip(run, other, strict=True)
    )
    distance = sum(abs(share.other - share.run) for share in shares) / 2
    return ClassShift(shares, distance, homogeneity_test(run, other))


def pixel_shift(batches: Batches, mean: torch.Tensor, std: torch.Tensor) -> PixelShift:
    """Compares the pixels of a set of images with those that a run was trained on.

    Args:
        batches: the set, of uint8 images.
        mean: float32 (c,), of the run's pixels / 255.
        std: likewise.
    """
    area = math.prod(batches.images.shape[2:])
    moments = torch.cat(
        [_moments(batches.images[rows]) for rows in batches.rows.to(batches.images.device).split(batches.batch_size)]
    )
    own_mean, own_std = mean_and_std(moments, area)
    means = moments[:, 0].double() / (255 * area)
    error = means.std(0, correction=min(1, len(means) - 1)) / math.sqrt(len(means))
    columns = (own_mean, own_std, mean, std, error)
    return PixelShift(*(tuple(column.tolist()) for column in columns))


def accuracy_shift(num_correct: int, count: int, run_accuracy: float, run_images: int) -> AccuracyShift:
    """Compares an accuracy with that on the run's own test images, which are others.

    Args:
        num_correct: of the other images.
        count: how many they are.
        run_accuracy: as the run's summary has it.
        run_images: likewise.

    Example:
        >>> shift = accuracy_shift(60, 100, 0.9, 200)
        >>> round(shift.difference, 6), shift.p < 1e-6
        (-0.3, True)
    """
    sides = num_correct, count, round(run_accuracy * run_images), run_images
    return AccuracyShift(
        run=run_accuracy,
        run_images=run_images,
        other=num_correct / count,
        difference=num_correct / count - run_accuracy,
        interval=difference_interval(*sides),
        p=two_proportion_test(*sides),
    )


@dataclass(frozen=True)
class DatasetShift:
    """How other images differ from those of a run.

    Attributes:
        classes: None where the run does not say how many images of each class it had.
        pixels: always there.
        accuracy: None where the run does not say what it reached.
    """

    classes: ClassShift | None
    pixels: PixelShift
    accuracy: AccuracyShift | None

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """All of it, for a file; the classes are the network's."""
        shares = None
        if self.classes is not None:
            rows = zip(classes, self.classes.shares, strict=True)
            shares = asdict(self.classes) | {"shares": [{"class": name, **asdict(share)} for name, share in rows]}
        pixels = asdict(self.pixels) | {"mean_shift": self.pixels.mean_shift, "std_ratio": self.pixels.std_ratio}
        accuracy = None if self.accuracy is None else asdict(self.accuracy)
        return {"classes": shares, "pixels": pixels, "accuracy": accuracy, "description": self.describe(classes)}

    def describe(self, classes: Sequence[str]) -> list[str]:
        """A line each on classes, pixels and accuracy."""
        lines = [] if self.classes is None else [_describe_classes(self.classes, classes)]
        lines.append(_describe_pixels(self.pixels))
        return lines if self.accuracy is None else [*lines, _describe_accuracy(self.accuracy)]


def _describe_classes(shift: ClassShift, classes: Sequence[str]) -> str:
    figures = f"(total variation {shift.total_variation:.2f}; {_format_p_value(shift.p)})"
    if shift.p >= SIGNIFICANT:
        return f"classes: as often as in training, but for chance {figures}"
    rows = sorted(zip(classes, shift.shares, strict=True), key=lambda row: -abs(row[1].other - row[1].run))
    changed = [(name, share) for name, share in rows if share.p < SIGNIFICANT] or rows[:_MAX_NAMED]
    said = ", ".join(f"{name} {share.run:.1%} → {share.other:.1%}" for name, share in changed[:_MAX_NAMED])
    more = f" and {len(changed) - _MAX_NAMED} more" if len(changed) > _MAX_NAMED else ""
    return f"classes: not as often as in training: {said}{more} {figures}"


def _describe_pixels(shift: PixelShift) -> str:
    names = []
    mean_shift = sum(shift.mean_shift) / len(shift.mean_shift)
    std_ratio = sum(shift.std_ratio) / len(shift.std_ratio)
    if any(map(_is_notable, shift.mean_shift, shift.mean_error, shift.run_std)):
        spread = max(shift.mean_shift) - min(shift.mean_shift)
        names += ["brighter" if mean_shift > 0 else "darker"] if abs(mean_shift) >= NOTABLE else []
        names += ["in other colours"] if spread >= NOTABLE else []
    if abs(std_ratio - 1.0) >= NOTABLE:
        names.append("of more contrast" if std_ratio > 1.0 else "of less contrast")
    mean, run_mean = (sum(values) / len(values) for values in (shift.mean, shift.run_mean))
    return (
        f"pixels: {' and '.join(names) or 'about as in training'} (mean {mean:.3f}, in training {run_mean:.3f}: "
        f"{mean_shift:+.2f} standard deviations; standard deviation × {std_ratio:.2f})"
    )


def _is_notable(mean_shift: float, error: float, std: float) -> bool:
    """Whether a channel's mean has moved by more than a little, and by more than these images leave to chance."""
    return abs(mean_shift) >= max(NOTABLE, _MIN_STANDARD_ERRORS * error / std)


def _describe_accuracy(shift: AccuracyShift) -> str:
    low, high = shift.interval
    verdict = "no more than chance explains"
    if shift.p < SIGNIFICANT:
        verdict = "better than there" if shift.difference > 0 else "worse than there"
    interval = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
    return (
        f"accuracy: {shift.other:.2%}, on the run's own {shift.run_images:,} test images {shift.run:.2%}: {verdict} "
        f"({100 * shift.difference:+.2f} points, {interval}; {_format_p_value(shift.p)})"
    )


def _format_p_value(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


def _moments(pixels: torch.Tensor) -> torch.Tensor:
    """For each image and channel the sums of x and of x², int64 (B, 2, c), of uint8 (B, c, H, W)."""
    values = pixels.flatten(2).to(torch.int64)
    return torch.stack([values.sum(2), values.square().sum(2)], dim=1).cpu()
