"""Search spaces of a sweep: lists of values and ranges for settings, checked before the first run."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.config.presets import config_name
from fcnet.config.toml import config_sources, flatten_config, load_config, parse_toml
from fcnet.config.values import PLAIN_TEXT_RULE, format_value, is_plain_text, shorten_value
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fcnet.config.schema import Config

MAX_TRIALS = 1000
_LOG_RATIO = 10
"""Ratio of the ends from which a range is logarithmic by default."""
_RANGE = re.compile(r"\s*(?P<low>[^\s\[\"']+?)\s*\.\.\s*(?P<high>[^\s:]+?)\s*(?::\s*(?P<scale>log|linear)\s*)?")
_TUNABLE_DATA_KEYS = ("data.augment", "data.balance", "data.whiten")


@dataclass(frozen=True)
class Choices:
    """A setting and a list of values for it.

    Attributes:
        key: dotted key of the setting.
        values: values as TOML gives them: one or more, all different.
    """

    key: str
    values: tuple[Any, ...]

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values to check beforehand: all of them."""
        return self.values

    def __str__(self) -> str:
        """Returns the axis as its flag writes it."""
        return f"{self.key}={format_value(list(self.values))}"


@dataclass(frozen=True)
class Range:
    """A setting and a range of numbers for it.

    Attributes:
        key: dotted key of the setting.
        low: lower end.
        high: upper end, which is included.
        log: sample the logarithm uniformly instead of the number.
        integer: sample integers only.
    """

    key: str
    low: float
    high: float
    log: bool
    integer: bool = False

    @property
    def probes(self) -> tuple[float, float]:
        """Values to check beforehand: the ends."""
        return self.low, self.high

    def __str__(self) -> str:
        """Returns the axis as its flag writes it, with the scale."""
        return f"{self.key}={format_value(self.low)}..{format_value(self.high)}:{'log' if self.log else 'linear'}"


@dataclass(frozen=True)
class SearchSpace:
    """A configuration and the axes that a sweep varies.

    Attributes:
        file: configuration file.
        overrides: values of ``--set``.
        axes: settings to vary.
        flag: flag that gave the axes, ``--grid`` or ``--search``.
        base: configuration with its overrides, before any axis.
        checked_configs: configuration of every combination of list values and ends of ranges.
    """

    file: Path
    overrides: tuple[str, ...]
    axes: tuple[Choices | Range, ...]
    flag: str
    base: Config
    checked_configs: tuple[Config, ...]

    @property
    def num_epochs(self) -> int:
        """Largest number of epochs of a trial."""
        return max(config.train.epochs for config in self.checked_configs)

    def config(self, settings: Mapping[str, Any], seed: int) -> Config:
        """Returns the configuration of one run.

        Args:
            settings: settings of the trial, by dotted key.
            seed: seed of the run.

        Raises:
            fcnet.UserError: the settings contradict one another.
        """
        return load_config(self.file, self.overrides, flag_overrides=self._flag_overrides(settings, seed))

    def sources(self, settings: Mapping[str, Any], seed: int) -> dict[str, str]:
        """Returns where the values of `config` come from that are not left at their defaults, by dotted key."""
        return config_sources(
            self.file, self.overrides, self._flag_overrides(settings, seed), name=config_name(self.file)
        )

    def _flag_overrides(self, settings: Mapping[str, Any], seed: int) -> list[tuple[str, str]]:
        return [*_as_overrides(self.flag, settings), ("--seeds", f"seed={seed}")]

    def num_trials(self) -> int:
        """Returns the number of combinations of all list values."""
        return math.prod(len(axis.probes) for axis in self.axes)


def parse_space(file: Path, overrides: Sequence[str], axis_texts: Sequence[str], *, search: bool) -> SearchSpace:
    """Parses the axes of a sweep and checks every combination of list values and ends of ranges.

    Args:
        file: configuration file.
        overrides: values of ``--set``.
        axis_texts: values of ``--grid`` or ``--search``; see `parse_axis`.
        search: accept ranges as well as lists.

    Raises:
        fcnet.UserError: there are errors. The message has one line for each, as training with that value reports it.

    Example:
        >>> from fcnet.config.presets import find_config
        >>> axes = ["optimizer.lr=1e-4..1e-2", "train.epochs=1..3"]
        >>> space = parse_space(find_config("digits"), [], axes, search=True)
        >>> [str(axis) for axis in space.axes], space.num_epochs
        (['optimizer.lr=0.0001..0.01:log', 'train.epochs=1..3:linear'], 3)
        >>> parse_space(find_config("digits"), [], ["optimizer.lr=[1e-3, -1]", "train.epoch=[3]"], search=False)
        Traceback (most recent call last):
            ...
        fcnet.UserError: train.epoch (--grid train.epoch=3) is not a known key; the nearest is train.epochs
        optimizer.lr (--grid optimizer.lr=-1) must be greater than 0.0, got -1
    """
    flag = "--search" if search else "--grid"
    base = load_config(file, overrides)
    axes, errors = [], []
    for text in axis_texts:
        try:
            axes.append(parse_axis(text, flag))
        except UserError as error:
            errors.append(str(error))
    errors += _find_conflicts(axes, flag)
    if errors:
        raise UserError(*errors)
    configs = tuple(_check_configs(file, overrides, axes, flag))
    if any(config.train.select != base.train.select for config in configs):
        raise UserError(
            f"{flag} must not vary train.select: all trials are ranked by one figure; use --set train.select"
        )
    types = dict(flatten_config(configs[0].model_dump()))
    axes = [
        dataclasses.replace(axis, integer=isinstance(types[axis.key], int)) if isinstance(axis, Range) else axis
        for axis in axes
    ]
    return SearchSpace(file, tuple(overrides), tuple(axes), flag, base, configs)


