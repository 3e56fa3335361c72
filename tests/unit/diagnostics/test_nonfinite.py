"""Tests of fcnet.diagnostics.nonfinite, alone and in a training that meets NaN or inf."""

from __future__ import annotations

import copy
import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from fcnet import fit
from fcnet.data.batches import Batches
from fcnet.diagnostics.nonfinite import first_nonfinite, nonfinite_state
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.runtime.errors import NonFiniteError
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training, train_step
from tests.unit.diagnostics.helpers import get_layer, make_images, make_labels, make_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.losses import Loss

NAN, INF = math.nan, math.inf
STEPS_PER_EPOCH = 5  # 37 images in batches of 8


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


def make_training(
    model: nn.Module, *, pixels: Tensor | None = None, loss: Loss | None = None, **settings: Any
) -> Training:
    batches = Batches(make_images() if pixels is None else pixels, make_labels(), batch_size=8)
    lr = settings.pop("lr", 0.1)
    algorithm = GradientDescent(sgd(model, lr), epochs=2, loss=loss or CrossEntropy(), **settings)
    return Training(model, batches, algorithm, seed=4)


def run_until_error(training: Training) -> NonFiniteError:
    with pytest.raises(NonFiniteError) as error_info:
        list(training.advance())
    return error_info.value


def copy_parameters(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- the location of the first NaN or inf -----------------------------------------------------------------------


def in_image(model: MLP, x: Tensor) -> None:
    x[2, 7] = -INF


def in_weights(number: int, value: float) -> Callable[[MLP, Tensor], None]:
    def plant(model: MLP, x: Tensor) -> None:
        get_layer(model, number).weight[0, 0] = value

    return plant


def in_bias(number: int, value: float) -> Callable[[MLP, Tensor], None]:
    def plant(model: MLP, x: Tensor) -> None:
        get_layer(model, number).bias[0] = value

    return plant


def in_scale(model: MLP, x: Tensor) -> None:
    get_layer(model, 2).normalization.weight[1] = NAN


def far_apart(model: MLP, x: Tensor) -> None:
    """Makes the logits finite and their difference infinite."""
    in_bias(3, 3e38)(model, x)
    get_layer(model, 3).bias[1] = -3e38


def both_large(model: MLP, x: Tensor) -> None:
    """Makes z of layer 2 and the input that the residual layer adds to it finite, and their sum infinite."""
    in_bias(1, 3e38)(model, x)
    get_layer(model, 2).weight.zero_()
    in_bias(2, 3e38)(model, x)


PLACES: list[tuple[str, Callable[[MLP, Tensor], None], dict[str, Any], int | None, str]] = [
    ("image", in_image, {}, None, "the images"),
    ("weights of the first layer", in_weights(1, NAN), {}, 1, "the weights of layer 1"),
    ("weights of a later layer", in_weights(2, INF), {}, 2, "the weights of layer 2"),
    ("bias", in_bias(2, NAN), {}, 2, "the bias of layer 2"),
    ("scale", in_scale, {"normalization": "batch"}, 2, "γ of the normalization of layer 2"),
    ("preactivation", in_weights(1, 3e38), {}, 1, "z of layer 1"),
    ("activation", both_large, {"residual": True, "activation": "identity"}, 2, "a of layer 2"),
    ("logits", in_weights(3, 3e38), {"activation": "gelu"}, 3, "the logits, z of layer 3"),
    ("loss", far_apart, {}, None, "the loss"),
]


@pytest.mark.parametrize(
    ("plant", "settings", "at", "words"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES]
)
def test_the_location_is_where_nan_or_inf_was_planted(
    plant: Callable[[MLP, Tensor], None], settings: dict[str, Any], at: int | None, words: str
) -> None:
    model, x = make_model(**settings), make_images() * 50.0
    assert first_nonfinite(model, x, make_labels(), CrossEntropy()) is None
    with torch.no_grad():
        plant(model, x)
    location = first_nonfinite(model, x, make_labels(), CrossEntropy())
    assert location is not None
    assert (location.layer, location.description) == (at, words)


def test_a_model_with_one_output_node_is_searched_with_its_loss() -> None:
    model, target = LogisticRegression(20), make_labels() % 2
    assert first_nonfinite(model, make_images(), target, CrossEntropy()) is None
    with torch.no_grad():
        get_layer(model, 1).bias.fill_(INF)
    location = first_nonfinite(model, make_images(), target, CrossEntropy())
    assert location is not None
    assert location.description == "the bias of layer 1"


def test_locations_in_torch_modules_have_their_names() -> None:
    first, last = nn.Linear(20, 6), nn.Linear(6, 3)
    model = nn.Sequential(first, nn.ReLU(), nn.Sequential(last))
    with torch.no_grad():
        first.weight.fill_(1e30)
    location = first_nonfinite(model, make_images() * 1e30, make_labels(), CrossEntropy())
    assert location is not None
    assert (location.layer, location.description) == ("0", "the output of module 0")
    with torch.no_grad():
        first.weight.fill_(1.0)
        last.bias[1] = NAN
    location = first_nonfinite(model, make_images(), make_labels(), CrossEntropy())
    assert location is not None
    assert (location.layer, location.description) == ("2.0", "bias of module 2.0")
    assert [bad.layer for bad in nonfinite_state(model)] == ["2.0"]
    assert not any(module._forward_hooks for module in model.modules())


def test_buffers_of_torch_modules_may_be_infinite() -> None:
    model = nn.Linear(20, 3)
    model.register_buffer("mask", torch.full((3,), -INF))
    assert nonfinite_state(model) == []
    batch_normed = make_model(normalization="batch")
    get_layer(batch_normed, 1).normalization.running_var[0] = INF
    assert [location.description for location in nonfinite_state(batch_normed)] == ["the running variance of layer 1"]


def test_the_largest_float32_is_finite() -> None:
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.finfo(torch.float32).max)
    assert nonfinite_state(model) == []


