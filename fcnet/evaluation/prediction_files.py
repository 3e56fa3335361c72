"""Predictions and mistakes in a run folder: ``predictions.safetensors``, ``predictions.json`` and ``mistakes.csv``.

N images, C classes; the K most probable classes are kept for each image.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fcnet.config.values import shorten_value
from fcnet.data.store.image_names import ImageNames
from fcnet.evaluation.predictions import MISTAKE_COLUMNS, TOP_K, Predictions, pack_names
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import atomic_write, read_checksummed, read_metadata, write_checksummed
from fcnet.runtime.formatting import csv_path, write_csv
from fcnet.runtime.tensor_checks import check_finite, check_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

    from fcnet.evaluation.predictions import Mistake

FORMAT_VERSION = 2
MISTAKES_FILE = "mistakes.csv"
"""The mistakes on the test set, in the run folder."""

_MAX_ROW = 2**63 - 1
_NAMES_AT_ONCE = 1 << 14


def write_predictions(folder: Path, predictions: Predictions, classes: Sequence[str], data: str) -> None:
    """Writes the predictions, with checksums, and the mistakes among them into a run folder.

    Args:
        folder: the run folder, with the model that made the predictions.
        predictions: the predictions for the test set.
        classes: the class names.
        data: the fingerprint of the data.
    """
    tensors = {
        "labels": predictions.labels.int(),
        "classes": predictions.classes.int(),
        "probabilities": predictions.probabilities,
        "true_probabilities": predictions.true_probabilities,
        "rows": predictions.rows,
    }
    if predictions.names is not None:
        names, ends = pack_names(predictions.names, np.arange(len(predictions.names)))
        tensors |= {"names": torch.from_numpy(names), "name_ends": torch.from_numpy(ends)}
    write_checksummed(
        folder / "predictions",
        tensors,
        {
            "format": FORMAT_VERSION,
            "classes": list(classes),
            "data": data,
            "model_checksum": _model_checksum(folder),
        },
    )
    write_mistakes(folder / MISTAKES_FILE, predictions.iter_mistakes(), classes)


def write_mistakes(file: Path, mistakes: Iterable[Mistake], classes: Sequence[str]) -> None:
    """Writes mistakes as CSV, one line for each, whole or not at all.

    A path is relative to the data. In a cell, control characters are escapes, and no text begins a formula; see
    `fcnet.runtime.formatting.csv_text`.

    Args:
        file: the file to create or replace.
        mistakes: the mistakes, in the order of the lines.
        classes: the class names.
    """
    lines = (mistake.to_dict(classes) for mistake in mistakes)
    first = list(itertools.islice(lines, 1))
    header = first[0] if first else ("path", *MISTAKE_COLUMNS)
    with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        write_csv(out, [header])
        write_csv(out, (_openable_path(line).values() for line in itertools.chain(first, lines)))


def ensure_mistakes(folder: Path) -> None:
    """Writes the mistakes of a finished run if they are missing and the run has predictions.

    Raises:
        UserError: the predictions are damaged, whether the mistakes are missing or not.
    """
    predictions = read_predictions(folder)
    if predictions is not None and not (folder / MISTAKES_FILE).is_file():
        write_mistakes(folder / MISTAKES_FILE, predictions.iter_mistakes(), read_metadata(folder / "model")["classes"])


def read_predictions(folder: Path) -> Predictions | None:
    """Reads the predictions of a run; None if there are none, or if they are those of another model.

    Raises:
        UserError: a file is damaged, or its contents are no predictions of the model.
    """
    from fcnet.config.json_schema import (  # pydantic takes long to import
        ModelEntries,
        PredictionsMetadata,
        parse_object,
    )

    stem = folder / "predictions"
    if not stem.with_suffix(".json").is_file():
        return None
    tensors, content = read_checksummed(stem)
    version = content.get("format", 1)  # the first version did not write its number
    if version != FORMAT_VERSION:
        raise UserError(f"{stem}.json must have format version {FORMAT_VERSION}, got {shorten_value(version)}")
    metadata = parse_object(PredictionsMetadata, content, f"{stem}.json")
    model = parse_object(ModelEntries, read_metadata(folder / "model"), folder / "model.json")
    if metadata.model_checksum != model.checksum:
        return None
    file = stem.with_suffix(".safetensors")
    if len(metadata.classes) != len(model.classes):
        raise UserError(f"{stem}.json must have the {len(model.classes)} classes of the model")
    _check_predictions(tensors, len(model.classes), file)
    return Predictions(
        labels=tensors["labels"].long(),
        classes=tensors["classes"].long(),
        probabilities=tensors["probabilities"],
        true_probabilities=tensors["true_probabilities"],
        rows=tensors["rows"],
        names=ImageNames(tensors["names"].numpy(), tensors["name_ends"].numpy()) if "names" in tensors else None,
    )


def _check_predictions(tensors: dict[str, Tensor], num_classes: int, file: Path) -> None:
    """Checks the tensors of a file, which may come from a stranger.

    Raises:
        UserError: a tensor is missing or has the wrong shape, or holds what is no class, no probability or no name.
    """
    count, kept = len(tensors.get("labels", torch.empty(1)).view(-1)), min(num_classes, TOP_K)
    expected = {
        "labels": _describe(torch.int32, count),
        "classes": _describe(torch.int32, count, kept),
        "probabilities": _describe(torch.float32, count, kept),
        "true_probabilities": _describe(torch.float32, count),
        "rows": _describe(torch.int64, count),
    }
    if "names" in tensors:
        expected |= {
            "names": _describe(torch.uint8, tensors["names"].numel()),
            "name_ends": _describe(torch.int64, count),
        }
    check_tensors(tensors, expected, file)
    check_finite(tensors, file)
    # Rounding can leave a probability a little above 1.
    limits: dict[str, float] = {"labels": num_classes - 1, "classes": num_classes - 1, "rows": _MAX_ROW}
    limits |= {"probabilities": 1.00001, "true_probabilities": 1.00001}
    for name, last in limits.items():
        tensor = tensors[name]
        if count and not 0 <= tensor.min() <= tensor.max() <= last:
            raise UserError(
                f"{file}: the tensor {name} must be from 0 to {last:g}, got {tensor.min():g} to {tensor.max():g}"
            )
    if "names" in tensors:
        _check_names(tensors["names"].numpy(), tensors["name_ends"].numpy(), file)


def _describe(dtype: torch.dtype, *shape: int) -> Tensor:
    """Returns a tensor without memory, for its dtype and shape."""
    return torch.empty(shape, dtype=dtype, device="meta")


def _check_names(text: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64], file: Path) -> None:
    """Checks that names from a file can be cut from their text and decoded.

    Raises:
        UserError: they cannot.
    """
    starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    last = int(ends[-1]) if len(ends) else 0
    if (ends < starts).any() or last != len(text):
        raise UserError(f"{file}: the tensor name_ends must rise to {len(text):,}, the bytes of the tensor names")
    # Many names are decoded in one go: each is UTF-8 if all of them in a row are, and none begins inside a character.
    is_utf8 = not ((text[starts[starts < ends]] & 0xC0) == 0x80).any()
    blocks = np.split(text, ends[_NAMES_AT_ONCE - 1 :: _NAMES_AT_ONCE])
    if not (is_utf8 and all(map(_is_utf8, blocks))):
        raise UserError(f"{file}: the tensor names must hold UTF-8")


def _is_utf8(text: npt.NDArray[np.uint8]) -> bool:
    try:
        text.tobytes().decode("utf-8", "surrogatepass")  # as `fcnet.data.store.image_names` decodes them
    except UnicodeDecodeError:
        return False
    return True


def _openable_path(line: dict[str, str | int | float]) -> dict[str, str | int | float]:
    """Returns a line of CSV with a path that opens although no cell may begin a formula."""
    path = line.get("path")
    return line | {"path": csv_path(path)} if isinstance(path, str) else line


def _model_checksum(folder: Path) -> Any:  # noqa: ANN401 - a JSON value
    """Returns the checksum of the model in a run folder, which covers its weights too."""
    return read_metadata(folder / "model")["checksum"]
