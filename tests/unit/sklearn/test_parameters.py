"""Tests of fcnet.sklearn.parameters: each rule takes what it says, and nothing else."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fcnet.runtime.errors import UserError
from fcnet.sklearn import parameters

if TYPE_CHECKING:
    from collections.abc import Callable

RULES: dict[str, tuple[Callable[[Any], parameters.Rule], list[Any], list[Any]]] = {
    "above": (
        lambda v: parameters.number(v, above=0.0),
        [1, 0.5, np.float32(2)],
        [0, -1.0, math.inf, 10**400, True, "1", None],
    ),
    "least": (lambda v: parameters.number(v, least=0.0), [0, 0.0, 3], [-1e-9, math.nan, math.inf, [1], False]),
    "infinite": (lambda v: parameters.number(v, above=0.0, finite=False), [math.inf, 1], [math.nan, 0.0]),
    "between": (lambda v: parameters.between(v, 0.0, 1.0), [0, 1.0, 0.5], [2, -0.1, True, "0", math.nan]),
    "share": (parameters.share, [0.1, 0.999], [0, 1, 1.0, -0.5, None, math.nan]),
    "share from 0": (lambda v: parameters.share(v, least=0.0), [0, 0.5], [1.0, -0.1]),
    "count": (lambda v: parameters.count(v, 1), [1, np.int64(7)], [0, 1.0, "3", True, None]),
    "strengths": (
        parameters.strengths,
        [1, 10, [0.5], (1, math.inf), np.array([1.0, 2.0])],
        [0, 1.5, [], [0.0], [math.nan], "1", ["1"], None, np.ones((2, 2))],
    ),
    "flag": (parameters.flag, [True, False, np.True_], [0, 1, "yes", None]),
    "verbosity": (parameters.verbosity, [True, 0, 10], [-1, 0.5, "loud", None]),
    "class weight": (
        parameters.class_weight,
        [None, "balanced", {}, {"a": 1, "b": 0.0}],
        ["auto", 1.0, {"a": -1}, {"a": math.nan}, {"a": "1"}, np.ones(2)],
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_takes_what_it_says(name: str) -> None:
    rule, good, bad = RULES[name]
    assert [rule(value).is_kept for value in good] == [True] * len(good)
    assert [rule(value).is_kept for value in bad] == [False] * len(bad)


def test_the_first_broken_rule_is_named_with_its_value() -> None:
    estimator = SimpleNamespace(a=1.0, b=-2, c="x")
    rules = {
        "a": parameters.number(estimator.a, above=0.0),
        "b": parameters.count(estimator.b, 0),
        "c": parameters.flag(estimator.c),
    }
    with pytest.raises(UserError, match=r"^b must be a whole number of at least 0, got -2$"):
        parameters.check_parameters(rules, estimator)
