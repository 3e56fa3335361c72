"""Steps that a device records once, as a graph of its work, and repeats: launching small ones takes longer than them.

A graph repeats the same work on the same memory, and nothing that Python does. So all that differs from step to
step lies in tensors and generators that are filled before: the images' places in the epoch and what is drawn for
them, the learning rates, the average's share, the seeds of what is dropped out. The epochs' steps are cut into runs,
a graph each. The first run of a kind is made step by step, as a part of the training that also warms the device
up; the second is recorded, and it and all later ones are replayed.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.optim.optimizers import FUSED, Muon
from fcnet.runtime import distributed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fcnet.data.batches import Batch, Batches
    from fcnet.data.epoch_plan import Order
    from fcnet.training.algorithm import GradientDescent
    from fcnet.training.dropout_seeds import Drops

    Step = Callable[[Batch, Sequence[Tensor]], None]
    Replay = Callable[[], None]
    Record = Callable[[Callable[[], None], Sequence[torch.Generator]], Replay]

_MOST_STEPS = 16
_RUN_PRODUCTS = 40_000_000_000
_OURS = ("fcnet", "torch")


def cuda_graph(device: torch.device, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
    """Records what ``work`` asks the device for, without doing it.

    Args:
        device: the GPU.
        work: runs once; what it does to tensors happens at each replay, what it does in Python happens now.
        generators: whose seeds are read at each replay, and not now.

    Returns:
        What does the work; it waits for nothing.

    Raises:
        RuntimeError: the work waits for the device, or cannot be recorded for another reason.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    recording = torch.cuda.graph(graph, stream=torch.cuda.Stream(device))
    # the stream is entered once more because torch leaves its own entered where a recording fails
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)), recording:
        work()
    return graph.replay


def obstacle(model: nn.Module, batches: Batches, algorithm: GradientDescent) -> str | None:
    """Why a training's steps cannot be recorded, None where nothing is in the way.

    A replay does not run Python, so whatever could remember, count or draw there must be known not to.

    Example:
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.training.algorithm import GradientDescent
        >>> from fcnet.models.mlp import LogisticRegression
        >>> model, batches = LogisticRegression(4), Batches(torch.rand(5, 4), torch.tensor([0, 1, 1, 0, 1]))
        >>> obstacle(model, batches, GradientDescent(torch.optim.SGD(model.parameters(), fused=True), epochs=1))
        >>> obstacle(model, batches, GradientDescent(torch.optim.Rprop(model.parameters()), epochs=1))
        'Rprop takes numbers from the host, as no fused SGD, Adam or AdamW does'
    """
    optimizer = algorithm.optimizer
    if distributed.num_ranks() > 1:
        return "several ranks add up their gradients"
    if batches.images.device != batches.labels.device:
        return "the images are not on the device"
    word = "fused" if type(optimizer) in FUSED else "capturable" if isinstance(optimizer, Muon) else ""
    if not all(group.get(word) for group in optimizer.param_groups):
        return f"{type(optimizer).__name__} takes numbers from the host, as no fused SGD, Adam or AdamW does"
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules()):
        return "a module of the network has a hook"
    parts = [*model.modules(), algorithm.loss, *batches.augment]
    own = [part for part in parts if type(part).__module__.partition(".")[0] not in _OURS]
    return f"{getattr(own[0], '__name__', type(own[0]).__name__)} is not fcnet's or torch's" if own else None


