"""A store's images as a `torch.utils.data.Dataset`, for torch's own `DataLoader`.

N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fcnet.data.store.store import Split


class ImageDataset(Dataset[tuple[Any, int]]):
    """One split of a store as pairs of an image and its label.

    The workers of a loader share the files of the split, forked or spawned: pickling a dataset stores the location of
    the files, not their contents.

    Args:
        split: the images and labels, such as ``open_store(source).train``.
        classes: the class names, in the order of the labels.
        transform: applied to each image, uint8 (C, H, W); None for none. It must be picklable for spawned workers.

    Attributes:
        split: the images and labels.
        classes: the class names, as a list.
        class_to_idx: the label of each class name.
        targets: the labels, as a list of integers.
        transform: the transform, or None.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from torch.utils.data import DataLoader
        >>> from fcnet.data.sources import synthetic
        >>> from fcnet.data.store.store import open_store
        >>> with tempfile.TemporaryDirectory() as cache:
        ...     store = open_store(synthetic((3, 8, 8), 20, 10, num_classes=2), Path(cache))
        >>> images, labels = next(iter(DataLoader(ImageDataset(store.train, store.classes), batch_size=4)))
        >>> images.shape, labels.tolist()
        (torch.Size([4, 3, 8, 8]), [0, 1, 0, 1])
    """

    def __init__(self, split: Split, classes: Sequence[str], transform: Callable[[Tensor], Any] | None = None) -> None:
        self.split, self.classes, self.transform = split, list(classes), transform

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The label of each class name."""
        return {name: label for label, name in enumerate(self.classes)}

    @property
    def targets(self) -> list[int]:
        """The labels, in the order of the images."""
        return self.split.labels.tolist()

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.split.labels)

    def __repr__(self) -> str:
        """Returns the number and the shape of the images, the classes and the transform, as torchvision's datasets."""
        lines = [
            f"Dataset {type(self).__name__}",
            f"Number of datapoints: {len(self)}",
            f"Shape of an image: {tuple(self.split.pixels.shape[1:])}",
            f"Number of classes: {len(self.classes)}",
        ]
        if self.transform is not None:
            lines.append(f"Transform: {self.transform!r}")
        return "\n    ".join(lines)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Returns a copy of one image, and its label.

        Raises:
            IndexError: the index is out of range.
        """
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"index must be less than {len(self)}, got {row}")
        return self.__getitems__([row % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """Returns several images and labels, read at once. `DataLoader` uses this method for a batch."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        images, labels = self.split.pixels[rows].unbind(), self.split.labels[rows].tolist()
        transformed = images if self.transform is None else map(self.transform, images)
        return list(zip(transformed, labels, strict=True))
