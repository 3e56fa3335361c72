"""Tests of fcnet.data.loaders; tests of fcnet.fit train on each kind of data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fcnet.data.loaders import DatasetBatches, LoaderBatches, known_labels
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError

X, Y = torch.arange(20.0).view(10, 2), torch.arange(10) % 3
SETTINGS: Any = {"device": torch.device("cpu"), "dtype": torch.float32}


class Labelled(Dataset[Any]):
    """A dataset with ``targets``, as torchvision's have them."""

    def __init__(self, targets: Any, target_transform: Any = None) -> None:
        self.targets, self.target_transform = targets, target_transform

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return X[index], int(Y[index])


def test_an_epoch_has_every_example_once_and_its_rest_does_not_depend_on_the_start() -> None:
    batches = DatasetBatches(Labelled(None), batch_size=4, **SETTINGS)
    whole, rest = list(batches.epoch(5, 1)), list(batches.epoch(5, 1, start=1))
    assert [batch.size for batch in whole] == [4, 4, 2]
    assert torch.cat([batch.images for batch in whole]).sort(0).values.tolist() == X.tolist()
    assert [batch.labels.tolist() for batch in rest] == [batch.labels.tolist() for batch in whole[1:]]
    assert torch.equal(torch.cat([batch.images for batch in batches]), X)


def test_the_ranks_read_disjoint_parts_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = DatasetBatches(Labelled(None), batch_size=4, **SETTINGS)
    expected = [batch.labels.tolist() for batch in batches.epoch(5, 0)]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append([batch.labels.tolist() for batch in batches.epoch(5, 0)])
    assert [first + second for first, second in zip(*parts, strict=True)] == expected
    with pytest.raises(UserError, match=r"^data must not be a DataLoader with several processes"):
        LoaderBatches(DataLoader(Labelled(None)), **SETTINGS)


def test_labels_are_known_from_targets_that_the_items_have() -> None:
    assert known_labels(Labelled(Y.tolist())) is not None
    assert known_labels(Labelled(Y.tolist(), target_transform=abs)) is None
    assert known_labels(Labelled(None)) is None
    assert known_labels(Labelled([1, 2])) is None
    assert known_labels(Labelled([{"boxes": []}] * 10)) is None
    for dataset in (TensorDataset(X, Y), Labelled(Y)):
        labels = known_labels(Subset(dataset, [4, 2]))
        assert labels is not None
        assert labels.tolist() == [1, 2]


def test_looking_at_an_example_leaves_the_order_of_the_loader_as_it_was() -> None:
    loader = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    expected = [y.tolist() for _, y in loader]
    again = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    batches = LoaderBatches(again, **SETTINGS)
    example = batches.example()
    assert example is not None
    assert example.shape == (1, 2)
    assert [batch.labels.tolist() for batch in batches] == expected


def test_a_loader_that_is_exhausted_is_an_error() -> None:
    class Once(IterableDataset[Any]):
        def __init__(self) -> None:
            self.items = zip(X, Y, strict=True)

        def __len__(self) -> int:
            return 10

        def __iter__(self) -> Any:
            return self.items

    batches = LoaderBatches(DataLoader(Once(), 4), **SETTINGS)
    assert len(list(batches.epoch(0, 0))) == 3
    with pytest.raises(UserError, match=r"^data: the DataLoader must give at least one batch in each pass, got none$"):
        list(batches.epoch(0, 1))
