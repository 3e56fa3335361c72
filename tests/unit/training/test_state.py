"""Tests of fcnet.training.state: a restored training continues bit for bit."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from fcnet import MLP
from fcnet.data.batches import Batches
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.runtime.files import read_checksummed, write_checksummed
from fcnet.training.algorithm import GradientDescent
from fcnet.training.state import TrainingState
from tests.helpers import assert_identical
from tests.unit.training.helpers import (
    OPTIMIZERS,
    PIXELS,
    make_labels,
    make_model,
    make_sgd,
    make_training,
    record_without_timings,
)

if TYPE_CHECKING:
    from pathlib import Path


def metadata_without_timings(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns the metadata as JSON stores it, without measured times."""
    stored: dict[str, Any] = json.loads(json.dumps(metadata))
    return {key: value for key, value in stored.items() if key not in {"seconds", "previous_seconds"}}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["plain", "all"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"ema_decay": 0.8, "accumulate": 2}, {"patience": 9}, {"patience": 9, "select": "validation_loss"}],
    ids=str,
)
def test_a_training_restored_at_any_pause_ends_bit_for_bit_like_an_uninterrupted_one(
    name: str, optimizer: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = make_training(name, optimizer, **settings)
    pauses = 0
    events: list[dict[str, Any] | None] = []
    for record in whole.advance():
        write_checksummed(tmp_path / f"{pauses}", *whole.state())
        events.append(record_without_timings(record))
        pauses += 1
    assert pauses == whole.num_steps + 3 == 18
    last, metadata = whole.state()
    for pause in range(pauses):
        resumed = make_training(name, optimizer, **settings)
        resumed.restore(*read_checksummed(tmp_path / f"{pause}"))
        rest = [record_without_timings(record) for record in resumed.advance()]
        assert rest == events[pause + 1 :], f"restored at pause {pause}"
        tensors, other = resumed.state()
        assert_identical(tensors, last)
        assert metadata_without_timings(other) == metadata_without_timings(metadata)


def test_the_best_figure_is_restored_exactly_and_only_for_the_same_criterion() -> None:
    tensors, metadata = saved_state(patience=9, select="validation_loss")
    restored = make_training("plain", patience=9, select="validation_loss")
    restored.restore(tensors, metadata)
    assert restored.early_stopping is not None
    assert [restored.early_stopping.epoch, restored.early_stopping.value] == metadata["best"]
    message = "select must be validation_loss as before, got validation_accuracy"
    with pytest.raises(UserError, match=message):
        make_training("plain", patience=9).restore(tensors, metadata)


def test_a_state_from_before_there_was_a_choice_was_selected_by_accuracy() -> None:
    tensors, metadata = saved_state(patience=9)
    del metadata["select"]
    training = make_training("plain", patience=9)
    training.restore(tensors, metadata)
    assert training.early_stopping is not None
    assert [training.early_stopping.epoch, training.early_stopping.value] == metadata["best"]
    with pytest.raises(UserError, match="select must be validation_accuracy as before, got validation_loss"):
        make_training("plain", patience=9, select="validation_loss").restore(tensors, metadata)


def test_a_best_figure_that_is_not_finite_survives_json() -> None:
    training = make_training("plain", patience=9, select="validation_loss")
    assert training.early_stopping is not None
    training.early_stopping.update(1, float("nan"), training.model)
    tensors, metadata = training.state()
    restored = make_training("plain", patience=9, select="validation_loss")
    restored.restore(tensors, json.loads(json.dumps(metadata, allow_nan=False)))
    assert restored.early_stopping is not None
    assert (restored.early_stopping.epoch, restored.early_stopping.value) == (1, None)


def test_train_seconds_continue_after_a_restore(tmp_path: Path) -> None:
    training = make_training()
    list(itertools.islice(training.advance(), 8))
    write_checksummed(tmp_path / "saved", *training.state())
    resumed = make_training()
    resumed.restore(*read_checksummed(tmp_path / "saved"))
    assert resumed.train_seconds == training.train_seconds > training.seconds > 0.0
    *_, record = (record for record in resumed.advance() if record is not None)
    assert record.seconds > 0.0
    assert resumed.train_seconds > training.train_seconds


def test_step_inputs_are_the_scaled_learning_rate_of_each_group_and_the_weight_in_the_average() -> None:
    model = make_model("plain")
    first, *rest = model.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest, "lr": 0.125}])
    batches = Batches(PIXELS, make_labels())
    schedule = [1.0, 0.5].__getitem__
    plain = TrainingState(model, batches, GradientDescent(optimizer, epochs=2, schedule=schedule))
    assert [plain.step_inputs(step) for step in range(2)] == [[0.5, 0.125, 0.0], [0.25, 0.0625, 0.0]]
    averaged = TrainingState(model, batches, GradientDescent(optimizer, epochs=2, schedule=schedule, ema_decay=0.9))
    assert averaged.step_inputs(0)[-1] == pytest.approx(1 - 2 / 11)  # after the first step


