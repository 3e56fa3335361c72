"""Tests of fcnet.training.records."""

from __future__ import annotations

import itertools

import pytest
import torch

from fcnet.data.batches import Batch
from fcnet.training.records import MetricAccumulator

UpdateArguments = tuple[torch.Tensor, torch.Tensor, Batch]


def batches(num_batches: int, size: int, num_classes: int) -> list[UpdateArguments]:
    """Returns losses of very different sizes, logits, and labeled batches, the last one short."""
    random = torch.Generator().manual_seed(0)
    made = []
    for number in range(num_batches):
        length = size if number < num_batches - 1 else size // 2 + 1
        labels = torch.randint(num_classes, (length,), generator=random)
        shape = (length,) if num_classes == 2 else (length, num_classes)
        loss = torch.rand((), generator=random) * 10.0 ** torch.randint(-12, 12, (), generator=random)
        made.append((loss, torch.randn(shape, generator=random), Batch(torch.empty(0), labels, labels, length)))
    return made


@pytest.mark.parametrize("num_classes", [2, 10])
def test_sums_cover_all_batches(num_classes: int) -> None:
    metrics, all_of_them = MetricAccumulator(torch.device("cpu")), batches(9, 8, num_classes)
    for arguments in all_of_them:
        metrics.update(*arguments)
    predicted = [(logits > 0).long() if logits.ndim == 1 else logits.argmax(1) for _, logits, _ in all_of_them]
    num_correct = sum(int((p == batch.labels).sum()) for p, (_, _, batch) in zip(predicted, all_of_them, strict=True))
    loss = sum(loss.double().item() for loss, _, _ in all_of_them)
    assert metrics.num_images == 8 * 8 + 5
    assert metrics.sums().tolist() == [pytest.approx(loss), num_correct]
    assert list(metrics.compute()) == [pytest.approx(loss / metrics.num_images), num_correct / metrics.num_images]


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("size", [8, 40_000])
@pytest.mark.parametrize("interval", [1, 3, 1000])
def test_deferred_batches_give_the_same_sums_bit_for_bit(num_classes: int, size: int, interval: int) -> None:
    immediate, deferred = MetricAccumulator(torch.device("cpu")), MetricAccumulator(torch.device("cpu"))
    for number, arguments in enumerate(batches(40 if size == 8 else 5, size, num_classes)):
        immediate.update(*arguments)
        deferred.update(*arguments, deferred=True)
        if number % interval == 0:
            assert deferred.loss.item() == immediate.loss.item()
    assert deferred.sums().tolist() == immediate.sums().tolist()
    assert deferred.num_images == immediate.num_images


def test_pending_batches_are_added_before_they_hold_many_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.training.records._MAX_PENDING_LOGITS", 100)
    metrics = MetricAccumulator(torch.device("cpu"))
    pending = []
    for arguments in batches(20, 4, 10):
        metrics.update(*arguments, deferred=True)
        pending.append(sum(logits.numel() for _, logits, _ in metrics._pending))
    assert max(pending) == 80
    assert pending[:4] == [40, 80, 0, 40]


@pytest.mark.parametrize("deferred", [False, True])
def test_predicted_classes_count_as_their_logits_do(*, deferred: bool) -> None:
    expected, metrics = MetricAccumulator(torch.device("cpu")), MetricAccumulator(torch.device("cpu"))
    for number, (loss, logits, batch) in enumerate(batches(6, 8, 10)):
        expected.update(loss, logits, batch)
        metrics.update(loss, logits if number % 3 else logits.argmax(1), batch, deferred=deferred)
    assert metrics.sums().tolist() == expected.sums().tolist()


def test_reset_and_restore_drop_pending_batches() -> None:
    metrics, (first, second, third) = MetricAccumulator(torch.device("cpu")), batches(3, 4, 10)
    metrics.update(*first, deferred=True)
    metrics.reset()
    assert metrics.sums().tolist() == [0.0, 0.0]
    metrics.update(*second, deferred=True)
    metrics.restore(torch.tensor([1.5, 2.0], dtype=torch.float64), num_images=7)
    assert metrics.sums().tolist() == [1.5, 2.0]
    metrics.update(*third, deferred=True)
    assert metrics.loss.item() == pytest.approx(1.5 + third[0].item())
    assert metrics.num_images == 7 + third[2].size


def test_the_sums_stay_in_the_memory_that_a_cuda_graph_adds_to() -> None:
    metrics = MetricAccumulator(torch.device("cpu"))
    address = metrics.loss.data_ptr()
    for arguments, deferred in itertools.product(batches(3, 4, 10), (False, True)):
        metrics.update(*arguments, deferred=deferred)
        metrics.sums()
    metrics.reset()
    assert metrics.loss.data_ptr() == address
