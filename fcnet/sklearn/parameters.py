"""Checks of constructor arguments, which scikit-learn's estimators make in ``fit``."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fcnet.runtime.errors import UserError


class Rule(NamedTuple):
    """What an argument must be, in words, and whether it is."""

    words: str
    is_kept: bool


def check_parameters(rules: dict[str, Rule], estimator: object) -> None:
    """Checks arguments of an estimator.

    Args:
        rules: the rule of each argument, by name.
        estimator: the estimator, which has the arguments as attributes.

    Raises:
        UserError: an argument breaks its rule; the message names the first.

    Example:
        >>> from types import SimpleNamespace
        >>> check_parameters({"C": number(0.5, above=0.0)}, SimpleNamespace(C=0.5))
    """
    for name, rule in rules.items():
        if not rule.is_kept:
            raise UserError(f"{name} must be {rule.words}, got {getattr(estimator, name)!r}")


def number(value: object, *, above: float = -math.inf, least: float = -math.inf, finite: bool = True) -> Rule:
    """Requires a number greater than ``above`` or at least ``least``."""
    bound = f"greater than {above:g}" if above > -math.inf else f"at least {least:g}"
    found = _to_float(value)
    return Rule(f"a number {bound}", above < found and least <= found and not (finite and math.isinf(found)))


def between(value: object, least: float, most: float) -> Rule:
    """Requires a number from ``least`` to ``most``, both included."""
    return Rule(f"from {least:g} to {most:g}", least <= _to_float(value) <= most)


def share(value: object, *, least: float | None = None) -> Rule:
    """Requires a number less than 1, and greater than 0 or at least ``least``."""
    found = _to_float(value)
    words = "greater than 0" if least is None else f"at least {least:g}"
    return Rule(f"a number {words} and less than 1", (found > 0.0 if least is None else found >= least) and found < 1.0)


def count(value: object, least: int) -> Rule:
    """Requires a whole number."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return Rule(f"a whole number of at least {least}", is_whole and int(value) >= least)  # type: ignore[call-overload]


def strengths(value: Any) -> Rule:
    """Requires a whole number, or a list of numbers greater than 0, infinity included."""
    is_kept = count(value, 1).is_kept
    if not is_kept and np.iterable(value) and not isinstance(value, str | bytes):
        values = list(value)
        is_kept = bool(values) and all(number(one, above=0.0, finite=False).is_kept for one in values)
    return Rule("a whole number of at least 1 or a list of numbers greater than 0", is_kept)


def flag(value: object) -> Rule:
    """Requires True or False."""
    return Rule("True or False", isinstance(value, bool | np.bool_))


def verbosity(value: object) -> Rule:
    """Requires True, False or a whole number of at least 0."""
    is_kept = isinstance(value, bool | np.bool_) or count(value, 0).is_kept
    return Rule("True, False or a whole number of at least 0", is_kept)


def class_weight(value: Any) -> Rule:
    """Requires the weights of classes by label, ``"balanced"`` or None."""
    is_kept = value is None or (isinstance(value, str) and value == "balanced")
    if isinstance(value, Mapping):
        is_kept = all(number(weight, least=0.0).is_kept for weight in value.values())
    return Rule("a dict of weights of at least 0 by class, 'balanced' or None", is_kept)


def _to_float(value: object) -> float:
    """Returns a number as a float; NaN, which keeps no rule, for anything else and for integers too large."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
