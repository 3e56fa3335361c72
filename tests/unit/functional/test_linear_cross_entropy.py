"""fcnet.functional.linear_cross_entropy: chunks of logits give the loss and gradients of all logits."""

from __future__ import annotations

import itertools
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

LINEAR = import_module("fcnet.functional.linear_cross_entropy")  # the package has the function under this name

CASES = [
    dict(zip(("soft", "bias", "weight", "reduction", "label_smoothing"), values, strict=True))
    for values in itertools.product((False, True), (False, True), (False, True), ("mean", "sum"), (0.0, 0.1))
]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All inputs take chunks, of five rows."""
    monkeypatch.setattr(LINEAR, "_MIN_CHUNKED_LOGITS", 0)
    monkeypatch.setattr(LINEAR, "_LOGITS_PER_CHUNK", 35)


def make_arguments(*, soft: bool = False, bias: bool = False, weight: bool = False, **options: Any) -> dict[str, Any]:
    draws = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draws)

    labels = torch.randint(7, (12,), generator=draws)
    labels[4] = -100
    given: dict[str, Any] = {
        "input": draw(12, 3).requires_grad_(),
        "linear_weight": draw(7, 3).requires_grad_(),
        "target": draw(12, 7).softmax(1) if soft else labels,
    }
    if bias:
        given["linear_bias"] = draw(7).requires_grad_()
    if weight:
        given["weight"] = draw(7).exp()
    return given | options


def leaves(given: dict[str, Any]) -> list[Tensor]:
    return [value for value in given.values() if isinstance(value, Tensor) and value.requires_grad]


def loss_and_grads(function: Callable[..., Tensor], given: dict[str, Any]) -> list[Tensor]:
    loss = function(**given)
    return [loss, *torch.autograd.grad(loss.sum(), leaves(given))]


def torchs_loss(
    input: Tensor,  # noqa: A002 - torch's name
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None = None,
    ignore_index: int = -100,
    **options: Any,
) -> Tensor:
    logits = torch.nn.functional.linear(input, linear_weight, linear_bias)
    return torch.nn.functional.cross_entropy(logits, target, ignore_index=ignore_index, **options)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_chunks_give_the_loss_and_gradients_of_all_logits(case: dict[str, Any]) -> None:
    given = make_arguments(**case)
    assert_close(
        loss_and_grads(F.linear_cross_entropy, given), loss_and_grads(torchs_loss, given), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_is_the_cross_entropy_of_the_layer_with_and_without_chunks(
    reduction: str, *, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunked:
        monkeypatch.setattr(LINEAR, "_MIN_CHUNKED_LOGITS", 0)
    given = make_arguments(bias=True, reduction=reduction, ignore_index=2)
    given["target"] = given["target"].clamp(min=0)
    assert_close(
        loss_and_grads(F.linear_cross_entropy, given), loss_and_grads(torchs_loss, given), rtol=1e-12, atol=1e-14
    )


@pytest.mark.skipif(not hasattr(torch.nn.functional, "linear_cross_entropy"), reason="this torch has no such function")
def test_one_example_and_further_axes_give_torchs_loss() -> None:
    draws = torch.Generator().manual_seed(0)
    x, w = torch.randn(4, 3, generator=draws), torch.randn(5, 2, 3, generator=draws)
    b, y = torch.randn(5, 2, generator=draws), torch.randint(5, (4, 2), generator=draws)
    expected = torch.nn.functional.linear_cross_entropy(x, w, y, linear_bias=b)
    assert_close(F.linear_cross_entropy(x, w, y, linear_bias=b), expected)
    one = torch.nn.functional.linear_cross_entropy(x[0], w[:, 0], y[0, 0])
    assert_close(F.linear_cross_entropy(x[0], w[:, 0], y[0, 0]), one)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("trained", ["input", "linear_weight", "linear_bias", None])
def test_only_inputs_that_require_grad_have_a_gradient(trained: str | None) -> None:
    given = make_arguments(bias=True)
    for name in ("input", "linear_weight", "linear_bias"):
        given[name] = given[name].detach().requires_grad_(name == trained)
    loss = F.linear_cross_entropy(**given)
    assert loss.requires_grad == (trained is not None)
    assert_close(loss, torchs_loss(**given), rtol=1e-12, atol=1e-14)
    if trained:
        assert_close(
            loss_and_grads(F.linear_cross_entropy, given), loss_and_grads(torchs_loss, given), rtol=1e-12, atol=1e-14
        )


@pytest.mark.usefixtures("small_chunks")
def test_a_second_backward_pass_gives_the_gradients_again() -> None:
    given = make_arguments(bias=True)
    loss = F.linear_cross_entropy(**given)
    first = [part.clone() for part in torch.autograd.grad(3.0 * loss, leaves(given), retain_graph=True)]
    second = torch.autograd.grad(loss, leaves(given))
    assert_close([part / 3.0 for part in first], list(second), rtol=1e-13, atol=1e-15)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("soft", [False, True])
def test_second_derivatives_hold(*, soft: bool) -> None:
    given = make_arguments(soft=soft, bias=True, label_smoothing=0.1)
    names = ("input", "linear_weight", "linear_bias")

    def loss(*parts: Tensor) -> Tensor:
        return F.linear_cross_entropy(**given | dict(zip(names, parts, strict=True)))

    parts = tuple(given[name] for name in names)
    assert torch.autograd.gradcheck(loss, parts)
    assert torch.autograd.gradgradcheck(loss, parts)


@pytest.mark.usefixtures("small_chunks")
def test_torch_func_and_the_compiler_give_the_same() -> None:
    given = make_arguments()
    x, w, y = given["input"].detach(), given["linear_weight"].detach(), given["target"]
    expected = torch.autograd.grad(torchs_loss(given["input"], given["linear_weight"], y), leaves(given))
    ours = torch.func.grad(lambda x, w: F.linear_cross_entropy(x, w, y), argnums=(0, 1))(x, w)
    assert_close(list(ours), list(expected), rtol=1e-12, atol=1e-14)
    whole = torch.compile(F.linear_cross_entropy, fullgraph=True, backend="aot_eager")
    assert_close(whole(x, w, y), F.linear_cross_entropy(x, w, y), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_chunks_in_half_precision_round_as_all_logits_do(
    dtype: torch.dtype, *, autocast: bool, soft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = make_arguments(soft=soft, bias=True, label_smoothing=0.1)
    for name, value in given.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            given[name] = value.detach().to(torch.float32 if autocast else dtype).requires_grad_(value.requires_grad)

    def compute() -> list[Tensor]:
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            loss = F.linear_cross_entropy(**given)
        return [loss, *torch.autograd.grad(loss, leaves(given))]

    whole = compute()
    monkeypatch.setattr(LINEAR, "_MIN_CHUNKED_LOGITS", 0)
    chunks = compute()
    assert_close(chunks, whole, rtol=0.01, atol=0.002)  # a digit of bfloat16 is 1 / 128
    assert [part.dtype for part in chunks] == [part.dtype for part in whole]
    assert_close(chunks[0], whole[0], rtol=1e-6 if autocast else 0.01, atol=0)  # the same rounded logits


def test_the_loss_is_differentiable_twice_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    given = make_arguments(bias=True)
    for name in ("input", "linear_weight", "linear_bias"):
        given[name] = given[name].detach().float().requires_grad_()

    def second() -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.linear_cross_entropy(**given)
        grads = torch.autograd.grad(loss, leaves(given), create_graph=True)
        return list(torch.autograd.grad(torch.stack([grad.square().sum() for grad in grads]).sum(), leaves(given)))

    whole = second()
    monkeypatch.setattr(LINEAR, "_MIN_CHUNKED_LOGITS", 0)
    assert_close(second(), whole, rtol=0.02, atol=0.01)


@pytest.mark.usefixtures("small_chunks")
def test_where_every_row_is_ignored_the_mean_is_undefined_and_the_gradient_0_or_nothing() -> None:
    given = make_arguments(reduction="mean")
    given["target"] = torch.full((12,), -100)
    assert F.linear_cross_entropy(**given).isnan()
    loss, *gradients = loss_and_grads(F.linear_cross_entropy, given | {"reduction": "sum"})
    assert loss == 0.0
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.usefixtures("small_chunks")
def test_an_ignored_row_changes_no_gradient() -> None:
    given = make_arguments(bias=True)
    clean = loss_and_grads(F.linear_cross_entropy, given)
    with torch.no_grad():
        given["input"][4] = 1e200
    broken = loss_and_grads(F.linear_cross_entropy, given)
    assert_close([broken[0], broken[1]], [clean[0], clean[1]], rtol=0, atol=0)
    assert_close(broken[2:], clean[2:], rtol=1e-13, atol=1e-15)


def test_a_confident_row_keeps_its_digits() -> None:
    loss = F.linear_cross_entropy(torch.tensor([[1.0]]), torch.tensor([[20.0], [0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(2.061153620314381e-09, rel=1e-6)


def test_it_holds_at_most_a_tenth_of_the_logits_besides_its_gradients(program: Callable[[str], Any]) -> None:
    draws = torch.Generator().manual_seed(0)
    x, w = torch.randn(8192, 8, generator=draws), torch.randn(6000, 8, generator=draws)
    y = torch.randint(6000, (8192,), generator=draws)

    def step() -> None:
        inputs = x.requires_grad_(), w.requires_grad_()
        torch.autograd.grad(F.linear_cross_entropy(*inputs, y), inputs)

    assert program("benchmark").losses.peak_bytes(step) - x.nbytes - w.nbytes <= 4 * 8192 * 6000 // 10


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"reduction": "max"}, ValueError, "reduction"),
        (
            {"input": torch.zeros(12, 4)},
            RuntimeError,
            r"expected input and linear_weight with the same number of features, got \(12, 4\) and \(7, 3\)",
        ),
        ({"input": torch.zeros(2, 6, 3)}, RuntimeError, r"expected input \(N, F\) and linear_weight"),
        ({"linear_bias": torch.zeros(6)}, RuntimeError, r"expected linear_bias in the shape .* \(6,\) and \(7, 3\)"),
        ({"target": torch.zeros(11).long()}, ValueError, "expected logits"),
        ({"label_smoothing": 2.0}, RuntimeError, "label_smoothing must be between"),
        ({"target": torch.full((12, 7), 1 / 7), "ignore_index": 1}, RuntimeError, "ignore_index must be left out"),
        ({"target": torch.full((12,), 7)}, IndexError, r"target must be in \[0, 7\) or ignore_index"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_wrong_arguments_are_refused_as_by_the_cross_entropy(
    changes: dict[str, Any], error: type[Exception], text: str, *, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunked:
        monkeypatch.setattr(LINEAR, "_MIN_CHUNKED_LOGITS", 0)
    given = {
        name: value.detach().float() if value.is_floating_point() else value for name, value in make_arguments().items()
    }
    with pytest.raises(error, match=text):
        F.linear_cross_entropy(**given | changes)
