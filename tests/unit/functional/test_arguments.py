"""fcnet.functional.arguments: odd arguments of every function and module are taken or refused as torch does."""

from __future__ import annotations

import inspect
import warnings
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import fcnet.functional as F
from fcnet import modules
from fcnet.functional.arguments import require_dtype, require_tensor, to_axis, to_int, to_real

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Index:
    """A user's class that stands for an integer."""

    def __index__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return "Index()"


class Float:
    """A user's class that stands for a float."""

    def __float__(self) -> float:
        return 0.5

    def __repr__(self) -> str:
        return "Float()"


ODD: list[Any] = [
    *(True, False, 1.0, 0.5, 1, -1, 5, None, 1j, float("nan"), float("inf"), -0.5, 2.0, 2**70),
    *("1", "tanh", "mean", b"mean", "float32", [1], (1,), {}, range(2), float, int),
    *(np.int64(1), np.float64(0.5), np.float32(0.5), np.bool_(True), np.array(1), np.array(0.5)),
    *(torch.tensor(1), torch.tensor(0.5), torch.tensor([1]), torch.tensor(data=True), torch.tensor(1j)),
    torch.tensor(0.5, requires_grad=True),
    *(Index(), Float(), Fraction(1, 2), Decimal("0.5")),
    *(torch.float32, torch.int64, torch.bool, torch.complex64, torch.strided),
]

X, LABELS = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.5, -0.5]]), torch.tensor([2, 0])
SOFT, BINARY = torch.softmax(X, 1), torch.sigmoid(X)
CROSS_ENTROPY = {
    "input": X,
    "target": LABELS,
    "weight": None,
    "ignore_index": -100,
    "reduction": "mean",
    "label_smoothing": 0.0,
}
FUNCTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"input": X}) for name in ("sigmoid", "logsigmoid", "relu")),
    ("leaky_relu", {"input": X, "negative_slope": 0.1}),
    ("elu", {"input": X, "alpha": 1.0}),
    ("gelu", {"input": X, "approximate": "none"}),
    *((name, {"input": X, "dim": 1, "dtype": None}) for name in ("softmax", "log_softmax")),
    *(("cross_entropy", CROSS_ENTROPY | {"target": target}) for target in (LABELS, SOFT)),
    (
        "binary_cross_entropy_with_logits",
        {"input": X, "target": BINARY, "weight": None, "reduction": "mean", "pos_weight": None},
    ),
]
MODULES: list[tuple[str, tuple[Tensor, ...]]] = [
    *((name, (X,)) for name in ("Sigmoid", "LogSigmoid", "ReLU", "LeakyReLU", "ELU", "GELU", "Softmax", "LogSoftmax")),
    *(("CrossEntropyLoss", (X, target)) for target in (LABELS, SOFT)),
    ("BCEWithLogitsLoss", (X, BINARY)),
]

# Where the two differ, with the reason: parameter, our outcome, torch's outcome.
DIFFERENCES = {
    # torch calls a method of what it was given, and so says that it has none.
    ("input", "TypeError", "AttributeError"),
    ("target", "TypeError", "AttributeError"),
    # The axis has to be said: torch guesses it, and warns that it is deprecated.
    ("dim", "TypeError", "accepted"),
    # torch 2.10 takes a text for the name of an axis, and finds none.
    ("dim", "TypeError", "RuntimeError"),
    # A complex slope and a text in bytes are of the wrong type; torch finds it later.
    ("negative_slope", "TypeError", "RuntimeError"),
    ("alpha", "TypeError", "RuntimeError"),
    ("approximate", "TypeError", "RuntimeError"),
    # A tensor of a bool fails an assertion within torch.
    ("ignore_index", "TypeError", "RuntimeError"),
    # torch takes -1 for no smoothing, without a word.
    ("label_smoothing", "RuntimeError", "accepted"),
    # A weight may have a gradient here.
    ("weight", "accepted", "RuntimeError"),
    ("pos_weight", "accepted", "RuntimeError"),
    # The stable form of a sigmoid needs an order, which complex numbers have not.
    ("input", "NotImplementedError", "accepted"),
    # A complex tensor is no real number.
    ("label_smoothing", "TypeError", "RuntimeError"),
    # A bool counts as 0 or 1, as for the weight.
    ("pos_weight", "accepted", "NotImplementedError"),
    # An integer beyond 64 bits is a number as any other.
    ("negative_slope", "accepted", "OverflowError"),
    ("alpha", "accepted", "OverflowError"),
}
# A module says it when it is made, torch's at its first call.
LATER_IN_TORCH = {("reduction", "ValueError", "accepted")}


