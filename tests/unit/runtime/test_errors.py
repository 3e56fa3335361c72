"""Tests of fcnet.runtime.errors."""

from __future__ import annotations

import traceback

import pytest

from fcnet.runtime.errors import NonFiniteError, UserError


@pytest.mark.parametrize(
    ("error", "name"),
    [(UserError("seed must be at least 0"), "fcnet.UserError"),
     (NonFiniteError("NaN in step 3", step=3, layer=1), "fcnet.NonFiniteError")],
)  # fmt: skip
def test_a_traceback_shows_the_public_name(error: Exception, name: str) -> None:
    assert traceback.format_exception_only(error) == [f"{name}: {error}\n"]


def test_user_errors_are_value_errors() -> None:
    assert issubclass(UserError, ValueError)
    assert issubclass(NonFiniteError, UserError)


@pytest.mark.parametrize("layer", [2, "head.norm", None])
def test_a_nonfinite_error_keeps_its_step_and_layer(layer: int | str | None) -> None:
    error = NonFiniteError("NaN", step=7, layer=layer)
    assert (str(error), error.step, error.layer) == ("NaN", 7, layer)
