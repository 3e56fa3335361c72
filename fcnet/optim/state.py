"""What an optimizer remembers, as named tensors and metadata that JSON can hold, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    import torch


def split_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors named PARAMETER.ENTRY, or PARAMETER.ENTRY.PLACE for those of a list, and the rest as metadata.

    Args:
        optimizer: one whose entries are tensors, lists of tensors, or what JSON can hold.

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
                tensors |= {f"{index}.{name}.{place}": tensor for place, tensor in enumerate(value)}
            else:
                scalars.setdefault(str(index), {})[name] = value
    return tensors, {"scalars": scalars, "param_groups": stored["param_groups"]}


def join_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Gives an optimizer over the same parameters what `split_state` took from another.

    It gets copies: where a file was read to is not aligned, and there a dot product may round otherwise.
    """
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in metadata["scalars"].items()}
    lists: dict[tuple[int, str], dict[int, Tensor]] = {}
    for path, tensor in tensors.items():
        index, name, *place = path.split(".")
        if place:
            lists.setdefault((int(index), name), {})[int(place[0])] = tensor.clone()
        else:
            state.setdefault(int(index), {})[name] = tensor.clone()
    for (parameter, name), values in lists.items():
        state.setdefault(parameter, {})[name] = [values[place] for place in sorted(values)]
    optimizer.load_state_dict({"state": state, "param_groups": metadata["param_groups"]})


def select_prefix(tensors: dict[str, Tensor], owner: str) -> dict[str, Tensor]:
    """The tensors named OWNER.NAME, by NAME."""
    return {name.removeprefix(f"{owner}."): tensor for name, tensor in tensors.items() if name.startswith(f"{owner}.")}
