"""Rules of fcnet.diagnostics.nonfinite, and of a training that meets NaN or inf."""

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

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.losses import Loss

NAN, INF = math.nan, math.inf
STEPS = 5  # an epoch's: 37 images in batches of 8


def network(**arguments: Any) -> MLP:
    settings: dict[str, Any] = {"hidden": (6, 6), "num_classes": 3} | arguments
    return MLP(20, generator=torch.Generator().manual_seed(1), **settings)


def layer(model: MLP, number: int) -> Any:
    """A layer, from 1, whose parts are known to be there."""
    return model.dense_layers()[number - 1]


def images(size: int = 37) -> Tensor:
    return torch.randn(size, 20, generator=torch.Generator().manual_seed(3))


def labels(size: int = 37) -> Tensor:
    return torch.arange(size) % 3


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


def course(model: nn.Module, *, pixels: Tensor | None = None, loss: Loss | None = None, **settings: Any) -> Training:
    batches = Batches(images() if pixels is None else pixels, labels(), batch_size=8)
    lr = settings.pop("lr", 0.1)
    algorithm = GradientDescent(sgd(model, lr), epochs=2, loss=loss or CrossEntropy(), **settings)
    return Training(model, batches, algorithm, seed=4)


def stopped(training: Training) -> NonFiniteError:
    with pytest.raises(NonFiniteError) as refusal:
        list(training.advance())
    return refusal.value


def parameters(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def is_equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


# --- where a number first is none -------------------------------------------------------------------------------


def in_image(model: MLP, x: Tensor) -> None:
    x[2, 7] = -INF


def in_weights(number: int, value: float) -> Callable[[MLP, Tensor], None]:
    def plant(model: MLP, x: Tensor) -> None:
        layer(model, number).weight[0, 0] = value

    return plant


def in_bias(number: int, value: float) -> Callable[[MLP, Tensor], None]:
    def plant(model: MLP, x: Tensor) -> None:
        layer(model, number).bias[0] = value

    return plant


def in_scale(model: MLP, x: Tensor) -> None:
    layer(model, 2).normalization.weight[1] = NAN


def far_apart(model: MLP, x: Tensor) -> None:
    """Logits that are numbers and whose difference is none."""
    in_bias(3, 3e38)(model, x)
    layer(model, 3).bias[1] = -3e38


def both_large(model: MLP, x: Tensor) -> None:
    """z of layer 2, and what the residual layer adds to it, that are numbers and whose sum is none."""
    in_bias(1, 3e38)(model, x)
    layer(model, 2).weight.zero_()
    in_bias(2, 3e38)(model, x)


PLACES: list[tuple[str, Callable[[MLP, Tensor], None], dict[str, Any], int | None, str]] = [
    ("image", in_image, {}, None, "the images"),
    ("weights of the first layer", in_weights(1, NAN), {}, 1, "the weights of layer 1"),
    ("weights of a later layer", in_weights(2, INF), {}, 2, "the weights of layer 2"),
    ("bias", in_bias(2, NAN), {}, 2, "the bias of layer 2"),
    ("scale", in_scale, {"normalization": "batch"}, 2, "γ of the normalisation of layer 2"),
    ("preactivation", in_weights(1, 3e38), {}, 1, "z of layer 1"),
    ("activation", both_large, {"residual": True, "activation": "identity"}, 2, "a of layer 2"),
    ("logits", in_weights(3, 3e38), {"activation": "gelu"}, 3, "the logits, z of layer 3"),
    ("loss", far_apart, {}, None, "the loss"),
]


@pytest.mark.parametrize(
    ("plant", "settings", "at", "words"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES]
)
def test_the_place_is_where_it_was_planted(
    plant: Callable[[MLP, Tensor], None], settings: dict[str, Any], at: int | None, words: str
) -> None:
    model, x = network(**settings), images() * 50.0
    assert first_nonfinite(model, x, labels(), CrossEntropy()) is None
    with torch.no_grad():
        plant(model, x)
    place = first_nonfinite(model, x, labels(), CrossEntropy())
    assert place is not None
    assert (place.layer, place.description) == (at, words)


def test_one_output_node_is_looked_at_as_it_is_trained() -> None:
    model, target = LogisticRegression(20), labels() % 2
    assert first_nonfinite(model, images(), target, CrossEntropy()) is None
    with torch.no_grad():
        layer(model, 1).bias.fill_(INF)
    place = first_nonfinite(model, images(), target, CrossEntropy())
    assert place is not None
    assert place.description == "the bias of layer 1"


def test_a_module_of_torchs_is_named_by_its_own_names() -> None:
    first, last = nn.Linear(20, 6), nn.Linear(6, 3)
    model = nn.Sequential(first, nn.ReLU(), nn.Sequential(last))
    with torch.no_grad():
        first.weight.fill_(1e30)
    place = first_nonfinite(model, images() * 1e30, labels(), CrossEntropy())
    assert place is not None
    assert (place.layer, place.description) == ("0", "the output of module 0")
    with torch.no_grad():
        first.weight.fill_(1.0)
        last.bias[1] = NAN
    place = first_nonfinite(model, images(), labels(), CrossEntropy())
    assert place is not None
    assert (place.layer, place.description) == ("2.0", "bias of module 2.0")
    assert [bad.layer for bad in nonfinite_state(model)] == ["2.0"]
    assert not any(module._forward_hooks for module in model.modules())


def test_an_infinite_buffer_of_a_module_of_torchs_is_its_own_affair() -> None:
    model = nn.Linear(20, 3)
    model.register_buffer("mask", torch.full((3,), -INF))
    assert nonfinite_state(model) == []
    batch_normed = network(normalization="batch")
    layer(batch_normed, 1).normalization.running_var[0] = INF
    assert [place.description for place in nonfinite_state(batch_normed)] == ["the running variance of layer 1"]


def test_numbers_as_large_as_they_may_be_are_numbers() -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.finfo(torch.float32).max)
    assert nonfinite_state(model) == []