def parse_axis(text: str, flag: str) -> Choices | Range:
    """Parses ``section.key=[…]``, and for ``--search`` also ``section.key=LOW..HIGH``.

    A range is logarithmic if both ends are above 0 and the upper end is at least 10 times the lower one, otherwise
    linear. ``LOW..HIGH:log`` and ``LOW..HIGH:linear`` choose the scale.

    Args:
        text: value of the flag.
        flag: ``--grid`` or ``--search``.

    Raises:
        fcnet.UserError: the text is neither a list nor a range.

    Example:
        >>> parse_axis("model.activation=['relu', 'gelu']", "--grid").values
        ('relu', 'gelu')
        >>> [parse_axis(f"optimizer.lr={ends}", "--search").log for ends in ("1e-4..1e-3", "1e-4..9e-4", "0..1")]
        [True, False, False]
    """
    if not is_plain_text(text):
        raise UserError(f"{flag} must be {PLAIN_TEXT_RULE}, got {shorten_value(text)}")
    key, equals, raw_value = text.partition("=")
    key = key.strip()
    if not equals or not all(part.strip() for part in key.split(".")):
        raise UserError(f"{flag} must be section.key=[…], got {text}")
    if flag == "--search" and (found := _RANGE.fullmatch(raw_value)):
        return _parse_range(key, found, f"{flag} {text}")
    try:
        values = parse_toml(f"value = {raw_value}")["value"]
        written = list(map(format_value, values)) if isinstance(values, list) else []
    except ValueError:  # not TOML, or an integer with too many digits to write
        values = written = []
    if not isinstance(values, list) or not values:
        ranges = ", LOW..HIGH, LOW..HIGH:log or LOW..HIGH:linear" if flag == "--search" else ""
        raise UserError(f"{flag} {key} must be a TOML list of one or more values{ranges}, got {raw_value or 'nothing'}")
    # Compared as text: 1 and true are equal to Python, but not in a configuration.
    if twice := [value for place, value in enumerate(written) if value in written[:place]]:
        raise UserError(f"{flag} {key} must be different values, got {twice[0]} twice")
    return Choices(key, tuple(values))


def _parse_range(key: str, found: re.Match[str], place: str) -> Range:
    low, high = (_parse_number(found[name]) for name in ("low", "high"))
    if low is None or high is None or not low < high:
        raise UserError(f"{place} must go from one number to a larger one, got {found['low']}..{found['high']}")
    if found["scale"] == "log" and low <= 0:
        raise UserError(f"{place} must start above 0 to be logarithmic, got {found['low']}")
    log = found["scale"] == "log" or (found["scale"] is None and low > 0 and high >= _LOG_RATIO * low)
    return Range(key, low, high, log)


def _parse_number(text: str) -> float | None:
    """Returns a finite number in TOML, or None if the text is not one."""
    try:
        value = parse_toml(f"value = {text}")["value"]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except (ValueError, OverflowError):
        return None
    return value if number else None


def _find_conflicts(axes: Sequence[Choices | Range], flag: str) -> Iterator[str]:
    """Yields errors of axes that exclude each other, vary the seed, or change the images of the comparison."""
    for place, axis in enumerate(axes):
        key = axis.key
        before = [other.key for other in axes[:place]]
        if around := [
            other for other in before if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
        ]:
            yield f"{flag} {key} must be given once, got {around[0]} as well"
        if key == "seed":
            yield f"{flag} must not vary seed: use --seeds N to train each trial with N seeds"
        if key == "data" or (
            key.startswith("data.") and not any(f"{key}.".startswith(f"{free}.") for free in _TUNABLE_DATA_KEYS)
        ):
            yield (
                f"{flag} must not vary {key}: all trials are compared on the same images; "
                "of data only augment, balance and whiten may vary"
            )


def _check_configs(
    file: Path, overrides: Sequence[str], axes: Sequence[Choices | Range], flag: str
) -> Iterator[Config]:
    """Yields every configuration to check; raises a `UserError` with the errors of all of them at the end."""
    errors: dict[str, None] = {}
    for settings in _settings_to_check(axes, flag):
        try:
            config = load_config(file, overrides, flag_overrides=_as_overrides(flag, settings))
        except UserError as error:
            errors |= dict.fromkeys(error.args)
        else:
            yield config
    if errors:
        raise UserError(*errors)


def _settings_to_check(axes: Sequence[Choices | Range], flag: str) -> Iterable[dict[str, Any]]:
    """Returns the settings to check: all combinations, or if these are too many, each value once or more."""
    keys, ends = [axis.key for axis in axes], [axis.probes for axis in axes]
    if (count := math.prod(map(len, ends))) <= MAX_TRIALS:
        return (dict(zip(keys, values, strict=True)) for values in itertools.product(*ends))
    if flag == "--grid":
        raise UserError(
            f"--grid must give at most {MAX_TRIALS:,} trials, got {count:,}; --search with --trials N tries N of them"
        )
    longest = max(map(len, ends))
    return ({key: end[place % len(end)] for key, end in zip(keys, ends, strict=True)} for place in range(longest))


def _as_overrides(flag: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(flag, f"{key}={format_value(value)}") for key, value in settings.items()]
