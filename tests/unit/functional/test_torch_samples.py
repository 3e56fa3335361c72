"""fcnet.functional and fcnet.modules on PyTorch's own sample and error inputs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import fcnet.functional as F
from fcnet import modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Function: TypeAlias = "Callable[..., Tensor]"
NAMES = {
    "sigmoid": "sigmoid",
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "nn.functional.logsigmoid": "logsigmoid",
    "nn.functional.relu": "relu",
    "nn.functional.leaky_relu": "leaky_relu",
    "nn.functional.elu": "elu",
    "nn.functional.gelu": "gelu",
    "nn.functional.cross_entropy": "cross_entropy",
    "nn.functional.binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits",
}
OPS = [op for op in op_db if op.name in NAMES]
MODULES = [info for info in module_db if info.name.removeprefix("nn.") in vars(modules)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_every_function_and_module_has_samples() -> None:
    assert {op.name for op in OPS} == set(NAMES)
    ours = {name for name, value in vars(modules).items() if isinstance(value, type) and name[0] != "_"}
    theirs = {info.name.removeprefix("nn.") for info in MODULES}
    assert ours - theirs == {"LogisticLoss", "HingeLoss", "QuadraticLoss", "nn"} - {"nn"}


def convert(value: Any, dtype: torch.dtype | None) -> Any:
    """A copy that is a leaf; floating tensors, and dtypes, in another dtype if one is given."""
    if isinstance(value, torch.dtype):
        return dtype or value
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().to(dtype) if dtype is not None and value.is_floating_point() else value.detach()
    return copy.clone().requires_grad_(value.requires_grad)


def evaluate(
    function: Function, args: list[Any], kwargs: dict[str, Any], dtype: torch.dtype | None = None
) -> list[Tensor]:
    """The value, and the gradients in all arguments that require one."""
    args, kwargs = [convert(a, dtype) for a in args], {name: convert(a, dtype) for name, a in kwargs.items()}
    value = function(*args, **kwargs)
    leaves = [a for a in [*args, *kwargs.values()] if isinstance(a, Tensor) and a.requires_grad]
    if not (leaves and value.requires_grad and value.numel()):
        return [value.detach()]
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).reshape(value.shape).to(value.dtype)
    gradients = torch.autograd.grad(value, leaves, upstream, allow_unused=True)
    return [value.detach(), *(g for g in gradients if g is not None)]


def assert_as_near_to_the_truth(
    ours: Function,
    theirs: Function,
    args: list[Any],
    kwargs: dict[str, Any],
    *,
    truth: Function | None = None,
    rows: bool = False,
) -> None:
    """Shapes and dtypes are torch's; errors from the float64 truth are at most twice torch's, or 32 ulp.

    With ``rows``, an element may be a difference of numbers as large as the row's largest: the ulp, and torch's error,
    are then those of the row.
    """
    mine, other = evaluate(ours, args, kwargs), evaluate(theirs, args, kwargs)
    exact = evaluate(truth or theirs, args, kwargs, torch.float64)
    assert len(mine) == len(other) == len(exact)
    for a, b, right in zip(mine, other, exact, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if not a.numel():
            continue
        known = right.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        error, size = (b.double() - known).abs().nan_to_num(nan=torch.inf), known.abs()
        if rows:
            error, size = error.max(), size.max()
        info = torch.finfo(a.dtype)
        allowed = torch.maximum(2.0 * error, 32.0 * torch.clamp(size * info.eps, min=info.smallest_normal * info.eps))
        near = (a.double() - known).abs() <= allowed
        assert (near | (a.double() == right) | (a.isnan() & right.isnan())).all(), (a, b, right)


def gelu_from_the_tail(x: Tensor, approximate: str = "none") -> Tensor:
    """torch's own is 0 where 1 + erf cancels, in float64 too."""
    if approximate == "tanh":
        return torch.nn.functional.gelu(x, approximate="tanh")
    return 0.5 * x * torch.erfc(-x * 0.5**0.5)


def relu_with_derivative_1_at_0(x: Tensor) -> Tensor:
    """torch's derivative at 0 is 0, and a sample in float16 can contain a 0."""
    return torch.where(x < 0.0, 0.0, x)


TRUTHS = {
    "gelu": gelu_from_the_tail,
    "GELU": gelu_from_the_tail,
    "relu": relu_with_derivative_1_at_0,
    "ReLU": relu_with_derivative_1_at_0,
}
ROWS = {"softmax", "log_softmax", "cross_entropy", "Softmax", "LogSoftmax", "CrossEntropyLoss"}


def sample_cases() -> Iterator[Any]:
    for op, dtype in itertools.product(OPS, DTYPES):
        name = f"{op.name}{'.' + op.variant_test_name if op.variant_test_name else ''}"
        yield pytest.param(op, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")


@pytest.mark.parametrize(("op", "dtype"), list(sample_cases()))
def test_functions_are_as_exact_as_torchs_on_its_samples(op: Any, dtype: torch.dtype) -> None:
    ours, theirs = getattr(F, NAMES[op.name]), getattr(torch.nn.functional, NAMES[op.name])
    name = NAMES[op.name]
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=True))
    for sample in samples:
        assert_as_near_to_the_truth(
            ours,
            theirs,
            [sample.input, *sample.args],
            without_old_arguments(sample.kwargs),
            truth=TRUTHS.get(name),
            rows=name in ROWS,
        )
    assert samples


def without_old_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in {"size_average", "reduce", "inplace"}}


@pytest.mark.parametrize("op", [op for op in OPS if op.error_inputs_func is not None], ids=lambda op: op.name)
def test_functions_refuse_torchs_error_inputs_with_its_error(op: Any) -> None:
    ours = getattr(F, NAMES[op.name])
    for case in op.error_inputs("cpu"):
        sample = case.sample_input
        with pytest.raises(case.error_type):
            ours(sample.input, *sample.args, **without_old_arguments(sample.kwargs))


@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_modules_are_as_exact_as_torchs_on_its_samples(info: Any, dtype: torch.dtype) -> None:
    name = info.name.removeprefix("nn.")
    samples = list(info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True))
    for sample in samples:
        constructor, given = sample.constructor_input, sample.forward_input
        if given is None:
            continue
        ours, theirs = (as_function(cls, constructor.args) for cls in (getattr(modules, name), info.module_cls))
        kwargs = without_old_arguments(constructor.kwargs)
        assert not given.kwargs
        assert_as_near_to_the_truth(ours, theirs, list(given.args), kwargs, truth=TRUTHS.get(name), rows=name in ROWS)
    assert samples


def as_function(cls: Any, args_of_constructor: tuple[Any, ...]) -> Function:
    """A module class as a function of the inputs and the constructor's keywords."""
    return lambda *args, **kwargs: cls(*args_of_constructor, **kwargs)(*args)
