"""Tests of fcnet.training.backpropagation: the gradient by hand equals autograd's."""

from __future__ import annotations

import contextlib
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fcnet.data.batches import Batch, Batches
from fcnet.losses import CrossEntropy
from fcnet.models.layers import Dropout
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.training import backpropagation
from fcnet.training.algorithm import GradientDescent
from fcnet.training.backpropagation import (
    accumulate_gradients,
    backpropagate,
    can_backpropagate,
    can_chunk_logits,
    has_hooks,
    make_gradient_fn,
)
from fcnet.training.loop import Training, train_step
from tests.unit.training.helpers import HOOKS, register_hook

LINEAR = import_module("fcnet.functional.linear_cross_entropy")  # the package has the function under this name

NETWORKS = st.fixed_dictionaries(
    {
        "in_features": st.integers(1, 6),
        "hidden": st.lists(st.integers(1, 5), max_size=3),
        "num_classes": st.integers(2, 5),
        "activation": st.sampled_from(["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"]),
        "bias": st.booleans(),
    }
)


def make_problem(network: dict[str, Any], size: int, seed: int) -> tuple[MLP, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    model = MLP(**network, generator=draws).double()
    x = torch.randn(size, network["in_features"], dtype=torch.float64, generator=draws)
    return model, x, torch.randint(network["num_classes"], (size,), generator=draws)


def by_autograd(model: MLP, x: Tensor, target: Tensor, loss: CrossEntropy, scale: float) -> tuple[Tensor, list[Tensor]]:
    total = loss(model(x), target)
    return total, list(torch.autograd.grad(total * scale, list(model.parameters())))


@given(NETWORKS, st.integers(1, 7), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 1000), st.booleans())
def test_loss_logits_and_gradients_equal_autograds(
    network: dict[str, Any], size: int, label_smoothing: float, seed: int, mixed: bool
) -> None:
    model, x, target = make_problem(network, size, seed)
    if mixed:
        target = torch.rand(size, network["num_classes"], generator=torch.Generator().manual_seed(seed)).double() + 0.1
    loss = CrossEntropy(label_smoothing)
    expected, gradients = by_autograd(model, x, target, loss, 1 / size)
    total, logits = backpropagate(model, x, target, loss, scale=1 / size)
    assert_close(total, expected, rtol=1e-12, atol=1e-14)
    assert_close(logits, model(x), rtol=0, atol=0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        # sums in another order: their rounding error is relative to the terms, not to the sum
        assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-13)