def outcome(call: Callable[[], object]) -> str:
    """Returns "accepted", or the name of the error's class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as error:  # noqa: BLE001 - any class is an outcome
            return type(error).__name__
    return "accepted"


def differences(parameter: str, ours: Callable[[Any], object], theirs: Callable[[Any], object]) -> set[tuple[str, ...]]:
    """Returns the outcomes that differ, with the values that show it."""
    found: set[tuple[str, ...]] = set()
    for value in ODD:
        mine, other = outcome(lambda: ours(value)), outcome(lambda: theirs(value))  # noqa: B023
        if mine != other and (parameter, mine, other) not in DIFFERENCES:
            found.add((parameter, repr(value), mine, other))
    return found


@pytest.mark.parametrize(("name", "arguments"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
def test_functions_take_and_refuse_what_torchs_do(name: str, arguments: dict[str, Any]) -> None:
    ours, theirs = getattr(F, name), getattr(torch.nn.functional, name)
    found: set[tuple[str, ...]] = set()
    for parameter in arguments:
        found |= differences(
            parameter,
            lambda value: ours(**{**arguments, parameter: value}),  # noqa: B023
            lambda value: theirs(**{**arguments, parameter: value}),  # noqa: B023
        )
    assert not found


@pytest.mark.parametrize(("name", "inputs"), MODULES, ids=[name for name, _ in MODULES])
def test_modules_take_and_refuse_what_torchs_do(name: str, inputs: tuple[Tensor, ...]) -> None:
    ours, theirs = getattr(modules, name), getattr(torch.nn, name)
    fixed = {"dim": 1} if name.endswith("Softmax") else {}
    parameters = [parameter for parameter in inspect.signature(ours).parameters if parameter != "self"]
    found: set[tuple[str, ...]] = set()
    for parameter in parameters:
        made = differences(
            parameter,
            lambda value: ours(**{**fixed, parameter: value}),  # noqa: B023
            lambda value: theirs(**{**fixed, parameter: value}),  # noqa: B023
        )
        found |= {case for case in made if (case[0], *case[2:]) not in LATER_IN_TORCH}
        found |= differences(
            parameter,
            lambda value: ours(**{**fixed, parameter: value})(*inputs),  # noqa: B023
            lambda value: theirs(**{**fixed, parameter: value})(*inputs),  # noqa: B023
        )
    found |= differences(
        "input", lambda value: ours(**fixed)(value, *inputs[1:]), lambda value: theirs(**fixed)(value, *inputs[1:])
    )
    if _torch_checks_no_axis():
        found = {case for case in found if case[0] != "dim"}
    assert not found


def _torch_checks_no_axis() -> bool:
    """Whether this version's `torch.nn.Softmax` takes any axis, and only its call refuses it."""
    return outcome(lambda: torch.nn.Softmax(dim=True)) == "accepted"


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1]])
@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_the_axis_of_a_softmax_is_an_int_from_the_start(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match="dim must be an int, got"):
        getattr(modules, name)(dim=value)


ERRORS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: require_tensor("input", np.ones(3)), TypeError, "input must be a Tensor, got ndarray"),
    (lambda: require_dtype("float32"), TypeError, "dtype must be a torch.dtype, got 'float32'"),
    (lambda: to_axis(True, 2), TypeError, "dim must be an int, got True"),
    (lambda: to_axis(torch.tensor([1]), 2), TypeError, "dim must be an int, got tensor([1])"),
    (lambda: to_axis(2, 2), IndexError, "dim must be in [-2, 1], got 2"),
    (lambda: to_axis(1, 0), IndexError, "dim must be in [-1, 0], got 1"),
    (lambda: to_int("ignore_index", 1.0), TypeError, "ignore_index must be an int, got 1.0"),
    (lambda: to_int("ignore_index", 2**63), ValueError, "ignore_index must fit into 64 bits, got 9223372036854775808"),
    (lambda: to_real("alpha", "1"), TypeError, "alpha must be a real number, got '1'"),
    (lambda: to_real("alpha", 1j), TypeError, "alpha must be a real number, got 1j"),
    (lambda: F.gelu(X, None), TypeError, "approximate must be a str, got None"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[text for _, _, text in ERRORS])
def test_the_line_names_the_argument_the_rule_and_the_value(
    call: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


def test_what_stands_for_a_number_gives_the_number() -> None:
    assert [to_axis(value, 3) for value in (1, -3, np.int64(2), torch.tensor(0))] == [1, -3, 2, 0]
    assert [to_int("n", value) for value in (3, np.uint8(7), torch.tensor([2]), Index())] == [3, 7, 2, 1]
    reals = [to_real("a", value) for value in (0.5, 2, True, np.float32(0.5), np.bool_(False), torch.tensor(4))]
    assert reals == [0.5, 2, True, 0.5, False, 4]


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.complex64], ids=str)
def test_an_axis_is_refused_before_a_dtype_as_torch_does(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.zeros(shape, dtype=dtype)
    for dim in range(-4, 4):
        mine, other = (outcome(lambda: library.softmax(x, dim)) for library in (F, torch.nn.functional))  # noqa: B023
        # torch does not look at the dtype of an empty tensor
        assert mine == other or (not x.numel() and (mine, other) == ("NotImplementedError", "accepted"))
