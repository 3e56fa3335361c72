"""Tests of fcnet.training.stopwatch: recorded seconds contain the work of a device that answers late.

A stand-in device takes a second for each step that the host queues in a quarter of one, on a clock that only the two
move. All numbers are sums of powers of two, so that the recorded seconds are exact.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest
from torch.overrides import TorchFunctionMode

from fcnet.data.batches import Batches
from fcnet.training import cuda_graphs, loop, stopwatch
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training
from fcnet.training.stopwatch import Stopwatch
from tests.helpers import assert_identical
from tests.unit.training.helpers import (
    PIXELS,
    avoid_free_reads,
    copy_weights,
    make_labels,
    make_model,
    make_sgd,
    record_without_timings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from fcnet.data.epoch_plan import EpochPlan

HOST, DEVICE, DRAWING = 0.25, 1.0, 0.5
STEPS, EPOCHS = 5, 3
WAITS = {"tolist", "item", "__bool__", "__float__", "__int__", "cpu", "numpy", "nonzero"}


class LateDevice(TorchFunctionMode):
    """A device whose queue takes longer than the host takes to fill it; every read of a value waits for the queue.

    Attributes:
        now: the time of the host.
        idle_at: the time at which the device has finished what is queued.
        waits: the number of reads that found work in the queue.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.idle_at = 64.0
        self.waits = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in WAITS:
            self.wait()
        return func(*args, **(kwargs or {}))

    def wait(self, device: torch.device | None = None) -> None:
        """Moves the host's time to the end of the queue."""
        self.waits += self.now < self.idle_at
        self.now = max(self.now, self.idle_at)

    def queue_step(self) -> None:
        """Takes the host's time to queue a step, and queues it."""
        self.now += HOST
        self.idle_at = max(self.now, self.idle_at) + DEVICE


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[LateDevice]:
    avoid_free_reads(monkeypatch)
    late, step = LateDevice(), loop.train_step

    def queued_step(*arguments: Any) -> None:
        step(*arguments)
        late.queue_step()

    monkeypatch.setattr(loop, "train_step", queued_step)
    monkeypatch.setattr(stopwatch, "synchronize", late.wait)
    monkeypatch.setattr(time, "perf_counter", lambda: late.now)
    with late:
        yield late


def make_late_training(*, graphed: bool = False, patience: int = 0) -> Training:
    """Returns a training whose steps wait for no device, one by one or two at a time as CUDA graphs."""
    model, labels = make_model("plain"), make_labels()
    batches, held_out = Batches(PIXELS, labels, batch_size=8), Batches(PIXELS, labels, batch_size=10)
    training = Training(
        model, batches, GradientDescent(make_sgd(model), epochs=EPOCHS, patience=patience), validation=held_out
    )
    training.reads_losses = False
    if graphed:
        training.graphed_steps = cuda_graphs.GraphedSteps(
            _no_graph, model, batches, training.algorithm, training.dropout_rng
        )
        training.graphed_steps.unsupported_reason = None
        training.graphed_steps.steps_per_graph = 2
    return training