def test_a_residual_layer_passes_the_gradient_around_its_weights() -> None:
    network = {"in_features": 4, "hidden": [4, 4, 3, 3], "num_classes": 3, "residual": True}
    model, x, labels = make_problem(network, 6, 0)
    _, gradients = by_autograd(model, x, labels, CrossEntropy(), 1.0)
    backpropagate(model, x, labels, CrossEntropy())
    assert_close([parameter.grad for parameter in model.parameters()], gradients, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_gradient_of_a_confident_prediction_keeps_its_digits(num_classes: int) -> None:
    """e⁻²⁰ = 2.06e-9 is far below the spacing of float32 numbers at 1."""
    model = LogisticRegression(1, num_classes)
    with torch.no_grad():
        model.dense_layers()[0].weight.copy_(torch.tensor([[20.0]] if num_classes == 2 else [[0.0], [20.0], [-80.0]]))
    total, _ = backpropagate(model, torch.ones(1, 1), torch.tensor([1]), CrossEntropy())
    bias = model.dense_layers()[0].bias
    assert bias is not None
    assert bias.grad is not None
    assert total.item() == pytest.approx(2.0611536e-09, rel=1e-6)
    true_class = bias.grad[0 if num_classes == 2 else 1].item()
    assert true_class == pytest.approx(-2.0611536e-09, rel=1e-6)


class Doubled(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_only_plain_dense_networks_are_differentiated_by_hand() -> None:
    assert can_backpropagate(MLP(4, (3,), 2))
    assert can_backpropagate(LogisticRegression(4, 3))
    assert not can_backpropagate(MLP(4, (3,), 2, normalization="batch"))
    assert not can_backpropagate(MLP(4, (3,), 2, dropout=0.1))
    assert not can_backpropagate(Doubled(4, (3,), 2))
    assert not can_backpropagate(nn.Linear(4, 3))
    frozen = MLP(4, (3,), 2)
    frozen.dense_layers()[0].weight.requires_grad_(False)
    assert not can_backpropagate(frozen)


@pytest.mark.parametrize("register", HOOKS)
def test_a_hook_rules_differentiation_by_hand_out_until_it_is_removed(register: str) -> None:
    model = MLP(4, (3,), 2)
    handle = register_hook(model.layers[0], register, lambda *_: None)
    assert has_hooks(model)
    assert not can_backpropagate(model)
    handle.remove()
    assert can_backpropagate(model)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches take chunks, of five rows."""
    monkeypatch.setattr(LINEAR, "_MIN_CHUNKED_LOGITS", 0)
    monkeypatch.setattr(LINEAR, "_LOGITS_PER_CHUNK", 35)


def make_batch(model: MLP, size: int, *, mixed: bool = False) -> Batch:
    draws = torch.Generator().manual_seed(1)
    dtype = model.dense_layers()[0].weight.dtype
    x = torch.randn(size, model.in_features, dtype=dtype, generator=draws)
    labels = torch.randint(model.num_classes, (size,), generator=draws)
    target = torch.rand(size, model.num_classes, dtype=dtype, generator=draws) + 0.1 if mixed else labels
    return Batch(x, labels, target, 2 * size)


def gradients(model: MLP, batch: Batch, parts: int, loss: CrossEntropy, precision: torch.dtype) -> list[Any]:
    """Returns the loss, the predicted classes and the gradients."""
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = None
    total, outputs = accumulate_gradients(make_gradient_fn(model, loss, precision), batch.split(parts), parameters)
    classes = outputs.argmax(1) if outputs.ndim == 2 else outputs
    return [total, classes, *(parameter.grad for parameter in parameters)]


CHUNKED = {
    "by hand": {"hidden": [5, 5], "residual": True},
    "logistic": {"hidden": []},
    "by autograd": {"hidden": [5, 4], "normalization": "batch"},
    "without bias": {"hidden": [5], "normalization": "layer", "bias": False},
}


@pytest.mark.parametrize(
    ("name", "frozen"),
    [(name, frozen) for name in CHUNKED for frozen in ((None,) if name == "logistic" else (None, 0, -1))],
)
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("mixed", [False, True])
def test_chunks_of_logits_give_the_gradients_of_all_logits(
    name: str, parts: int, request: pytest.FixtureRequest, *, mixed: bool, frozen: int | None
) -> None:
    model = MLP(6, num_classes=7, **CHUNKED[name], generator=torch.Generator().manual_seed(0)).double()  # type: ignore[arg-type]
    if frozen is not None:
        model.dense_layers()[frozen].requires_grad_(False)
    batch, loss = make_batch(model, 32, mixed=mixed), CrossEntropy(0.1)
    whole = gradients(model, batch, parts, loss, torch.float32)
    request.getfixturevalue("small_chunks")
    assert can_chunk_logits(model, loss, batch.images)
    chunks = gradients(model, batch, parts, loss, torch.float32)
    assert_close(chunks, whole, rtol=1e-12, atol=1e-14)
    assert [grad is None for grad in chunks] == [grad is None for grad in whole]


@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_of_logits_in_bfloat16_round_as_all_logits_do(name: str, request: pytest.FixtureRequest) -> None:
    model = MLP(6, num_classes=7, **CHUNKED[name], generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    batch, loss = make_batch(model, 32), CrossEntropy()
    whole = gradients(model, batch, 1, loss, torch.bfloat16)
    request.getfixturevalue("small_chunks")
    chunks = gradients(model, batch, 1, loss, torch.bfloat16)
    assert_close(chunks[0], whole[0], rtol=1e-6, atol=0)
    assert chunks[1].equal(whole[1])
    assert_close(chunks[2:], whole[2:], rtol=0.02, atol=1e-3)


@pytest.mark.usefixtures("small_chunks")
def test_chunks_take_the_whole_model_as_it_is() -> None:
    model, loss, x = MLP(4, (3,), 5), CrossEntropy(), torch.zeros(8, 4)
    assert can_chunk_logits(model, loss, x)
    assert not can_chunk_logits(MLP(4, (3,), 2), loss, x)  # two classes have one logit
    assert not can_chunk_logits(Doubled(4, (3,), 5), loss, x)
    assert not can_chunk_logits(nn.Linear(4, 5), loss, x)
    assert not can_chunk_logits(model, nn.CrossEntropyLoss(reduction="sum"), x)
    assert not can_chunk_logits(model, loss, x.double())  # which the layers refuse
    register_hook(model.layers[-1], HOOKS[0], lambda *_: None)
    assert not can_chunk_logits(model, loss, x)


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor that an operation returns."""

    num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.num_bytes = max(self.num_bytes, leaf.numel() * leaf.element_size())
        return result


@pytest.mark.parametrize(
    ("normalization", "precision", "share"),
    [("none", torch.bfloat16, 8), ("batch", torch.bfloat16, 8), ("none", torch.float32, 5)],
)
def test_no_tensor_of_a_step_with_many_classes_is_as_large_as_its_logits(
    normalization: Any, precision: torch.dtype, share: int
) -> None:
    num_classes, size = 21_841, 1024
    model = MLP(4, (8,), num_classes, normalization=normalization, generator=torch.Generator().manual_seed(0))
    batch = make_batch(model, size)
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=1, precision=precision)
    training = Training(model, Batches(batch.images, batch.labels, batch_size=size), algorithm)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        train_step(training, Batch(batch.images, batch.labels, batch.labels, size))
        loss, accuracy = training.metrics.compute()
    assert largest.num_bytes <= size * num_classes * precision.itemsize // share
    assert 9.0 < loss < 11.0  # log 21,841 is 9.99
    assert accuracy < 0.01


@pytest.mark.parametrize(("device", "expected"), [("cuda", "tf32"), ("cpu", "none")])
@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_set_for_the_gradient_on_cuda_alone_and_restored(
    device: str, expected: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    matmul, seen = torch.backends.cuda.matmul, []

    def record(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        seen.append(matmul.fp32_precision)
        if fails:
            raise ValueError("a loss that fails")
        return torch.zeros(()), torch.zeros(())

    monkeypatch.setattr(backpropagation, "backpropagate", record)
    compute_gradients = make_gradient_fn(MLP(4, (3,), 2), CrossEntropy(), "tf32")
    batch: Any = SimpleNamespace(images=SimpleNamespace(device=torch.device(device)), target=None, size=1)
    with contextlib.suppress(ValueError):
        compute_gradients(batch, None)
    assert seen == [expected]
    assert matmul.fp32_precision == "none"


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_tf32_is_float32_on_a_cpu(dropout: float) -> None:
    _, x, target = make_problem({"in_features": 4, "hidden": [3], "num_classes": 3}, 5, 0)
    model = MLP(4, (3,), 3, dropout=dropout, generator=torch.Generator().manual_seed(0))
    batch, gradients = Batch(x.float(), target, target, 5), []
    for precision in ("tf32", torch.float32):
        for layer in model.modules():
            if isinstance(layer, Dropout):
                layer.generator = torch.Generator().manual_seed(1)
        model.zero_grad()
        make_gradient_fn(model, CrossEntropy(), precision)(batch, None)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert_close(gradients[0], gradients[1], rtol=0.0, atol=0.0)
