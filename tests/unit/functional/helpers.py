"""Helpers of the tests of fcnet.functional: random inputs, values with gradients, cases of the cross-entropy."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

TORCH = torch.nn.functional
INF, NAN = math.inf, math.nan
ELEMENTWISE = ["sigmoid", "logsigmoid", "relu", "leaky_relu", "elu", "gelu"]
OVER_CLASSES = ["softmax", "log_softmax"]

# The loss for the logits 20 and 0 with the first class true, and the probability of the second class.
CONFIDENT_LOSS = math.log1p(math.exp(-20.0))
UNLIKELY = 1.0 / (1.0 + math.exp(20.0))

INDEX_CASES: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight": True},
    {"weight": True, "reduction": "sum"},
    {"ignore_index": 2},
    {"ignore_index": 2, "weight": True},
    {"ignore_index": 2, "reduction": "none"},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.1, "weight": True, "ignore_index": 2},
    {"label_smoothing": 1.0, "reduction": "none"},
]
PROBABILITY_CASES = [case for case in INDEX_CASES if "ignore_index" not in case]

# Rows of logits in eighths, which float32 adds and subtracts exactly.
LOGITS = st.integers(1, 5).flatmap(
    lambda rows: st.integers(1, 6).flatmap(
        lambda columns: st.lists(
            st.lists(st.integers(-400, 400).map(lambda n: n / 8), min_size=columns, max_size=columns),
            min_size=rows,
            max_size=rows,
        )
    )
)


def make_options(case: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The keywords of a case, with weights for four classes where it has weights."""
    return {**case, "weight": torch.tensor([0.5, 2.0, 0.0, 1.5], dtype=dtype) if case.get("weight") else None}


def without_classes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the losses for logits of a shape."""
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 2.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def random_labels(*shape: int, num_classes: int, seed: int = 1) -> Tensor:
    return torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(seed))


def make_leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def value_and_grads(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value, and the gradients of a sum with a different weight for each of its elements."""
    leaves = [make_leaf(x) for x in inputs]
    value = function(*leaves)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]


def value_and_grad(function: Callable[[Tensor], Tensor], x: Tensor, *, through: str = "backward") -> list[Tensor]:
    """The value and the gradient of its sum: by ``backward``, or by ``func``, which takes the plain form."""
    if through == "func":
        gradient, _ = torch.func.grad_and_value(lambda x: function(x).sum())(x)
        return [torch.func.vmap(function)(x.unsqueeze(0)).squeeze(0), gradient]
    leaf = make_leaf(x)
    value = function(leaf)
    return [value.detach(), torch.autograd.grad(value.sum(), leaf)[0]]


def get_activation(module: Any, name: str) -> Callable[[Tensor], Tensor]:
    """A function of one tensor; the classes of a softmax are on axis 1."""
    function: Callable[..., Tensor] = getattr(module, name)
    return (lambda x: function(x, 1)) if name in OVER_CLASSES else function


def run_in_interpreter(file: str) -> None:
    """Runs a test file with Triton's interpreter, in a process of its own: Triton reads the setting when imported."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).with_name(file)),
    ]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
