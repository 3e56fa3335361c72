"""An optimizer's state as named tensors beside metadata in JSON types, for checkpoints without pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    import torch


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
    """
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
    optimizer.load_state_dict({"state": state, "param_groups": metadata["param_groups"]})


def select_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Selects the tensors named PREFIX.NAME and returns them by NAME."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
