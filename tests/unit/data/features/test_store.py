"""Tests of features in the form of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.testing import assert_close

from fcnet.data.features import open_features
from fcnet.data.features.store import open_feature_store

if TYPE_CHECKING:
    from pathlib import Path

X, Y = np.eye(5, 3, dtype=np.float16), np.array([0, 1, 0, 1, 1])
NAMES = np.array(["a", "b", "c", "d", "e"])


def save(folder: Path) -> Path:
    np.savez(folder / "x.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2], paths_train=NAMES)
    return folder / "x.npz"


def test_a_store_holds_the_features_as_they_are(tmp_path: Path) -> None:
    store = open_feature_store(save(tmp_path))
    assert store.shape == (3,)
    assert store.classes == ("0", "1")
    assert store.fingerprint == open_features(tmp_path / "x.npz").fingerprint
    assert_close(store.train.pixels, torch.from_numpy(X), rtol=0, atol=0)
    assert store.test.labels.tolist() == [0, 1]
    assert list(store.train.names or ()) == NAMES.tolist()
    assert tuple(store.validation.pixels.shape) == (0, 3)
    assert len(store.validation.labels) == 0


def test_the_test_split_may_be_opened_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_test=X, y_test=Y)
    store = open_feature_store(tmp_path / "x.npz", test_only=True)
    assert len(store.train.labels) == 0
    assert len(store.test.labels) == 5
