"""Class names and class indices from an array of labels.

N images and C classes.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fcnet.data.sources.unused import list_names, missing_class_notes
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources.source import SplitName

Label: TypeAlias = "int | bool | str"

TEXT_KINDS = "US"
"""The kinds of dtype of class names: text, and bytes in UTF-8."""
LABEL_KINDS = f"biuf{TEXT_KINDS}"
"""The kinds of dtype of labels."""
_MAX_LISTED = 10


class NamedClasses(NamedTuple):
    """The classes of an array of labels.

    Attributes:
        classes: the names of the C classes, each with at least one image.
        labels: the class indices of each split, int64 (N,).
        unused: the given names of classes without images.
        notes: sentences on labels that are no indices, and on classes without images in a split.
    """

    classes: tuple[str, ...]
    labels: dict[SplitName, npt.NDArray[np.int64]]
    unused: list[str]
    notes: tuple[str, ...]


def name_classes(
    path: Path,
    arrays: Mapping[SplitName, tuple[str, npt.NDArray[Any]]],
    names: npt.NDArray[Any] | None,
    *,
    noun: str = "image",
) -> NamedClasses:
    """Names the classes and numbers the labels anew.

    Labels that are text are class names. Whole numbers, possibly stored as floats, index ``names`` if all of them are
    from 0 to len(names) − 1; otherwise ``names`` names the different labels in increasing order. Without ``names``,
    a class is named after its number.

    Args:
        path: the file of the arrays, for errors.
        arrays: the name and the labels of each split, (N,) or (N, 1).
        names: the given class names (C,); None for none.
        noun: what an example is called.

    Raises:
        UserError: the labels are neither whole numbers nor text, ``names`` does not fit them, or a class has images in
            another split but none for training.

    Example:
        >>> from pathlib import Path
        >>> y = np.array([1, 2, 5, 2])
        >>> named = name_classes(Path("pets.npz"), {"train": ("y_train", y)}, None)
        >>> named.classes, named.labels["train"].tolist(), named.notes
        (('1', '2', '5'), [0, 1, 2, 1], ('labels are 1, 2, 5: classes are named after them',))
    """
    unique = {split: _unique_labels(path, name, y) for split, (name, y) in arrays.items()}
    found = {label for labels, _ in unique.values() for label in labels}
    if len({isinstance(label, str) for label in found}) > 1:
        raise UserError(f"labels in {path} must be numbers in all splits or class names in all splits, got both")
    given = None if names is None else _class_names(path, names)
    labels = sorted(found)
    class_of, note = _match_names(path, labels, given)
    rank = {name: place for place, name in enumerate(given or [class_of[label] for label in labels])}
    order = sorted(class_of, key=lambda label: rank[class_of[label]])
    index = {label: place for place, label in enumerate(order)}
    classes = tuple(class_of[label] for label in order)
    present = {split: {class_of[label] for label in labels} for split, (labels, _) in unique.items()}
    if untrained := set(classes) - present.get("train", set(classes)):
        raise UserError(f"every class in {path} must have a training {noun}, found none of {list_names(untrained)}")
    return NamedClasses(
        classes,
        {
            split: np.array([index[label] for label in labels], dtype=np.int64)[inverse]
            for split, (labels, inverse) in unique.items()
        },
        [name for name in given or () if name not in set(classes)],
        (*note, *(line for split in present for line in missing_class_notes(split, classes, present[split], noun))),
    )


def _unique_labels(path: Path, name: str, y: npt.NDArray[Any]) -> tuple[list[Label], npt.NDArray[np.intp]]:
    """Returns the different labels of an array, and for each image the place of its label among them."""
    values, inverse = np.unique(y.reshape(-1), return_inverse=True)
    if y.dtype.kind in TEXT_KINDS:
        return [*_as_text(path, name, values)], inverse
    for value in values.tolist():
        if value != value or value in (float("inf"), float("-inf")) or value != int(value):
            raise UserError(f"{name} in {path} must be whole numbers or class names, got {value}")
    return [value if y.dtype.kind == "b" else int(value) for value in values.tolist()], inverse


def _as_text(path: Path, name: str, values: npt.NDArray[Any]) -> Iterator[str]:
    for value in values.tolist():
        try:
            yield unicodedata.normalize("NFC", value.decode() if isinstance(value, bytes) else value)
        except UnicodeDecodeError:
            raise UserError(f"{name} in {path} must be text in UTF-8, got {value!r}") from None


def _class_names(path: Path, names: npt.NDArray[Any]) -> list[str]:
    given = list(_as_text(path, "classes", names))
    if len(set(given)) < len(given):
        raise UserError(f"classes in {path} must be (C,) different strings, got {names.dtype} {names.shape}")
    return given


def _match_names(
    path: Path, labels: Sequence[Any], given: Sequence[str] | None
) -> tuple[dict[Label, str], tuple[str, ...]]:
    """Returns the class name of each label, and a sentence if it is not plain which name belongs to which label."""
    if isinstance(labels[0], str):
        if given is not None and (unknown := set(labels) - set(given)):
            raise UserError(f"labels in {path} must be among its classes, got {list_names(unknown)}")
        return {label: label for label in labels}, ()
    listed = ", ".join(map(str, labels[:_MAX_LISTED])) + (f", …, {labels[-1]}" if len(labels) > _MAX_LISTED else "")
    if given is None:
        is_plain = list(labels) == list(range(len(labels)))
        note = (
            () if is_plain or isinstance(labels[0], bool) else (f"labels are {listed}: classes are named after them",)
        )
        return {label: str(label) for label in labels}, note
    if labels[0] >= 0 and labels[-1] < len(given):
        return {label: given[label] for label in labels}, ()
    if len(given) != len(labels):
        raise UserError(
            f"classes in {path} must name the {len(labels):,} labels {listed}, got {format_count(len(given), 'name')}"
        )
    return dict(zip(labels, given, strict=True)), (f"labels are {listed}: classes names them in this order",)
