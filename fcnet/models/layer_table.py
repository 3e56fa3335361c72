"""The layers of a model as a table: output shapes, parameters and their total."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.models.batch_norm import eval_mode
from fcnet.models.input_checks import input_kind
from fcnet.models.layers import Dense
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import shorten_middle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PROBE_SIZE = 2  # examples of the batch that passes through the model; one example breaks models that squeeze
_WIDTH = 80
_NAME_WIDTH, _SHAPE_WIDTH = 24, 22


@dataclass(frozen=True)
class LayerSummary:
    """One row of a `ModelSummary`.

    Attributes:
        name: the layer's name in the model, as in ``named_modules()``.
        kind: the class of the layer, and what a `Dense` layer consists of.
        output_shape: the shape of its output as text, with B for the batch; ``-`` for a layer that did not run.
        num_parameters: its weights and biases, without those of earlier rows that it shares.
    """

    name: str
    kind: str
    output_shape: str
    num_parameters: int


@dataclass(frozen=True, repr=False)
class ModelSummary:
    """The layers of a model in the order in which they run. Its text is a table of at most 80 columns.

    Attributes:
        title: the class of the model, and the shapes of its input and its output.
        layers: the rows.
        num_parameters: all parameters of the model.
        num_trainable: those that require a gradient.
    """

    title: str
    layers: tuple[LayerSummary, ...]
    num_parameters: int
    num_trainable: int

    def __str__(self) -> str:
        """Returns the table."""
        rows = [("layer", "kind", "output shape", "parameters")]
        rows += [(row.name, row.kind, row.output_shape, f"{row.num_parameters:,}") for row in self.layers]
        totals = [("total", f"{self.num_parameters:,}")]
        if self.num_trainable != self.num_parameters:
            totals.append(("trainable", f"{self.num_trainable:,}"))
        limits = (_NAME_WIDTH, _WIDTH, _SHAPE_WIDTH, _WIDTH)
        widths = [
            min(limit, max(map(len, cells))) for limit, cells in zip(limits, zip(*rows, strict=True), strict=True)
        ]
        widths[3] = max(widths[3], *(len(number) for _, number in totals))
        separators = 3 * 2
        widths[1] = min(widths[1], _WIDTH - separators - widths[0] - widths[2] - widths[3])
        lines = [_format_row(row, widths) for row in rows]
        rule = "-" * len(lines[0])
        lines += [rule, *(f"{label}{number:>{len(rule) - len(label)}}" for label, number in totals)]
        return "\n".join([shorten_middle(self.title, _WIDTH), rule, *lines])

    __repr__ = __str__


def summary(model: nn.Module, input_shape: int | Sequence[int] | None = None) -> ModelSummary:
    """Returns the layers of a model with output shapes and parameters. `print` shows them as a table.

    Two examples of zeros pass through the model in evaluation mode. A `Dense` layer is one row, with its activation,
    normalization and dropout. Of other models, each module without submodules is a row. Parameters that two
    layers share count once.

    Args:
        model: a network of fcnet or another ``torch.nn.Module`` of one input tensor.
        input_shape: the shape of one example, without the batch, or its number of features. Not needed for networks of
            fcnet, nor for models that begin with a ``torch.nn.Linear``.

    Raises:
        UserError: ``model`` is not a module, ``input_shape`` is needed, or the model does not take such an input.

    Example:
        >>> from fcnet.models.mlp import MLP
        >>> print(summary(MLP(64, (32,), 10, dropout=0.2)))
        MLP: (B, 64) -> (B, 10)
        --------------------------------------------------------
        layer     kind                  output shape  parameters
        layers.0  Dense, relu, dropout  (B, 32)            2,080
        layers.1  Dense                 (B, 10)              330
        --------------------------------------------------------
        total                                              2,410
    """
    kind = input_kind(model)
    model = getattr(model, "_orig_mod", model)  # torch.compile calls no hooks of the layers
    shape = _example_shape(model, input_shape)
    x = torch.zeros(_PROBE_SIZE, *shape, dtype=kind.dtype, device=kind.device)
    calls: list[tuple[str, nn.Module, str]] = []
    with _recorded_calls(model, calls):
        output = _run(model, x, shape)
    called = {id(module) for _, module, _ in calls}
    missing = [(name, module, "-") for name, module in _row_modules(model) if id(module) not in called]
    seen: set[int] = set()
    rows = []
    for name, module, output_shape in (*calls, *(row for row in missing if list(row[1].parameters(recurse=False)))):
        count = sum(parameter.numel() for parameter in _new_parameters(module, seen))
        rows.append(LayerSummary(name or type(model).__name__, _describe(module), output_shape, count))
    parameters = list(model.parameters())
    return ModelSummary(
        f"{type(model).__name__}: {_format_shape(x)} -> {_format_shape(output)}",
        tuple(rows),
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


def _example_shape(model: nn.Module, input_shape: int | Sequence[int] | None) -> tuple[int, ...]:
    if isinstance(input_shape, int):
        return (input_shape,)
    if input_shape is not None:
        return tuple(input_shape)
    if isinstance(pixels := getattr(model, "shape", None), tuple):  # an image classifier
        return pixels
    first = next((module for module in model.modules() if list(module.parameters(recurse=False))), model)
    for module in (model, first):
        features = getattr(module, "in_features", None)
        if isinstance(features, int):
            return (features,)
    raise UserError(
        f"input_shape must be given for a {type(model).__name__}: the shape of one example, such as (3, 32, 32)"
    )


@contextlib.contextmanager
def _recorded_calls(model: nn.Module, calls: list[tuple[str, nn.Module, str]]) -> Iterator[None]:
    """Appends the name, the module and the output shape of each row's module whenever it runs."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, _, output: calls.append((name, module, _format_shape(output)))

    handles = [module.register_forward_hook(hook(name)) for name, module in _row_modules(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _row_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Returns the modules that have a row: dense layers, modules without submodules, and owners of parameters."""
    inside_dense = {id(part) for module in model.modules() if isinstance(module, Dense) for part in module.children()}
    return [
        (name, module)
        for name, module in model.named_modules()
        if id(module) not in inside_dense
        and (isinstance(module, Dense) or not list(module.children()) or list(module.parameters(recurse=False)))
    ]


def _run(model: nn.Module, x: Tensor, shape: tuple[int, ...]) -> object:
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), eval_mode(model):
            return model(x)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"input_shape must be the shape of one example that {type(model).__name__} takes, "
            f"got {shape} and the error: {reason}"
        ) from None


def _new_parameters(module: nn.Module, seen: set[int]) -> Iterator[nn.Parameter]:
    """Yields the parameters of a row that no earlier row has, and notes them in ``seen``."""
    for parameter in module.parameters(recurse=isinstance(module, Dense)):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield parameter


def _describe(module: nn.Module) -> str:
    kind = type(module).__name__
    if not isinstance(module, Dense):
        return kind
    norm = "" if module.normalization is None else type(module.normalization).__name__
    activation = "" if module.activation == "identity" else module.activation
    parts = (norm, activation, "residual" if module.residual else "", "dropout" if module.dropout else "")
    return ", ".join([kind, *filter(None, parts)])


def _format_shape(output: object) -> str:
    """Returns a shape with B for the batch; of several outputs, that of the first tensor."""
    if isinstance(output, Tensor):
        sizes = list(map(str, output.shape))
        if sizes and output.shape[0] == _PROBE_SIZE:
            sizes[0] = "B"
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
    if isinstance(output, tuple | list) and output:
        return f"{_format_shape(output[0])}, …"
    return type(output).__name__


def _format_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, kind, shape, number = (shorten_middle(cell, width) for cell, width in zip(cells, widths, strict=True))
    return f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {shape:<{widths[2]}}  {number:>{widths[3]}}"
