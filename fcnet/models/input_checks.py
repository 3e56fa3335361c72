"""Checks that a model and its data fit, before training begins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from fcnet.data.conversion import check_labels
from fcnet.models.batch_norm import eval_mode
from fcnet.models.graph import Graph
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fcnet.data.conversion import AnyBatches


class InputKind(NamedTuple):
    """The device and the dtype of the inputs that a model takes."""

    device: torch.device
    dtype: torch.dtype


def input_kind(model: object) -> InputKind:
    """Returns the device and the dtype of a model's inputs: those of its first parameter.

    A model whose attribute ``input_dtype`` is uint8 takes pixels, as an `ImageClassifier` does.

    Raises:
        UserError: it is not a model.
    """
    if not isinstance(model, nn.Module):
        found = (
            f"the class {model.__name__}; make an instance of it" if isinstance(model, type) else type(model).__name__
        )
        raise UserError(f"model must be a torch.nn.Module such as fcnet.MLP(64, (32,), 10), got {found}")
    tensor = next(_floating_tensors(model), torch.empty(0))
    return InputKind(tensor.device, getattr(model, "input_dtype", tensor.dtype))


def check_fit(model: nn.Module, batches: AnyBatches, name: str) -> int | None:
    """Checks that a model takes the inputs of its data and has the classes of its labels.

    Args:
        model: x (B, …) -> logits (B,) of the second of two classes, or (B, C).
        batches: the data.
        name: the name of the data in errors.

    Returns:
        The number of the model's classes; None for a stream, which cannot be looked at without changing it.

    Raises:
        UserError: there are no examples, or the two do not fit.
    """
    check_labels(batches, None, name)
    example = batches.example()
    if example is None:
        return None
    num_classes = count_classes(model, example, name)
    check_labels(batches, num_classes, name)
    return num_classes


def count_classes(model: nn.Module, x: Tensor, name: str) -> int:
    """Returns the number of classes of a model, and checks that it takes its inputs.

    A model from outside fcnet computes the logits of ``x`` once, in evaluation mode, to tell.

    Args:
        model: x (B, …) -> logits (B,) of the second of two classes, or (B, C).
        x: the input of one example, (1, …).
        name: the name of the data in errors.

    Raises:
        UserError: the model does not take such inputs, or does not return logits.

    Example:
        >>> count_classes(MLP(4, (8,), 3), torch.zeros(1, 2, 2), "data")
        3
    """
    shape = f"(N, {', '.join(map(str, x.shape[1:]))})" if x.ndim > 2 else f"(N, {x.shape[1]})"
    if isinstance(model, MLP | Graph):
        features = math.prod(x.shape[1:])
        if features != model.in_features:
            found = f"{features} in the shape {shape}"
            raise UserError(f"{name}: x must have in_features={model.in_features} values for each example, got {found}")
        return model.num_classes
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), eval_mode(model):
            logits = model(x)
    except UserError:
        raise
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{name}: {type(model).__name__} must take x of the shape {shape}, got the error: {reason}"
        ) from None
    return _count_outputs(model, logits)


def _count_outputs(model: nn.Module, logits: object) -> int:
    kind = type(model).__name__
    if not isinstance(logits, Tensor):
        raise UserError(f"{kind} must return logits, a tensor (B,) or (B, C), got a {type(logits).__name__}")
    if logits.shape == (1,):
        return 2
    if logits.shape == (1, 1):
        raise UserError(
            f"{kind} must return logits (B,) for two classes, or (B, C), got (B, 1); end it with torch.nn.Flatten(0)"
        )
    if logits.ndim != 2 or len(logits) != 1:
        raise UserError(
            f"{kind} must return logits (B,) or (B, C), got the shape {tuple(logits.shape)} for one example"
        )
    return logits.shape[1]


def _floating_tensors(model: nn.Module) -> Iterator[Tensor]:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            yield tensor
