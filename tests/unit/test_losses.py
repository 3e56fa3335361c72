"""fcnet.losses; torch in float64 is the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.testing import assert_close

from fcnet.functional import binary_cross_entropy
from fcnet.losses import CrossEntropy, ScoreLoss, check_loss, empirical_risk
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

SMOOTHINGS = [0.0, 0.1, 0.5]


def example(num_outputs: int, size: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float64 logits, (B,) for one output node or (B, C); and labels."""
    random = torch.Generator().manual_seed(seed)
    shape = (size,) if num_outputs == 1 else (size, num_outputs)
    logits = 3.0 * torch.randn(shape, dtype=torch.float64, generator=random)
    return logits, torch.randint(max(num_outputs, 2), (size,), generator=random)


def torchs_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    if logits.ndim == 1:
        target = labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_loss_is_the_sum_of_torchs_over_the_batch(num_outputs: int, smoothing: float) -> None:
    logits, labels = example(num_outputs)
    assert_close(CrossEntropy(smoothing)(logits, labels), torchs_loss(logits, labels, smoothing))


@given(st.integers(0, 100), st.sampled_from(SMOOTHINGS))
def test_one_node_gives_the_loss_of_two_nodes_with_the_first_logit_0(seed: int, smoothing: float) -> None:
    logits, labels = example(1, seed=seed)
    both = torch.stack([torch.zeros_like(logits), logits], dim=1)
    assert_close(CrossEntropy(smoothing)(logits, labels), CrossEntropy(smoothing)(both, labels))


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_loss_of_a_batch_is_the_sum_over_its_rows(num_outputs: int, smoothing: float) -> None:
    loss, (logits, labels) = CrossEntropy(smoothing), example(num_outputs)
    rows = [loss(logits[row : row + 1], labels[row : row + 1]) for row in range(len(labels))]
    assert_close(loss(logits, labels), torch.stack(rows).sum())


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_loss_of_an_empty_batch_is_0_and_has_a_gradient(num_outputs: int, smoothing: float) -> None:
    logits, labels = example(num_outputs, size=0)
    loss = CrossEntropy(smoothing)(logits.requires_grad_(), labels)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_gradient_is_the_one_torch_finds(num_outputs: int, smoothing: float) -> None:
    logits, labels = example(num_outputs)
    loss, grad_logits = CrossEntropy(smoothing).loss_and_grad(logits.clone(), labels)
    truth = torchs_loss(logits.requires_grad_(), labels, smoothing)
    (derivative,) = torch.autograd.grad(truth, logits)
    assert_close(loss, truth.detach())
    assert_close(grad_logits, derivative)