# --- a training that meets it -----------------------------------------------------------------------------------


def step_of_image(training: Training, image: Tensor) -> int:
    """The step of the first epoch, from 1, that an image is in."""
    for number, batch in enumerate(training.batches.epoch(4, 0), 1):
        if any(torch.equal(row, image) for row in batch.images.nan_to_num(nan=99.0)):
            return number
    raise AssertionError


@pytest.mark.parametrize("model", [network(), network(normalization="batch"), nn.Linear(20, 3)])
def test_a_bad_image_stops_the_step_that_it_is_in_before_the_parameters_move(model: nn.Module) -> None:
    pixels = images()
    pixels[11, 3] = NAN
    whole, training = course(copy.deepcopy(model)), course(model, pixels=pixels)
    step = step_of_image(training, pixels[11].nan_to_num(nan=99.0))
    error = stopped(training)
    list(itertools.islice(whole.advance(), step - 1))
    assert is_equal(parameters(model), parameters(whole.model))
    assert (error.step, error.layer, training.step) == (step, None, step - 1)
    expected = f"NaN or inf in step {step} of 10, first in the images; look at the images, which must be finite"
    assert str(error) == expected


@pytest.mark.parametrize("settings", [{}, {"normalization": "layer", "dropout": 0.2}])
def test_a_learning_rate_that_is_too_large_stops_with_what_to_try(settings: dict[str, Any]) -> None:
    error = stopped(course(network(**settings), lr=3e38))
    assert error.step == 2
    assert isinstance(error.layer, int)
    assert str(error).endswith("; try optimizer.lr = 1e+38 or 3e+37 (now 3e+38), optimizer.clip_norm = 1, "
                               "optimizer.warmup_epochs = 1")  # fmt: skip


def test_only_what_is_not_yet_done_is_to_be_tried() -> None:
    warmed: dict[str, Any] = {
        "clip_norm": 1.0,
        "schedule": lambda step: min(1.0, (step + 1) / 2),
        "precision": torch.bfloat16,
    }
    error = stopped(course(network(), lr=3e38, **warmed))
    assert str(error).endswith('; try optimizer.lr = 1e+38 or 3e+37 (now 3e+38), train.precision = "float32"')


