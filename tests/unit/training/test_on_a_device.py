"""Training on a device, evaluation and diagnostics: no step waits for it, copies to it, or mixes it with the host."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from fcnet.config.presets import list_presets
from fcnet.config.toml import load_config
from fcnet.data.batches import Augmentation, Preprocessing
from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.data.transforms.whitening import Whitening, fit_whitening
from fcnet.diagnostics import idle_units
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.full_evaluation import evaluate_fully
from fcnet.experiment.build_data import make_augmentation
from fcnet.experiment.build_training import make_algorithm, make_model
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.experiment.snapshots import Snapshots
from fcnet.losses import CrossEntropy, ScoreLoss
from fcnet.models.mlp import MLP
from fcnet.optim.newton_schulz import _newton_schulz
from fcnet.optim.optimizers import Muon, parameter_groups
from fcnet.optim.schedules import cosine
from fcnet.training.algorithm import GradientDescent
from fcnet.training.backpropagation import can_chunk_logits
from fcnet.training.cuda_graphs import GraphedSteps
from fcnet.training.loop import Training, train_step
from fcnet.training.lr_finder import lr_range_test
from tests.device_stand_in import DEVICE, StandIn, stand_in_device
from tests.helpers import random_images
from tests.unit.training.on_a_device import make_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fcnet.data.batches import Batches

    MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


@pytest.fixture
def device() -> Iterator[StandIn]:
    with stand_in_device() as stand_in:
        yield stand_in


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "unfused sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=1e-3, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "unfused adamw": partial(torch.optim.AdamW, lr=1e-3),
    "muon": partial(Muon, lr=1e-3),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "logistic regression": {"hidden": ()},
    "plain": {"hidden": (16, 8), "activation": "sigmoid"},
    "residual": {"hidden": (8, 8), "residual": True, "activation": "elu"},
    "batch norm": {"hidden": (16, 8), "normalization": "batch", "activation": "gelu"},
    "layer norm": {"hidden": (16, 8), "normalization": "layer", "activation": "leaky_relu"},
    "dropout": {"hidden": (16, 8), "dropout": 0.3},
    "all": {"hidden": (8, 8), "normalization": "batch", "dropout": 0.3, "residual": True},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_norm": 0.5},
    "averaged": {"ema_decay": 0.9},
    "accumulated": {"accumulate": 3},
    "bfloat16": {"precision": torch.bfloat16},
    "all": {
        "clip_norm": 0.5,
        "ema_decay": 0.9,
        "accumulate": 2,
        "precision": torch.bfloat16,
        "loss": CrossEntropy(0.1),
    },
}


def make_training(
    batches: Batches,
    network: str = "all",
    optimizer: str = "adamw",
    *,
    num_classes: int = 10,
    in_features: int = 192,
    validation: Batches | None = None,
    **settings: Any,
) -> Training:
    model = MLP(in_features, num_classes=num_classes, **NETWORKS[network]).to(DEVICE)
    made = OPTIMIZERS[optimizer](parameter_groups(model, 0.01))
    algorithm = GradientDescent(made, epochs=2, schedule=cosine(10), **settings)
    return Training(model, batches, algorithm, validation=validation, seed=3)


def take_steps(device: StandIn, training: Training) -> None:
    """Makes the steps of an epoch, and checks that only the epoch's plan was copied."""
    training.model.train()
    batches = training.batches.epoch(training.seed, 0, reuse_buffer=True)
    waits, copies = len(device.waits), len(device.copies)
    for batch in batches:
        assert batch.images.device == batch.target.device == DEVICE
        train_step(training, batch)
    assert training.step == len(training.batches)
    assert (len(device.waits), len(device.copies)) == (waits, copies)
    gradients = [parameter.grad for parameter in training.model.parameters()]
    assert all(gradient is not None and gradient.device == DEVICE for gradient in gradients)


@pytest.mark.parametrize(
    ("optimizer", "network", "settings"),
    [
        *itertools.product(OPTIMIZERS, NETWORKS, ["all"]),
        *itertools.product(["adamw"], NETWORKS, [name for name in SETTINGS if name != "all"]),
    ],
)
def test_no_step_waits_copies_or_mixes_devices(device: StandIn, optimizer: str, network: str, settings: str) -> None:
    with device.permit():
        training = make_training(make_batches(), network, optimizer, **SETTINGS[settings])
    take_steps(device, training)


