"""Feature vectors in the form of a store, so that whatever trains on images trains on them.

Nothing is copied to the cache: the features stay where they lie. N examples of D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet.data.features.splits import open_features
from fcnet.data.sources.source import SPLITS
from fcnet.data.store.store import Split, Store
from fcnet.data.store.train_copies import TrainCopies

if TYPE_CHECKING:
    from pathlib import Path

_NO_MOMENTS = torch.empty((0, 2, 0), dtype=torch.int64)


def open_feature_store(
    path: Path, *, feature_column: str = "embedding", label_column: str = "label", test_only: bool = False
) -> Store:
    """Opens a file of features; see `fcnet.data.features.splits.open_features`.

    Args:
        path: the file or folder.
        feature_column: the column of vectors in Parquet files.
        label_column: the column of labels in Parquet files.
        test_only: whether to open only the test split; the file may lack the others.

    Returns:
        A store of the shape (D,). Its ``pixels`` are floating (N, D), and it has no sums of pixels.

    Raises:
        UserError: the file is unreadable, an array is missing or breaks a rule, or a feature is NaN or infinite.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> x, y = np.eye(4), np.array([0, 1, 0, 1])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/features.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
        ...     store = open_feature_store(Path(folder) / "features.npz")
        >>> store.shape, len(store.test.labels), len(store.validation.labels)
        ((4,), 2, 0)
    """
    features = open_features(
        path,
        feature_column=feature_column,
        label_column=label_column,
        splits=("test",) if test_only else SPLITS,
    )
    splits = {split: Split(opened.x, opened.y, _NO_MOMENTS, opened.names) for split, opened in features.splits.items()}
    some = next(iter(splits.values()))
    empty = Split(some.pixels[:0], some.labels[:0], _NO_MOMENTS)
    return Store(
        **{split: splits.get(split, empty) for split in SPLITS},
        classes=features.classes,
        shape=(features.num_features,),
        fingerprint=features.fingerprint,
        source={"kind": "features"},
        skipped=(),
        notes=features.notes,
        train_copies={split: TrainCopies(0, ()) for split in ("validation", "test")},
        metadata_file=path,
    )
