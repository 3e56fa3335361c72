"""Tests of fcnet.evaluation.classification."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from fcnet.data.batches import Augmentation, Batches
from fcnet.data.transforms.augment import Shift
from fcnet.evaluation.classification import Evaluation, evaluate
from fcnet.metrics import Confusion, wilson_interval
from fcnet.models.layers import Dropout
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError

PIXELS = torch.randint(0, 256, (23, 1, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make_labels(num_classes: int) -> Tensor:
    return torch.arange(len(PIXELS)) % num_classes


def make_model(num_classes: int) -> MLP:
    generator = torch.Generator().manual_seed(1)
    return MLP(20, (6,), num_classes, normalization="batch", dropout=0.5, generator=generator)


def make_batches(num_classes: int, batch_size: int = 7) -> Batches:
    return Batches(PIXELS, make_labels(num_classes), batch_size=batch_size)


@given(st.sampled_from([2, 3, 5]), st.integers(1, 30))
def test_loss_and_confusion_matrix_agree_with_torch_for_any_batch_size(num_classes: int, batch_size: int) -> None:
    model, target = make_model(num_classes), make_labels(num_classes)
    result = evaluate(model, make_batches(num_classes, batch_size))
    logits = model.eval()(PIXELS.float() / 255)
    if num_classes == 2:
        logits = torch.stack([torch.zeros_like(logits), logits], dim=1)
    # the loss of each row is float32, their sum float64
    assert result.loss == pytest.approx(functional.cross_entropy(logits.double(), target).item(), rel=1e-6)
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for truth, prediction in zip(target.tolist(), logits.argmax(1).tolist(), strict=True):
        counts[truth, prediction] += 1
    assert result.confusion.table() == tuple(map(tuple, counts.tolist()))


@pytest.mark.parametrize("known", [True, False])
def test_a_batch_of_many_logits_is_evaluated_in_parts(monkeypatch: pytest.MonkeyPatch, *, known: bool) -> None:
    model, whole, parts = make_model(5), list[Tensor](), list[Tensor]()
    tested: nn.Module = model if known else nn.Sequential(model)  # without `num_classes`
    expected = evaluate(tested, make_batches(5), on_batch=lambda *given: whole.extend(given))
    monkeypatch.setattr("fcnet.evaluation.classification._MAX_LOGITS", 10)
    result = evaluate(tested, make_batches(5), on_batch=lambda *given: parts.extend(given))
    sizes = [len(labels) for labels in parts[1::2]]
    assert sizes == ([2, 2, 2, 1] if known else [4, 3]) + [2, 2, 2, 1] * 2 + [2]
    assert_close(torch.cat(parts[0::2]), torch.cat(whole[0::2]))
    assert torch.cat(parts[1::2]).equal(torch.cat(whole[1::2]))
    assert result.loss == pytest.approx(expected.loss, rel=1e-6)
    assert result.confusion.table() == expected.confusion.table()


@pytest.mark.parametrize("collected", [False, True])
def test_several_ranks_collect_whole_slices_to_keep_the_order(
    monkeypatch: pytest.MonkeyPatch, *, collected: bool
) -> None:
    ranks = {"world_size": lambda: 2, "rank": lambda: 0, "all_reduce": lambda x: x, "all_gather": lambda x: [x]}
    for name, function in ranks.items():
        monkeypatch.setattr(f"fcnet.runtime.distributed.{name}", function)
    monkeypatch.setattr("fcnet.evaluation.classification._MAX_LOGITS", 10)
    model, sizes = make_model(5), list[int]()
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    evaluate(model, make_batches(5, 8), on_batch=(lambda *_: None) if collected else None)
    assert sizes == ([4, 4, 3] if collected else [2, 2, 2, 2, 2, 1])


@given(st.sampled_from([2, 3, 5]), st.integers(1, 30))
def test_the_figures_follow_from_the_confusion_matrix(num_classes: int, batch_size: int) -> None:
    result = evaluate(make_model(num_classes), make_batches(num_classes, batch_size))
    assert result.count == len(PIXELS)
    assert result.confusion.class_counts.tolist() == make_labels(num_classes).bincount().tolist()
    assert result.num_correct == sum(result.confusion.table()[label][label] for label in range(num_classes))
    assert result.accuracy == result.num_correct / result.count
    low, high = result.interval
    assert low <= result.accuracy <= high


@given(st.integers(0, 40), st.integers(1, 40))
def test_the_error_and_its_interval_complement_the_accuracy(num_correct: int, num_wrong: int) -> None:
    result = Evaluation(0.0, Confusion.from_table([[num_correct, num_wrong], [0, 0]]))
    assert result.error == pytest.approx(num_wrong / (num_correct + num_wrong), abs=1e-15)
    assert result.error_interval == pytest.approx(wilson_interval(num_wrong, num_correct + num_wrong), abs=1e-12)
    assert result.error_interval[0] <= result.error <= result.error_interval[1]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_unchanged(training: bool) -> None:
    model = make_model(3).train(training)
    evaluate(model, make_batches(3))
    assert {module.training for module in model.modules()} == {training}


def test_the_mode_of_the_model_is_unchanged_after_an_error() -> None:
    model = make_model(3).train()
    with pytest.raises(UserError, match="20 values each"):
        evaluate(model, Batches(torch.rand(3, 7), torch.arange(3)))
    assert model.training


def test_the_mode_of_each_module_is_unchanged() -> None:
    model = make_model(3).train()
    frozen = next(module for module in model.modules() if isinstance(module, Dropout)).eval()
    evaluate(model, make_batches(3))
    assert model.training
    assert not frozen.training


def test_neither_parameters_nor_random_state_change() -> None:
    model, random_state = make_model(3).train(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, make_batches(3))
    assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_images_are_not_augmented() -> None:
    augmented = Batches(PIXELS, make_labels(3), batch_size=7, augmentation=Augmentation((Shift(2),)))
    model = make_model(3)
    assert evaluate(model, augmented) == evaluate(model, make_batches(3))


def test_a_given_loss_is_averaged_over_the_images() -> None:
    result = evaluate(make_model(3), make_batches(3), loss=lambda logits, labels: labels.double().sum())
    assert result.loss == pytest.approx(make_labels(3).double().mean().item(), rel=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_torch_modules_can_be_evaluated(num_classes: int) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(20, num_classes))
    result = evaluate(layers, make_batches(num_classes))
    assert result.confusion.num_classes == num_classes
    assert result.count == len(PIXELS)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"^data must hold at least one example, got 0$"):
        evaluate(make_model(3), Batches(PIXELS, make_labels(3), rows=torch.arange(0)))


def test_a_loss_that_returns_the_mean_of_a_batch_is_refused() -> None:
    data = (torch.rand(4, 4), [0, 1, 2, 0])
    with pytest.raises(UserError, match=r"^loss must return the sum of a batch, got the mean; set reduction='sum'"):
        evaluate(MLP(4, (), 3), data, loss=torch.nn.CrossEntropyLoss())
    with pytest.raises(UserError, match=r"^loss must be a function of logits and labels, got 'cross_entropy'"):
        evaluate(MLP(4, (), 3), data, loss="cross_entropy")  # type: ignore[arg-type]