TRANSFORMS = (Flip(), Shift(1), Affine(15.0, 0.2), ColorJitter(0.4), Cutout(3))
BATCHES: dict[str, dict[str, Any]] = {
    **{type(each).__name__: {"augmentation": Augmentation((each,))} for each in TRANSFORMS},
    "mixup": {"augmentation": Augmentation(mixing=MixupCutmix(0.4, 0.0))},
    "cutmix": {"augmentation": Augmentation(mixing=MixupCutmix(0.0, 1.0))},
    "everything": {"augmentation": Augmentation(TRANSFORMS, MixupCutmix(0.4, 1.0)), "balance": "weights"},
    "weights": {"balance": "weights"},
    "sampling": {"balance": "sampling"},
    "normalized": {"preprocessing": Preprocessing(torch.full((3,), 0.5), torch.full((3,), 0.2))},
}


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("kind", BATCHES)
def test_batches_of_all_kinds_are_made_on_the_device(device: StandIn, kind: str, num_classes: int) -> None:
    with device.permit():
        batches = make_batches(num_classes=num_classes, **BATCHES[kind])
        training = make_training(batches, num_classes=num_classes)
    take_steps(device, training)


@pytest.mark.parametrize("name", ["logistic", "hinge", "quadratic"])
@pytest.mark.parametrize("balance", ["none", "weights"])
def test_losses_of_a_score_stay_on_the_device(device: StandIn, name: str, balance: str) -> None:
    with device.permit():
        batches = make_batches(num_classes=2, balance=balance)
        training = make_training(batches, num_classes=2, loss=ScoreLoss(name, 0.1))
    take_steps(device, training)


@pytest.mark.parametrize("network", ["plain", "dropout", "all"])
@pytest.mark.parametrize("settings", ["plain", "bfloat16", "all"])
def test_a_head_of_many_classes_is_computed_in_chunks_on_the_device(
    device: StandIn, network: str, settings: str
) -> None:
    with device.permit():
        batches = make_batches(1024, (1, 2, 2), num_classes=20_000, batch_size=1024)
        training = make_training(batches, network, num_classes=20_000, in_features=4, **SETTINGS[settings])
        assert can_chunk_logits(training.model, training.algorithm.loss, torch.zeros(1024, 4))
    take_steps(device, training)


def test_muons_products_in_bfloat16_stay_on_the_device(device: StandIn) -> None:
    assert _newton_schulz(torch.empty(2, 8, 16, device=DEVICE)).shape == (2, 8, 16)
    assert device.waits == device.copies == []


def test_steps_on_whitened_images_and_on_features_stay_on_the_device(device: StandIn) -> None:
    with device.permit():
        whitened = make_batches(preprocessing=Preprocessing(whitening=Whitening(20, 192).to(DEVICE)))
        images = torch.rand(40, 20).to(DEVICE)
        statistics = Preprocessing(torch.zeros(20), torch.ones(20), l2_normalize=True)
        features = type(whitened)(images, torch.arange(40) % 10, batch_size=16, preprocessing=statistics, device=DEVICE)
        trainings = [make_training(batches, in_features=20) for batches in (whitened, features)]
    for training in trainings:
        take_steps(device, training)


def test_a_network_of_torchs_layers_trains_on_the_device(device: StandIn) -> None:
    with device.permit():
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        model = nn.Sequential(*layers).to(DEVICE)
        algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=1, clip_norm=1.0)
        training = Training(model, make_batches(), algorithm)
    take_steps(device, training)


# --- a whole epoch -----------------------------------------------------------------------------------------------


def test_a_whole_epoch_of_cifar10_mlp_waits_at_its_end_alone(device: StandIn) -> None:
    config = load_config(list_presets()["cifar10_mlp"], ["train.epochs=2", "train.batch_size=20"])
    with device.permit():
        whitening = Whitening(config.data.whiten, 3072).to(DEVICE)
        preprocessing = Preprocessing(torch.full((3,), 0.5), torch.full((3,), 0.2), whitening)
        training_set, held_out = (
            make_batches(100, (3, 32, 32), batch_size=20, preprocessing=preprocessing, augmentation=augmentation)
            for augmentation in (make_augmentation(config.data.augment), None)
        )
        model = make_model(config, config.data.whiten, 10).to(DEVICE)
        algorithm = make_algorithm(config, model, len(training_set))
        training = Training(model, training_set, algorithm, validation=held_out)
    events = training.advance()
    for epoch in (1, 2):
        waits = len(device.waits)
        for _ in range(len(training_set)):
            assert next(events) is None
        assert len(device.waits) == waits
        with device.permit():
            record = next(events)
        assert record is not None
        assert (record.epoch, record.step) == (epoch, 5 * epoch)
        assert 0 < len(device.waits) - waits <= 5, device.waits