def steps_at_once(model: nn.Module, batch_size: int) -> int:
    """How many steps a run has: as many as take a device about a millisecond, 16 at most.

    Example:
        >>> from fcnet.models.mlp import LogisticRegression
        >>> steps_at_once(LogisticRegression(3072, 10), 128), steps_at_once(nn.Linear(8192, 8192), 4096)
        (16, 1)
    """
    products = batch_size * sum(parameter.numel() for parameter in model.parameters())
    return min(max(_RUN_PRODUCTS // max(products, 1), 1), _MOST_STEPS)


@dataclass(frozen=True)
class Given:
    """What the host gives some steps.

    Attributes:
        order: what their batches are made of.
        numbers: float32 (steps, …), on the device: those of each step, as the step takes them.
        seeds: of what each step drops out; none where nothing is dropped.
    """

    order: Order
    numbers: Tensor
    seeds: Sequence[int]

    def part(self, steps: range, batch_size: int) -> Given:
        """What some of the steps are given; views."""
        places = slice(steps.start * batch_size, steps.stop * batch_size)
        which = slice(steps.start, steps.stop)
        return Given(self.order.part(places), self.numbers[which], self.seeds[which])

    def clone(self) -> Given:
        """The same in memory of its own."""
        return Given(self.order.clone(), self.numbers.clone(), self.seeds)


@dataclass(frozen=True)
class _Recorded:
    """A run's graph, and what it reads."""

    given: Given
    generators: Sequence[torch.Generator]
    replay: Replay

    def __call__(self, given: Given) -> None:
        """Makes the steps of such a run."""
        self.given.order.copy_(given.order)
        self.given.numbers.copy_(given.numbers, non_blocking=True)
        _seed(self.generators, given.seeds)
        self.replay()


class Runs:
    """Makes an epoch's steps run by run, replayed where such a run has been made before.

    Args:
        record: records a run's work; `cuda_graph`, or in tests another.
        model: of the training.
        batches: the training set.
        algorithm: how to learn.
        drops: what the model drops out.

    Attributes:
        at_once: how many steps a run has, but for the rest of an epoch and of one that is gone on with.
        obstacle: why nothing is recorded, None where nothing is in the way.
        refusal: why recording has failed, None where it has not; from then on all steps are made one by one.
    """

    def __init__(
        self, record: Record, model: nn.Module, batches: Batches, algorithm: GradientDescent, drops: Drops
    ) -> None:
        self._record, self._batches, self._optimizer, self._drops = record, batches, algorithm.optimizer, drops
        self.at_once = steps_at_once(model, batches.batch_size)
        self.obstacle = obstacle(model, batches, algorithm)
        self.refusal: str | None = None
        self.forget()

    @property
    def why_not(self) -> str | None:
        """Why steps are made one by one, None where they are recorded."""
        return self.obstacle or self.refusal

    def forget(self) -> None:
        """Begins anew; for memory that was replaced."""
        self._made: set[tuple[int, ...]] = set()
        self._recorded: dict[tuple[int, ...], _Recorded] = {}

    def epoch(
        self, order: Order, numbers: Sequence[Sequence[float]], first: int, start: int, step: Step
    ) -> Iterator[int]:
        """Makes an epoch's steps.

        Args:
            order: what the epoch's batches are made of.
            numbers: those of each of its steps.
            first: the number of its first step in the training.
            start: how many of its steps are made already.
            step: makes one, of a batch and of its numbers, scalars on the device.

        Yields:
            After each run how many of the epoch's steps are made; the optimizer's rates are plain numbers again.
        """
        seeds = [self._drops.seed(first + step) for step in range(len(numbers))] if self._drops.needed else []
        whole = Given(order, torch.tensor(numbers, dtype=torch.float32).to(self._batches.device), seeds)
        while start < len(numbers):
            stop = min((start // self.at_once + 1) * self.at_once, len(numbers))
            sizes = tuple(self._batches.size(number) for number in range(start, stop))
            self._make(sizes, whole.part(range(start, stop), self._batches.batch_size), step)
            for group, rate in zip(self._optimizer.param_groups, numbers[stop - 1], strict=False):
                group["lr"] = rate
            yield stop
            start = stop

    def _make(self, sizes: tuple[int, ...], given: Given, step: Step) -> None:
        """Makes a run whose batches have some sizes."""
        if sizes in self._made and sizes not in self._recorded and self.refusal is None:
            self._try_to_record(sizes, given.clone(), step)
        if sizes in self._recorded:
            self._recorded[sizes](given)
        else:
            generators = self._drops.generators(len(sizes))
            _seed(generators, given.seeds)
            self._steps(sizes, given, generators, step)
            self._made.add(sizes)

    def _try_to_record(self, sizes: tuple[int, ...], given: Given, step: Step) -> None:
        generators = self._drops.generators(len(sizes))
        _seed(generators, given.seeds)
        try:
            with _capturable(self._optimizer):
                replay = self._record(lambda: self._steps(sizes, given, generators, step), generators)
        except RuntimeError as error:
            self.refusal = str(error.__context__ or error).partition("\n")[0]  # ending a broken capture fails, too
        else:
            self._recorded[sizes] = _Recorded(given, generators, replay)

    def _steps(self, sizes: tuple[int, ...], given: Given, generators: Sequence[torch.Generator], step: Step) -> None:
        """Makes a run's steps, or asks for them while they are recorded."""
        parts = given.order.split(self._batches.batch_size)
        for number, (size, part) in enumerate(zip(sizes, parts, strict=True)):
            with self._drops.drawn_from(generators[number] if generators else None):
                step(self._batches.batch(part, size), given.numbers[number].unbind())


def _seed(generators: Sequence[torch.Generator], seeds: Sequence[int]) -> None:
    for generator, seed in zip(generators, seeds, strict=True):
        generator.manual_seed(seed)


@contextlib.contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While open the optimizer takes it that it is recorded; a fused one does nothing else than it always does."""
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value
