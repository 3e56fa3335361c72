"""What a sweep tries: lists of values and ranges for the settings of a configuration, read and checked beforehand."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.config.schema import PLAIN_TEXT_RULE, is_plain_text
from fcnet.config.toml import flatten_config, load_config, parse_toml
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fcnet.config.schema import Config

MAX_TRIALS = 1000
_LOG_RATIO = 10
_RANGE = re.compile(r"\s*(?P<low>[^\s\[\"']+?)\s*\.\.\s*(?P<high>[^\s:]+?)\s*(?::\s*(?P<scale>log|linear)\s*)?")
_TUNABLE_DATA_KEYS = ("data.augment", "data.balance", "data.whiten")


@dataclass(frozen=True)
class Choices:
    """A setting and the values that it may have.

    Attributes:
        key: dotted.
        values: as TOML has them, at least one, all different.
    """

    key: str
    values: tuple[Any, ...]

    @property
    def probes(self) -> tuple[Any, ...]:
        """What is tried beforehand: all of it."""
        return self.values

    def __str__(self) -> str:
        """As the flag has it."""
        return f"{self.key}={format_toml(list(self.values))}"


@dataclass(frozen=True)
class Range:
    """A setting and the numbers that it may have.

    Attributes:
        key: dotted.
        low: the least.
        high: the greatest.
        log: whether equal factors are equally likely, instead of equal differences.
        integer: whether only integers are meant.
    """

    key: str
    low: float
    high: float
    log: bool
    integer: bool = False

    @property
    def probes(self) -> tuple[float, float]:
        """What is tried beforehand."""
        return self.low, self.high

    def __str__(self) -> str:
        """As the flag has it, with what it would be by default."""
        return f"{self.key}={format_toml(self.low)}..{format_toml(self.high)}:{'log' if self.log else 'linear'}"


@dataclass(frozen=True)
class SearchSpace:
    """A configuration with what is tried on top of it.

    Attributes:
        file: the configuration.
        overrides: what ``--set`` says.
        axes: what is tried.
        flag: what said so, ``--grid`` or ``--search``.
        base: the configuration without what is tried.
        checked_configs: each trial's, of lists; else the corners'.
    """

    file: Path
    overrides: tuple[str, ...]
    axes: tuple[Choices | Range, ...]
    flag: str
    base: Config
    checked_configs: tuple[Config, ...]

    @property
    def num_epochs(self) -> int:
        """The most epochs that a trial has."""
        return max(config.train.epochs for config in self.checked_configs)

    def config(self, settings: Mapping[str, Any], seed: int) -> Config:
        """The configuration of one run.

        Args:
            settings: the trial's, by dotted key.
            seed: the run's.

        Raises:
            fcnet.UserError: settings that do not go together.
        """
        flag_overrides = [*_as_overrides(self.flag, settings), ("--seeds", f"seed={seed}")]
        return load_config(self.file, self.overrides, flag_overrides=flag_overrides)

    def num_trials(self) -> int:
        """How many trials all lists make together."""
        return math.prod(len(axis.probes) for axis in self.axes)


def parse_space(file: Path, overrides: Sequence[str], axis_texts: Sequence[str], *, search: bool) -> SearchSpace:
    """Reads what is to be tried, and checks it: all trials of lists, and the corners where there are ranges.

    Args:
        file: the configuration.
        overrides: what ``--set`` says.
        axis_texts: ``section.key=…`` each: a list, or with ``search`` also a range; see `parse_axis`.
        search: whether ranges are taken.

    Raises:
        fcnet.UserError: all errors, one line each, as training with one of the values would name them.

    Example:
        >>> from fcnet.config.presets import find_config
        >>> space = parse_space(find_config("digits"), [], ["optimizer.lr=1e-4..1e-2", "train.epochs=1..3"], search=True)
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
        raise UserError("\n".join(errors))
    configs = tuple(_check_configs(file, overrides, axes, flag))
    types = dict(flatten_config(configs[0].model_dump()))
    axes = [
        dataclasses.replace(axis, integer=isinstance(types[axis.key], int)) if isinstance(axis, Range) else axis
        for axis in axes
    ]
    return SearchSpace(file, tuple(overrides), tuple(axes), flag, base, configs)