def record_nothing(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    """Stands in for a capture: runs the work once, and replays nothing."""
    work()
    return lambda: None


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_captured_steps_and_their_replays_stay_on_the_device(device: StandIn, optimizer: str) -> None:
    with device.permit():
        training = make_training(make_batches(), "all", optimizer, **SETTINGS["all"])
    arguments = training.model, training.batches, training.algorithm, training.dropout_rng
    training.graphed_steps = graphed = GraphedSteps(record_nothing, *arguments)
    graphed.steps_per_graph = 2
    training.model.train()
    for epoch in range(3):
        with device.permit():
            plan = training.batches.plan_epoch(3, epoch)
            inputs = [training.step_inputs(step) for step in range(3)]
            steps = graphed.epoch(plan, inputs, 3 * epoch, 0, partial(train_step, training))
            first = next(steps)  # the rates of an epoch are copied before its first run
        assert [first, *steps] == [2, 3]
    assert graphed.fallback_reason is None
    assert len(graphed._graphs) == 2


# --- beside the steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 10])
def test_an_evaluation_waits_as_often_for_many_batches_as_for_one(device: StandIn, num_classes: int) -> None:
    counts = []
    for num_images in (16, 80):
        with device.permit():
            batches = make_batches(num_images, num_classes=num_classes)
            model = MLP(192, num_classes=num_classes, **NETWORKS["all"]).to(DEVICE)
            before = len(device.waits)
            assert evaluate(model, batches).count == num_images
        counts.append(len(device.waits) - before)
    assert counts[0] == counts[1] == 2


def test_predictions_and_scores_of_a_set_mix_no_devices(device: StandIn) -> None:
    with device.permit():
        batches = make_batches()
        model = MLP(192, num_classes=10, **NETWORKS["all"]).to(DEVICE)
        evaluation, predictions, _ = evaluate_fully(model, batches)
    assert evaluation.count == len(predictions.labels) == 40
    assert predictions.labels.device == torch.device("cpu")


def test_the_prediction_of_images_copies_them_and_waits_for_the_result(device: StandIn) -> None:
    with device.permit():
        model = MLP(192, num_classes=3, **NETWORKS["all"])
        mean, std = torch.full((3,), 0.5), torch.full((3,), 0.2)
        classifier = ImageClassifier(model, classes=list("abc"), shape=(3, 8, 8), mean=mean, std=std).to(DEVICE).eval()
        probabilities = classifier.predict_proba(random_images(5, (3, 8, 8)).to(DEVICE))
    assert probabilities.shape == (5, 3)


def test_a_whitening_is_fitted_without_a_wait_before_its_eigenvectors(device: StandIn) -> None:
    counts = []
    for num_parts in (1, 6):
        with device.permit():
            parts = [torch.rand(8, 3, 4, 4).to(DEVICE) for _ in range(num_parts)]
            before = len(device.waits)
            assert fit_whitening(parts, 5).weight.device == DEVICE
        counts.append(len(device.waits) - before)
    assert counts == [1, 1]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_diagnostics_snapshot_mixes_no_devices(device: StandIn, network: str) -> None:
    with device.permit():
        training = make_training(make_batches(), network)
        line = Snapshots(training, 1).take()
        assert isinstance(training.model, MLP)
        idle_units(training.model, training.batches)
    assert len(line["layers"]) == len(NETWORKS[network]["hidden"]) + 1


def test_the_range_test_waits_for_the_loss_alone(device: StandIn) -> None:
    with device.permit():
        training = make_training(make_batches(), "all", "sgd")
        before = len(device.waits)
        steps = list(itertools.islice(lr_range_test(training), 6))
    assert len(steps) == 6
    assert len(device.waits) - before == 6
