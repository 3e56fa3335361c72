"""Tests of fcnet.data.conversion; tests of fcnet.fit have the kinds of data and the sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.utils.data import Subset

from fcnet.data.batches import Batches
from fcnet.data.conversion import hold_out, to_batches
from fcnet.data.dataset import ImageDataset
from fcnet.data.loaders import DatasetBatches
from fcnet.data.sources import synthetic
from fcnet.data.store.store import open_store
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


def test_a_store_is_indexed_and_a_part_of_it_read_item_by_item(tmp_path: Path) -> None:
    store = open_store(synthetic((3, 5, 4), 23, 10, num_classes=4), tmp_path)
    dataset = ImageDataset(store.train, store.classes)
    whole = to_batches(dataset, device=CPU, dtype=torch.float32)
    part = to_batches(Subset(dataset, [5, 3, 22]), device=CPU, dtype=torch.float32)
    assert isinstance(whole, Batches)
    assert whole.images.data_ptr() == store.train.pixels.data_ptr()
    assert isinstance(part, DatasetBatches)
    (batch,) = part
    torch.testing.assert_close(batch.images, store.train.pixels[[5, 3, 22]] / 255)
    assert batch.labels.tolist() == store.train.labels[[5, 3, 22]].tolist()


def test_batches_on_another_device_are_refused() -> None:
    batches = Batches(torch.rand(3, 2), torch.arange(3), device="meta")
    with pytest.raises(UserError, match=r"^data must be on the device of the model, cpu, got batches on meta$"):
        to_batches(batches, device=CPU, dtype=torch.float32)


def test_a_share_splits_the_rows_that_are_used() -> None:
    batches = Batches(torch.rand(10, 2), torch.arange(10) % 2, rows=torch.arange(8), num_classes=2)
    train, held_out = hold_out(batches, 0.25, seed=0)
    assert isinstance(train, Batches)
    assert isinstance(held_out, Batches)
    assert sorted([*train.rows.tolist(), *held_out.rows.tolist()]) == list(range(8))
    assert len(held_out.rows) == 2
