"""An optimizer's state as named tensors beside metadata in JSON types, for checkpoints without pickle."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from fcnet.runtime.errors import UserError


def split_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Splits an optimizer's state into named tensors and metadata.

    Args:
        optimizer: an optimizer with state entries that are tensors, lists of tensors or JSON types.

    Returns:
        The tensors, named PARAMETER.ENTRY, or PARAMETER.ENTRY.INDEX for the tensors of a list, and the metadata.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> weight.grad = torch.ones(2)
        >>> optimizer = torch.optim.AdamW([weight])
        >>> optimizer.step()
        >>> sorted(split_state(optimizer)[0])
        ['0.exp_avg', '0.exp_avg_sq', '0.step']
    """
    stored = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in stored["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            elif isinstance(value, list) and value:
                tensors |= {f"{index}.{name}.{item}": tensor for item, tensor in enumerate(value)}
            else:
                scalars.setdefault(str(index), {})[name] = value
    return tensors, {"scalars": scalars, "param_groups": stored["param_groups"]}


def join_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Restores the result of `split_state` into an optimizer over the same parameters.

    The optimizer gets copies of the tensors.

    Raises:
        UserError: the state is not that of such an optimizer over such parameters.
    """
    _check_groups(optimizer, metadata["param_groups"])
    # Copies, because a memory-mapped file is not aligned as torch's allocator aligns, and a dot product may then round
    # differently: a resumed L-BFGS would leave its course.
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in metadata["scalars"].items()}
    lists: dict[tuple[int, str], dict[int, Tensor]] = {}
    for path, tensor in tensors.items():
        index, name, *item = path.split(".")
        if item:
            lists.setdefault((int(index), name), {})[int(item[0])] = tensor.clone()
        else:
            state.setdefault(int(index), {})[name] = tensor.clone()
    for (parameter, name), values in lists.items():
        state.setdefault(parameter, {})[name] = [values[item] for item in sorted(values)]
    _check_entries(optimizer, state)
    # Another version of torch may know more settings, or fewer: those that were not saved stay as they are.
    groups = zip(optimizer.state_dict()["param_groups"], metadata["param_groups"], strict=True)
    optimizer.load_state_dict({"state": state, "param_groups": [{**own, **saved} for own, saved in groups]})


def _check_groups(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """Checks that saved groups have the settings of the optimizer's own, besides the learning rate of a step."""
    # In JSON's types, so that a tuple equals a list, and a tensor of a CUDA graph a number.
    own, groups = (
        json.loads(json.dumps(each, default=float)) for each in (optimizer.state_dict()["param_groups"], groups)
    )
    if [group["params"] for group in own] != [group.get("params") for group in groups]:
        raise UserError("the optimizer must have the parameter groups of the configuration")
    for ours, saved in zip(own, groups, strict=True):
        for name, value in ((name, value) for name, value in ours.items() if name in saved):
            is_rate = name == "lr" and type(saved[name]) in (int, float) and 0.0 <= saved[name] < math.inf
            if not is_rate and (type(value), value) != (type(saved[name]), saved[name]):
                raise UserError(f"the optimizer's {name} must be that of the configuration, got another value")


def _check_entries(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Any]]) -> None:
    """Checks that each parameter has tensors of its own size, or of all parameters' together, and numbers."""
    sizes = [parameter.numel() for group in optimizer.param_groups for parameter in group["params"]]
    names = _entry_names(optimizer)
    for index, entries in state.items():
        if not 0 <= index < len(sizes) or (names and entries.keys() != names[index]):
            raise UserError(f"the optimizer's state of parameter {index} must have the entries of its optimizer")
        for name, value in entries.items():
            values = value if isinstance(value, list) else [value]
            if not all(
                part.numel() in (1, sizes[index], sum(sizes)) and part.is_floating_point()
                if isinstance(part, Tensor)
                else part is None or isinstance(part, int | float)
                for part in values
            ):
                raise UserError(f"the optimizer's {name} of parameter {index} must have the parameter's size")


def _entry_names(optimizer: torch.optim.Optimizer) -> list[set[str]]:
    """Returns the names of each parameter's entries after a step, found by one on small parameters.

    L-BFGS, whose entries depend on the loss, has none.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        return []
    groups = [
        {**group, "params": [torch.zeros((1,) * parameter.ndim, requires_grad=True) for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    make: Any = type(optimizer)
    small = make(groups)
    parameters = [parameter for group in groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    small.step()
    return [set(small.state[parameter]) for parameter in parameters]


def select_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Selects the tensors named PREFIX.NAME and returns them by NAME."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
