"""Tests of reading ahead: the order, how far ahead, every way to end, and the copies of a GPU by a stand-in."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import torch
from torch import Tensor

from fcnet.data import batches as batches_module
from fcnet.data.batches import Augmentation, Batches, Preprocessing
from fcnet.data.read_ahead import RowUploader, read_ahead
from fcnet.data.transforms.augment import ColorJitter, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.runtime import distributed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert is_true()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not reading_threads()


@pytest.mark.parametrize("count", [0, 1, 2, 50])
@pytest.mark.parametrize("num_ahead", [1, 2, 7])
def test_items_come_in_order_with_what_was_made_of_them_in_another_thread(count: int, num_ahead: int) -> None:
    def make(number: int) -> tuple[int, str]:
        return -number, threading.current_thread().name

    expected = [(number, (-number, "read-ahead")) for number in range(count)]
    assert list(read_ahead(make, range(count), num_ahead)) == expected


@pytest.mark.parametrize("num_ahead", [1, 2, 5])
@pytest.mark.parametrize("num_taken", [1, 4])
def test_no_more_is_made_than_so_many_items_ahead(num_ahead: int, num_taken: int) -> None:
    made: list[int] = []
    iterator = read_ahead(made.append, range(1000), num_ahead)
    for _ in range(num_taken):
        next(iterator)
    wait_until(lambda: len(made) >= num_taken + num_ahead)
    iterator.close()  # type: ignore[attr-defined]
    assert made == list(range(num_taken + num_ahead))


def test_a_loop_that_is_left_early_ends_the_thread() -> None:
    for number, _ in read_ahead(lambda number: number, range(1000)):
        if number == 3:
            break
    with contextlib.suppress(KeyError):
        for number, _ in read_ahead(lambda number: number, range(1000)):
            raise KeyError(number)
    with contextlib.closing(read_ahead(lambda number: number, range(3))):  # type: ignore[type-var]
        pass


def test_a_loop_that_is_left_waits_for_what_is_being_made() -> None:
    started, finished = threading.Event(), threading.Event()

    def make(number: int) -> None:
        if number == 1:
            started.set()
            time.sleep(0.2)
            finished.set()

    iterator = read_ahead(make, range(1000))
    next(iterator)
    started.wait(60.0)
    iterator.close()  # type: ignore[attr-defined]
    assert finished.is_set()


def broken_items() -> Iterator[int]:
    yield from (0, 1)
    raise OSError("the disk")


@pytest.mark.parametrize(("items", "error", "num_taken"), [(range(9), "a batch", 3), (broken_items(), "the disk", 2)])
def test_an_error_comes_where_its_item_would_have_come(items: Iterable[int], error: str, num_taken: int) -> None:
    def make(number: int) -> None:
        if number == 3:
            raise OSError("a batch")

    iterator = read_ahead(make, items)
    assert [next(iterator)[0] for _ in range(num_taken)] == list(range(num_taken))
    with pytest.raises(OSError, match=error):
        next(iterator)


def test_without_a_thread_nothing_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    made: list[int] = []
    for number, _ in read_ahead(made.append, range(5)):
        assert made[-1] == number


def test_an_iterator_that_is_never_finished_does_not_keep_the_interpreter() -> None:
    code = (
        "from fcnet.data.read_ahead import read_ahead\n"
        "iterator = read_ahead(lambda number: number, range(1000))\n"
        "print(next(iterator))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("(0, 0)\n", "")


class _HostUploader:
    """Sends rows nowhere."""

    def __init__(self, values: Tensor, device: torch.device) -> None:
        self._values = values

    def send(self, rows: Tensor) -> tuple[Tensor, str]:
        assert threading.current_thread().name == "read-ahead"
        return self._values[rows], "arrived"

    def receive(self, sent: Tensor, arrived: str) -> Tensor:
        assert arrived == "arrived"
        return sent


PIXELS = torch.randint(0, 256, (23, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "augmented": {"augmentation": Augmentation((Flip(), Shift(2), ColorJitter(0.3)))},
    "mixed": {"augmentation": Augmentation((Flip(),), MixupCutmix(0.4, 1.0)), "balance": "weights"},
    "normalized": {"preprocessing": Preprocessing(torch.full((3,), 0.5), torch.full((3,), 0.2))},
}


@pytest.mark.parametrize("kind", [*SETTINGS, "features"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_batches_that_are_read_ahead_are_the_same_bit_for_bit(
    kind: str, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = PIXELS.float().flatten(1) if kind == "features" else PIXELS
    plain = Batches(images, torch.arange(23) % 4, batch_size=5, **SETTINGS.get(kind, {}))
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    monkeypatch.setattr(distributed, "rank", lambda: ranks - 1)
    expected = [[*plain], [*plain.epoch(1, 2, start=1)]]
    monkeypatch.setattr(batches_module, "RowUploader", _HostUploader)
    monkeypatch.setattr(Batches, "_reads_ahead", property(lambda _: True))
    assert [len(batches) for batches in expected] == [5, 4]
    buffered = [batch.images.clone() for batch in plain.epoch(1, 2, start=1, reuse_buffer=True)]
    for theirs, ours in zip(expected, ([*plain], [*plain.epoch(1, 2, start=1)]), strict=True):
        for there, here in zip(theirs, ours, strict=True):
            assert torch.equal(here.images, there.images)
            assert torch.equal(here.labels, there.labels)
            assert torch.equal(here.target, there.target)
            assert here.size == there.size
    assert all(torch.equal(images, batch.images) for images, batch in zip(buffered, expected[1], strict=True))


@pytest.mark.parametrize(("device", "images_on", "ahead"), [("cpu", "cpu", False), ("meta", "cpu", False)])
def test_only_images_that_stay_on_the_host_of_a_gpu_are_read_ahead(device: str, images_on: str, ahead: bool) -> None:
    batches = Batches(PIXELS, torch.arange(23), device=device)
    assert batches.images.device.type == images_on
    assert batches._reads_ahead == ahead
    batches.device = torch.device("cuda")
    assert batches._reads_ahead
    batches.images = batches.images.to("meta")
    assert not batches._reads_ahead


class _Cuda:
    """Stands in for ``torch.cuda``: writes down what is queued where."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current = "default"
        self.num_streams = 0

    def Stream(self, device: torch.device) -> _Stream:  # noqa: N802 - torch's name
        return _Stream(self, "copies")

    def Event(self, *, blocking: bool) -> _Event:  # noqa: N802 - torch's name
        assert blocking
        return _Event(self, "?")

    def current_stream(self, device: torch.device) -> _Stream:
        return _Stream(self, "default")

    @contextlib.contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before