def test_what_no_step_has_moved_is_not_laid_at_the_learning_rates_door() -> None:
    error = stopped(course(network(), pixels=images() * 1e38))
    assert (error.step, error.layer) == (1, 2)
    assert "; no step had moved the network yet: look at the size of the images' values, or try " in str(error)
    model = network()
    with torch.no_grad():
        layer(model, 2).bias[0] = NAN
    error = stopped(course(model))
    assert (error.step, error.layer) == (0, 2)
    assert str(error).startswith("NaN or inf before the first step, in the bias of layer 2; the network must be finite")


class SpoilsGradient:
    """A loss that is a number, and whose gradient in one step, from 1, is none."""

    def __init__(self, step: int) -> None:
        self.step, self.calls = step, 0

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        plain = CrossEntropy()(logits, target)
        return plain + ((logits - logits.detach()).abs().sqrt().sum() if self.calls == self.step else 0.0)


@pytest.mark.parametrize("step", [1, 3, STEPS, 2 * STEPS])
def test_a_gradient_that_is_none_is_laid_at_its_own_steps_door(step: int) -> None:
    error = stopped(course(network(), loss=SpoilsGradient(step)))
    assert (error.step, error.layer) == (step, 1)
    assert f"in step {step} of 10, first in the weights of layer 1; try " in str(error)


def test_where_the_gradients_norm_is_known_it_stops_the_step_before_the_parameters_move() -> None:
    model = network()
    whole = course(copy.deepcopy(model), loss=SpoilsGradient(step=0), clip_norm=1.0)
    error = stopped(course(model, loss=SpoilsGradient(3), clip_norm=1.0))
    list(itertools.islice(whole.advance(), 2))
    assert is_equal(parameters(model), parameters(whole.model))
    assert (error.step, error.layer) == (3, 3)
    assert "first in the gradient of the weights of layer 3; try " in str(error)


@pytest.mark.parametrize("step", [1, 3, STEPS, STEPS + 1, 2 * STEPS])
@pytest.mark.parametrize("begun", [0, 2])
def test_a_device_that_is_not_waited_for_still_tells_the_step(step: int, begun: int) -> None:
    class Spoils(SpoilsGradient):
        def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            return CrossEntropy()(logits, target) * (INF if self.calls == self.step else 1.0)

    training = course(network(), loss=Spoils(step))
    training.reads_losses = False
    if begun < step:
        events = training.advance()
        for _ in range(begun):
            next(events)
        kept = training.state()
        training = course(network(), loss=training.algorithm.loss)
        training.reads_losses = False
        training.restore(*kept)
    error = stopped(training)
    assert (error.step, error.layer) == (step, 1)
    assert f"in step {step} of 10, first in the loss, and by now in the weights of layer 1; " in str(error)
    assert training.step == (STEPS if step <= STEPS else 2 * STEPS)


@pytest.mark.parametrize("reads_losses", [True, False])
def test_the_state_of_a_spoilt_training_is_refused(reads_losses: bool) -> None:
    training = course(network(), loss=SpoilsGradient(1))
    training.reads_losses = reads_losses
    next(training.advance())
    with pytest.raises(NonFiniteError, match="in step 1 of 10, first in the weights of layer 1"):
        training.state()


def test_a_step_that_is_refused_counts_nowhere() -> None:
    training = course(network(), lr=3e38)
    stopped(training)
    assert (training.step, training.metrics.num_images) == (1, 8)
    with pytest.raises(NonFiniteError):
        train_step(training, next(iter(training.batches)))


def test_the_search_drops_the_units_that_the_step_dropped() -> None:
    """A unit of one layer alone overflows, and only in steps that keep it."""
    for seed in range(6):
        model = network(hidden=(6,), dropout=0.5, activation="identity")
        with torch.no_grad():
            layer(model, 1).bias[0] = 1e30
            layer(model, 2).weight[1, 0] = 1e30
        algorithm = GradientDescent(sgd(model, 0.0), epochs=40)
        one = Batches(images(1), labels(1), batch_size=1)
        error = stopped(Training(model, one, algorithm, seed=seed))
        assert (error.layer, "first in the logits" in str(error)) == (2, True)


def test_from_python_it_comes_out_of_fit() -> None:
    model = network()
    algorithm = GradientDescent(sgd(model, 3e38), epochs=2)
    with pytest.raises(NonFiniteError) as refusal:
        list(fit(model, (images(), labels()), algorithm, validation=(images(), labels())))
    assert refusal.value.step == 2