# --- a training that meets NaN or inf ---------------------------------------------------------------------------


def find_step(training: Training, image: Tensor) -> int:
    """The step of the first epoch, from 1, with an image in its batch."""
    for number, batch in enumerate(training.batches.epoch(4, 0), 1):
        if any(torch.equal(row, image) for row in batch.images.nan_to_num(nan=99.0)):
            return number
    raise AssertionError


@pytest.mark.parametrize("model", [make_model(), make_model(normalization="batch"), nn.Linear(20, 3)])
def test_a_nonfinite_image_stops_its_step_before_the_parameters_change(model: nn.Module) -> None:
    pixels = make_images()
    pixels[11, 3] = NAN
    reference, training = make_training(copy.deepcopy(model)), make_training(model, pixels=pixels)
    step = find_step(training, pixels[11].nan_to_num(nan=99.0))
    error = run_until_error(training)
    list(itertools.islice(reference.advance(), step - 1))
    assert are_equal(copy_parameters(model), copy_parameters(reference.model))
    assert (error.step, error.layer, training.step) == (step, None, step - 1)
    expected = f"NaN or inf in step {step} of 10, first in the images; check the images: all values must be finite"
    assert str(error) == expected


@pytest.mark.parametrize("settings", [{}, {"normalization": "layer", "dropout": 0.2}])
def test_a_learning_rate_that_is_too_large_stops_with_advice(settings: dict[str, Any]) -> None:
    error = run_until_error(make_training(make_model(**settings), lr=3e38))
    assert error.step == 2
    assert isinstance(error.layer, int)
    assert str(error).endswith("; try optimizer.lr = 1e+38 or 3e+37 (now 3e+38), optimizer.clip_norm = 1, "
                               "optimizer.warmup_epochs = 1")  # fmt: skip


def test_the_advice_leaves_out_what_is_already_set() -> None:
    warmed: dict[str, Any] = {
        "clip_norm": 1.0,
        "schedule": lambda step: min(1.0, (step + 1) / 2),
        "precision": torch.bfloat16,
    }
    error = run_until_error(make_training(make_model(), lr=3e38, **warmed))
    assert str(error).endswith('; try optimizer.lr = 1e+38 or 3e+37 (now 3e+38), train.precision = "float32"')


def test_nonfinite_values_before_any_update_are_not_blamed_on_the_learning_rate() -> None:
    error = run_until_error(make_training(make_model(), pixels=make_images() * 1e38))
    assert (error.step, error.layer) == (1, 2)
    assert "; the weights were still the initial ones: check the range of the image values, or try " in str(error)
    model = make_model()
    with torch.no_grad():
        get_layer(model, 2).bias[0] = NAN
    error = run_until_error(make_training(model))
    assert (error.step, error.layer) == (0, 2)
    assert str(error).startswith(
        "NaN or inf before the first step, in the bias of layer 2; all parameters must be finite"
    )