def test_an_empty_training_set_is_an_error() -> None:
    model = make_model("plain")
    empty = Batches(PIXELS, make_labels(), rows=torch.arange(0))
    with pytest.raises(UserError, match="the training set must hold at least one image, got 0"):
        TrainingState(model, empty, GradientDescent(make_sgd(model), epochs=1))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([-1, 1, 1]), "labels must be 0 to 1, got -1"),
        (torch.tensor([0, 1, 2]), "labels must be 0 to 1, got 2"),
    ],
)
def test_a_label_outside_the_classes_is_an_error(target: Tensor, message: str) -> None:
    model = make_model("plain", 2)
    batches, algorithm = Batches(PIXELS[:3], target), GradientDescent(make_sgd(model), epochs=1)
    with pytest.raises(UserError) as error:
        TrainingState(model, batches, algorithm)
    assert str(error.value) == message


def saved_state(optimizer: str = "adamw", **settings: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the state in the second epoch, the metadata as JSON stores it."""
    training = make_training("plain", optimizer, **settings)
    list(itertools.islice(training.advance(), 8))
    tensors, metadata = training.state()
    return tensors, json.loads(json.dumps(metadata))


def restore_error(tensors: dict[str, Tensor], metadata: dict[str, Any], optimizer: str = "adamw") -> str:
    with pytest.raises(UserError) as error:
        make_training("plain", optimizer).restore(tensors, metadata)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("the checkpoint does not fit the configuration: ")
    return message.removeprefix("the checkpoint does not fit the configuration: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": ...}, "epoch must be there, got nothing"),
        ({"epoch": -1}, "epoch must be at least 0, got -1"),
        ({"epoch": 1.0}, "epoch must be an integer, got 1.0"),
        ({"epoch": True}, "epoch must be an integer, got true"),
        ({"epoch": 10**9}, "step 7 is not in epoch 1000000001 of 5 steps"),
        ({"step": 3}, "step 3 is not in epoch 2 of 5 steps"),
        ({"step": "7"}, 'step must be an integer, got "7"'),
        ({"images": None}, "images must be an integer, got None"),
        ({"seconds": "1"}, 'seconds must be a number, got "1"'),
        ({"seconds": float("nan")}, "seconds must be finite, got nan"),
        ({"best": [1, 0.5]}, "best must be there if, and only if, train.patience is set"),
        ({"best": [1]}, "best must have at least 2 values, got [1]"),
        ({"optimizer": []}, "optimizer must be a section, got []"),
        ({"optimizer": {}}, "optimizer.scalars must be there, got nothing"),
        ({"optimizer": {"scalars": {}, "param_groups": [1]}}, "optimizer.param_groups.0 must be a section, got 1"),
    ],
    ids=str,
)
def test_wrong_metadata_of_a_checkpoint_is_named(change: dict[str, Any], message: str) -> None:
    tensors, metadata = saved_state()
    changed = {key: value for key, value in (metadata | change).items() if value is not ...}
    assert restore_error(tensors, changed) == message


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.layers.0.weight", None, "the tensor model.layers.0.weight must be float32 (6, 20), got absent"),
        ("model.layers.0.weight", torch.ones(6), "the tensor model.layers.0.weight must be float32 (6, 20), got float"),
        ("model.layers.0.w", torch.ones(6), "the tensor model.layers.0.w must be absent, got float32 (6,)"),
        ("metrics", torch.ones(2), "the tensor metrics must be float64 (2,), got float32 (2,)"),
        ("metrics", None, "the tensor metrics must be float64 (2,), got absent"),
        ("average.layers.0.weight", torch.ones(6, 20), "the tensor average.layers.0.weight must be absent"),
    ],
)
def test_a_wrong_tensor_of_a_checkpoint_is_named(name: str, tensor: Tensor | None, message: str) -> None:
    tensors, metadata = saved_state()
    changed = {key: value for key, value in (tensors | {name: tensor}).items() if value is not None}
    assert restore_error(changed, metadata).startswith(f"checkpoint: {message}")


@pytest.mark.parametrize(
    ("optimizer", "name", "tensor"),
    [
        ("adamw", "optimizer.0.exp_avg", None),
        ("adamw", "optimizer.0.exp_avg", torch.ones(7)),
        ("adamw", "optimizer.0.exp_avg", torch.ones(6, 20, dtype=torch.int32)),
        ("adamw", "optimizer.0.more", torch.ones(6, 20)),
        ("adamw", "optimizer.99.exp_avg", torch.ones(6, 20)),
        ("adamw", "optimizer.-1.exp_avg", torch.ones(6, 20)),
        ("adamw", "optimizer.x.exp_avg", torch.ones(6, 20)),
        ("adamw", "optimizer.0.exp_avg.x.y", torch.ones(6, 20)),
        ("sgd", "optimizer.0.momentum_buffer", torch.ones(1, 7)),
        ("muon", "optimizer.0.exp_avg", torch.ones(6, 20)),
        ("sgd without momentum", "optimizer.0.exp_avg", torch.ones(6, 20)),
    ],
)
def test_a_wrong_tensor_of_the_optimizer_is_one_line(optimizer: str, name: str, tensor: Tensor | None) -> None:
    tensors, metadata = saved_state(optimizer)
    assert name.startswith("optimizer")
    changed = {key: value for key, value in (tensors | {name: tensor}).items() if value is not None}
    assert restore_error(changed, metadata, optimizer)


@pytest.mark.parametrize(
    "change",
    [{"lr": "0.1"}, {"lr": -1.0}, {"lr": True}, {"betas": [0.8]}, {"betas": None}, {"fused": None}],
    ids=str,
)
def test_wrong_settings_of_the_optimizer_are_one_line(change: dict[str, Any]) -> None:
    tensors, metadata = saved_state()
    groups = metadata["optimizer"]["param_groups"]
    metadata["optimizer"]["param_groups"] = [groups[0] | change, *groups[1:]]
    key = next(iter(change))
    assert restore_error(tensors, metadata) == (
        f"the optimizer's {key} must be that of the configuration, got another value"
    )


def test_a_checkpoint_of_another_optimizer_is_one_line() -> None:
    message = restore_error(*saved_state("sgd"), optimizer="adamw")
    assert message.startswith("the optimizer's ")


def test_other_parameters_of_a_group_are_one_line() -> None:
    tensors, metadata = saved_state()
    metadata["optimizer"]["param_groups"][0]["params"] = [0]
    message = restore_error(tensors, metadata)
    assert message == "the optimizer must have the parameter groups of the configuration"


def test_settings_that_another_version_of_torch_does_not_have_keep_their_defaults() -> None:
    tensors, metadata = saved_state()
    for group in metadata["optimizer"]["param_groups"]:
        del group["maximize"]
        group["invented"] = 1
    training = make_training("plain", "adamw")
    training.restore(tensors, metadata)
    assert [group["maximize"] for group in training.algorithm.optimizer.param_groups] == [False, False]


@pytest.mark.parametrize("place", ["optimizer", "average", "others"])
def test_a_state_with_inf_outside_the_model_is_not_saved(place: str) -> None:
    training = make_training(ema_decay=0.8)
    list(itertools.islice(training.advance(), 3))
    others = {"others.weight": torch.ones(2)}
    tensors, _ = training.state(others)
    next(tensor for name, tensor in tensors.items() if name.startswith(place)).view(-1)[0] = torch.inf
    with pytest.raises(
        NonFiniteError, match=rf"^NaN or inf in step 3 of \d+, first in {place}\..* of the training state;"
    ):
        training.state(others)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "message"),
    [
        (8, 5, "accumulate must be at most 4 for batches of 8 images, ~, got 5"),
        (99, 99, "accumulate must be at most 5 for batches of 10 images, ~, got 99"),
        (1, 1, "a batch must have two or more images, ~, got 1"),
        (8, 4, None),
        (2, 1, None),
    ],
)
def test_batch_normalization_of_single_images_is_refused(batch_size: int, accumulate: int, message: str | None) -> None:
    model = MLP(3, (4,), 2, normalization="batch")
    batches = Batches(torch.rand(10, 3), torch.arange(10) % 2, batch_size=batch_size)
    algorithm = GradientDescent(make_sgd(model), epochs=1, accumulate=accumulate)
    if message is None:
        assert not TrainingState(model, batches, algorithm).ended
        return
    with pytest.raises(UserError) as error:
        TrainingState(model, batches, algorithm)
    assert str(error.value) == message.replace("~", "because batch normalization learns nothing from one image")
