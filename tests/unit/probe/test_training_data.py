"""Tests of fcnet.probe.training_data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fcnet.data.features.joined_rows import JoinedRows
from fcnet.data.features.statistics import feature_mean_and_std
from fcnet.linear_model import fit_path
from fcnet.probe.selection import evaluate_path
from fcnet.probe.training_data import TrainingData, open_training_data
from tests.unit.probe.helpers import CLASSES, NUM_TRAIN, make_arrays, write_features

COLUMNS = {"feature_column": "embedding", "label_column": "label"}


def test_nothing_of_the_test_split_is_read(working_folder: Path) -> None:
    arrays = make_arrays()
    Path("whole").mkdir()
    for name, array in arrays.items():
        np.save(f"whole/{name}.npy", array)
    whole = open_training_data(Path("whole"), **COLUMNS)
    Path("whole/x_test.npy").write_bytes(b"broken")
    Path("whole/y_test.npy").write_bytes(b"broken")
    again = open_training_data(Path("whole"), **COLUMNS)
    assert (again.fingerprint, again.has_test, again.notes) == (whole.fingerprint, True, ())
    assert (again.classes, again.num_train, again.num_features) == (CLASSES, NUM_TRAIN, 6)


def test_a_file_may_lack_a_test_split_and_other_arrays_are_told(working_folder: Path) -> None:
    np.savez("features.npz", other=np.ones(3), **make_arrays(with_test=False))
    data = open_training_data(Path("features.npz"), **COLUMNS)
    assert not data.has_test
    assert data.notes == ("not used: 1 array of another name (other)",)


def test_both_splits_become_one_matrix(working_folder: Path) -> None:
    data = open_training_data(write_features(num_validation=30), **COLUMNS)
    x = data.features(normalize=False)
    assert torch.equal(x[:], torch.cat(data.parts))
    assert len(data.y) == NUM_TRAIN + 30
    assert_close(data.features(normalize=True)[:].norm(dim=1), torch.ones(NUM_TRAIN + 30))


@pytest.mark.parametrize("normalize", [False, True])
def test_features_are_read_in_blocks_and_never_copied_whole(
    *, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a matrix of both splits nor one of scaled rows is ever built."""
    x, y = torch.randn(40_000, 256, generator=torch.Generator().manual_seed(0)).half(), torch.arange(40_000) % 3
    data = TrainingData((x[:30_000], x[30_000:]), y, 30_000, CLASSES, "", (), has_test=False)
    joined = data.features(normalize=normalize)
    assert all(part is kept for part, kept in zip(joined.parts, data.parts, strict=True))
    read, sizes = JoinedRows.__getitem__, []

    def note(x: JoinedRows, rows: slice | Tensor) -> Tensor:
        sizes.append(len(found := read(x, rows)))
        return found

    monkeypatch.setattr(JoinedRows, "__getitem__", note)
    every = torch.arange(len(y))
    path = fit_path(joined, y, [1.0], rows=every, max_iter=1)
    evaluate_path(path, joined, y, every[:100], torch.device("cpu"))
    feature_mean_and_std(joined, every)
    assert sum(sizes) > 3 * len(y)
    assert max(sizes) <= len(y) / 4
