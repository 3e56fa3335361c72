"""Tests of fcnet.optim.newton_schulz."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from fcnet.optim.newton_schulz import _newton_schulz, orthogonalize
from tests.helpers import random_tensor

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("shape", [(5, 5), (3, 17), (17, 3), (1, 6), (40, 64), (64, 40), (300, 200)])
def test_singular_vectors_are_kept_and_singular_values_become_about_1(shape: tuple[int, int]) -> None:
    matrix = random_tensor(*shape)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values.clamp(min=0.01 * values.pow(8).sum() ** 0.125)
    result = u.T @ orthogonalize([u @ values.diag() @ v])[0] @ v.T
    assert_close(result, result.diagonal().diag(), atol=2e-3, rtol=0.0)  # ten products of float32
    assert result.diagonal().min() > 0.729 - 5e-4
    assert result.diagonal().max() < 1.270 + 5e-4


def test_each_singular_value_passes_through_three_quintics_after_scaling_by_the_bound() -> None:
    values = torch.logspace(0, -4, 12, dtype=torch.float64)
    u, v = torch.linalg.qr(random_tensor(12, 12).double())[0], torch.linalg.qr(random_tensor(30, 12).double())[0].T
    expected = values / values.pow(8).sum() ** 0.125
    for a, b, c in ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526)):
        expected = a * expected + b * expected**3 + c * expected**5
    assert_close(orthogonalize([u @ values.diag() @ v])[0], u @ expected.diag() @ v, atol=1e-12, rtol=0.0)


def test_each_quintic_is_the_best_on_the_range_of_the_previous_one() -> None:
    """The error of the best polynomial is extremal at four points with alternating signs (Chebyshev)."""
    low, high = 0.01, 1.0
    for a, b, c in ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526)):
        x = torch.linspace(low, high, 100_001, dtype=torch.float64)
        error = a * x + b * x**3 + c * x**5 - 1.0
        inner = error[1:-1][(error[1:-1] - error[:-2]) * (error[2:] - error[1:-1]) <= 0.0]
        ends = torch.stack([error[0], *inner, error[-1]])
        assert len(ends) == 4
        assert_close(ends, ends[-1] * torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64), atol=1e-3, rtol=0.0)
        low, high = 1.0 + float(error.min()), 1.0 + float(error.max())
    assert (low, high) == pytest.approx((0.73, 1.27), abs=0.002)


def test_the_bounds_of_the_docstring_hold_for_every_singular_value() -> None:
    """Searched on a grid of the polynomials themselves, and where they touch the bounds."""
    sigma = torch.linspace(0.0, 1.0, 1_000_001, dtype=torch.float64)
    result = sigma
    for a, b, c in ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526)):
        result = a * result + b * result**3 + c * result**5
    above, below = result[sigma >= 0.01], result[sigma <= 0.01]
    assert 0.729 < above.min() < 0.730
    assert 1.269 < above.max() < 1.270
    assert 0.730 < below.max() < 0.731
    assert (below.diff() > 0.0).all()


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1)])
def test_one_row_or_column_is_divided_by_its_length(shape: tuple[int, int]) -> None:
    matrix = random_tensor(*shape)
    assert_close(orthogonalize([matrix])[0], matrix / matrix.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_on_a_cpu(dtype: torch.dtype) -> None:
    matrix = random_tensor(20, 30).to(dtype)
    (ours,) = orthogonalize([matrix])
    assert ours.dtype == dtype
    assert torch.equal(ours, orthogonalize([matrix.float()])[0].to(dtype))


def test_an_empty_matrix_stays_empty() -> None:
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert orthogonalize([torch.zeros(shape)])[0].shape == shape


def test_the_scale_of_a_matrix_does_not_matter_and_zeros_stay_zeros() -> None:
    matrix = random_tensor(4, 6)
    for scale in (1e-37, 1e-25, 1e-20, 1e15, 1e36):
        assert_close(orthogonalize([scale * matrix]), orthogonalize([matrix]), atol=1e-4, rtol=0.0)
    assert torch.equal(orthogonalize([torch.zeros(4, 6)])[0], torch.zeros(4, 6))


def test_matrices_give_the_same_result_together_and_alone() -> None:
    shapes = [(4, 6), (6, 4), (4, 4), (9, 4), (2, 7), (1, 1)]
    matrices = [random_tensor(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    matrices.append(random_tensor(4, 6).double())
    for matrix, ours in zip(matrices, orthogonalize(matrices), strict=True):
        assert (ours.shape, ours.dtype) == (matrix.shape, matrix.dtype)
        assert_close(ours, orthogonalize([matrix])[0])
    assert orthogonalize([]) == []


# The CPU runs the GPU's form of the iteration in the tests below.


def test_the_bfloat16_iteration_of_a_gpu_agrees_to_its_precision() -> None:
    matrix = random_tensor(40, 64)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    expected = values / values.pow(8).sum() ** 0.125
    for a, b, c in ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526)):
        expected = expected / 1.01  # the margin of each step
        expected = a * expected + b * expected**3 + c * expected**5
    ours = _newton_schulz((matrix / matrix.norm())[None])[0].float()
    assert (ours - u @ expected.diag() @ v).norm() < 0.03 * ours.norm()


KINDS: dict[str, Callable[[int, int, int], Tensor]] = {
    "normal": lambda n, m, seed: random_tensor(n, m, seed=seed),
    "equal entries": lambda n, m, seed: torch.full((n, m), 1.0 + seed),
    "rank one": lambda n, m, seed: random_tensor(n, 1, seed=seed) @ random_tensor(1, m, seed=seed + 1),
    "positive": lambda n, m, seed: random_tensor(n, m, seed=seed).abs(),
    "steep": lambda n, m, seed: random_tensor(n, m, seed=seed) * torch.logspace(0, -3, m),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_holds_for_products_in_bfloat16_and_no_singular_value_grows(kind: str) -> None:
    """Without its margin, matrices of rank one end at up to 15."""
    for seed, (n, m) in enumerate(itertools.product((2, 3, 5, 8, 21), (21, 34, 55))):
        matrix = KINDS[kind](n, m, seed)
        result = _newton_schulz((matrix / matrix.norm())[None])[0].double()
        assert torch.linalg.matrix_norm(result, 2) < 1.3


def test_all_products_of_a_gpu_are_in_bfloat16_and_the_bound_needs_none() -> None:
    class Products(TorchDispatchMode):
        dtypes: ClassVar[list[torch.dtype]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "mm" in func.overloadpacket.__name__:
                self.dtypes.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    with Products():  # type: ignore[no-untyped-call]
        _newton_schulz(torch.eye(3)[None] / 3**0.5)
    assert Products.dtypes == 9 * [torch.bfloat16]  # three a step
