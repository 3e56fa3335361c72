"""Tests of the arrays source; its errors are tested with the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fcnet.data import sources
from fcnet.data.sources.npz import read_arrays
from fcnet.data.store.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

PIXELS = np.arange(6 * 3 * 4 * 5, dtype=np.int64).reshape(6, 3, 4, 5).astype(np.uint8)
LABELS = np.array([0, 2, 1, 0, 2, 1])


def save_arrays(path: Path, x: npt.NDArray[np.uint8], y: npt.NDArray[Any] = LABELS, **more: npt.NDArray[Any]) -> Path:
    arrays: dict[str, Any] = {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2], **more}
    np.savez(path / "x.npz", **arrays)
    return path / "x.npz"


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (PIXELS, (3, 4, 5)),
        (PIXELS.transpose(0, 2, 3, 1), (3, 4, 5)),
        (PIXELS[:, 0], (1, 4, 5)),
        (PIXELS[:, :1], (1, 4, 5)),
        (PIXELS[:, 0, :, :, None], (1, 4, 5)),
        (PIXELS[..., :3], (3, 4, 3)),
    ],
)
def test_channels_may_come_first_or_last_or_be_missing(
    x: npt.NDArray[np.uint8], shape: tuple[int, ...], tmp_path: Path
) -> None:
    _, splits = read_arrays(save_arrays(tmp_path, x))
    for split, size in (("train", 6), ("test", 2)):
        pixels, labels = splits[split]  # type: ignore[index]
        assert pixels.shape == (size, *shape)
        np.testing.assert_array_equal(pixels, PIXELS[:size, : shape[0], :, : shape[2]])
        np.testing.assert_array_equal(labels, LABELS[:size])


@pytest.mark.parametrize("y", [LABELS.astype(np.uint8), LABELS[:, None], LABELS.astype(np.int32)], ids=str)
def test_labels_may_have_any_integer_dtype_and_a_second_axis(y: npt.NDArray[Any], tmp_path: Path) -> None:
    classes, splits = read_arrays(save_arrays(tmp_path, PIXELS, y))
    assert classes == ("0", "1", "2")
    assert splits["train"][1].dtype == np.int64
    np.testing.assert_array_equal(splits["train"][1], LABELS)


def test_given_class_names_are_used(tmp_path: Path) -> None:
    names = np.array(["cat", "köttur", "猫"])
    assert read_arrays(save_arrays(tmp_path, PIXELS, classes=names))[0] == tuple(names)


def test_a_store_holds_the_arrays_and_a_change_makes_a_new_one(tmp_path: Path) -> None:
    path = save_arrays(tmp_path, PIXELS)
    store = open_store(sources.arrays(path), tmp_path / "cache")
    assert_close(store.train.pixels, torch.from_numpy(PIXELS), rtol=0, atol=0)
    assert store.train.labels.tolist() == LABELS.tolist()
    save_arrays(tmp_path, 255 - PIXELS)
    again = open_store(sources.arrays(path), tmp_path / "cache")
    assert again.fingerprint != store.fingerprint
    assert_close(again.test.pixels, torch.from_numpy(255 - PIXELS[:2]), rtol=0, atol=0)
