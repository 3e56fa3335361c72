"""Tests of fcnet.evaluation.temperature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp
from torch.testing import assert_close

from fcnet import MLP, LogisticRegression
from fcnet.data.batches import Batches
from fcnet.evaluation import divide_logits, evaluate, find_temperature, fit_temperature
from fcnet.runtime.errors import UserError
from tests.helpers import random_classifier, random_images, seeded

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor


def draw(seed: int, num_images: int = 300, num_classes: int = 5, temperature: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    generator = seeded(seed)
    logits = 3 * torch.randn(num_images, num_classes, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


def scipy_loss(temperature: float, logits: Tensor, labels: Tensor) -> float:
    z: npt.NDArray[np.float64] = logits.double().numpy() / temperature
    return float(-log_softmax(z, axis=1)[np.arange(len(z)), labels.numpy()].mean())


@pytest.mark.parametrize(("seed", "num_classes", "scale"), [(0, 5, 1.0), (1, 2, 1.0), (2, 50, 1e-6), (3, 3, 1e6)])
def test_the_loss_is_the_minimum_that_scipy_finds(seed: int, num_classes: int, scale: float) -> None:
    logits, labels = draw(seed, num_classes=num_classes)
    logits = logits.double() * scale
    fit = find_temperature(logits, labels)
    found = minimize_scalar(
        lambda log_t: scipy_loss(scale * math.exp(log_t), logits, labels), bounds=(-3, 3), options={"xatol": 1e-12}
    )
    assert fit.temperature == pytest.approx(scale * math.exp(found.x), rel=1e-6)  # scipy knows the loss, not its slope
    assert fit.loss == pytest.approx(scipy_loss(fit.temperature, logits, labels), rel=1e-13)
    assert fit.loss <= found.fun + 1e-15
    assert fit.loss_before == pytest.approx(scipy_loss(1.0, logits, labels), rel=1e-13)
    assert 0.0 <= fit.gap < 1e-18
    assert fit.reason is None


def test_the_derivative_is_zero_where_mpmath_takes_it_with_50_digits() -> None:
    mpmath = pytest.importorskip("mpmath")
    logits, labels = draw(4, num_images=40)
    fit = find_temperature(logits, labels)
    with mpmath.workdps(50):
        rows = [[mpmath.mpf(value) for value in row] for row in logits.tolist()]

        def slope(beta: float) -> Any:
            total = mpmath.mpf(0)
            for row, label in zip(rows, labels.tolist(), strict=True):
                powers = [mpmath.exp(beta * value) for value in row]
                total += mpmath.fdot(powers, row) / mpmath.fsum(powers) - row[label]
            return total / len(rows)

        beta = mpmath.findroot(slope, 1 / fit.temperature)
    assert fit.temperature == pytest.approx(float(1 / beta), rel=1e-14)


@pytest.mark.parametrize("factor", [0.1, 0.7, 0.95, 0.999, 1.001, 1.05, 1.4, 30.0])
def test_the_gap_bounds_the_distance_from_the_minimum_at_any_temperature(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels = draw(10)
    best = find_temperature(logits, labels)
    beta = factor / best.temperature
    monkeypatch.setattr("fcnet.evaluation.temperature._minimize", lambda derivatives: (beta, derivatives(beta)))
    away = find_temperature(logits, labels)
    assert 0.0 < away.loss - best.loss <= away.gap
    assert away.gap < 100 * (away.loss - best.loss) or not 0.9 < factor < 1.1


def test_temperatures_of_drawn_labels_are_found_again() -> None:
    logits, labels = draw(5, num_images=40_000, temperature=1.7)
    assert find_temperature(logits, labels).temperature == pytest.approx(1.7, rel=0.03)  # 3 standard errors


def test_one_output_node_is_two_logits() -> None:
    logits, labels = draw(6, num_classes=2)
    one = find_temperature(logits[:, 1] - logits[:, 0], labels)
    assert one.temperature == pytest.approx(find_temperature(logits, labels).temperature, rel=1e-6)  # float32 rounds


@given(st.floats(0.01, 100.0), st.floats(-50.0, 50.0))
def test_scaled_logits_have_a_scaled_temperature_and_a_common_offset_changes_nothing(scale: float, add: float) -> None:
    logits, labels = draw(7, num_images=60)
    logits = logits.double()
    fit, other = find_temperature(logits, labels), find_temperature(logits * scale + add, labels)
    assert other.temperature == pytest.approx(scale * fit.temperature, rel=1e-10)
    assert other.loss == pytest.approx(fit.loss, rel=1e-10)


def test_fitting_again_changes_nothing() -> None:
    logits, labels = draw(8)
    logits = logits.double()
    temperature = find_temperature(logits, labels).temperature
    assert find_temperature(logits / temperature, labels).temperature == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("logits", "labels", "reason"),
    [
        ([[2.0, 0.0], [0.0, 3.0]], [0, 1], "every image is classified correctly, and the loss falls as T → 0"),
        ([[2.0, 2.0, 0.0]], [1], "every image is classified correctly, and the loss falls as T → 0"),
        ([[2.0, 0.0], [0.0, 3.0]], [1, 0], "the logits are no better than equal ones, and the loss falls as T → ∞"),
        ([[2.0, 0.0], [2.0, 0.0]], [0, 1], "the logits are no better than equal ones, and the loss falls as T → ∞"),
        ([[1.0, 1.0], [2.0, 2.0]], [0, 1], "the logits are no better than equal ones, and the loss falls as T → ∞"),
        ([[math.nan, 1.0], [2.0, 2.0]], [0, 1], "a logit is not finite"),
        ([[math.inf, 1.0], [2.0, 2.0]], [0, 1], "a logit is not finite"),
    ],
)
def test_the_temperature_stays_one_where_no_temperature_is_best(
    logits: list[list[float]], labels: list[int], reason: str
) -> None:
    fit = find_temperature(torch.tensor(logits), torch.tensor(labels))
    assert (fit.temperature, fit.reason, fit.gap) == (1.0, reason, math.inf)


@pytest.mark.parametrize("margin", [1e-3, 1.0, 700.0, 1e4])
def test_a_single_mistake_among_many_correct_images_has_a_small_but_positive_temperature(margin: float) -> None:
    logits = torch.tensor([[margin, 0.0]] * 1000, dtype=torch.float64)
    labels = torch.tensor([0] * 999 + [1])
    fit = find_temperature(logits, labels)
    assert fit.temperature == pytest.approx(margin / math.log(999), rel=1e-10)
    assert fit.gap < 1e-15


def test_huge_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e30, 0.0], [1e30, 0.0], [0.0, 1e30]])
    fit = find_temperature(logits, torch.tensor([0, 1, 1]))
    assert fit.temperature == pytest.approx(1e30 / math.log(2), rel=1e-6)


def test_a_model_is_fitted_batch_by_batch_and_not_changed() -> None:
    x = torch.randn(70, 6, generator=seeded(0))
    y = torch.randint(3, (70,), generator=seeded(1))
    model = MLP(6, (8,), 3, generator=seeded(2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit = fit_temperature(model, Batches(x, y, batch_size=16))
    with torch.no_grad():
        whole = find_temperature(model(x), y)
    assert fit.temperature == pytest.approx(whole.temperature, rel=1e-5)  # float32 products of other shapes
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_image_classifier_is_fitted_and_divided() -> None:
    classifier = random_classifier(hidden=(8,))
    pixels, labels = random_images(60, classifier.shape, seed=0), torch.randint(3, (60,), generator=seeded(4))
    with torch.no_grad():
        before = classifier(pixels)
    divide_logits(classifier, 2.0)
    with torch.no_grad():
        assert_close(classifier(pixels), before / 2)
    assert fit_temperature(classifier, (pixels, labels)).loss_before == pytest.approx(
        scipy_loss(1.0, before / 2, labels), rel=1e-5
    )


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_a_divided_model_has_the_divided_logits_and_the_fitted_loss(num_classes: int, bias: bool) -> None:
    x = torch.randn(90, 6, generator=seeded(0))
    model = MLP(6, (8,), num_classes, bias=bias, generator=seeded(2))
    with torch.no_grad():
        before = 4 * model(x)
        model.dense_layers()[-1].weight.mul_(4)
        two = torch.stack([torch.zeros_like(before), before], 1) if num_classes == 2 else before
        y = torch.multinomial((two / 2).softmax(1), 1, generator=seeded(3))[:, 0]
        fit = fit_temperature(model, (x, y))
        divide_logits(model, fit.temperature)
        assert_close(model(x), before / fit.temperature)
    assert fit.temperature != pytest.approx(1.0, abs=0.1)
    assert evaluate(model, (x, y)).loss == pytest.approx(fit.loss, rel=1e-6)


def test_logits_of_many_classes_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = draw(9)
    whole = find_temperature(logits, labels)
    monkeypatch.setattr("fcnet.evaluation.temperature._VALUES_AT_ONCE", 17)
    parts = find_temperature(logits, labels)
    assert parts.temperature == pytest.approx(whole.temperature, rel=1e-13)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-13)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(3).long(),
            "expected logits (N,) or (N, C) and labels (N,), got (2, 3) and (3,)",
        ),
        (
            torch.zeros(0, 3),
            torch.zeros(0).long(),
            "expected logits (N,) or (N, C) and labels (N,), got (0, 3) and (0,)",
        ),
        (torch.zeros(1, 3), torch.tensor([3]), "labels must be whole numbers from 0 to 2"),
        (torch.zeros(1), torch.tensor([-1]), "labels must be whole numbers from 0 to 1"),
        (torch.zeros(1), torch.tensor([0.5]), "labels must be whole numbers from 0 to 1"),
    ],
)
def test_logits_and_labels_that_do_not_fit_are_refused(logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(UserError) as error:
        find_temperature(logits, labels)
    assert str(error.value) == message


def test_only_a_network_is_divided_and_only_by_a_positive_number() -> None:
    with pytest.raises(UserError, match=r"^model must be an fcnet.MLP or an image classifier, got a Linear$"):
        divide_logits(torch.nn.Linear(1, 1), 2.0)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UserError, match="temperature must be greater than 0 and finite, got"):
            divide_logits(LogisticRegression(1), temperature)


def test_the_loss_of_confident_images_keeps_its_digits() -> None:
    logits = torch.tensor([[40.0, 0.0, -1.0]] * 9 + [[0.0, 1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0] * 10)
    fit = find_temperature(logits, labels)
    truth = np.mean([logsumexp(row) - row[0] for row in logits.numpy() / fit.temperature])
    assert fit.loss == pytest.approx(truth, rel=1e-14)
