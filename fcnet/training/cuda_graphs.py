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

from fcnet.optim.optimizers import FUSED_OPTIMIZERS, Muon
from fcnet.runtime import distributed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fcnet.data.batches import Batch, Batches
    from fcnet.data.epoch_plan import EpochPlan
    from fcnet.training.algorithm import GradientDescent
    from fcnet.training.dropout_seeds import DropoutRng

    StepFn = Callable[[Batch, Sequence[Tensor]], None]
    Replay = Callable[[], None]
    Record = Callable[[Callable[[], None], Sequence[torch.Generator]], Replay]

_MAX_STEPS = 16
_GRAPH_MULTIPLY_ADDS = 40_000_000_000
_KNOWN_PACKAGES = ("fcnet", "torch")


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


def unsupported_reason(model: nn.Module, batches: Batches, algorithm: GradientDescent) -> str | None:
    """Why a training's steps cannot be recorded, None where nothing is in the way.

    A replay does not run Python, so whatever could remember, count or draw there must be known not to.

    Example:
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.training.algorithm import GradientDescent
        >>> from fcnet.models.mlp import LogisticRegression
        >>> model, batches = LogisticRegression(4), Batches(torch.rand(5, 4), torch.tensor([0, 1, 1, 0, 1]))
        >>> unsupported_reason(model, batches, GradientDescent(torch.optim.SGD(model.parameters(), fused=True), epochs=1))
        >>> unsupported_reason(model, batches, GradientDescent(torch.optim.Rprop(model.parameters()), epochs=1))
        'Rprop takes numbers from the host, as no fused SGD, Adam or AdamW does'
    """
    optimizer = algorithm.optimizer
    if distributed.world_size() > 1:
        return "several ranks add up their gradients"
    if batches.images.device != batches.labels.device:
        return "the images are not on the device"
    word = "fused" if type(optimizer) in FUSED_OPTIMIZERS else "capturable" if isinstance(optimizer, Muon) else ""
    if not all(group.get(word) for group in optimizer.param_groups):
        return f"{type(optimizer).__name__} takes numbers from the host, as no fused SGD, Adam or AdamW does"
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules()):
        return "a module of the network has a hook"
    parts = [*model.modules(), algorithm.loss, *batches.augmentation.transforms]
    own = [part for part in parts if type(part).__module__.partition(".")[0] not in _KNOWN_PACKAGES]
    return f"{getattr(own[0], '__name__', type(own[0]).__name__)} is not fcnet's or torch's" if own else None