def _no_graph(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    raise RuntimeError("no graphs here: all steps run one by one, and are queued two at a time")


@pytest.mark.parametrize("graphed", [False, True], ids=["steps", "graphs"])
def test_the_seconds_of_an_epoch_contain_the_work_that_the_device_has_yet_to_do(
    device: LateDevice, graphed: bool
) -> None:
    training = make_late_training(graphed=graphed)
    records = []
    for event in training.advance():
        if event is None:
            assert device.waits == training.epoch  # at the end of each epoch, and nowhere else
        else:
            records.append(event)
            device.now += 16.0  # a snapshot, or a report
    assert [record.seconds for record in records] == EPOCHS * [HOST + STEPS * DEVICE]
    assert [record.images_per_second for record in records] == EPOCHS * [37 / (HOST + STEPS * DEVICE)]
    assert training.train_seconds == EPOCHS * (HOST + STEPS * DEVICE)


@pytest.mark.parametrize("graphed", [False, True], ids=["steps", "graphs"])
def test_an_epoch_is_drawn_while_the_device_works_on_the_one_before(
    device: LateDevice, graphed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, drawn = make_late_training(graphed=graphed), []
    plan_epoch = training.batches.plan_epoch

    def plan_slowly(seed: int, epoch: int, **options: Any) -> EpochPlan:
        drawn.append(epoch)
        device.now += DRAWING
        return plan_epoch(seed, epoch, **options)

    monkeypatch.setattr(training.batches, "plan_epoch", plan_slowly)
    seconds = [event.seconds for event in training.advance() if event is not None]
    assert seconds == [DRAWING + HOST + STEPS * DEVICE, *(EPOCHS - 1) * [HOST + STEPS * DEVICE]]
    assert drawn == list(range(EPOCHS))


@pytest.mark.parametrize("patience", [0, 1])
def test_an_epoch_that_is_drawn_ahead_is_the_same(device: LateDevice, patience: int) -> None:
    ahead, plain = make_late_training(patience=patience), make_late_training(patience=patience)
    plain.reads_losses = True
    ours, theirs = (
        [record_without_timings(event) for event in training.advance() if event is not None]
        for training in (ahead, plain)
    )
    assert ours == theirs
    assert len(ours) == EPOCHS - patience  # the accuracy does not rise after the first epoch
    assert_identical(copy_weights(ahead.model), copy_weights(plain.model))


def test_a_training_that_is_restored_between_epochs_drops_what_was_drawn_for_another(device: LateDevice) -> None:
    whole, again = make_late_training(), make_late_training()
    list(whole.advance())
    saved = make_late_training().state()
    events = again.advance()
    next(event for event in events if event is not None)
    again.restore(*saved)
    list(events)
    assert_identical(copy_weights(again.model), copy_weights(whole.model))


def test_a_save_waits_for_the_steps_on_the_clock_and_writes_off_it(device: LateDevice) -> None:
    training = make_late_training()
    events = training.advance()
    list(itertools.islice(events, 2))
    _, metadata = training.state()
    assert metadata["seconds"] == HOST + 2 * DEVICE
    device.now += 16.0  # writing
    assert training.train_seconds == HOST + 2 * DEVICE
    record = next(event for event in events if event is not None)
    assert record.seconds == (HOST + 2 * DEVICE) + (HOST + 3 * DEVICE)


def test_a_figure_that_is_read_in_an_epoch_costs_no_second_of_it(device: LateDevice) -> None:
    training = make_late_training()
    for event in training.advance():
        if event is None and training.step % STEPS == 3:
            training.metrics.compute()
            assert training.seconds == HOST + 3 * DEVICE
        elif event is not None:
            assert event.seconds == (HOST + 3 * DEVICE) + (HOST + 2 * DEVICE)


def test_on_a_cpu_the_time_between_steps_does_not_count(device: LateDevice) -> None:
    training = make_late_training()
    training.reads_losses = True
    for event in training.advance():
        device.now += 16.0
        if event is not None:
            assert event.seconds == STEPS * (HOST + DEVICE)


def test_a_restored_training_counts_on(device: LateDevice) -> None:
    training, resumed = make_late_training(), make_late_training()
    list(itertools.islice(training.advance(), 2))
    tensors, metadata = training.state()
    resumed.restore(tensors, metadata)
    device.now += 16.0
    assert resumed.train_seconds == HOST + 2 * DEVICE
    record = next(event for event in resumed.advance() if event is not None)
    assert record.seconds == (HOST + 2 * DEVICE) + (HOST + 3 * DEVICE)


def test_a_stopwatch_that_is_started_twice_runs_on(device: LateDevice) -> None:
    watch = Stopwatch(PIXELS.device)
    watch.start()
    device.now += 1.0
    watch.start()
    device.now += 1.0
    assert watch.seconds == 2.0
    watch.stop()
    device.now += 1.0
    watch.stop()
    assert watch.seconds == 2.0