def mixed_labels(num_outputs: int, size: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """λ, weights, and two sets of one-hot labels, float64: (B, 1), (C,) and (B, C)."""
    random = torch.Generator().manual_seed(1)
    classes = max(num_outputs, 2)
    mix = torch.rand(size, 1, dtype=torch.float64, generator=random)
    first, second = (functional.one_hot(torch.randint(classes, (size,), generator=random), classes) for _ in range(2))
    return (
        mix,
        0.1 + 3.0 * torch.rand(classes, dtype=torch.float64, generator=random),
        first.double(),
        second.double(),
    )


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_mixed_label_gives_the_weighted_mean_of_the_labels_losses(num_outputs: int, smoothing: float) -> None:
    loss, (logits, _) = CrossEntropy(smoothing), example(num_outputs)
    mix, weights, first, second = mixed_labels(num_outputs)
    target = (mix * first + (1 - mix) * second) * weights
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(len(logits)):
        for factor, labels in ((mix[row], first), (1 - mix[row], second)):
            label = labels[row].argmax()
            label_loss = torchs_loss(logits[row : row + 1], label[None], smoothing)
            expected += (factor * weights[label]).squeeze() * label_loss
    assert_close(loss(logits, target), expected)


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_gradient_for_mixed_labels_is_that_of_their_loss(num_outputs: int, smoothing: float) -> None:
    logits, _ = example(num_outputs)
    mix, weights, first, second = mixed_labels(num_outputs)
    target = (mix * first + (1 - mix) * second) * weights
    both = torch.stack([torch.zeros_like(logits), logits], 1) if num_outputs == 1 else logits.clone()
    smoothed = target * (1 - smoothing) + smoothing * target.mean(1, keepdim=True)
    truth = -(smoothed * both.requires_grad_().log_softmax(1)).sum()
    (derivative,) = torch.autograd.grad(truth, both)
    loss, grad_logits = CrossEntropy(smoothing).loss_and_grad(logits, target)
    assert_close(loss, truth.detach())
    assert_close(grad_logits, derivative[:, 1] if num_outputs == 1 else derivative)
    CrossEntropy(smoothing)(logits.requires_grad_(), target).backward()
    assert_close(logits.grad, grad_logits)


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_one_hot_target_gives_the_loss_of_the_label(num_outputs: int, smoothing: float) -> None:
    loss, (logits, labels) = CrossEntropy(smoothing), example(num_outputs)
    target = functional.one_hot(labels, max(num_outputs, 2)).float()
    assert_close(loss(logits, target), loss(logits, labels))
    for ours, theirs in zip(loss.loss_and_grad(logits, target), loss.loss_and_grad(logits, labels), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_the_loss_of_an_empty_batch_of_probabilities_is_0(num_outputs: int) -> None:
    logits, _ = example(num_outputs, size=0)
    loss, grad_logits = CrossEntropy(0.1).loss_and_grad(logits, torch.zeros(0, max(num_outputs, 2)))
    assert loss.item() == CrossEntropy()(logits, torch.zeros(0, max(num_outputs, 2))).item() == 0.0
    assert grad_logits.shape == logits.shape


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_loss_and_grad_leaves_the_logits_as_they_are(num_outputs: int) -> None:
    logits, labels = example(num_outputs)
    before = logits.clone()
    CrossEntropy(0.1).loss_and_grad(logits, labels)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_a_confident_row_keeps_its_digits(num_outputs: int) -> None:
    logits = torch.tensor([20.0]) if num_outputs == 1 else torch.tensor([[-20.0, 0.0, -40.0]])
    truth = torch.tensor(-20.0, dtype=torch.float64).exp().log1p().float()
    loss, grad_logits = CrossEntropy().loss_and_grad(logits, torch.tensor([1]))
    # one rounding of e⁻²⁰ in float32, and two more after it
    assert_close(loss, truth, rtol=1e-6, atol=0.0)
    assert_close(CrossEntropy()(logits, torch.tensor([1])), truth, rtol=1e-6, atol=0.0)
    assert_close(grad_logits.reshape(-1)[1 if num_outputs > 1 else 0], -truth, rtol=1e-6, atol=0.0)
    doubled = torch.tensor([[0.0, 2.0, 0.0]])[:, : max(2, num_outputs)]
    loss, grad_logits = CrossEntropy().loss_and_grad(logits, doubled)
    assert_close(loss, 2 * truth, rtol=1e-6, atol=0.0)
    assert_close(CrossEntropy()(logits, doubled), 2 * truth, rtol=1e-6, atol=0.0)
    assert_close(grad_logits.reshape(-1)[1 if num_outputs > 1 else 0], -2 * truth, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wrong", [80.0, 90.0, 700.0, 800.0, 1e30, torch.inf])
def test_a_very_wrong_row_changes_no_other(num_outputs: int, dtype: torch.dtype, wrong: float) -> None:
    logits, labels = example(num_outputs, size=2)
    logits, labels = logits.to(dtype), torch.tensor([0, int(labels[1])])
    logits[0] = wrong if num_outputs == 1 else torch.tensor([0.0, wrong, 1.0])
    loss, grad_logits = CrossEntropy().loss_and_grad(logits, labels)
    rest, others = CrossEntropy().loss_and_grad(logits[1:], labels[1:])
    assert_close(loss, rest + wrong)
    assert_close(grad_logits[0], torch.tensor(1.0 if num_outputs == 1 else [-1.0, 1.0, 0.0], dtype=dtype))
    assert_close(grad_logits[1:], others)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_a_nan_logit_makes_its_row_nan_and_no_other(num_outputs: int) -> None:
    logits, labels = example(num_outputs)
    expected = CrossEntropy().loss_and_grad(logits[1:], labels[1:])[1]
    logits.view(len(logits), -1)[0, -1] = torch.nan
    loss, grad_logits = CrossEntropy().loss_and_grad(logits, labels)
    assert loss.isnan()
    assert grad_logits[0].isnan().all()
    assert_close(grad_logits[1:], expected)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_fake_tensors_give_the_shapes_of_loss_and_gradient(num_outputs: int) -> None:
    with FakeTensorMode() as mode:
        logits, labels = (mode.from_tensor(tensor) for tensor in example(num_outputs))
        loss, grad_logits = CrossEntropy().loss_and_grad(logits, labels)
    assert (loss.shape, grad_logits.shape) == ((), logits.shape)


def test_integer_labels_take_weights_as_probabilities_do() -> None:
    logits, labels = example(1)
    weight = torch.linspace(0.1, 2.0, len(logits), dtype=logits.dtype)
    ours = binary_cross_entropy.loss_and_grad(logits, labels, weight)
    assert_close(ours, binary_cross_entropy.loss_and_grad(logits, labels.double(), weight))


@pytest.mark.parametrize("num_outputs", [1, 5])
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.3, 1.0, 3.0]))
def test_the_gradient_is_as_exact_as_differences_of_the_logits(num_outputs: int, seed: int, scale: float) -> None:
    logits, labels = example(num_outputs, size=64, seed=seed)
    logits = (scale * logits).float()
    loss, grad_logits = CrossEntropy().loss_and_grad(logits, labels)
    truth, derivative = CrossEntropy().loss_and_grad(logits.double(), labels)
    assert_close(loss.double(), truth, rtol=3e-7, atol=0.0)
    spread = float(logits.max() - logits.min()) + 4.0
    assert_close(grad_logits.double(), derivative, rtol=spread * 2.0**-23, atol=0.0)