def num_steps_per_graph(model: nn.Module, batch_size: int) -> int:
    """How many steps a run has: as many as take a device about a millisecond, 16 at most.

    Example:
        >>> from fcnet.models.mlp import LogisticRegression
        >>> num_steps_per_graph(LogisticRegression(3072, 10), 128), num_steps_per_graph(nn.Linear(8192, 8192), 4096)
        (16, 1)
    """
    products = batch_size * sum(parameter.numel() for parameter in model.parameters())
    return min(max(_GRAPH_MULTIPLY_ADDS // max(products, 1), 1), _MAX_STEPS)


@dataclass(frozen=True)
class GraphInputs:
    """What the host gives some steps.

    Attributes:
        order: what their batches are made of.
        step_inputs: float32 (steps, …), on the device: those of each step, as the step takes them.
        seeds: of what each step drops out; none where nothing is dropped.
    """

    order: EpochPlan
    step_inputs: Tensor
    seeds: Sequence[int]

    def slice(self, steps: range, batch_size: int) -> GraphInputs:
        """What some of the steps are given; views."""
        places = slice(steps.start * batch_size, steps.stop * batch_size)
        which = slice(steps.start, steps.stop)
        return GraphInputs(self.order.slice(places), self.step_inputs[which], self.seeds[which])

    def clone(self) -> GraphInputs:
        """The same in memory of its own."""
        return GraphInputs(self.order.clone(), self.step_inputs.clone(), self.seeds)


@dataclass(frozen=True)
class _CapturedGraph:
    """A run's graph, and what it reads."""

    inputs: GraphInputs
    generators: Sequence[torch.Generator]
    replay: Replay

    def __call__(self, inputs: GraphInputs) -> None:
        """Makes the steps of such a run."""
        self.inputs.order.copy_(inputs.order)
        self.inputs.step_inputs.copy_(inputs.step_inputs, non_blocking=True)
        _seed_generators(self.generators, inputs.seeds)
        self.replay()


class GraphedSteps:
    """Makes an epoch's steps run by run, replayed where such a run has been made before.

    Args:
        record: records a run's work; `cuda_graph`, or in tests another.
        model: of the training.
        batches: the training set.
        algorithm: how to learn.
        dropout_rng: what the model drops out.

    Attributes:
        steps_per_graph: how many steps a run has, but for the rest of an epoch and of one that is gone on with.
        unsupported_reason: why nothing is recorded, None where nothing is in the way.
        capture_error: why recording has failed, None where it has not; from then on all steps are made one by one.
    """

    def __init__(
        self, record: Record, model: nn.Module, batches: Batches, algorithm: GradientDescent, dropout_rng: DropoutRng
    ) -> None:
        self._record, self._batches, self._optimizer, self._dropout_rng = (
            record,
            batches,
            algorithm.optimizer,
            dropout_rng,
        )
        self.steps_per_graph = num_steps_per_graph(model, batches.batch_size)
        self.unsupported_reason = unsupported_reason(model, batches, algorithm)
        self.capture_error: str | None = None
        self.reset()

    @property
    def fallback_reason(self) -> str | None:
        """Why steps are made one by one, None where they are recorded."""
        return self.unsupported_reason or self.capture_error

    def reset(self) -> None:
        """Begins anew; for memory that was replaced."""
        self._warmed_up: set[tuple[int, ...]] = set()
        self._graphs: dict[tuple[int, ...], _CapturedGraph] = {}

    def epoch(
        self, order: EpochPlan, step_inputs: Sequence[Sequence[float]], first: int, start: int, step: StepFn
    ) -> Iterator[int]:
        """Makes an epoch's steps.

        Args:
            order: what the epoch's batches are made of.
            step_inputs: those of each of its steps.
            first: the number of its first step in the training.
            start: how many of its steps are made already.
            step: makes one, of a batch and of its numbers, scalars on the device.

        Yields:
            After each run how many of the epoch's steps are made; the optimizer's rates are plain numbers again.
        """
        seeds = (
            [self._dropout_rng.seed(first + step) for step in range(len(step_inputs))]
            if self._dropout_rng.is_active
            else []
        )
        whole = GraphInputs(order, torch.tensor(step_inputs, dtype=torch.float32).to(self._batches.device), seeds)
        while start < len(step_inputs):
            stop = min((start // self.steps_per_graph + 1) * self.steps_per_graph, len(step_inputs))
            sizes = tuple(self._batches.batch_size_at(number) for number in range(start, stop))
            self._run_steps(sizes, whole.slice(range(start, stop), self._batches.batch_size), step)
            for group, lr in zip(self._optimizer.param_groups, step_inputs[stop - 1], strict=False):
                group["lr"] = lr
            yield stop
            start = stop

    def _run_steps(self, sizes: tuple[int, ...], inputs: GraphInputs, step: StepFn) -> None:
        """Makes a run whose batches have some sizes."""
        if sizes in self._warmed_up and sizes not in self._graphs and self.capture_error is None:
            self._try_capture(sizes, inputs.clone(), step)
        if sizes in self._graphs:
            self._graphs[sizes](inputs)
        else:
            generators = self._dropout_rng.generators(len(sizes))
            _seed_generators(generators, inputs.seeds)
            self._execute(sizes, inputs, generators, step)
            self._warmed_up.add(sizes)

    def _try_capture(self, sizes: tuple[int, ...], inputs: GraphInputs, step: StepFn) -> None:
        generators = self._dropout_rng.generators(len(sizes))
        _seed_generators(generators, inputs.seeds)
        try:
            with _capturable(self._optimizer):
                replay = self._record(lambda: self._execute(sizes, inputs, generators, step), generators)
        except RuntimeError as error:
            self.capture_error = str(error.__context__ or error).partition("\n")[
                0
            ]  # ending a broken capture fails, too
        else:
            self._graphs[sizes] = _CapturedGraph(inputs, generators, replay)

    def _execute(
        self, sizes: tuple[int, ...], inputs: GraphInputs, generators: Sequence[torch.Generator], step: StepFn
    ) -> None:
        """Makes a run's steps, or asks for them while they are recorded."""
        parts = inputs.order.split(self._batches.batch_size)
        for number, (size, part) in enumerate(zip(sizes, parts, strict=True)):
            with self._dropout_rng.use_generator(generators[number] if generators else None):
                step(self._batches.make_batch(part, size), inputs.step_inputs[number].unbind())


def _seed_generators(generators: Sequence[torch.Generator], seeds: Sequence[int]) -> None:
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
