"""Labelled feature vectors in training, validation and test splits, checked once when they are opened.

N examples of D features in C classes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fcnet.data.features.checks import read_features, read_names, read_text, scan_features
from fcnet.data.features.named_arrays import NamedArrays, open_arrays
from fcnet.data.sources.array_labels import LABEL_KINDS, name_classes
from fcnet.data.sources.npz import SUFFIXES
from fcnet.data.sources.source import SPLITS
from fcnet.data.sources.unused import Reason, UnusedItems
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_names

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources.source import SplitName
    from fcnet.data.store.image_names import ImageNames

_CLASSES = "classes"
_MAX_NAMED = 8


@dataclass(frozen=True, eq=False, slots=True)
class FeatureSplit:
    """The examples of one split.

    Attributes:
        x: floating (N, D), in the dtype of the file and mapped from it where the format allows that. All are finite.
        y: int64 (N,), class indices.
        names: the name of each example, such as the path of its image; None if the file has no names.
    """

    x: Tensor
    y: Tensor
    names: ImageNames | None = None


@dataclass(frozen=True, eq=False, slots=True)
class FeatureSplits:
    """Labelled feature vectors.

    Attributes:
        splits: the splits that were asked for and exist, in the order of `fcnet.data.sources.source.SPLITS`.
        classes: the class names, in the order of the class indices.
        fingerprint: the SHA-256 of the classes, features and labels. Files with one fingerprint hold the same data,
            whatever their format.
        notes: sentences on labels that are no indices, on classes without examples, and on what is not used.
    """

    splits: Mapping[SplitName, FeatureSplit]
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...]

    @property
    def train(self) -> FeatureSplit:
        """The training split."""
        return self.splits["train"]

    @property
    def validation(self) -> FeatureSplit | None:
        """The data's own validation split, or None."""
        return self.splits.get("validation")

    @property
    def test(self) -> FeatureSplit | None:
        """The test split, or None."""
        return self.splits.get("test")

    @property
    def num_features(self) -> int:
        """The number of features, D."""
        return next(iter(self.splits.values())).x.shape[1]


def open_features(
    path: Path,
    *,
    feature_column: str = "embedding",
    label_column: str = "label",
    splits: Collection[str] = SPLITS,
    optional: Collection[str] = ("validation",),
) -> FeatureSplits:
    """Opens labelled feature vectors, and checks each number once.

    The file holds an array ``x_SPLIT`` (N, D) of float16, bfloat16, float32 or float64, and labels ``y_SPLIT`` (N,) or
    (N, 1), for each split ``train``, ``validation`` or ``val``, and ``test``. Labels are whole numbers or class names,
    as in `fcnet.data.sources.array_labels.name_classes`; ``classes`` may hold the class names, and ``paths_SPLIT`` the
    name of each example.

    Args:
        path: a ``.npz`` file, whose arrays are read; a ``.safetensors`` file or a folder of ``.npy`` files, whose
            arrays are mapped; or a folder with ``train.parquet`` and ``test.parquet``, which are read by pyarrow. The
            metadata of ``.safetensors`` may hold text as JSON lists, and a folder of ``.npy`` files text as lines of
            ``.txt`` files.
        feature_column: the column of vectors in Parquet files.
        label_column: the column of labels in Parquet files.
        splits: the splits to open.
        optional: those that the file may lack.

    Raises:
        UserError: the file is unreadable, an array is missing or breaks a rule, or a feature is NaN or infinite.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> x, y = np.eye(4, dtype=np.float16), np.array(["cat", "dog", "cat", "dog"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "features.npz"
        ...     np.savez(file, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
        ...     features = open_features(file)
        >>> features.classes, features.train.x.dtype, features.train.y
        (('cat', 'dog'), torch.float16, tensor([0, 1, 0, 1]))
    """
    arrays = open_arrays(path, feature_column=feature_column, label_column=label_column)
    suffixes, unused = _find_splits(arrays, splits, optional)
    x = {split: read_features(arrays, f"x_{suffix}") for split, suffix in suffixes.items()}
    first = next(iter(suffixes))
    for split, suffix in suffixes.items():
        if x[split].shape[1] != x[first].shape[1]:
            names = f"{arrays.label(f'x_{suffixes[first]}')} and {arrays.label(f'x_{suffix}')}"
            widths = f"{x[first].shape[1]} and {x[split].shape[1]}"
            raise UserError(f"expected {names} with one number of features in {path}, got {widths}")
    y = {split: _read_labels(arrays, suffix, len(x[split])) for split, suffix in suffixes.items()}
    classes = read_text(arrays, _CLASSES) if _CLASSES in arrays.readers else None
    named = name_classes(
        path,
        {split: (arrays.label(f"y_{suffix}"), y[split]) for split, suffix in suffixes.items()},
        classes,
        noun="example",
    )
    if "train" in suffixes and len(named.classes) < 2:
        raise UserError(f"{path} must hold examples of at least two classes, found only {named.classes[0]}")
    labels = {split: torch.from_numpy(named.labels[split]) for split in suffixes}
    head = json.dumps([named.classes, [(split, str(x[split].dtype), *x[split].shape) for split in suffixes]])
    digest = hashlib.sha256(head.encode())
    for split, suffix in suffixes.items():
        digest.update(scan_features(x[split], f"{arrays.label(f'x_{suffix}')} in {path}"))
        digest.update(labels[split].numpy().tobytes())
    opened = {
        split: FeatureSplit(x[split], labels[split], read_names(arrays, f"paths_{suffix}", len(x[split])))
        for split, suffix in suffixes.items()
    }
    return FeatureSplits(opened, named.classes, digest.hexdigest(), (*unused.notes(), *named.notes))


