"""Tests of fcnet.probe.training_data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.testing import assert_close

from fcnet.linear_model import fit_path
from fcnet.probe.training_data import TrainingData, open_training_data
from tests.unit.probe.helpers import CLASSES, NUM_TRAIN, make_arrays, write_features

if TYPE_CHECKING:
    from tests.processes import WarmServer

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


def fit_mapped_features(*suffixes: str) -> None:
    """Fits one penalty to some arrays of a folder, two steps long."""
    parts = [torch.from_numpy(np.load(f"x_{suffix}.npy", mmap_mode="c")) for suffix in suffixes]
    y = torch.arange(sum(map(len, parts))) % 3
    data = TrainingData(tuple(parts), y, len(parts[0]), CLASSES, "", (), has_test=False)
    fit_path(data.features(normalize=False), y, [1.0], rows=torch.arange(len(y)), max_iter=2)


def test_a_validation_split_does_not_raise_the_peak_of_the_memory(working_folder: Path, warm: WarmServer) -> None:
    x = np.random.default_rng(0).standard_normal((120_000, 256), np.float32).astype(np.float16)
    for suffix, part in {"train": x[:100_000], "val": x[100_000:], "whole": x}.items():
        np.save(f"x_{suffix}.npy", part)
    peaks = []
    for suffixes in (("whole",), ("train", "val")):
        ended = warm.start(fit_mapped_features, *suffixes).wait()
        assert (ended.code, ended.err) == (0, "")
        peaks.append(ended.peak_bytes)
    assert peaks[1] - peaks[0] < x.nbytes / 2
