"""Tests of fcnet.experiment.build_training."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fcnet.config import schema
from fcnet.experiment import build
from fcnet.experiment.build_training import check_batch_norm, estimate_step_memory
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.optim import schedules
from fcnet.optim.optimizers import LBFGS, Muon
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from tests.unit.experiment.helpers import build_experiment, make_config

pytestmark = pytest.mark.usefixtures("isolated_cache")


CPU = torch.device("cpu")


def test_the_model_is_the_configured_one() -> None:
    model = {"hidden": (7, 7), "activation": "sigmoid", "normalization": "batch", "dropout": 0.25, "residual": True}
    experiment = build_experiment(model=model)
    expected = MLP(30, (7, 7), 4, activation="sigmoid", normalization="batch", dropout=0.25, residual=True)
    assert experiment.classifier.model.arguments == expected.arguments
    assert experiment.classifier.model is experiment.training.model


def test_logistic_regression_ignores_the_settings_of_an_mlp() -> None:
    model = build_experiment(
        model={"kind": "logistic", "hidden": (7, 7), "normalization": "batch", "dropout": 0.5}
    ).classifier.model
    assert isinstance(model, LogisticRegression)
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(4, 30), (4,)]


def test_the_initial_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> Tensor:
        model = build.make_model(schema.Config(seed=seed), 30, 4)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    first = weights(1)
    torch.manual_seed(99)
    assert_close(weights(1), first, rtol=0, atol=0)
    assert not torch.equal(weights(2), first)


@pytest.mark.parametrize(
    ("section", "kind", "settings"),
    [
        ({"name": "sgd", "momentum": 0.5, "nesterov": True}, torch.optim.SGD, {"momentum": 0.5, "nesterov": True}),
        ({"name": "adamw", "beta1": 0.8, "beta2": 0.9}, torch.optim.AdamW, {"betas": (0.8, 0.9)}),
    ],
)
def test_weight_decay_applies_to_matrices_alone(
    section: dict[str, Any], kind: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    experiment = build_experiment(
        optimizer={"lr": 0.25, "weight_decay": 0.125, **section}, model={"normalization": "batch"}
    )
    optimizer = experiment.training.algorithm.optimizer
    assert type(optimizer) is kind
    for group in optimizer.param_groups:
        assert {key: group[key] for key in settings} == settings
        assert group["lr"] == 0.25
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in experiment.classifier.parameters()] == [
        0.125 if p.ndim == 2 else 0.0 for p in experiment.classifier.parameters()
    ]


@pytest.mark.parametrize(
    ("section", "factors"),
    [
        ({"schedule": "constant"}, [1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "cosine"}, [1.0, 0.75, 0.5, 0.0]),
        ({"schedule": "linear"}, [1.0, 2 / 3, 0.5, 0.0]),
        ({"schedule": "constant", "warmup_epochs": 0.75}, [0.25, 1.0, 1.0, 1.0]),
        ({"schedule": "cosine", "warmup_epochs": 0.75}, [0.25, 0.75, 0.5, 0.0]),
    ],
)
def test_the_schedule_spans_all_steps_of_the_training(section: dict[str, Any], factors: list[float]) -> None:
    train = {"epochs": 3, "batch_size": 23}  # 92 images: 4 steps an epoch, 12 in all
    training = build_experiment(optimizer=section, train=train).training
    assert training.num_steps == 12
    assert [training.algorithm.schedule(step) for step in (0, 4, 6, 12)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("hidden", "ranks", "threads"), [(8, 1, 1), (8, 2, 1), (2000, 1, 6), (2000, 2, 3), (2000, 4, 1), (2000, 9, 1)]
)
def test_small_steps_take_one_thread_and_large_steps_share_the_processors(
    hidden: int, ranks: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert build.choose_threads(MLP(100, (hidden,), 10), 128) == threads


def test_omp_num_threads_is_ignored_with_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for ranks, threads in ((1, 1), (2, 3)):
        monkeypatch.setattr(distributed, "world_size", lambda ranks=ranks: ranks)
        assert build.choose_threads(MLP(100, (2000,), 10), 128) == threads


@pytest.mark.parametrize(("pixels", "threads"), [(8 * 8, 1), (3 * 32 * 32, 3)])
def test_steps_with_large_images_take_several_threads(
    pixels: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcnet.experiment.build_training.num_threads", lambda: 3)
    assert build.choose_threads(MLP(pixels, (), 10), 128) == threads


def test_lbfgs_ignores_learning_rate_and_schedule() -> None:
    section = {"name": "lbfgs", "lr": 0.3, "schedule": "cosine", "warmup_epochs": 2.0}
    algorithm = build_experiment(optimizer=section, train={"batch_size": "all", "epochs": 5}).training.algorithm
    assert [group["lr"] for group in algorithm.optimizer.param_groups] == [1.0]
    assert [algorithm.schedule(step) for step in range(5)] == [1.0] * 5


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({"schedule": "one_cycle"}, schedules.one_cycle(12)),
        ({"schedule": "steps", "milestones": (0.5, 2.0), "gamma": 0.3}, schedules.multi_step([2, 6], 0.3)),
        ({"schedule": "linear", "warmup_epochs": 1.0}, schedules.add_warmup(schedules.linear(12), 3)),
    ],
    ids=["one_cycle", "steps", "linear"],
)
def test_schedule_settings_are_in_epochs(schedule: dict[str, Any], factors: schedules.Schedule) -> None:
    """92 training images in batches of 31: three steps an epoch, four epochs."""
    found = build_experiment(optimizer=schedule, train={"batch_size": 31, "epochs": 4}).training.algorithm.schedule
    assert [found(step) for step in range(12)] == [factors(step) for step in range(12)]


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("muon", Muon), ("lbfgs", LBFGS)])
def test_the_optimizer_is_the_configured_one(name: str, kind: type[torch.optim.Optimizer]) -> None:
    sections = {"name": name, "weight_decay": 0.2, "momentum": 0.7, "beta1": 0.6, "beta2": 0.8, "lr": 0.04}
    algorithm = build_experiment(
        optimizer=sections, train={"batch_size": "all", "accumulate": 3, "ema_decay": 0.5, "patience": 2}
    ).training.algorithm
    assert type(algorithm.optimizer) is kind
    if name != "lbfgs":
        first = algorithm.optimizer.param_groups[0]
        assert (first["lr"], first["weight_decay"], tuple(first["betas"])) == (0.04, 0.2, (0.6, 0.8))
        assert first.get("momentum", 0.7) == 0.7
    assert (algorithm.accumulate, algorithm.ema_decay, algorithm.patience) == (3, 0.5, 2)


def test_batch_size_all_is_the_whole_training_set() -> None:
    batches = build_experiment(train={"batch_size": "all"}).training.batches
    assert (batches.batch_size, len(batches)) == (92, 1)


def test_the_initialisation_is_the_configured_one() -> None:
    he, lecun = (
        build_experiment(model={"initialization": name}).training.model.get_parameter("layers.0.weight")
        for name in ("he", "lecun")
    )
    assert_close(he, lecun * 2**0.5)


def test_the_other_settings_reach_the_training() -> None:
    train = {"epochs": 7, "label_smoothing": 0.1, "precision": "bfloat16", "batch_size": 9, "threads": 5}
    experiment = build_experiment(train=train, optimizer={"clip_norm": 0.5})
    algorithm = experiment.training.algorithm
    assert algorithm.clip_norm == 0.5
    assert (algorithm.epochs, algorithm.loss, algorithm.precision) == (7, CrossEntropy(0.1), torch.bfloat16)
    assert (experiment.training.batches.batch_size, experiment.threads) == (9, 5)
    assert build_experiment().training.algorithm.precision == torch.float32


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"batch_size": 64, "accumulate": 128},
            "train.accumulate must be at most 32 for batches of 64 images, ~, got 128",
        ),
        (
            {"batch_size": 64, "accumulate": 33},
            "train.accumulate must be at most 32 for batches of 64 images, ~, got 33",
        ),
        (
            {"batch_size": "all", "accumulate": 99},
            "train.accumulate must be at most 45 for batches of 90 images, ~, got 99",
        ),
        ({"batch_size": 1}, "train.batch_size must be at least 2, ~, got 1"),
    ],
)
def test_batch_normalization_of_single_images_is_refused_beforehand(train: dict[str, Any], message: str) -> None:
    config = make_config(model={"normalization": "batch"}, train=train)
    with pytest.raises(UserError) as error:
        check_batch_norm(config, 90)
    assert str(error.value) == message.replace("~", "because batch normalization learns nothing from one image")
    for model in ({"normalization": "batch", "hidden": ()}, {"normalization": "batch", "kind": "logistic"}, {}):
        check_batch_norm(make_config(model=model, train=train), 90)


def test_batch_normalization_of_two_images_is_taken() -> None:
    check_batch_norm(make_config(model={"normalization": "batch"}, train={"batch_size": 64, "accumulate": 32}), 90)


@pytest.mark.parametrize(
    ("data", "model", "remedy"),
    [
        ({}, {"hidden": (8,)}, "lower data.shape from [1, 6, 5]: images have 5×6 pixels, or lower model.hidden"),
        ({}, {"kind": "logistic"}, "lower data.shape from [1, 6, 5]: images have 5×6 pixels"),
        ({}, {"hidden": (8, 22)}, "lower model.hidden"),
        ({"whiten": 5}, {"hidden": (8,)}, "lower data.whiten or model.hidden"),
        ({"whiten": 5}, {"kind": "logistic"}, "lower data.whiten"),
    ],
)
def test_a_lack_of_memory_names_what_makes_the_network_large(
    data: dict[str, Any], model: dict[str, Any], remedy: str
) -> None:
    experiment = build_experiment(data, model=model)
    assert experiment.memory_estimate.remedy == remedy


def test_a_lack_of_memory_for_photos_names_data_size() -> None:
    store = build_experiment().store
    photos = replace(store, shape=(3, 3000, 4000))
    for size, remedy in (((), "set data.size, such as [64, 64]"), ((3000, 4000), "lower data.size from [3000, 4000]")):
        config = schema.Config(data=schema.Data(source="images", path="pets", size=size))
        estimate = estimate_step_memory(config, photos, 100, 10, torch.device("cpu"))
        assert estimate.remedy == f"{remedy}: images have 4000×3000 pixels, or lower model.hidden"


@pytest.mark.parametrize(
    ("free", "on_device"),
    [
        (None, ()),
        (6_000, ("train", "test")),  # 3,000 and 900 bytes; half of the rest holds the test split too
        (5_999, ("test",)),
        (1_799, ()),
    ],
)
def test_only_images_that_move_count_as_memory_of_the_device(free: int | None, on_device: tuple[str, ...]) -> None:
    store = build_experiment().store
    arguments = schema.Config(data=schema.Data(source="synthetic")), store, 100, 4
    estimate = estimate_step_memory(*arguments, torch.device("cuda"), free)
    assert estimate.data_bytes == sum(getattr(store, name).pixels.nbytes for name in on_device)
    assert estimate_step_memory(*arguments, torch.device("cpu"), 10**9).data_bytes == 0