# --- losses of a score ----------------------------------------------------------------------------

FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logistic": lambda h, y: torch.log1p(torch.exp(-y * h)),
    "hinge": lambda h, y: torch.clamp(1 - y * h, min=0),
    "quadratic": lambda h, y: (y - h) ** 2,
}
every_score_loss = pytest.mark.parametrize("name", FORMULAS)


@every_score_loss
def test_a_score_loss_is_its_formula_for_classes_minus_1_and_plus_1(name: str) -> None:
    scores, labels = example(1)
    y = torch.where(labels == 1, 1.0, -1.0).double()
    assert_close(ScoreLoss(name)(scores, labels), FORMULAS[name](scores, y).sum())


@every_score_loss
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_mixed_label_gives_the_weighted_mean_of_both_classes_score_losses(name: str, smoothing: float) -> None:
    scores, labels = example(1)
    mix, weights, first, second = mixed_labels(1)
    target = (mix * first + (1 - mix) * second) * weights
    even = smoothing * target.mean(1, keepdim=True)
    of_first, of_second = ((1 - smoothing) * target + even).unbind(1)
    ones = torch.ones_like(scores)
    expected = (of_first * FORMULAS[name](scores, -ones) + of_second * FORMULAS[name](scores, ones)).sum()
    loss = ScoreLoss(name, smoothing)
    assert_close(loss(scores, target), expected)
    one_hot = functional.one_hot(labels, 2).float()
    assert_close(loss(scores, one_hot), loss(scores, labels))
    assert_close(loss(scores.float(), one_hot), loss(scores.float(), labels))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("soft", [False, True])
def test_the_logistic_loss_and_its_gradient_are_those_of_the_cross_entropy_of_one_node(
    smoothing: float, soft: bool
) -> None:
    scores, labels = example(1)
    mix, weights, first, second = mixed_labels(1)
    target = (mix * first + (1 - mix) * second) * weights if soft else labels
    results = []
    for loss in (ScoreLoss("logistic", smoothing), CrossEntropy(smoothing)):
        leaf = scores.clone().requires_grad_()
        value = loss(leaf, target)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    assert_close(results[0], results[1], rtol=1e-13, atol=1e-15)


