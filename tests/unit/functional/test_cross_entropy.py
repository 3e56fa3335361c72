"""fcnet.functional.cross_entropy: torch's values and gradients, with more digits, and its relations and edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

import fcnet.functional as F
from tests.unit.functional.helpers import (
    CONFIDENT_LOSS,
    INDEX_CASES,
    INF,
    LOGITS,
    NAN,
    PROBABILITY_CASES,
    TORCH,
    UNLIKELY,
    make_options,
    random_labels,
    random_tensor,
    value_and_grad,
    value_and_grads,
    without_classes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = [(4,), (1, 4), (7, 4), (5, 4, 3), (3, 4, 2, 2)]

# --- torch in float64 is the oracle ---------------------------------------------------------------


@pytest.mark.parametrize("case", INDEX_CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_class_indices_give_torchs_value_and_gradient(shape: tuple[int, ...], case: dict[str, Any]) -> None:
    x, y = random_tensor(*shape), random_labels(*without_classes(shape), num_classes=4)
    if shape == (4,) and case.get("ignore_index") == int(y):
        y = (y + 1) % 4
    ours = value_and_grads(lambda x: F.cross_entropy(x, y, **make_options(case)), x)
    theirs = value_and_grads(lambda x: TORCH.cross_entropy(x, y, **make_options(case)), x)
    assert_close(ours, theirs)


@pytest.mark.parametrize("case", PROBABILITY_CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_class_probabilities_give_torchs_value_and_gradients_in_logits_and_target(
    shape: tuple[int, ...], case: dict[str, Any]
) -> None:
    x, t = random_tensor(*shape), random_tensor(*shape, seed=1)
    ours = value_and_grads(lambda x, t: F.cross_entropy(x, t, **make_options(case)), x, t)
    theirs = value_and_grads(lambda x, t: TORCH.cross_entropy(x, t, **make_options(case)), x, t)
    assert_close(ours, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_in_the_class_weights_is_that_of_the_formula(soft: bool, smoothing: float) -> None:
    x, w = random_tensor(6, 4), random_tensor(4, seed=2).abs()
    y = random_labels(6, num_classes=4)
    one_hot = TORCH.one_hot(y, 4).double()
    t = one_hot * (1 - smoothing) + smoothing / 4

    def formula(w: Tensor) -> Tensor:
        total = 6 if soft else w[y].sum()
        return -(w * t * torch.log_softmax(x, 1)).sum() / total

    target = one_hot if soft else y
    ours = value_and_grads(lambda w: F.cross_entropy(x, target, w, label_smoothing=smoothing), w)
    assert_close(ours, value_and_grads(formula, w))


def test_other_accepted_targets_are_taken_as_torch_takes_them() -> None:
    x = random_tensor(3, 4, dtype=torch.float32)
    assert_close(
        F.cross_entropy(x, torch.tensor([0, 1, 3], dtype=torch.uint8)), F.cross_entropy(x, torch.tensor([0, 1, 3]))
    )
    assert_close(F.cross_entropy(x[0], torch.tensor([2]), reduction="none"), F.cross_entropy(x[0], torch.tensor(2)))
    assert F.cross_entropy(x, torch.softmax(x.double(), 1)).dtype == torch.float64


def test_the_meta_device_gives_the_shapes_of_loss_and_gradient() -> None:
    x = torch.zeros(5, 4, device="meta", requires_grad=True)
    for target in (torch.zeros(5, dtype=torch.int64, device="meta"), torch.zeros(5, 4, device="meta")):
        for smoothing in (0.0, 0.1):
            loss = F.cross_entropy(x, target, label_smoothing=smoothing)
            assert loss.shape == ()
            assert torch.autograd.grad(loss, x)[0].shape == (5, 4)


@pytest.mark.parametrize("case", INDEX_CASES, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_fake_tensors_give_the_shapes_of_loss_and_gradient(soft: bool, case: dict[str, Any]) -> None:
    if soft and "ignore_index" in case:
        return
    with FakeTensorMode():
        x = torch.zeros(5, 4, requires_grad=True)
        target = torch.zeros(5, 4) if soft else torch.zeros(5, dtype=torch.int64)
        loss = F.cross_entropy(x, target, **make_options(case, torch.float32))
        assert loss.shape == ((5,) if case.get("reduction") == "none" else ())
        assert torch.autograd.grad(loss.sum(), x)[0].shape == (5, 4)


# --- digits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 4096.0, -4096.0])
@pytest.mark.parametrize("kind", ["indices", "one-hot", "compiled", "func"])
def test_a_confident_row_keeps_its_digits(kind: str, offset: float) -> None:
    x = torch.tensor([[20.0, 0.0]]) + offset
    target = torch.tensor([[1.0, 0.0]]) if kind == "one-hot" else torch.tensor([0])

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(x, target)

    if kind == "func":
        gradient, value = torch.func.grad_and_value(loss)(x)
    else:
        function = torch.compile(loss, backend="aot_eager", fullgraph=True) if kind == "compiled" else loss
        value, gradient = value_and_grad(function, x)
    assert_close(value.item(), CONFIDENT_LOSS, rtol=1e-6, atol=0)  # some units in float32's last place
    assert_close(gradient, torch.tensor([[-UNLIKELY, UNLIKELY]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("through", ["backward", "func"])
def test_no_finite_logit_overflows(dtype: torch.dtype, through: str) -> None:
    large = torch.finfo(dtype).max / 4
    x = torch.tensor([[large, -large, 0.0], [-large, -large, -large]], dtype=dtype)
    for target in (torch.tensor([0, 1]), torch.tensor([1, 2])):
        value, gradient = value_and_grad(
            lambda x: F.cross_entropy(x, target, reduction="none"),  # noqa: B023
            x,
            through=through,
        )
        assert value.isfinite().all()
        assert gradient.isfinite().all()


@given(LOGITS, st.randoms(use_true_random=False))
def test_value_and_gradient_in_float32_are_as_near_to_the_truth_as_torchs(rows: list[list[float]], random: Any) -> None:
    x = torch.tensor(rows)
    y = torch.tensor([random.randrange(x.shape[1]) for _ in rows])
    weights = torch.linspace(0.5, 1.5, len(rows), dtype=torch.float64).unsqueeze(1)
    own = TORCH.one_hot(y, x.shape[1]).bool()
    others = torch.softmax(x.double(), 1).masked_fill(own, 0.0)
    exact = weights * torch.where(own, -others.sum(1, keepdim=True), others)
    value, gradient = value_and_grads(lambda x: F.cross_entropy(x, y, reduction="none"), x)
    theirs, their_gradient = value_and_grads(lambda x: TORCH.cross_entropy(x, y, reduction="none"), x)
    differences = x.double() - x.double().gather(1, y.unsqueeze(1))
    truth = differences.exp().masked_fill(own, 0.0).sum(1).log1p()
    for mine, other, right in ((value, theirs, truth), (gradient, their_gradient, exact)):
        some_units = 4 * torch.finfo(torch.float32).eps * right.abs() + 1e-44  # where torch's happens to be exact
        assert ((mine - right).abs() <= (other - right).abs() + some_units).all()
    # logits in eighths have exact differences: each probability can keep its relative precision
    normal = exact.abs() > 1e-37
    assert_close(gradient[normal], exact[normal].float(), rtol=2e-6, atol=0)


def as_two_forms(x: Tensor, y: Tensor, **options: Any) -> list[list[Tensor]]:
    """Value and gradient by the form of small batches, and by that of large ones: class weights of 1 take it."""
    ones = torch.ones(x.shape[1], dtype=x.dtype)
    return [value_and_grads(lambda x: F.cross_entropy(x, y, w, **options), x) for w in (None, ones)]  # noqa: B023


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("shape", [(64, 10), (5, 4, 3), (1, 1)], ids=str)
def test_few_labels_have_the_loss_and_the_gradient_of_many(shape: tuple[int, ...], reduction: str) -> None:
    x, y = random_tensor(*shape), random_labels(*without_classes(shape), num_classes=shape[1])
    small, large = as_two_forms(x, y, reduction=reduction)
    assert_close(small, large, rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("gap", [0.0, 7.0, 8.5, 20.0, 80.0, 1e4])
def test_the_gradient_keeps_its_digits_however_far_the_label_is_from_the_largest_logit(gap: float) -> None:
    """Differences to the label round more than those to the largest logit, so a far label takes the other form."""
    x = random_tensor(500, 3, scale=0.5, dtype=torch.float32) + torch.tensor([0.0, gap, gap - 1.0])
    y = torch.zeros(500, dtype=torch.int64)
    ours = value_and_grads(lambda x: F.cross_entropy(x, y, reduction="none"), x)
    exact = value_and_grads(lambda x: TORCH.cross_entropy(x, y, reduction="none"), x.double())
    for mine, truth in zip(ours, exact, strict=True):  # a few roundings, of a difference below 8 and of its power
        assert_close(mine.double(), truth, rtol=6 * torch.finfo(torch.float32).eps, atol=0)


def test_labels_may_not_change_between_loss_and_gradient() -> None:
    """As in torch: the gradient of a gradient would be that of other labels."""
    for library in (F, TORCH):
        x, y = random_tensor(3, 5).requires_grad_(), torch.tensor([0, 1, 2])
        loss = library.cross_entropy(x, y)
        y.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("case", INDEX_CASES, ids=str)
def test_a_loss_may_be_changed_in_place_before_its_gradient(case: dict[str, Any]) -> None:
    x, y = random_tensor(6, 4), random_labels(6, num_classes=4)
    ours, theirs = (
        value_and_grads(lambda x: library.cross_entropy(x, y, **make_options(case)).mul_(2.0), x)  # noqa: B023
        for library in (F, TORCH)
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_few_labels_of_half_precision_are_computed_in_float32_and_have_second_derivatives(dtype: torch.dtype) -> None:
    x, y = random_tensor(6, 4).to(dtype), random_labels(6, num_classes=4)

    def penalty(x: Tensor, library: Any) -> Tensor:
        gradient: Tensor = torch.autograd.grad(library.cross_entropy(x, y), x, create_graph=True)[0]
        return gradient.square().sum()

    for function in (lambda x, library: library.cross_entropy(x, y), penalty):
        (value, gradient), (exact, truth) = (
            value_and_grads(lambda x: function(x, library), leaf)  # noqa: B023
            for leaf, library in ((x, F), (x.double(), TORCH))
        )
        assert value.dtype == gradient.dtype == dtype
        units = 4 * torch.finfo(dtype).eps
        assert_close(
            [value.double(), gradient.double()], [exact, truth], rtol=units, atol=units * truth.abs().max().item()
        )


# --- relations -------------------------------------------------------------------------------------


def test_permuting_the_classes_permutes_the_gradient() -> None:
    x, y = random_tensor(6, 5), random_labels(6, num_classes=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    places = order.argsort()
    value, gradient = value_and_grads(lambda x: F.cross_entropy(x, y, reduction="none"), x)
    other, permuted = value_and_grads(lambda x: F.cross_entropy(x, places[y], reduction="none"), x[:, order])
    assert_close([other, permuted], [value, gradient[:, order]])


def test_the_losses_of_a_batch_are_those_of_its_rows() -> None:
    x, y = random_tensor(6, 5, dtype=torch.float32), random_labels(6, num_classes=5)
    rows = torch.stack([F.cross_entropy(row, label) for row, label in zip(x, y, strict=True)])
    assert_close(F.cross_entropy(x, y, reduction="none"), rows, rtol=0, atol=0)
    assert_close(F.cross_entropy(x, y, reduction="sum"), rows.sum())
    assert_close(F.cross_entropy(x, y), rows.mean())
    images = x.T.reshape(1, 5, 2, 3)
    assert_close(F.cross_entropy(images, y.reshape(1, 2, 3), reduction="none").flatten(), rows, rtol=0, atol=0)


def test_smoothing_by_0_changes_nothing_and_by_1_forgets_the_label() -> None:
    x, y = random_tensor(6, 5), random_labels(6, num_classes=5)
    assert_close(F.cross_entropy(x, y, label_smoothing=0.0), F.cross_entropy(x, y), rtol=0, atol=0)
    assert_close(F.cross_entropy(x, y, label_smoothing=1.0), F.cross_entropy(x, (y + 1) % 5, label_smoothing=1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_one_hot_target_gives_the_loss_of_its_index(dtype: torch.dtype) -> None:
    x, y = random_tensor(30, 5, scale=8.0, dtype=dtype), random_labels(30, num_classes=5)
    one_hot = TORCH.one_hot(y, 5).to(dtype)
    ours = value_and_grads(lambda x: F.cross_entropy(x, y, reduction="none"), x)
    soft = value_and_grads(lambda x: F.cross_entropy(x, one_hot, reduction="none"), x)
    assert_close(soft, ours, rtol=64 * torch.finfo(dtype).eps, atol=0)  # relative, so in the tails too


@pytest.mark.parametrize("junk", [NAN, INF, -INF, 1e38])
@pytest.mark.parametrize("case", [{}, {"label_smoothing": 0.1}, {"weight": torch.tensor([1.0, 2.0, 3.0])}], ids=str)
@pytest.mark.parametrize("through", ["backward", "func"])
def test_an_ignored_row_changes_no_other_whatever_it_holds(junk: float, case: dict[str, Any], through: str) -> None:
    x, y = random_tensor(5, 3, dtype=torch.float32), torch.tensor([0, 7, 2, 7, 1])
    broken = x.clone()
    broken[1], broken[3, 1] = junk, junk
    kept = y != 7
    for reduction in ("mean", "sum"):

        def loss(x: Tensor, y: Tensor = y, reduction: str = reduction) -> Tensor:
            return F.cross_entropy(x, y, ignore_index=7, reduction=reduction, **case)

        expected, gradient = value_and_grad(lambda x: loss(x, y[kept]), x[kept])
        if through == "func":
            ours, value = torch.func.grad_and_value(loss)(broken)
        else:
            value, ours = value_and_grad(loss, broken)
        assert_close(value, expected)
        assert_close(ours[kept], gradient)
        assert_close(ours[~kept], torch.zeros(2, 3), rtol=0, atol=0)


def test_if_every_row_is_ignored_the_mean_is_undefined_and_the_sum_0() -> None:
    x, y = random_tensor(3, 2), torch.full((3,), -100)
    value, gradient = value_and_grads(lambda x: F.cross_entropy(x, y), x)
    assert value.isnan()
    assert_close(gradient, torch.zeros_like(x), rtol=0, atol=0)
    assert_close(F.cross_entropy(x, y, reduction="sum").item(), 0.0)


# --- edges -----------------------------------------------------------------------------------------

RIGHT = [([INF, 0.0, 1.0], 0), ([0.0, -INF, -INF], 0), ([INF, -INF, 0.0], 0)]
WRONG = [([INF, 0.0, 1.0], 1), ([0.0, -INF, 1.0], 1), ([INF, -INF, 0.0], 1)]


@pytest.mark.parametrize("kind", ["index", "soft", "func", "smoothed"])
@pytest.mark.parametrize(
    ("logits", "label", "loss"), [(*case, 0.0) for case in RIGHT] + [(*case, INF) for case in WRONG]
)
def test_an_infinite_logit_gives_the_loss_0_if_right_and_infinity_if_wrong(
    logits: list[float], label: int, loss: float, kind: str
) -> None:
    x = torch.tensor([logits])
    y = torch.tensor([label])
    target = TORCH.one_hot(y, 3).float() if kind == "soft" else y

    def function(x: Tensor) -> Tensor:
        return F.cross_entropy(x, target, reduction="sum", label_smoothing=0.1 if kind == "smoothed" else 0.0)

    if kind == "func":
        gradient, value = torch.func.grad_and_value(function)(x)
    else:
        value, gradient = value_and_grad(function, x)
    if kind == "smoothed":
        loss = INF  # smoothing gives every class a positive target, also those of probability 0
    assert value.item() == loss
    assert gradient.isfinite().all()
    if loss == 0.0:
        assert_close(gradient, torch.zeros(1, 3), rtol=0, atol=0)


def test_a_nan_logit_makes_the_loss_of_its_row_nan() -> None:
    x, y = torch.tensor([[NAN, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    assert F.cross_entropy(x, y, reduction="none").isnan().tolist() == [True, False]


def test_0_times_an_infinite_loss_is_0() -> None:
    x, t = torch.tensor([[0.0, -INF]]), torch.tensor([[1.0, 0.0]])
    value, gradient, target_gradient = value_and_grads(lambda x, t: F.cross_entropy(x, t), x, t)
    assert_close([value.item(), gradient, target_gradient], [0.0, torch.zeros(1, 2), torch.zeros(1, 2)])
    weight = torch.tensor([1.0, 0.0])
    assert_close(F.cross_entropy(x, torch.tensor([1]), weight, reduction="sum").item(), 0.0)


def test_a_target_of_0_still_has_its_gradient() -> None:
    x, t = random_tensor(2, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    _, _, gradient = value_and_grads(lambda x, t: F.cross_entropy(x, t, reduction="sum"), x, t)
    assert_close(gradient, -0.5 * torch.log_softmax(x, 1))


@pytest.mark.parametrize("case", [{}, {"label_smoothing": 0.1}, {"weight": True, "reduction": "none"}], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_any_memory_layout_gives_the_same(soft: bool, case: dict[str, Any]) -> None:
    x, y = random_tensor(3, 4, 5, 2, dtype=torch.float32), random_labels(3, 5, 2, num_classes=4)
    t = torch.softmax(random_tensor(3, 4, 5, 2, seed=1), 1).float()

    def evaluate(x: Tensor, target: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        value = F.cross_entropy(x, target, **make_options(case, torch.float32))
        return [value.detach(), torch.autograd.grad(value.sum(), x)[0]]

    expected = evaluate(x, t if soft else y)
    for rearrange in (
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
        lambda x: torch.stack([x, x], -1)[..., 1],
    ):
        assert not rearrange(x).is_contiguous()
        assert_close(evaluate(rearrange(x), rearrange(t) if soft else y), expected)
    one = x[:1].expand(3, -1, -1, -1)
    assert_close(evaluate(one, t if soft else y), evaluate(one.contiguous(), t if soft else y), rtol=0, atol=0)


def test_without_classes_the_loss_is_torchs() -> None:
    no_class, labels = torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64)
    for reduction in ("none", "mean", "sum"):
        for target in (no_class, labels - 100):
            ours, theirs = (module.cross_entropy(no_class, target, reduction=reduction) for module in (F, TORCH))
            assert_close(ours, theirs, equal_nan=True)
    with pytest.raises(IndexError, match="out of bounds"):
        F.cross_entropy(no_class, labels)


def test_the_loss_of_one_class_and_the_sum_over_no_rows_are_0() -> None:
    assert_close(F.cross_entropy(random_tensor(3, 1), torch.zeros(3, dtype=torch.int64)).item(), 0.0, rtol=0, atol=0)
    no_labels = torch.zeros(0, dtype=torch.int64)
    assert_close(F.cross_entropy(torch.zeros(0, 3), no_labels, reduction="sum").item(), 0.0)
    assert F.cross_entropy(torch.zeros(0, 3), no_labels).isnan()
    assert F.cross_entropy(torch.zeros(0, 3), no_labels, reduction="none").shape == (0,)


# --- errors ----------------------------------------------------------------------------------------

X, LABELS = torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)
ERRORS: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (
        lambda: F.cross_entropy(X, LABELS, reduction="avg"),
        ValueError,
        "reduction must be one of none, mean, sum, got 'avg'",
    ),
    (
        lambda: F.cross_entropy(X, torch.zeros(5, dtype=torch.int64)),
        ValueError,
        "expected logits (N, C) and target (N,), got (4, 10) and (5,)",
    ),
    (lambda: F.cross_entropy(X[0], LABELS), ValueError, "expected logits (C,) and target (), got (10,) and (4,)"),
    (
        lambda: F.cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, 5)),
        RuntimeError,
        "expected logits (N, C, d1) and target (N, d1), got (2, 3, 4) and (2, 5)",
    ),
    (
        lambda: F.cross_entropy(X, LABELS.int()),
        RuntimeError,
        "target must be class indices of dtype int64 or uint8, got torch.int32",
    ),
    (
        lambda: F.cross_entropy(X, X.long()),
        RuntimeError,
        "target in the shape of input must be of a floating dtype, got torch.int64",
    ),
    (
        lambda: F.cross_entropy(X, X, ignore_index=3),
        RuntimeError,
        "ignore_index must be left out for class probabilities, got 3",
    ),
    (
        lambda: F.cross_entropy(X, LABELS, torch.ones(9)),
        RuntimeError,
        "expected logits (N, C) and weight (C,), got (4, 10) and (9,)",
    ),
    (
        lambda: F.cross_entropy(X, LABELS, torch.ones(10).double()),
        RuntimeError,
        "expected input and weight of one dtype, got torch.float32 and torch.float64",
    ),
    (
        lambda: F.cross_entropy(X, LABELS, label_smoothing=1.5),
        RuntimeError,
        "label_smoothing must be between 0.0 and 1.0, got 1.5",
    ),
    (
        lambda: F.cross_entropy(X.long(), LABELS),
        NotImplementedError,
        "input must be of a floating dtype, got torch.int64",
    ),
    (lambda: F.cross_entropy(X[0, 0], X[0, 0]), IndexError, "expected logits (C), (N, C) or (N, C, d1, …), got ()"),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[text for _, _, text in ERRORS])
def test_wrong_arguments_are_refused(call: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.parametrize("label", [10, -1, -101, 2**40])
@pytest.mark.parametrize(
    "case", [{}, {"label_smoothing": 0.1}, {"weight": torch.ones(10)}, {"ignore_index": 3}], ids=str
)
def test_a_label_outside_the_classes_is_an_index_error(label: int, case: dict[str, Any]) -> None:
    target = torch.tensor([0, label, 3, 1])
    with pytest.raises(IndexError, match=r"target must be in \[0, 10\) or ignore_index: index .* is out of bounds"):
        F.cross_entropy(X, target, **case)
    with pytest.raises(IndexError, match="is out of bounds"):
        torch.func.grad(lambda x: F.cross_entropy(x, target, **case))(X)


def test_ignore_index_may_lie_outside_the_classes() -> None:
    x = random_tensor(3, 4)
    for index in (-1, 4, 255):
        assert_close(
            F.cross_entropy(x, torch.tensor([0, index, 1]), ignore_index=index),
            F.cross_entropy(x[::2], torch.tensor([0, 1])),
        )
