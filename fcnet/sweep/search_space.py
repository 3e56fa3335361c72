"""What a sweep tries: lists of values and ranges for the settings of a configuration, read and checked beforehand."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.config.schema import PLAIN, is_plain
from fcnet.config.toml import leaves, load_config, parsed
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fcnet.config.schema import Config

MOST_POINTS = 1000
_LOG_FROM = 10
_RANGE = re.compile(r"\s*(?P<low>[^\s\[\"']+?)\s*\.\.\s*(?P<high>[^\s:]+?)\s*(?::\s*(?P<form>log|linear)\s*)?")
_FREE_DATA = ("data.augment", "data.balance", "data.whiten")


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
    def ends(self) -> tuple[Any, ...]:
        """What is tried beforehand: all of it."""
        return self.values

    def __str__(self) -> str:
        """As the flag has it."""
        return f"{self.key}={toml(list(self.values))}"


@dataclass(frozen=True)
class Range:
    """A setting and the numbers that it may have.

    Attributes:
        key: dotted.
        low: the least.
        high: the greatest.
        log: whether equal factors are equally likely, instead of equal differences.
        whole: whether only whole numbers are meant.
    """

    key: str
    low: float
    high: float
    log: bool
    whole: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """What is tried beforehand."""
        return self.low, self.high

    def __str__(self) -> str:
        """As the flag has it, with what it would be by default."""
        return f"{self.key}={toml(self.low)}..{toml(self.high)}:{'log' if self.log else 'linear'}"


@dataclass(frozen=True)
class Space:
    """A configuration with what is tried on top of it.

    Attributes:
        file: the configuration.
        overrides: what ``--set`` says.
        axes: what is tried.
        flag: what said so, ``--grid`` or ``--search``.
        base: the configuration without what is tried.
        tried: each point's, of lists; else the corners'.
    """

    file: Path
    overrides: tuple[str, ...]
    axes: tuple[Choices | Range, ...]
    flag: str
    base: Config
    tried: tuple[Config, ...]

    @property
    def num_epochs(self) -> int:
        """The most epochs that a point has."""
        return max(config.train.epochs for config in self.tried)

    def config(self, settings: Mapping[str, Any], seed: int) -> Config:
        """The configuration of one run.

        Args:
            settings: the point's, by dotted key.
            seed: the run's.

        Raises:
            fcnet.UserError: settings that do not go together.
        """
        further = [*_further(self.flag, settings), ("--seeds", f"seed={seed}")]
        return load_config(self.file, self.overrides, further=further)

    def num_points(self) -> int:
        """How many points all lists make together."""
        return math.prod(len(axis.ends) for axis in self.axes)


def read_space(file: Path, overrides: Sequence[str], wanted: Sequence[str], *, search: bool) -> Space:
    """Reads what is to be tried, and checks it: all points of lists, and the corners where there are ranges.

    Args:
        file: the configuration.
        overrides: what ``--set`` says.
        wanted: ``section.key=…`` each: a list, or with ``search`` also a range; see `read_axis`.
        search: whether ranges are taken.

    Raises:
        fcnet.UserError: all mistakes, one line each, as training with one of the values would name them.

    Example:
        >>> from fcnet.config.presets import find_config
        >>> space = read_space(find_config("digits"), [], ["optimizer.lr=1e-4..1e-2", "train.epochs=1..3"], search=True)
        >>> [str(axis) for axis in space.axes], space.num_epochs
        (['optimizer.lr=0.0001..0.01:log', 'train.epochs=1..3:linear'], 3)
        >>> read_space(find_config("digits"), [], ["optimizer.lr=[1e-3, -1]", "train.epoch=[3]"], search=False)
        Traceback (most recent call last):
            ...
        fcnet.UserError: train.epoch (--grid train.epoch=3) is not a known key; the nearest is train.epochs
        optimizer.lr (--grid optimizer.lr=-1) must be greater than 0.0, got -1
    """
    flag = "--search" if search else "--grid"
    base = load_config(file, overrides)
    axes, mistakes = [], []
    for text in wanted:
        try:
            axes.append(read_axis(text, flag))
        except UserError as error:
            mistakes.append(str(error))
    mistakes += _clashes(axes, flag)
    if mistakes:
        raise UserError("\n".join(mistakes))
    configs = tuple(_checked(file, overrides, axes, flag))
    types = dict(leaves(configs[0].model_dump()))
    axes = [
        dataclasses.replace(axis, whole=isinstance(types[axis.key], int)) if isinstance(axis, Range) else axis
        for axis in axes
    ]
    return Space(file, tuple(overrides), tuple(axes), flag, base, configs)


def read_axis(text: str, flag: str) -> Choices | Range:
    """Reads ``section.key=[…]``, for ``--search`` also ``section.key=LOW..HIGH``.

    A range is logarithmic where both ends are above 0 and the greater is at least 10 times the less, else linear;
    ``LOW..HIGH:log`` and ``LOW..HIGH:linear`` say it outright.

    Raises:
        fcnet.UserError: it is neither.

    Example:
        >>> read_axis("model.activation=['relu', 'gelu']", "--grid").values
        ('relu', 'gelu')
        >>> [read_axis(f"optimizer.lr={ends}", "--search").log for ends in ("1e-4..1e-3", "1e-4..9e-4", "0..1")]
        [True, False, False]
    """
    if not is_plain(text):
        raise UserError(f"{flag} must be {PLAIN}, got {text!r}")
    key, equals, said = text.partition("=")
    key = key.strip()
    if not equals or not all(part.strip() for part in key.split(".")):
        raise UserError(f"{flag} must be section.key=[…], got {text}")
    if flag == "--search" and (found := _RANGE.fullmatch(said)):
        return _range(key, found, f"{flag} {text}")
    try:
        values = parsed(f"value = {said}")["value"]
        written = list(map(toml, values)) if isinstance(values, list) else []
    except ValueError:  # also of a number that is too long to be written
        values = written = []
    if not isinstance(values, list) or not values:
        ranges = ", LOW..HIGH, LOW..HIGH:log or LOW..HIGH:linear" if flag == "--search" else ""
        raise UserError(f"{flag} {key} must be a TOML list of one or more values{ranges}, got {said or 'nothing'}")
    if twice := [value for place, value in enumerate(written) if value in written[:place]]:
        raise UserError(f"{flag} {key} must be values that all differ, got {twice[0]} twice")
    return Choices(key, tuple(values))


def toml(value: object) -> str:
    """A value as TOML writes it, in one line.

    Example:
        >>> toml([0.5, "a", True, {"flip": False}])
        '[0.5, "a", true, {"flip" = false}]'
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(key)} = {toml(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else str(value)


def _range(key: str, found: re.Match[str], place: str) -> Range:
    low, high = (_number(found[name]) for name in ("low", "high"))
    if low is None or high is None or not low < high:
        raise UserError(f"{place} must be from one number to a greater one, got {found['low']}..{found['high']}")
    if found["form"] == "log" and low <= 0:
        raise UserError(f"{place} must begin above 0 to be logarithmic, got {found['low']}")
    log = found["form"] == "log" or (found["form"] is None and low > 0 and high >= _LOG_FROM * low)
    return Range(key, low, high, log)


def _number(text: str) -> float | None:
    """A finite number of TOML; None where it is none."""
    try:
        value = parsed(f"value = {text}")["value"]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except (ValueError, OverflowError):
        return None
    return value if number else None


def _clashes(axes: Sequence[Choices | Range], flag: str) -> Iterator[str]:
    """What cannot be tried: a setting twice, the seed, and what would compare points on different images."""
    for place, axis in enumerate(axes):
        key = axis.key
        before = [other.key for other in axes[:place]]
        if around := [
            other for other in before if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
        ]:
            yield f"{flag} {key} must be given once, got {around[0]} as well"
        if key == "seed":
            yield f"{flag} must not name seed: --seeds N trains each point with N seeds"
        if key == "data" or (
            key.startswith("data.") and not any(f"{key}.".startswith(f"{free}.") for free in _FREE_DATA)
        ):
            yield (
                f"{flag} {key} must be among data.augment, data.balance, data.whiten: "
                "all points are compared on the same images"
            )


def _checked(file: Path, overrides: Sequence[str], axes: Sequence[Choices | Range], flag: str) -> Iterator[Config]:
    """The configuration of each point, or corner; a UserError with the mistakes of all of them."""
    mistakes: dict[str, None] = {}
    for settings in _tried(axes, flag):
        try:
            config = load_config(file, overrides, further=_further(flag, settings))
        except UserError as error:
            mistakes |= dict.fromkeys(str(error).split("\n"))
        else:
            yield config
    if mistakes:
        raise UserError("\n".join(mistakes))


def _tried(axes: Sequence[Choices | Range], flag: str) -> Iterable[dict[str, Any]]:
    """What is tried beforehand; of a space of too many corners, each end and each choice once or more."""
    keys, ends = [axis.key for axis in axes], [axis.ends for axis in axes]
    if (count := math.prod(map(len, ends))) <= MOST_POINTS:
        return (dict(zip(keys, values, strict=True)) for values in itertools.product(*ends))
    if flag == "--grid":
        raise UserError(
            f"--grid must make at most {MOST_POINTS:,} points, got {count:,}; --search with --trials N tries N of them"
        )
    longest = max(map(len, ends))
    return ({key: end[place % len(end)] for key, end in zip(keys, ends, strict=True)} for place in range(longest))


def _further(flag: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(flag, f"{key}={toml(value)}") for key, value in settings.items()]
