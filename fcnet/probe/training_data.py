"""The features that a probe may look at before it has chosen: training and validation, never test.

N examples of D features in C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fcnet.data.features import open_features
from fcnet.data.features.joined_rows import JoinedRows
from fcnet.data.features.named_arrays import open_arrays
from fcnet.data.sources.npz import SUFFIXES
from fcnet.data.sources.unused import Reason

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from fcnet.data.features import FeatureSplits


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The examples of the training and the validation split.

    Attributes:
        parts: the features of each split, floating (n, D); the training split is first.
        y: int64 (N,), class indices of all of them.
        num_train: the number of training examples, which are first.
        classes: the class names.
        fingerprint: what determines classes, features and labels.
        notes: sentences on what is not used.
        has_test: whether the file holds a test split as well.
    """

    parts: tuple[Tensor, ...]
    y: Tensor
    num_train: int
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...]
    has_test: bool

    @property
    def num_features(self) -> int:
        """The number of features, D."""
        return self.parts[0].shape[1]

    def features(self, *, normalize: bool) -> JoinedRows:
        """Returns the features of both splits as one matrix (N, D), which takes no memory.

        Args:
            normalize: whether to scale each row to unit norm.
        """
        return JoinedRows(self.parts, normalize=normalize)


def open_training_data(path: Path, *, feature_column: str, label_column: str) -> TrainingData:
    """Opens all splits but the test split, of which it reads nothing.

    Args:
        path: the features; see `fcnet.data.features.open_features`.
        feature_column: the column of vectors in Parquet files.
        label_column: the column of labels in Parquet files.

    Raises:
        UserError: the file is unreadable, or breaks a rule.
    """
    columns = {"feature_column": feature_column, "label_column": label_column}
    opened: FeatureSplits = open_features(path, splits=("train", "validation"), **columns)
    arrays = open_arrays(path, **columns)
    test_arrays = {f"x_{suffix}" for suffix in SUFFIXES["test"]}
    splits = list(opened.splits.values())
    return TrainingData(
        tuple(split.x for split in splits),
        torch.cat([split.y for split in splits]),
        len(opened.train.y),
        opened.classes,
        opened.fingerprint,
        tuple(note for note in opened.notes if Reason.OTHER_SPLIT.value[1] not in note),
        bool(test_arrays & arrays.readers.keys()),
    )