def _find_splits(
    arrays: NamedArrays, splits: Collection[str], optional: Collection[str]
) -> tuple[dict[SplitName, str], UnusedItems]:
    """Finds the ending of the arrays' names of each split, and what is not used."""
    found: dict[SplitName, str] = {}
    unused, known = UnusedItems(), {_CLASSES}
    for split in SPLITS:
        present = [suffix for suffix in SUFFIXES[split] if {f"x_{suffix}", f"y_{suffix}"} & arrays.readers.keys()]
        known |= {f"{kind}_{suffix}" for suffix in present for kind in ("x", "y", "paths")}
        if len(present) > 1:
            raise UserError(f"{arrays.path} must have one {split} split, found both {' and '.join(present)}")
        if not present:
            continue
        if split not in splits:
            unused.add(Reason.OTHER_SPLIT, present[0])
            continue
        found[split] = present[0]
        if missing := {f"x_{present[0]}", f"y_{present[0]}"} - arrays.readers.keys():
            raise UserError(f"{arrays.path} must hold x_{present[0]} and y_{present[0]}, found no {missing.pop()}")
    required = [split for split in SPLITS if split in splits and split not in optional]
    if not found.keys() >= set(required) or not found:
        needed = [f"{kind}_{split}" for split in required or splits for kind in "xy"]
        listed = format_names(sorted(arrays.readers), _MAX_NAMED) or "no arrays"
        raise UserError(f"{arrays.path} must hold {', '.join(needed[:-1])} and {needed[-1]}, found {listed}")
    for name in arrays.readers.keys() - known:
        unused.add(Reason.UNKNOWN_ARRAY, name)
    return found, unused


def _read_labels(arrays: NamedArrays, suffix: str, num_examples: int) -> npt.NDArray[Any]:
    read, name = arrays.read(f"y_{suffix}"), arrays.label(f"y_{suffix}")
    y = read.numpy() if isinstance(read, Tensor) and read.dtype != torch.bfloat16 else np.asarray(read)
    if y.dtype.kind not in LABEL_KINDS:
        raise UserError(f"{name} in {arrays.path} must be whole numbers or class names, got {y.dtype}")
    if y.shape not in ((num_examples,), (num_examples, 1)):
        is_one_hot = y.ndim == 2 and len(y) == num_examples
        remedy = f"; if {name} is one-hot, save {name}.argmax(1)" * is_one_hot
        expected = f"{arrays.label(f'x_{suffix}')} (N, D) and {name} (N,)"
        raise UserError(
            f"expected {expected} with one N in {arrays.path}, got {num_examples:,} examples and {y.shape}{remedy}"
        )
    return y
