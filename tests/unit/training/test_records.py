"""Rules of fcnet.training.records."""

from __future__ import annotations

import itertools

import pytest
import torch

from fcnet.data.batches import Batch
from fcnet.training.records import Tally

Counted = tuple[torch.Tensor, torch.Tensor, Batch]


def batches(num_batches: int, size: int, num_classes: int) -> list[Counted]:
    """Losses of very different sizes, logits, and batches with labels, the last one short."""
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
def test_sums_are_those_of_the_batches(num_classes: int) -> None:
    tally, all_of_them = Tally(torch.device("cpu")), batches(9, 8, num_classes)
    for counted in all_of_them:
        tally.add(*counted)
    predicted = [(logits > 0).long() if logits.ndim == 1 else logits.argmax(1) for _, logits, _ in all_of_them]
    hits = sum(int((p == batch.labels).sum()) for p, (_, _, batch) in zip(predicted, all_of_them, strict=True))
    loss = sum(loss.double().item() for loss, _, _ in all_of_them)
    assert tally.images == 8 * 8 + 5
    assert tally.sums().tolist() == [pytest.approx(loss), hits]
    assert list(tally.read()) == [pytest.approx(loss / tally.images), hits / tally.images]


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("size", [8, 40_000])
@pytest.mark.parametrize("pause", [1, 3, 1000])
def test_who_is_counted_later_is_counted_the_same_to_the_bit(num_classes: int, size: int, pause: int) -> None:
    now, later = Tally(torch.device("cpu")), Tally(torch.device("cpu"))
    for number, counted in enumerate(batches(40 if size == 8 else 5, size, num_classes)):
        now.add(*counted)
        later.add(*counted, later=True)
        if number % pause == 0:
            assert later.loss.item() == now.loss.item()
    assert later.sums().tolist() == now.sums().tolist()
    assert later.images == now.images


def test_few_logits_are_kept_of_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.training.records._LOGITS_THAT_WAIT", 100)
    tally = Tally(torch.device("cpu"))
    waiting = []
    for counted in batches(20, 4, 10):
        tally.add(*counted, later=True)
        waiting.append(sum(logits.numel() for _, logits, _ in tally._waiting))
    assert max(waiting) == 80
    assert waiting[:4] == [40, 80, 0, 40]


def test_what_waits_belongs_to_its_epoch_alone() -> None:
    tally, (first, second, third) = Tally(torch.device("cpu")), batches(3, 4, 10)
    tally.add(*first, later=True)
    tally.clear()
    assert tally.sums().tolist() == [0.0, 0.0]
    tally.add(*second, later=True)
    tally.restore(torch.tensor([1.5, 2.0], dtype=torch.float64), images=7)
    assert tally.sums().tolist() == [1.5, 2.0]
    tally.add(*third, later=True)
    assert tally.loss.item() == pytest.approx(1.5 + third[0].item())
    assert tally.images == 7 + third[2].size


def test_the_memory_stays_the_same_that_a_recorded_step_adds_to() -> None:
    tally = Tally(torch.device("cpu"))
    where = tally.loss.data_ptr()
    for counted, later in itertools.product(batches(3, 4, 10), (False, True)):
        tally.add(*counted, later=later)
        tally.sums()
    tally.clear()
    assert tally.loss.data_ptr() == where
