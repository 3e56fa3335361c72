"""Rules of fcnet.functional.triton_kernels; ``test_triton_kernels.py`` runs them in Triton's interpreter.

Tiles are small, so that a row takes several, with an edge on either side.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING
from unittest.mock import MagicMock, Mock

import pytest
import torch
import triton
from torch import Tensor
from torch.testing import assert_close
from triton.runtime import interpreter

import fcnet.functional as F
from fcnet.functional import fused
from fcnet.functional.softmax_loss import loss_and_grad
from tests.unit.functional.helpers import CONFIDENT_LOSS, INF, NAN, UNLIKELY

if TYPE_CHECKING:
    from collections.abc import Callable

LINEAR = import_module("fcnet.functional.linear_cross_entropy")  # the package has the function under this name

pytestmark = [
    pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="TRITON_INTERPRET is not set"),
    # NumPy warns where ∞ − ∞ is computed, though the result is discarded.
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|All-NaN):RuntimeWarning"),
    # Triton 3.5 converts arrays of one element to numbers.
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def kernels_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels take CPU tensors, as if the CPU were the GPU."""
    monkeypatch.setattr(fused, "_DEVICE_TYPE", "cpu")
    set_tiles(monkeypatch, groups=2)


def set_tiles(monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    monkeypatch.setattr(fused, "_block_size", lambda num_classes, itemsize, kind: (groups * 16 // itemsize, 1))


@pytest.fixture(params=[1, 4])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is read by one block, or by four, some of which have one tile or none."""
    monkeypatch.setattr(fused, "_num_parts", lambda num_rows, num_classes, block: request.param)


def random_tensor(*shape: int, seed: int = 0, scale: float = 3.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The value, and the gradient of a sum with a different weight for each of its elements."""
    x = x.detach().clone().requires_grad_()
    value = function(x)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.bfloat16).to(value).reshape(value.shape)
    return value.detach(), torch.autograd.grad(value, x, upstream)[0]


def float64_value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The same in float64, which the kernels do not support."""
    return value_and_gradient(function, x.double())


def make_labels(num_rows: int, num_classes: int, *, ignored: bool) -> Tensor:
    y = torch.randint(num_classes, (num_rows,), generator=torch.Generator().manual_seed(1))
    y[0], y[1] = 0, num_classes - 1
    if ignored:
        y[2] = -100
    return y


def make_loss(
    kind: str, weighted: bool, reduction: str, smoothing: float, num_rows: int, num_classes: int
) -> Callable[[Tensor], Tensor]:
    """The cross-entropy as a function of the logits, with all arguments in their dtype."""
    w = random_tensor(num_classes, seed=2).abs()
    soft = torch.softmax(random_tensor(num_rows, num_classes, seed=3), 1)
    y = make_labels(num_rows, num_classes, ignored=kind == "ignored")

    def function(x: Tensor) -> Tensor:
        narrow = x.dtype in (torch.float16, torch.bfloat16)
        weight, t = w.to(torch.bfloat16), soft.to(torch.bfloat16)  # exact in every dtype
        if not narrow or x.dtype == torch.float16:
            weight, t = weight.to(x.dtype), t.to(x.dtype)
        target = t if kind == "soft" else y
        return F.cross_entropy(x, target, weight if weighted else None, reduction=reduction, label_smoothing=smoothing)

    return function


CASES = [
    (kind, weighted, reduction, smoothing)
    for kind in ("index", "ignored", "soft")
    for weighted in (False, True)
    for reduction in ("none", "sum", "mean")
    for smoothing in (0.0, 0.1)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradient_are_those_in_float64(case: tuple[str, bool, str, float], dtype: torch.dtype) -> None:
    """The 19 classes end inside a group. Half-precision results are rounded once."""
    if dtype != torch.float32 and case[2] == "sum":
        return
    function = make_loss(*case, 3, 19)
    x = random_tensor(3, 19, dtype=dtype)
    ours, exact = value_and_gradient(function, x), float64_value_and_gradient(function, x)
    assert ours[0].dtype == ours[1].dtype == dtype
    eps = torch.finfo(dtype).eps
    # Half a unit, and float32's rounding; the interpreter truncates to bfloat16.
    value, gradient = {torch.float32: (16, 16), torch.float16: (0.51, 0.51), torch.bfloat16: (0.51, 1.01)}[dtype]
    assert_close(ours[0].double(), exact[0], rtol=value * eps, atol=0)
    assert_close(ours[1].double(), exact[1], rtol=gradient * eps, atol=eps * (1 if dtype == torch.float32 else 2e-4))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("num_classes", [1, 2, 4, 8, 15, 17, 33])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_the_number_of_classes_and_the_tiles_change_nothing(
    kind: str, num_classes: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_tiles(monkeypatch, groups)
    function = make_loss(kind, True, "none", 0.0, 3, num_classes)
    x = random_tensor(3, num_classes)
    ours = value_and_gradient(function, x)
    assert_close(ours, tuple(part.float() for part in float64_value_and_gradient(function, x)), rtol=2e-6, atol=2e-7)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("order", ["up", "down", "equal", "ties", "late"])
@pytest.mark.parametrize("kind", ["index", "smoothed", "soft"])
def test_the_largest_logit_may_come_anywhere_and_more_than_once(kind: str, order: str) -> None:
    x = torch.linspace(-6.0, 6.0, 25).repeat(2, 1)
    x = {
        "up": x,
        "down": x.flip(1),
        "equal": torch.zeros_like(x),
        "ties": x.abs(),
        "late": torch.where(torch.arange(25) == 23, 20.0, torch.zeros_like(x)),
    }[order]
    y = torch.tensor([0, 23])
    target = torch.softmax(random_tensor(2, 25, seed=3), 1) if kind == "soft" else y

    def function(x: Tensor) -> Tensor:
        smoothing = 0.2 if kind == "smoothed" else 0.0
        given = target.to(x.dtype) if kind == "soft" else target
        return F.cross_entropy(x, given, reduction="none", label_smoothing=smoothing)

    ours, exact = value_and_gradient(function, x), float64_value_and_gradient(function, x)
    assert_close(ours, tuple(part.float() for part in exact), rtol=2e-6, atol=1e-8)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("offset", [0.0, 4096.0, -4096.0])
@pytest.mark.parametrize("kind", ["index", "one-hot"])
@pytest.mark.parametrize("place", [0, 9])
def test_a_confident_row_keeps_its_digits(place: int, kind: str, offset: float) -> None:
    x = torch.full((1, 10), -INF)
    other = 9 - place
    x[0, place], x[0, other] = 20.0 + offset, offset
    target = torch.tensor([place])
    if kind == "one-hot":
        target = torch.nn.functional.one_hot(target, 10).float()
    x = x.requires_grad_()
    value = F.cross_entropy(x, target)
    (gradient,) = torch.autograd.grad(value, x)
    assert_close(value.item(), CONFIDENT_LOSS, rtol=1e-6, atol=0)
    assert_close(gradient[0, place].item(), -UNLIKELY, rtol=1e-6, atol=0)
    assert_close(gradient[0, other].item(), UNLIKELY, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_tails_keep_their_relative_precision(kind: str) -> None:
    x = random_tensor(8, 21, scale=12.0)
    y = x.argmax(1)
    target = torch.nn.functional.one_hot(y, 21).float() if kind == "soft" else y

    def function(x: Tensor) -> Tensor:
        return F.cross_entropy(x, target.to(x.dtype) if kind == "soft" else target, reduction="none")

    # e^d carries |d| times the rounding of d, here up to 64 units in the last place
    ours, exact = value_and_gradient(function, x), float64_value_and_gradient(function, x)
    assert_close(ours, tuple(part.float() for part in exact), rtol=8e-6, atol=1e-37)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("junk", [NAN, INF, -INF, 1e38])
@pytest.mark.parametrize(("weighted", "smoothing"), [(False, 0.0), (True, 0.0), (True, 0.1)])
def test_an_ignored_row_changes_no_other_whatever_it_holds(weighted: bool, smoothing: float, junk: float) -> None:
    x, y = random_tensor(5, 11), torch.tensor([0, 7, 2, 7, 10])
    x[1], x[3, 1] = junk, junk
    kept = y != 7
    w = random_tensor(11, seed=2).abs() if weighted else None
    function = partial(F.cross_entropy, weight=w, label_smoothing=smoothing, ignore_index=7)
    value, gradient = value_and_gradient(lambda x: function(x, y), x)
    expected, expected_gradient = value_and_gradient(lambda x: function(x, y[kept]), x[kept])
    assert_close(value, expected)
    assert_close(gradient[kept], expected_gradient)
    assert_close(gradient[~kept], torch.zeros(2, 11), rtol=0, atol=0)


def test_if_every_row_is_ignored_the_mean_is_undefined_and_the_sum_0() -> None:
    x, y = random_tensor(3, 2), torch.full((3,), -100)
    value, gradient = value_and_gradient(lambda x: F.cross_entropy(x, y), x)
    assert value.isnan()
    assert_close(gradient, torch.zeros_like(x), rtol=0, atol=0)
    assert F.cross_entropy(x, y, reduction="sum").item() == 0.0


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("kind", ["index", "soft", "smoothed"])
@pytest.mark.parametrize(
    ("logits", "label", "loss"),
    [
        ([INF, 0.0, 1.0], 0, 0.0),
        ([0.0, -INF, -INF], 0, 0.0),
        ([-INF, 0.0, -INF], 1, 0.0),
        ([INF, -INF, 0.0], 0, 0.0),
        ([INF, 0.0, 1.0], 1, INF),
        ([0.0, -INF, 1.0], 1, INF),
        ([INF, -INF, 0.0], 1, INF),
    ],
    ids=str,
)
def test_an_infinite_logit_gives_the_loss_0_if_right_and_infinity_if_wrong(
    logits: list[float], label: int, loss: float, kind: str
) -> None:
    x = torch.full((1, 12), -INF)
    x[0, [0, 1, 11]] = torch.tensor(logits)
    y = torch.tensor([label])
    target = torch.nn.functional.one_hot(y, 12).float() if kind == "soft" else y
    smoothing = 0.1 if kind == "smoothed" else 0.0
    x = x.requires_grad_()
    value = F.cross_entropy(x, target, reduction="sum", label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(value, x)
    assert value.item() == (INF if kind == "smoothed" else loss)
    assert gradient.isfinite().all()
    if value.item() == 0.0:
        assert_close(gradient, torch.zeros_like(x), rtol=0, atol=0)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("everywhere", [INF, -INF])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_equal_infinite_logits_have_equal_probabilities(kind: str, everywhere: float) -> None:
    y = torch.tensor([4])
    one_hot = torch.nn.functional.one_hot(y, 11).float()
    x = torch.full((1, 11), everywhere)
    value, gradient = value_and_gradient(lambda x: F.cross_entropy(x, y if kind == "index" else one_hot), x)
    assert_close(value.item(), math.log(11))
    assert_close(gradient, (1 / 11 - one_hot) * 0.5)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("kind", ["index", "smoothed", "soft"])
@pytest.mark.parametrize("place", [0, 5, 10, None])
def test_a_nan_logit_makes_its_row_nan_and_no_other(place: int | None, kind: str) -> None:
    x, y = random_tensor(3, 11), torch.tensor([5, 5, 5])
    x[1, slice(None) if place is None else place] = NAN
    target = torch.softmax(random_tensor(3, 11, seed=3), 1) if kind == "soft" else y
    value, gradient = value_and_gradient(
        lambda x: F.cross_entropy(x, target, reduction="none", label_smoothing=0.1 * (kind == "smoothed")), x
    )
    assert value.isnan().tolist() == [False, True, False]
    assert gradient.isnan().any(1).tolist() == [False, True, False]


def test_0_times_an_infinite_loss_is_0() -> None:
    x = torch.tensor([[0.0, -INF, -INF]])
    value, gradient = value_and_gradient(lambda x: F.cross_entropy(x, torch.tensor([[1.0, 0.0, 0.0]])), x)
    assert_close((value.item(), gradient), (0.0, torch.zeros(1, 3)))
    weight = torch.tensor([1.0, 0.0, 1.0])
    assert F.cross_entropy(x, torch.tensor([1]), weight, reduction="sum").item() == 0.0
    assert F.cross_entropy(x, torch.tensor([[1.0, 1.0, 0.0]]), weight, reduction="sum").item() == 0.0


@pytest.mark.usefixtures("parts")
def test_no_finite_logit_overflows() -> None:
    large = torch.finfo(torch.float32).max / 4
    x = torch.tensor([[large, -large, 0.0], [-large, -large, -large]])
    for y in ([0, 1], [1, 2]):
        value, gradient = value_and_gradient(lambda x: F.cross_entropy(x, torch.tensor(y), reduction="none"), x)  # noqa: B023
        assert value.isfinite().all()
        assert gradient.isfinite().all()


def test_a_constant_added_to_every_logit_changes_nothing() -> None:
    x = (random_tensor(4, 19) * 8).round() / 8
    for smoothing in (0.0, 0.1):
        function = partial(
            F.cross_entropy, target=make_labels(4, 19, ignored=True), reduction="none", label_smoothing=smoothing
        )
        expected = value_and_gradient(function, x)
        assert_close(value_and_gradient(function, x + 4096.0), expected, rtol=0, atol=0)


def test_a_row_has_the_same_loss_wherever_in_16_bytes_it_starts() -> None:
    x, y = random_tensor(9, 13), make_labels(9, 13, ignored=False)
    expected = value_and_gradient(lambda x: F.cross_entropy(x, y, reduction="none"), x)[0]
    one_by_one = torch.cat([F.cross_entropy(x[i : i + 1], y[i : i + 1], reduction="none") for i in range(9)])
    assert_close(expected, one_by_one, rtol=1e-6, atol=0)


@pytest.mark.parametrize("soft", [False, True])
def test_any_memory_layout_gives_the_same(soft: bool) -> None:
    x = random_tensor(3, 11)
    target = torch.softmax(random_tensor(3, 11, seed=3), 1) if soft else make_labels(3, 11, ignored=True)
    expected = value_and_gradient(lambda x: F.cross_entropy(x, target), x)
    for rearrange in (
        lambda x: x.T.contiguous().T,
        lambda x: torch.cat([x, x], 1)[:, 11:],
        lambda x: torch.cat([torch.zeros(1), x.flatten()])[1:].view(3, 11),
    ):
        marked = rearrange(x).requires_grad_()
        value = F.cross_entropy(marked, rearrange(target) if soft else target)
        assert_close((value.detach(), torch.autograd.grad(value, marked)[0] * 0.5), expected)
    one = x[:1].expand(3, -1)
    assert_close(F.cross_entropy(one, target), F.cross_entropy(one.contiguous(), target), rtol=0, atol=0)


def test_arguments_and_neighboring_memory_stay_as_they_are() -> None:
    x, y = random_tensor(4, 13), make_labels(4, 13, ignored=True)
    marked = x.clone().requires_grad_()
    F.cross_entropy(marked, y).backward()
    assert_close(marked.detach(), x, rtol=0, atol=0)
    around = torch.full((6 * 16,), 7.0)
    gradient = around[16:68].view(4, 13)
    fused.losses(x, fused.TargetSpec(y), gradient)
    assert (around[:16] == 7.0).all()
    assert (around[68:] == 7.0).all()
    assert (gradient != 7.0).all()


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("groups", [1, 4, 32])
@pytest.mark.parametrize("kind", ["index", "smoothed", "soft"])
def test_loss_and_gradient_by_one_kernel_are_those_by_two(
    kind: str, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_tiles(monkeypatch, groups)
    x, smoothing = random_tensor(4, 19), 0.1 if kind == "smoothed" else 0.0
    target = torch.softmax(random_tensor(4, 19, seed=3), 1) if kind == "soft" else make_labels(4, 19, ignored=False)
    loss, gradient = loss_and_grad(x, target, smoothing)
    expected = float64_value_and_gradient(
        lambda x: 2 * F.cross_entropy(x, target.double() if kind == "soft" else target, None, -100, "sum", smoothing), x
    )
    assert_close((2 * loss, gradient), tuple(part.float() for part in expected), rtol=2e-6, atol=2e-7)
    fused.losses(x, fused.TargetSpec(target, smoothing=smoothing), x)
    assert_close(x, gradient, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["index", "ignored", "smoothed", "soft"])
def test_a_linear_layer_and_its_loss_call_the_kernels_chunk_by_chunk(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w = random_tensor(5, 4, scale=1.0), random_tensor(11, 4, seed=4, scale=1.0).requires_grad_()
    soft, y = torch.softmax(random_tensor(5, 11, seed=3), 1), make_labels(5, 11, ignored=kind == "ignored")
    smoothing = 0.1 if kind == "smoothed" else 0.0

    def evaluate() -> tuple[Tensor, Tensor]:
        loss = F.linear_cross_entropy(x, w, soft if kind == "soft" else y, label_smoothing=smoothing)
        return loss.detach(), torch.autograd.grad(loss, w)[0]

    with monkeypatch.context() as plain:
        plain.setattr(fused, "_DEVICE_TYPE", "cuda")
        expected = evaluate()
    monkeypatch.setattr(LINEAR, "_LOGITS_PER_CHUNK", 22)
    monkeypatch.setattr(LINEAR, "_MIN_CHUNKED_LOGITS", 0)
    launches = Mock(wraps=fused.losses)
    monkeypatch.setattr(fused, "losses", launches)
    assert_close(evaluate(), expected)
    assert launches.call_count == 3


def test_few_long_rows_take_two_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = random_tensor(3, 50), torch.tensor([0, -100, 49])
    join = MagicMock()
    join.__getitem__.side_effect = fused._kernels().cross_entropy_join.__getitem__
    monkeypatch.setattr(fused._kernels(), "cross_entropy_join", join)
    shared = F.cross_entropy(x, y)
    assert join.__getitem__.call_count == 1
    monkeypatch.setattr(fused, "_BLOCKS", 3)
    assert_close(F.cross_entropy(x, y), shared, rtol=1e-6, atol=0)
    assert join.__getitem__.call_count == 1


def test_a_second_backward_pass_gives_the_same_and_a_second_derivative_that_of_the_plain_form() -> None:
    x, y = random_tensor(4, 7).requires_grad_(), make_labels(4, 7, ignored=True)
    value = F.cross_entropy(x, y)
    one, other = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
    assert_close(one, other, rtol=0, atol=0)

    def curvature(x: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(F.cross_entropy(x, y), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    assert_close(curvature(x), curvature(x.detach().double().requires_grad_()).float())


def test_a_loss_may_be_changed_in_place_before_its_backward_pass() -> None:
    for reduction in ("none", "sum", "mean"):
        x = random_tensor(3, 5).requires_grad_()
        value = F.cross_entropy(x, torch.tensor([0, 1, 2]), reduction=reduction)
        value.mul_(2.0).sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("label", [11, -1, -101, 2**40])
def test_a_label_outside_the_classes_stops_the_kernel(label: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(interpreter.interpreter_builder.options, debug=True)  # as the kernel is compiled
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
    with pytest.raises(interpreter.InterpreterError, match=r"target must be in \[0, C\) or ignore_index"):
        F.cross_entropy(random_tensor(2, 11), torch.tensor([0, label]))


def test_the_kernels_leave_other_arguments_to_the_plain_form() -> None:
    x, y, t = random_tensor(4, 5), torch.tensor([0, 1, 2, 3]), torch.softmax(random_tensor(4, 5, seed=1), 1)
    w = torch.rand(5)
    assert fused.is_supported(x, y, w)
    assert fused.is_supported(x, t.bfloat16(), None)
    assert not fused.is_supported(x.double(), y, None)
    assert not fused.is_supported(x, t.double(), None)
    assert not fused.is_supported(x.view(2, 2, 5), y.view(2, 2), None)
    assert not fused.is_supported(x[:0], y[:0], None)
    assert not fused.is_supported(x[:1, :1].expand(2**31, 1), y, None)
    assert not fused.is_supported(x[:1, :1].expand(1, 2**26 + 1), y, None)
    assert not fused.is_supported(x, t.requires_grad_(), None)
    assert not fused.is_supported(x, y, w.requires_grad_())
    assert_close(
        torch.func.grad(lambda x: F.cross_entropy(x, y))(x),
        value_and_gradient(lambda x: 2 * F.cross_entropy(x, y), x)[1],
    )
