"""Tests of fcnet.probe.splits."""

from __future__ import annotations

import pytest
import torch

from fcnet.data.batches import split_validation
from fcnet.probe.arguments import Settings
from fcnet.probe.splits import few_shot_rows, fold_rows, make_splits
from fcnet.probe.training_data import TrainingData
from fcnet.runtime.errors import UserError

Y = torch.tensor([0] * 13 + [1] * 8 + [2] * 22)[torch.randperm(43, generator=torch.Generator().manual_seed(0))]


def make_data(num_train: int = 43) -> TrainingData:
    return TrainingData((torch.zeros(43, 2),), Y, num_train, ("a", "b", "c"), "", (), has_test=True)


def test_folds_hold_out_each_example_once_and_the_same_share_of_each_class() -> None:
    splits = fold_rows(Y, "abc", 4, seed=0)
    assert torch.cat([split.held_out for split in splits]).sort().values.tolist() == list(range(43))
    for split in splits:
        assert torch.cat([split.rows, split.held_out]).sort().values.tolist() == list(range(43))
        assert split.rows.tolist() == sorted(split.rows.tolist())
    counts = torch.stack([Y[split.held_out].bincount(minlength=3) for split in splits])
    assert int((counts.amax(0) - counts.amin(0)).max()) <= 1
    assert int(counts.sum(1).max() - counts.sum(1).min()) <= 1
    assert not torch.equal(fold_rows(Y, "abc", 4, seed=1)[0].rows, splits[0].rows)


def test_folds_need_examples() -> None:
    with pytest.raises(UserError, match=r"^--folds must be at most the number of examples, 43, got 44$"):
        fold_rows(Y, "abc", 44, seed=0)
    with pytest.raises(UserError, match=r"^--folds needs 2 or more examples of each class, found 1 of b$"):
        fold_rows(torch.tensor([0, 0, 1]), "ab", 2, seed=0)


def test_a_share_is_held_out_as_train_does_and_a_validation_split_as_it_is() -> None:
    (split,) = make_splits(make_data(), Settings(Cs=(1.0,), validation=0.25))
    assert torch.equal(split.held_out, split_validation(Y, 0.25, 0)[1])
    (split,) = make_splits(make_data(40), Settings(Cs=(1.0,)))
    assert (split.rows.tolist(), split.held_out.tolist()) == (list(range(40)), [40, 41, 42])
    with pytest.raises(UserError, match=r"^--validation must hold out one or more examples, got none with 0.001$"):
        make_splits(make_data(), Settings(Cs=(1.0,), validation=0.001))


@pytest.mark.parametrize("num_train", [43, 30])
def test_few_shots_are_of_each_class_nested_and_apart_from_those_held_out(num_train: int) -> None:
    data = make_data(num_train)
    two, one = few_shot_rows(data, 2, 0, seed=0), few_shot_rows(data, 1, 0, seed=0)
    assert Y[two.rows].bincount().tolist() == Y[two.held_out].bincount().tolist() == [2, 2, 2]
    assert set(one.rows.tolist()) < set(two.rows.tolist())
    assert not set(two.rows.tolist()) & set(two.held_out.tolist())
    assert int(two.rows.max()) < num_train
    assert (int(two.held_out.min()) >= num_train) == (num_train < 43)
    assert not torch.equal(few_shot_rows(data, 2, 1, seed=0).rows, two.rows)


def test_few_shots_need_examples() -> None:
    assert len(few_shot_rows(make_data(), 4, 0, seed=0).rows) == 12
    rule = r"^--shots 5 needs 9 training examples of each class, 5 to fit and 4 to choose by, found 8 of b$"
    with pytest.raises(UserError, match=rule):
        few_shot_rows(make_data(), 5, 0, seed=0)