class NonfiniteGradient:
    """A finite loss with a NaN gradient in one step, counted from 1."""

    def __init__(self, step: int) -> None:
        self.step, self.calls = step, 0

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        plain = CrossEntropy()(logits, target)
        return plain + ((logits - logits.detach()).abs().sqrt().sum() if self.calls == self.step else 0.0)


@pytest.mark.parametrize("step", [1, 3, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH])
def test_a_nonfinite_gradient_is_reported_for_its_own_step(step: int) -> None:
    error = run_until_error(make_training(make_model(), loss=NonfiniteGradient(step)))
    assert (error.step, error.layer) == (step, 1)
    assert f"in step {step} of 10, first in the weights of layer 1; try " in str(error)


def test_with_clipping_a_nonfinite_gradient_stops_its_step_before_the_parameters_change() -> None:
    model = make_model()
    reference = make_training(copy.deepcopy(model), loss=NonfiniteGradient(step=0), clip_norm=1.0)
    error = run_until_error(make_training(model, loss=NonfiniteGradient(3), clip_norm=1.0))
    list(itertools.islice(reference.advance(), 2))
    assert are_equal(copy_parameters(model), copy_parameters(reference.model))
    assert (error.step, error.layer) == (3, 3)
    assert "first in the gradient of the weights of layer 3; try " in str(error)


@pytest.mark.parametrize("step", [1, 3, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH])
@pytest.mark.parametrize("begun", [0, 2])
def test_without_a_sync_per_step_the_step_is_still_reported(step: int, begun: int) -> None:
    class NonfiniteLoss(NonfiniteGradient):
        def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            return CrossEntropy()(logits, target) * (INF if self.calls == self.step else 1.0)

    training = make_training(make_model(), loss=NonfiniteLoss(step))
    training.reads_losses = False
    if begun < step:
        events = training.advance()
        for _ in range(begun):
            next(events)
        saved = training.state()
        training = make_training(make_model(), loss=training.algorithm.loss)
        training.reads_losses = False
        training.restore(*saved)
    error = run_until_error(training)
    assert (error.step, error.layer) == (step, 1)
    assert f"in step {step} of 10, first in the loss, and by now in the weights of layer 1; " in str(error)
    assert training.step == (STEPS_PER_EPOCH if step <= STEPS_PER_EPOCH else 2 * STEPS_PER_EPOCH)


@pytest.mark.parametrize("reads_losses", [True, False])
def test_a_training_with_nonfinite_parameters_cannot_be_saved(reads_losses: bool) -> None:
    training = make_training(make_model(), loss=NonfiniteGradient(1))
    training.reads_losses = reads_losses
    next(training.advance())
    with pytest.raises(NonFiniteError, match="in step 1 of 10, first in the weights of layer 1"):
        training.state()


def test_a_step_that_fails_is_not_counted() -> None:
    training = make_training(make_model(), lr=3e38)
    run_until_error(training)
    assert (training.step, training.metrics.num_images) == (1, 8)
    with pytest.raises(NonFiniteError):
        train_step(training, next(iter(training.batches)))


def test_the_search_uses_the_dropout_mask_of_the_step() -> None:
    """One unit overflows, and only in steps that do not drop it."""
    for seed in range(6):
        model = make_model(hidden=(6,), dropout=0.5, activation="identity")
        with torch.no_grad():
            get_layer(model, 1).bias[0] = 1e30
            get_layer(model, 2).weight[1, 0] = 1e30
        algorithm = GradientDescent(sgd(model, 0.0), epochs=40)
        one = Batches(make_images(1), make_labels(1), batch_size=1)
        error = run_until_error(Training(model, one, algorithm, seed=seed))
        assert (error.layer, "first in the logits" in str(error)) == (2, True)


def test_fit_raises_the_error() -> None:
    model = make_model()
    algorithm = GradientDescent(sgd(model, 3e38), epochs=2)
    with pytest.raises(NonFiniteError) as error_info:
        fit(model, (make_images(), make_labels()), algorithm, validation=(make_images(), make_labels()))
    assert error_info.value.step == 2
