"""Whatever a user has as training data, as batches: arrays, datasets, data loaders, and a share held out of them."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fcnet.data.arrays import check_classes, check_finite, check_lengths, to_inputs, to_labels
from fcnet.data.batches import Batches, split_validation
from fcnet.data.dataset import ImageDataset
from fcnet.data.loaders import DatasetBatches, LoaderBatches
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

    AnyBatches = Batches | DatasetBatches | LoaderBatches

DEFAULT_BATCH_SIZE = 128
_KINDS = "a pair (x, y) of arrays or tensors, a Dataset, a DataLoader or an fcnet.data.batches.Batches"


def to_batches(
    data: object,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int | None = None,
    name: str = "data",
) -> AnyBatches:
    """Makes batches of labelled examples.

    Args:
        data: batches, which are returned; a pair (x, y) of tensors or of anything that NumPy takes; a map-style
            dataset; or a data loader.
        device: the device of the model.
        dtype: the dtype of the model's inputs.
        batch_size: the number of examples in a global batch, 128 if None. Batches and loaders have their own.
        name: the name of the data in errors.

    Raises:
        UserError: it is other data, or x and y do not hold examples and class indices.

    Example:
        >>> import torch
        >>> batches = to_batches(([[0.5, 2.0], [1.0, 3.0]], [0, 1]), device=torch.device("cpu"), dtype=torch.float32)
        >>> batches.num_images, next(iter(batches)).labels
        (2, tensor([0, 1]))
    """
    if isinstance(data, Batches | DataLoader):
        if batch_size is not None:
            raise UserError(f"batch_size={batch_size} must be left out, because {name} has its own batch size")
        if isinstance(data, DataLoader):
            return LoaderBatches(data, device=device, dtype=dtype, name=name)
        if data.device != device:
            raise UserError(f"{name} must be on the device of the model, {device}, got batches on {data.device}")
        return data
    batch_size = operator.index(batch_size or DEFAULT_BATCH_SIZE)  # torch splits by no other integer
    if isinstance(data, Dataset):
        return _dataset_batches(data, device, dtype, batch_size, name)
    x, y = _require_arrays(data, name)
    return _array_batches(x, y, device, dtype, batch_size, name)


def hold_out(
    batches: AnyBatches, share: float, seed: int
) -> tuple[Batches, Batches] | tuple[DatasetBatches, DatasetBatches]:
    """Splits a training set into training and validation examples, with the same share of every class.

    Args:
        batches: the training set.
        share: the fraction of validation examples, between 0 and 1.
        seed: the seed of the choice.

    Raises:
        UserError: the share is outside its range or leaves nothing out, or the data is a loader.
    """
    if isinstance(batches, LoaderBatches):
        raise UserError(
            f"validation={share} must be data, because a DataLoader cannot be split; pass another DataLoader"
        )
    if not 0.0 < share < 1.0:
        raise UserError(f"validation must be data, or a share between 0 and 1 such as 0.1, got {share}")
    labels = batches.selected_labels if isinstance(batches, Batches) else batches.labels()
    rows, held_out = split_validation(labels.cpu(), share, seed)
    if not len(held_out):
        raise UserError(
            f"validation={share} must leave out at least one of {len(rows):,} examples, got none; pass a larger share"
        )
    return batches.select(rows), batches.select(held_out)  # type: ignore[return-value] # both of one kind


def check_labels(batches: AnyBatches, num_classes: int | None, name: str) -> None:
    """Checks that there are examples and that their labels are classes of a model.

    The labels of a loader, and those of a dataset without ``targets``, are checked in each batch.

    Args:
        batches: the examples.
        num_classes: C; None to check only that there are examples.
        name: the name of the data in errors.

    Raises:
        UserError: there are none, or a label is not a class.
    """
    if not len(batches):
        raise UserError(f"{name} must hold at least one example, got 0")
    if num_classes is None:
        return
    if isinstance(batches, Batches):
        check_classes(batches.selected_labels, num_classes, f"{name}: y", batches.rows)
    else:
        batches.check_classes(num_classes)


def _array_batches(
    x: object, y: object, device: torch.device, dtype: torch.dtype, batch_size: int, name: str
) -> AnyBatches:
    inputs, labels = to_inputs(x, dtype, f"{name}: x"), to_labels(y, f"{name}: y")
    check_lengths(inputs, labels, name)
    if not dtype.is_floating_point:
        return DatasetBatches(
            TensorDataset(inputs, labels), batch_size=batch_size, device=device, dtype=dtype, name=name
        )
    check_finite(inputs, f"{name}: x")
    return Batches(inputs, labels, batch_size=batch_size, device=device)


def _dataset_batches(
    dataset: Dataset[Any], device: torch.device, dtype: torch.dtype, batch_size: int, name: str
) -> AnyBatches:
    kind = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise UserError(
            f"{name} must be a dataset with items by index, got the IterableDataset {kind}; wrap it in a DataLoader"
        )
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise UserError(f"{name} must be a dataset with __getitem__ and __len__, got {kind}")
    # The commonest sets are whole tensors: a batch of them is an index, not B items.
    tensors = _whole_tensors(dataset, name)
    if tensors is not None:
        return _array_batches(*tensors, device, dtype, batch_size, name)
    return DatasetBatches(dataset, batch_size=batch_size, device=device, dtype=dtype, name=name)


def _whole_tensors(dataset: Dataset[Any], name: str) -> tuple[Tensor, Tensor] | None:
    """Returns x and y of a dataset that consists of these tensors, or None."""
    if type(dataset) is Subset and type(dataset.dataset) is TensorDataset:
        tensors = _whole_tensors(dataset.dataset, name)
        return tensors and (tensors[0][dataset.indices], tensors[1][dataset.indices])
    if type(dataset) is TensorDataset:
        if len(dataset.tensors) != 2:
            raise UserError(f"{name} must be a TensorDataset of two tensors, x and y, got {len(dataset.tensors)}")
        return dataset.tensors[0], dataset.tensors[1]
    if type(dataset) is ImageDataset and dataset.transform is None:
        return dataset.split.pixels, dataset.split.labels
    return None


def _require_arrays(data: object, name: str) -> tuple[object, object]:
    """Returns x and y of a pair."""
    if isinstance(data, tuple | list) and len(data) == 2:
        for part, value in zip("xy", data, strict=True):
            if isinstance(value, Dataset | DataLoader | Batches):
                raise UserError(f"{name}: {part} must be an array or a tensor, got a {type(value).__name__}")
        return data[0], data[1]
    kinds = f"{_KINDS}, or a share such as 0.1" if name == "validation" else _KINDS
    raise UserError(f"{name} must be {kinds}, got {_describe(data)}")


def _describe(data: object) -> str:
    """Describes data of another kind, with what to do where that is plain."""
    kind = type(data).__name__
    if isinstance(data, Tensor) or type(data).__module__.partition(".")[0] in ("numpy", "pandas"):
        return f"one {kind} {tuple(getattr(data, 'shape', ()))}; its labels are missing"
    if isinstance(data, tuple | list):
        pairs = "; pass tuple(zip(*pairs)) for a list of (x, y) pairs" if isinstance(data, list) else ""
        return f"a {kind} of {len(data)}{pairs}"
    if isinstance(data, str):
        return f"the text {data!r}; torchvision.datasets.ImageFolder reads a folder of images"
    if isinstance(data, dict):
        return f"a dict; pass (data[…], data[…]) with its keys {', '.join(map(str, data))}"
    return "a class; make an instance of it" if isinstance(data, type) else f"a {kind}"