def parse_axis(text: str, flag: str) -> Choices | Range:
    """Reads ``section.key=[…]``, for ``--search`` also ``section.key=LOW..HIGH``.

    A range is logarithmic where both ends are above 0 and the greater is at least 10 times the less, else linear;
    ``LOW..HIGH:log`` and ``LOW..HIGH:linear`` say it outright.

    Raises:
        fcnet.UserError: it is neither.

    Example:
        >>> parse_axis("model.activation=['relu', 'gelu']", "--grid").values
        ('relu', 'gelu')
        >>> [parse_axis(f"optimizer.lr={ends}", "--search").log for ends in ("1e-4..1e-3", "1e-4..9e-4", "0..1")]
        [True, False, False]
    """
    if not is_plain_text(text):
        raise UserError(f"{flag} must be {PLAIN_TEXT_RULE}, got {text!r}")
    key, equals, raw_value = text.partition("=")
    key = key.strip()
    if not equals or not all(part.strip() for part in key.split(".")):
        raise UserError(f"{flag} must be section.key=[…], got {text}")
    if flag == "--search" and (found := _RANGE.fullmatch(raw_value)):
        return _parse_range(key, found, f"{flag} {text}")
    try:
        values = parse_toml(f"value = {raw_value}")["value"]
        written = list(map(format_toml, values)) if isinstance(values, list) else []
    except ValueError:  # also of a number that is too long to be written
        values = written = []
    if not isinstance(values, list) or not values:
        ranges = ", LOW..HIGH, LOW..HIGH:log or LOW..HIGH:linear" if flag == "--search" else ""
        raise UserError(f"{flag} {key} must be a TOML list of one or more values{ranges}, got {raw_value or 'nothing'}")
    if twice := [value for place, value in enumerate(written) if value in written[:place]]:
        raise UserError(f"{flag} {key} must be values that all differ, got {twice[0]} twice")
    return Choices(key, tuple(values))


def format_toml(value: object) -> str:
    """A value as TOML writes it, in one line.

    Example:
        >>> format_toml([0.5, "a", True, {"flip": False}])
        '[0.5, "a", true, {"flip" = false}]'
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{format_toml(key)} = {format_toml(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else str(value)


def _parse_range(key: str, found: re.Match[str], place: str) -> Range:
    low, high = (_parse_number(found[name]) for name in ("low", "high"))
    if low is None or high is None or not low < high:
        raise UserError(f"{place} must be from one number to a greater one, got {found['low']}..{found['high']}")
    if found["scale"] == "log" and low <= 0:
        raise UserError(f"{place} must begin above 0 to be logarithmic, got {found['low']}")
    log = found["scale"] == "log" or (found["scale"] is None and low > 0 and high >= _LOG_RATIO * low)
    return Range(key, low, high, log)


def _parse_number(text: str) -> float | None:
    """A finite number of TOML; None where it is none."""
    try:
        value = parse_toml(f"value = {text}")["value"]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except (ValueError, OverflowError):
        return None
    return value if number else None


def _find_conflicts(axes: Sequence[Choices | Range], flag: str) -> Iterator[str]:
    """What cannot be tried: a setting twice, the seed, and what would compare trials on different images."""
    for place, axis in enumerate(axes):
        key = axis.key
        before = [other.key for other in axes[:place]]
        if around := [
            other for other in before if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
        ]:
            yield f"{flag} {key} must be given once, got {around[0]} as well"
        if key == "seed":
            yield f"{flag} must not name seed: --seeds N trains each trial with N seeds"
        if key == "data" or (
            key.startswith("data.") and not any(f"{key}.".startswith(f"{free}.") for free in _TUNABLE_DATA_KEYS)
        ):
            yield (
                f"{flag} {key} must be among data.augment, data.balance, data.whiten: "
                "all trials are compared on the same images"
            )


def _check_configs(
    file: Path, overrides: Sequence[str], axes: Sequence[Choices | Range], flag: str
) -> Iterator[Config]:
    """The configuration of each trial, or corner; a UserError with the errors of all of them."""
    errors: dict[str, None] = {}
    for settings in _settings_to_check(axes, flag):
        try:
            config = load_config(file, overrides, flag_overrides=_as_overrides(flag, settings))
        except UserError as error:
            errors |= dict.fromkeys(str(error).split("\n"))
        else:
            yield config
    if errors:
        raise UserError("\n".join(errors))


def _settings_to_check(axes: Sequence[Choices | Range], flag: str) -> Iterable[dict[str, Any]]:
    """What is tried beforehand; of a space of too many corners, each end and each choice once or more."""
    keys, ends = [axis.key for axis in axes], [axis.probes for axis in axes]
    if (count := math.prod(map(len, ends))) <= MAX_TRIALS:
        return (dict(zip(keys, values, strict=True)) for values in itertools.product(*ends))
    if flag == "--grid":
        raise UserError(
            f"--grid must make at most {MAX_TRIALS:,} trials, got {count:,}; --search with --trials N tries N of them"
        )
    longest = max(map(len, ends))
    return ({key: end[place % len(end)] for key, end in zip(keys, ends, strict=True)} for place in range(longest))


def _as_overrides(flag: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(flag, f"{key}={format_toml(value)}") for key, value in settings.items()]
