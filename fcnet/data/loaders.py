"""Batches of torch's datasets and data loaders, with the interface that training and evaluation need.

An item of a dataset is a pair (x, y) of one input and its class index; a batch of a loader is a pair (x, y) of B each.
uint8 values are pixels and are divided by 255.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset, TensorDataset

from fcnet.data.arrays import check_classes, check_lengths, to_inputs, to_labels, to_tensor
from fcnet.data.batches import Batch
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import derive_seed, generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.utils.data import DataLoader, Dataset


class TrainingBatches(Protocol):
    """Batches of a labelled set, such as `fcnet.data.batches.Batches`."""

    @property
    def device(self) -> torch.device:
        """The device of the batches."""

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """Yields every example once, in order; each batch is this rank's part of it."""

    def epoch(self, seed: int, epoch: int, *, start: int = 0, reuse_buffer: bool = False) -> Iterator[Batch]:
        """Yields the batches of a training epoch, from ``start`` on."""


class DatasetBatches:
    """Batches of a map-style dataset, read item by item in each epoch.

    The order of the examples is that of `Batches`. A transform that draws from torch's global generator depends on the
    seed, the epoch and the batch alone, and leaves that generator as it was.

    Args:
        dataset: items (x, y) by index. x is a tensor, an array or a PIL image.
        batch_size: the number of examples in a global batch.
        device: the device of the batches.
        dtype: the dtype of the model's inputs.
        rows: int64, the items to use; None for all.
        name: the name of the dataset in errors.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
        rows: Tensor | None = None,
        name: str = "data",
    ) -> None:
        self.dataset, self.batch_size, self.device, self._dtype, self._name = dataset, batch_size, device, dtype, name
        self.rows = torch.arange(len(dataset)) if rows is None else rows  # type: ignore[arg-type] # map-style
        self._num_classes: int | None = None

    @property
    def num_images(self) -> int:
        """The number of examples in an epoch."""
        return len(self.rows)

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yields every example once, in order."""
        return self._iter_batches(self.rows, 0, 0, "evaluation")

    def epoch(self, seed: int, epoch: int, *, start: int = 0, reuse_buffer: bool = False) -> Iterator[Batch]:
        """Yields the batches of a training epoch; see `Batches.epoch`. ``reuse_buffer`` has no effect."""
        order = torch.randperm(self.num_images, generator=generator(seed, "order", epoch))
        return self._iter_batches(self.rows[order], start, seed, "transform", epoch)

    def select(self, rows: Tensor) -> DatasetBatches:
        """Returns batches of some of the examples, by their positions in ``rows``, int64."""
        selected = copy.copy(self)
        selected.rows = self.rows[rows]
        return selected

    def example(self) -> Tensor:
        """Returns the first input as a batch (1, …)."""
        with _seeded(0):
            return self._read([int(self.rows[0])])[0]

    def labels(self) -> Tensor:
        """Returns the labels of all examples, int64 (N,). It reads every item if the dataset has no ``targets``."""
        labels = known_labels(self.dataset)
        if labels is not None:
            return labels[self.rows]
        with _seeded(0):
            pairs = [self._pair(self.dataset[row], row) for row in self.rows.tolist()]
        return to_labels([label for _, label in pairs], f"{self._name}: y", self.rows.tolist())

    def check_classes(self, num_classes: int) -> None:
        """Checks the labels: now if the dataset has ``targets``, otherwise in each batch.

        Raises:
            UserError: a label is not a class.
        """
        self._num_classes = num_classes
        if (labels := known_labels(self.dataset)) is not None:
            check_classes(labels[self.rows], num_classes, f"{self._name}: y", self.rows.tolist())

    def _iter_batches(self, rows: Tensor, start: int, seed: int, *purpose: str | int) -> Iterator[Batch]:
        for number, batch_rows in enumerate(rows.split(self.batch_size)):
            if number < start:
                continue
            size = len(batch_rows)
            if distributed.world_size() > 1:
                batch_rows = batch_rows[distributed.rank_slice(size)]
            with _seeded(derive_seed(seed, *purpose, number, distributed.rank())):
                images, labels = self._read(batch_rows.tolist())
            yield Batch(images, labels, labels, size)

    def _read(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        read_several = getattr(self.dataset, "__getitems__", None)
        items = read_several(rows) if read_several else [self.dataset[row] for row in rows]
        pairs = [self._pair(item, row) for item, row in zip(items, rows, strict=True)]
        images = [_to_image(image, f"{self._name}[{row}]") for (image, _), row in zip(pairs, rows, strict=True)]
        for image, row in zip(images, rows, strict=True):
            if image.shape != images[0].shape:
                raise UserError(
                    f"{self._name}[{row}] must have the shape of {self._name}[{rows[0]}], {tuple(images[0].shape)}, "
                    f"got {tuple(image.shape)}; resize images in the dataset's transform"
                )
        labels = to_labels([label for _, label in pairs], f"{self._name}: y", rows)
        if self._num_classes is not None:
            check_classes(labels, self._num_classes, f"{self._name}: y", rows)
        x = _to_device(torch.stack(images), self.device, self._dtype, f"{self._name}: x")
        return x, labels.to(self.device)

    def _pair(self, item: Any, row: int) -> tuple[Any, Any]:  # noqa: ANN401 - whatever the dataset returns
        return _require_pair(item, f"{self._name}[{row}]")


class LoaderBatches:
    """Batches of a `torch.utils.data.DataLoader`, as they come: its batch size, order, workers and collation.

    A floating y (B, C) holds the probability of each class, as torchvision's ``MixUp`` makes it.

    Args:
        loader: the loader. Each epoch is one pass over it.
        device: the device of the batches.
        dtype: the dtype of the model's inputs.
        name: the name of the loader in errors.

    Raises:
        UserError: the loader has no length, or there is more than one process.
    """

    def __init__(
        self, loader: DataLoader[Any], *, device: torch.device, dtype: torch.dtype, name: str = "data"
    ) -> None:
        if distributed.world_size() > 1:
            raise UserError(
                f"{name} must not be a DataLoader with several processes, because it makes the batches of one; "
                "pass its dataset"
            )
        self.loader, self.device, self._dtype, self._name = loader, device, dtype, name
        self._num_classes: int | None = None
        try:
            self._length = len(loader)
        except TypeError:
            dataset = type(loader.dataset).__name__
            raise UserError(f"{name}: the DataLoader has no length; give {dataset} a method __len__") from None

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of one pass.

        Raises:
            UserError: there is no batch, or a batch is not a pair of inputs and classes.
        """
        empty = True
        for number, batch in enumerate(self.loader):
            empty = False
            yield self._to_batch(batch, f"{self._name}, batch {number}")
        if empty:
            raise UserError(f"{self._name}: the DataLoader must give at least one batch in each pass, got none")

    def epoch(self, seed: int, epoch: int, *, start: int = 0, reuse_buffer: bool = False) -> Iterator[Batch]:
        """Yields the batches of one pass. The arguments have no effect: the loader has its own order."""
        return iter(self)

    def example(self) -> Tensor | None:
        """Returns the input of one example as a batch, or None for a dataset without an item 0.

        It reads the item and does not iterate over the loader, whose random order stays as it was.
        """
        dataset = self.loader.dataset
        if isinstance(dataset, IterableDataset):
            return None
        with _seeded(0):
            try:
                item = dataset[0]
            except LookupError:
                return None
            try:
                batch = self.loader.collate_fn(item if self.loader.batch_sampler is None else [item])
            except TypeError as error:
                reason = str(error).partition(" at 0x")[0].partition("\n")[0]
                raise UserError(
                    f"{self._name}: the DataLoader must make tensors of a batch; for PIL images give the dataset "
                    f"transform=torchvision.transforms.ToTensor() ({reason})"
                ) from None
        return self._to_batch(batch, f"{self._name}, batch 0").images

    def check_classes(self, num_classes: int) -> None:
        """Checks the labels of each batch from now on."""
        self._num_classes = num_classes

    def _to_batch(self, batch: Any, name: str) -> Batch:  # noqa: ANN401 - whatever the loader returns
        x, y = _require_pair(batch, name)
        images = _to_device(to_tensor(x, f"{name}: x"), self.device, self._dtype, f"{name}: x")
        target = y if isinstance(y, Tensor) and y.is_floating_point() and y.ndim == 2 and y.shape[1] > 1 else None
        labels = to_labels(y if target is None else target.argmax(1), f"{name}: y")
        check_lengths(images, labels, name)
        if self._num_classes is not None:
            check_classes(labels, self._num_classes, f"{name}: y")
        labels = labels.to(self.device)
        return Batch(images, labels, labels if target is None else target.to(self.device), len(labels))


def known_labels(dataset: Dataset[Any]) -> Tensor | None:
    """Returns the labels of a dataset that tells them without reading its items, int64 (N,), or None.

    They are the ``targets`` of torchvision's datasets, unless a ``target_transform`` changes them, and the second
    tensor of a `TensorDataset`.
    """
    if isinstance(dataset, Subset):
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, TensorDataset):
        return to_labels(dataset.tensors[1])
    targets = getattr(dataset, "targets", None)
    if targets is None or getattr(dataset, "target_transform", None) is not None:
        return None
    with contextlib.suppress(UserError):  # boxes or masks of another task
        labels = to_labels(targets)
        if len(labels) == len(dataset):  # type: ignore[arg-type] # map-style
            return labels
    return None


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generator of the CPU for the duration of the block, then restores it."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _require_pair(item: Any, name: str) -> tuple[Any, Any]:  # noqa: ANN401 - whatever a dataset or a loader returns
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    found = f"a {type(item).__name__}"
    if isinstance(item, dict):
        found += f" with the keys {', '.join(map(str, item))}"
    elif isinstance(item, tuple | list):
        found += f" of {len(item)}"
    raise UserError(f"{name} must be a pair (x, y), got {found}")


def _to_image(image: Any, name: str) -> Tensor:  # noqa: ANN401 - a tensor, an array or a PIL image
    from PIL import Image

    if not isinstance(image, Image.Image):
        return to_tensor(image, name)
    if image.mode not in ("L", "RGB"):
        raise UserError(f"{name} must be an L or RGB image, got the mode {image.mode}; convert it in the transform")
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _to_device(x: Tensor, device: torch.device, dtype: torch.dtype, name: str) -> Tensor:
    """Moves inputs to the device and divides pixels by 255."""
    inputs = to_inputs(x, dtype, name).to(device)
    return inputs if inputs.dtype == dtype else inputs.to(dtype).div_(255)