class _Stream:
    def __init__(self, cuda: _Cuda, name: str) -> None:
        self._cuda, self.name = cuda, name

    def record_event(self) -> _Event:
        event = _Event(self._cuda, "?")
        event.record(self)
        return event

    def wait_event(self, event: _Event) -> None:
        self._cuda.log.append(f"{self.name} waits for {event.name}")


class _Event:
    def __init__(self, cuda: _Cuda, name: str) -> None:
        self._cuda, self.name = cuda, name

    def record(self, stream: _Stream) -> None:
        self.name = stream.name
        self._cuda.log.append(f"event on {stream.name}")

    def synchronize(self) -> None:
        self._cuda.log.append(f"host waits for {self.name}")


def test_rows_are_copied_from_pinned_memory_on_a_stream_that_the_current_one_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, empty, to = _Cuda(), torch.empty, Tensor.to

    def pinned(*size: int, dtype: torch.dtype, pin_memory: bool) -> Tensor:
        assert pin_memory
        return empty(*size, dtype=dtype)

    def copy(tensor: Tensor, device: torch.device, *, non_blocking: bool) -> Tensor:
        assert non_blocking
        cuda.log.append(f"copy on {cuda.current}")
        return to(tensor, device)

    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(Tensor, "to", copy)
    monkeypatch.setattr(Tensor, "record_stream", lambda _, stream: cuda.log.append(f"kept for {stream.name}"))
    values = torch.arange(12, dtype=torch.uint8).view(4, 3)
    uploader = RowUploader(values, torch.device("cpu"))
    rows = torch.tensor([2, 0]), torch.tensor([3])
    received = [uploader.receive(*uploader.send(part)) for part in rows]
    assert [tensor.tolist() for tensor in received] == [[[6, 7, 8], [0, 1, 2]], [[9, 10, 11]]]
    first = ["copy on copies", "event on copies", "event on default", "default waits for copies", "kept for default"]
    assert cuda.log == [*first, "host waits for default", *first]
