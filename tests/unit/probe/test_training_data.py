"""Tests of fcnet.probe.training_data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fcnet.probe.training_data import TrainingData, join_features, open_training_data
from fcnet.runtime import memory
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


def test_both_splits_become_one_matrix_and_a_single_one_stays_where_it_lies(working_folder: Path) -> None:
    data = open_training_data(write_features(num_validation=30), **COLUMNS)
    x = join_features(data, working_folder, normalize=False)
    assert torch.equal(x, torch.cat(data.parts))
    assert len(data.y) == NUM_TRAIN + 30
    single = TrainingData(data.parts[:1], data.y[:NUM_TRAIN], NUM_TRAIN, CLASSES, "", (), has_test=False)
    assert join_features(single, working_folder, normalize=False) is data.parts[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_rows_are_scaled_to_unit_norm(working_folder: Path, dtype: torch.dtype) -> None:
    part = torch.randn(5, 3, dtype=torch.float64).to(dtype)
    data = TrainingData((part,), torch.zeros(5, dtype=torch.int64), 5, CLASSES, "", (), has_test=False)
    x = join_features(data, working_folder, normalize=True)
    assert x.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(x.norm(dim=1), torch.ones(5, dtype=x.dtype))


def test_a_copy_that_is_large_beside_the_free_memory_is_a_mapped_file(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_training_data(write_features(num_validation=30), **COLUMNS)
    expected = join_features(data, working_folder, normalize=True)
    assert not Path("features").exists()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    assert torch.equal(join_features(data, working_folder, normalize=True), expected)
    assert Path("features").stat().st_size == expected.nbytes
