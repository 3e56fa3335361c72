"""Hard problems: an objective is never further above its minimum than the gap says, and converged means near it.

The minima are those of Newton's method in NumPy, on features standardised in extended precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fcnet.linear_model import logistic_path
from tests.unit.linear_model.hard_problems import CS, PROBLEMS, minima

if TYPE_CHECKING:
    from fcnet.linear_model import LogisticPath

METHODS = {
    "second derivatives": {},
    "conjugate gradients": {"_MOST_PARAMETERS": 0, "_FEW_VALUES": 1 << 40},
    "L-BFGS": {"_MOST_PARAMETERS": 0, "_FEW_VALUES": 0},
}
UNATTAINED = "one of two classes without weight"
"""An objective whose infimum, 0, no parameters attain."""
ATTAINED = [name for name in PROBLEMS if name != UNATTAINED]
HALVES = [
    "plain",
    "two classes",
    "separable",
    "collinear",
    "no intercept",
    "rare class",
    "wider than long",
    "soft targets",
]


@pytest.fixture
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of the search, whatever the size of the problem."""
    for name, value in METHODS[request.param].items():
        monkeypatch.setattr(f"fcnet.linear_model.newton.{name}", value)
    return str(request.param)


def fit(name: str, dtype: str, **arguments: Any) -> tuple[LogisticPath, np.ndarray[Any, Any]]:
    """Returns a path and by how much its objectives exceed their minima; the certificate must hold."""
    problem, reference, found = minima(name, dtype)
    path = logistic_path(problem.x, problem.y, CS, **problem.arguments, **arguments)
    excess = path.objective.numpy() - np.array([each.objective for each in found])
    assert (excess <= path.gap.numpy()).all(), (excess, path.gap)
    # The penalty bends each objective by 1, so that the gap bounds the distance from the minimum.
    weights = path.coef.numpy() * reference.std.astype(float)
    distances = [((w - each.weights) ** 2).sum() for w, each in zip(weights, found, strict=True)]
    bound = 2.0 * path.gap.numpy() * (1.0 + 1e-6) + 1e-12 * path.objective.numpy()
    assert (np.array(distances) <= bound).all(), (distances, bound)
    return path, excess


@pytest.mark.parametrize(
    ("method", "name", "dtype", "tol"),
    [
        *((method, name, "float64", 1e-9) for method in METHODS for name in ATTAINED),
        *((method, name, "float32", 1e-6) for method in ("second derivatives", "L-BFGS") for name in ATTAINED),
        *(("L-BFGS", name, "float16", 1e-6) for name in HALVES),
    ],
    indirect=["method"],
)
def test_the_minimum_is_that_of_another_method(name: str, dtype: str, tol: float, method: str) -> None:
    path, excess = fit(name, dtype, tol=tol)
    objective = path.objective.numpy()
    if method == "L-BFGS":  # it estimates the excess, and rounding may stop it
        margin = 10.0 if name == "weights of all sizes" else 1.0
        assert (excess <= margin * tol * objective)[path.converged].all(), excess / objective
        assert path.converged[:3].all()
    else:
        assert path.converged.all()
        assert (excess <= tol * objective).all(), excess / objective


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["second derivatives", "L-BFGS"], indirect=True)
@pytest.mark.usefixtures("method")
def test_the_gap_is_true_far_from_the_minimum(name: str, dtype: str) -> None:
    for steps in (0, 1, 4) if dtype == "float64" else (2,):
        path, excess = fit(name, dtype, max_iter=steps, tol=1e-12)
        assert (path.iterations <= steps).all()
        assert (excess <= 1e-9 * path.objective.numpy())[path.converged].all()
    fit(name, dtype, tol=1e-2, max_iter=50)


@pytest.mark.parametrize("name", ATTAINED)
def test_the_objective_is_that_of_the_coefficients(name: str) -> None:
    problem, reference, _ = minima(name, "float64")
    path = logistic_path(problem.x, problem.y, CS, **problem.arguments, max_iter=5)
    intercepts = path.intercept.numpy() + path.coef.numpy() @ reference.mean.astype(float)
    weights = path.coef.numpy() * reference.std.astype(float)
    expected = [reference.objective(*each) for each in zip(weights, intercepts, CS, strict=True)]
    np.testing.assert_allclose(path.objective, expected, rtol=1e-10)


@pytest.mark.parametrize("method", METHODS, indirect=True)
def test_an_infimum_that_is_not_attained_is_not_a_minimum(method: str) -> None:
    path, _ = fit(UNATTAINED, "float64", max_iter=20)
    assert (path.gap >= path.objective).all()
    assert method == "L-BFGS" or not path.converged.any()