@every_score_loss
def test_weight_0_leaves_out_an_infinite_loss(name: str) -> None:
    scores, right = torch.tensor([torch.inf, -torch.inf]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert ScoreLoss(name)(scores, right).item() == (torch.inf if name == "quadratic" else 0.0)


def test_a_score_loss_needs_a_known_name_and_one_node() -> None:
    with pytest.raises(UserError, match=r"^name must be one of logistic, hinge, quadratic, got 'square'$"):
        ScoreLoss("square")
    with pytest.raises(
        UserError, match=r"^expected scores \(B,\) of one output node for the hinge loss, got \(4, 3\)$"
    ):
        ScoreLoss("hinge")(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))


# --- the empirical risk ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_empirical_risk_is_the_mean_loss_and_differentiable(num_classes: int) -> None:
    draws = torch.Generator().manual_seed(3)
    model, images = MLP(4, (3,), num_classes, generator=draws).double(), torch.rand(9, 4, generator=draws).double()
    labels = torch.randint(num_classes, (9,), generator=draws)
    risk = empirical_risk(model, images, labels, CrossEntropy())
    alone = [CrossEntropy()(model(images[row : row + 1]), labels[row : row + 1]) for row in range(9)]
    assert_close(risk, torch.stack(alone).mean())
    for one, other in zip(
        torch.autograd.grad(risk, list(model.parameters())),
        torch.autograd.grad(torch.stack(alone).mean(), list(model.parameters())),
        strict=True,
    ):
        assert_close(one, other)


def test_the_empirical_risk_of_no_examples_is_refused() -> None:
    with pytest.raises(UserError, match=r"^images must hold at least one example, got 0$"):
        empirical_risk(MLP(4, (), 2), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), CrossEntropy())


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_loss_that_sums_is_taken_and_a_mean_is_not(num_classes: int) -> None:
    check_loss(lambda logits, labels: CrossEntropy()(logits, labels), num_classes, torch.device("cpu"))
    check_loss(lambda logits, labels: 0.0 * logits.sum(), num_classes, torch.device("cpu"))
    with pytest.raises(UserError, match=r"^loss must return the sum of a batch, got the mean"):
        check_loss(
            lambda logits, labels: CrossEntropy()(logits, labels) / len(labels), num_classes, torch.device("cpu")
        )


TARGET = "target must be class indices, int64 (B,), or the probability of each class, (B, C), "
Z, Y, SCORES, BINARY = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.randn(4), torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CrossEntropy(2.0), "label_smoothing must be from 0 to 1, got 2.0"),
        (lambda: CrossEntropy("mean"), "label_smoothing must be from 0 to 1, got 'mean'"),  # type: ignore[arg-type]
        (lambda: ScoreLoss("hinge", -0.1), "label_smoothing must be from 0 to 1, got -0.1"),
        (
            lambda: CrossEntropy()(SCORES[:, None], BINARY),
            "logits must be (B,) for two classes, got (4, 1); pass logits.squeeze(1)",
        ),
        (
            lambda: CrossEntropy()(SCORES, BINARY.float()),
            TARGET + "got torch.float32 (4,); for indices pass target.long()",
        ),
        (
            lambda: ScoreLoss("hinge")(SCORES, torch.rand(4, 3)),
            "target must be (B, 2) for logits (B,) of one output node, got (4, 3)",
        ),
        (
            lambda: CrossEntropy()(Z.numpy(), Y),  # type: ignore[arg-type]
            "logits must be a tensor, got a ndarray; pass torch.as_tensor(logits)",
        ),
        (
            lambda: ScoreLoss("hinge")(SCORES, [0, 1, 1, 0]),  # type: ignore[arg-type]
            "target must be a tensor, got a list; pass torch.as_tensor(target)",
        ),
        (
            lambda: check_loss("hinge", 3, torch.device("cpu")),  # type: ignore[arg-type]
            "loss must be a function of logits and labels, got 'hinge'; fcnet.losses.CrossEntropy() is such a loss",
        ),
    ],
)
def test_a_call_that_cannot_be_meant_is_one_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == message
