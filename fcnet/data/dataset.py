"""A store's images for other people's loaders: a `torch.utils.data.Dataset`.

C channels, H rows and W columns of N images.
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

    Workers share the split's files, whether they are forked or spawned: pickled, a dataset is the
    place of these files and not what is in them.

    Args:
        split: the images and labels, such as ``open_store(source).train``.
        classes: the names of the classes, in the order of the labels.
        transform: what becomes of an image, uint8 (C, H, W); None: nothing. With workers that are
            spawned it must be picklable.

    Attributes:
        classes: the names of the classes.

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
        self.classes = tuple(classes)
        self.transform = transform
        self._split = split

    def __len__(self) -> int:
        """N."""
        return len(self._split.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The image at one place, a copy that may be written to, and its label.

        Raises:
            IndexError: there is no such place.
        """
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"index must be less than {len(self)}, got {place}")
        return self.__getitems__([place % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """The images and labels at several places, read at once; torch's loader asks for a batch so."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        images, labels = self._split.pixels[rows].unbind(), self._split.labels[rows].tolist()
        made = images if self.transform is None else map(self.transform, images)
        return list(zip(made, labels, strict=True))
