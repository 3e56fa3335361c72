"""Training steps captured as CUDA graphs: launching the kernels of a small network takes longer than running them.

A graph repeats the same kernels on the same memory, without any Python. Everything that differs between steps
therefore lives in tensors and generators that the host fills before a replay: the images of each batch and their random
draws, the learning rates, the weight in the average, and the dropout seeds.

Each epoch is cut into runs of several steps, one graph per run. The first run of a shape executes step by step, as part
of the training, and warms up the device. The second is captured, and it and all later runs of the shape are replays.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.optim.optimizers import FUSED_OPTIMIZERS, Muon, has_step_hooks
from fcnet.runtime import distributed
from fcnet.training.backpropagation import has_hooks

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
_GRAPH_MULTIPLY_ADDS = 40_000_000_000  # about a millisecond of work
_KNOWN_PACKAGES = ("fcnet", "torch")


def cuda_graph(device: torch.device, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
    """Captures the kernels that a function launches, without running them.

    Args:
        device: the GPU.
        work: runs once, now. Its tensor operations happen at each replay, its other effects happen now.
        generators: the random generators of the work. Each replay reads their current seeds.

    Returns:
        A function that launches the graph and does not wait for it.

    Raises:
        RuntimeError: the work waits for the device, or cannot be captured for another reason. The device is then as it
            was before.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    for generator in generators:
        graph.register_generator_state(generator)
    capture = torch.cuda.graph(graph, pool=pool, stream=_capture_stream(index))
    try:
        # When a capture fails, torch leaves its own stream current. The outer stream context restores the previous one.
        with torch.cuda.device(index), torch.cuda.stream(torch.cuda.current_stream(index)), capture:
            work()
    except BaseException:
        graph.reset()
        # Some versions of torch end the use of the pool in a successful capture alone. To their allocator and to their
        # default generator, from which torch's dropout draws, this one would be under way for ever.
        default = torch.cuda.default_generators[index]
        default.graphsafe_set_state(default.clone_state())  # a clone is not in a capture
        with contextlib.suppress(RuntimeError):  # the use has ended
            torch._C._cuda_endAllocateToPool(index, pool)
            torch._C._cuda_releasePool(index, pool)
        raise
    return graph.replay


@functools.cache
def _capture_stream(index: int) -> torch.cuda.Stream:
    """Returns the stream of all captures on a device. cuBLAS keeps a workspace for each stream that it has seen."""
    return torch.cuda.Stream(torch.device("cuda", index))


def unsupported_reason(model: nn.Module, batches: Batches, algorithm: GradientDescent) -> str | None:
    """Returns why a CUDA graph cannot capture a training's steps, or None if it can.

    A replay runs no Python, so a module that counts, stores or draws anything there would go wrong without an error.
    Only the modules of fcnet and torch are known to be safe.

    Example:
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.training.algorithm import GradientDescent
        >>> from fcnet.models.mlp import LogisticRegression
        >>> model, batches = LogisticRegression(4), Batches(torch.rand(5, 4), torch.tensor([0, 1, 1, 0, 1]))
        >>> fused, other = torch.optim.SGD(model.parameters(), fused=True), torch.optim.Rprop(model.parameters())
        >>> unsupported_reason(model, batches, GradientDescent(fused, epochs=1))
        >>> unsupported_reason(model, batches, GradientDescent(other, epochs=1))
        'the optimizer Rprop reads values on the host; use a fused SGD, Adam or AdamW'
    """
    optimizer = algorithm.optimizer
    if distributed.world_size() > 1:
        return "several ranks sum their gradients"
    if batches.images.device != batches.labels.device:
        return "the images are not on the device"
    flag = "fused" if type(optimizer) in FUSED_OPTIMIZERS else "capturable" if isinstance(optimizer, Muon) else ""
    if not all(group.get(flag) for group in optimizer.param_groups):
        return f"the optimizer {type(optimizer).__name__} reads values on the host; use a fused SGD, Adam or AdamW"
    if has_hooks(model) or has_step_hooks(optimizer):
        return "a module, a parameter or the optimizer has a hook"
    parts = [*model.modules(), algorithm.loss, *batches.augmentation.transforms]
    unknown = [part for part in parts if type(part).__module__.partition(".")[0] not in _KNOWN_PACKAGES]
    if not unknown:
        return None
    return f"{getattr(unknown[0], '__name__', type(unknown[0]).__name__)} is not part of fcnet or torch"


def num_steps_per_graph(model: nn.Module, batch_size: int) -> int:
    """Returns the number of steps per graph: about a millisecond of work, and at most 16 steps.

    Example:
        >>> from fcnet.models.mlp import LogisticRegression
        >>> num_steps_per_graph(LogisticRegression(3072, 10), 128), num_steps_per_graph(nn.Linear(8192, 8192), 4096)
        (16, 1)
    """
    products = batch_size * sum(parameter.numel() for parameter in model.parameters())
    return min(max(_GRAPH_MULTIPLY_ADDS // max(products, 1), 1), _MAX_STEPS)


@dataclass(frozen=True)
class GraphInputs:
    """The values that differ between steps, for a run of steps.

    Attributes:
        plan: the images of the batches and their random draws.
        step_inputs: float32 (steps, …), on the device, one row per step as `train_step` takes it.
        seeds: the dropout seed of each step; empty for a model without dropout.
    """

    plan: EpochPlan
    step_inputs: Tensor
    seeds: Sequence[int]

    def slice(self, steps: range, batch_size: int) -> GraphInputs:
        """Returns the inputs of some of the steps, as views."""
        positions = slice(steps.start * batch_size, steps.stop * batch_size)
        rows = slice(steps.start, steps.stop)
        return GraphInputs(self.plan.slice(positions), self.step_inputs[rows], self.seeds[rows])

    def clone(self) -> GraphInputs:
        """Returns a copy in memory of its own, for a graph to read."""
        return GraphInputs(self.plan.clone(), self.step_inputs.clone(), self.seeds)


@dataclass(frozen=True)
class _CapturedGraph:
    """A captured run of steps, and the tensors and generators that it reads."""

    inputs: GraphInputs
    generators: Sequence[torch.Generator]
    replay: Replay

    def __call__(self, inputs: GraphInputs) -> None:
        """Makes a run of steps with other inputs."""
        self.inputs.plan.copy_(inputs.plan)
        self.inputs.step_inputs.copy_(inputs.step_inputs, non_blocking=True)
        _seed_generators(self.generators, inputs.seeds)
        self.replay()


class GraphedSteps:
    """Makes the steps of an epoch in runs, and replays every run of a shape that it has captured.

    Args:
        record: captures the work of a run; `cuda_graph` on a GPU.
        model: the model to train.
        batches: the training set.
        algorithm: the learning algorithm.
        dropout_rng: the random generator of the model's dropout layers.

    Attributes:
        steps_per_graph: the steps of a run. The last run of an epoch and the first of a resumed one may be shorter.
        unsupported_reason: why nothing is captured, or None.
        capture_error: why a capture failed, or None. After a failure all steps run one by one.
    """

    def __init__(
        self, record: Record, model: nn.Module, batches: Batches, algorithm: GradientDescent, dropout_rng: DropoutRng
    ) -> None:
        self._record, self._batches, self._dropout_rng = record, batches, dropout_rng
        self._optimizer = algorithm.optimizer
        self.steps_per_graph = num_steps_per_graph(model, batches.batch_size)
        self.unsupported_reason = unsupported_reason(model, batches, algorithm)
        self.capture_error: str | None = None
        self.reset()

    @property
    def fallback_reason(self) -> str | None:
        """Why steps run one by one, or None if they are captured."""
        return self.unsupported_reason or self.capture_error

    def reset(self) -> None:
        """Forgets all graphs, because the tensors that they use were replaced."""
        self._warmed_up: set[tuple[int, ...]] = set()
        self._graphs: dict[tuple[int, ...], _CapturedGraph] = {}

    def epoch(
        self, plan: EpochPlan, step_inputs: Sequence[Sequence[float]], first: int, start: int, step: StepFn
    ) -> Iterator[int]:
        """Makes the remaining steps of an epoch.

        Args:
            plan: the images of the epoch's batches and their random draws.
            step_inputs: the inputs of each step of the epoch.
            first: the number of the epoch's first step in the training.
            start: the number of the epoch's steps that are done.
            step: makes a step from a batch and its inputs, which are scalars on the device.

        Yields:
            The number of the epoch's steps that are done, after each run. The optimizer's learning rates are then
            Python floats again.
        """
        num_steps = len(step_inputs)
        drops = self._dropout_rng.is_active
        seeds = [self._dropout_rng.seed(first + number) for number in range(num_steps)] if drops else []
        inputs = GraphInputs(plan, torch.tensor(step_inputs, dtype=torch.float32).to(self._batches.device), seeds)
        while start < num_steps:
            # Runs end at multiples of the run length also after a resume, so that their shapes are those of a graph.
            stop = min((start // self.steps_per_graph + 1) * self.steps_per_graph, num_steps)
            sizes = tuple(self._batches.batch_size_at(number) for number in range(start, stop))
            self._run_steps(sizes, inputs.slice(range(start, stop), self._batches.batch_size), step)
            for group, lr in zip(self._optimizer.param_groups, step_inputs[stop - 1], strict=False):
                group["lr"] = lr
            yield stop
            start = stop

    def _run_steps(self, sizes: tuple[int, ...], inputs: GraphInputs, step: StepFn) -> None:
        """Makes a run of steps on batches of the given sizes: a replay if there is a graph for them."""
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
        """Captures a run of steps, or stores why that failed."""
        generators = self._dropout_rng.generators(len(sizes))
        _seed_generators(generators, inputs.seeds)
        try:
            with _capturable(self._optimizer):
                replay = self._record(lambda: self._execute(sizes, inputs, generators, step), generators)
        except RuntimeError as error:
            # Ending a broken capture raises a second error. The first one, its context, has the cause.
            self.capture_error = str(error.__context__ or error).partition("\n")[0]
            self._graphs.clear()
        else:
            self._graphs[sizes] = _CapturedGraph(inputs, generators, replay)

    def _execute(
        self, sizes: tuple[int, ...], inputs: GraphInputs, generators: Sequence[torch.Generator], step: StepFn
    ) -> None:
        """Makes a run of steps one by one. During a capture this launches the kernels to capture."""
        plans = inputs.plan.split(self._batches.batch_size)
        for number, (size, plan) in enumerate(zip(sizes, plans, strict=True)):
            with self._dropout_rng.use_generator(generators[number] if generators else None):
                step(self._batches.make_batch(plan, size), inputs.step_inputs[number].unbind())


def _seed_generators(generators: Sequence[torch.Generator], seeds: Sequence[int]) -> None:
    for generator, seed in zip(generators, seeds, strict=True):
        generator.manual_seed(seed)


@contextlib.contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Sets the optimizer's ``capturable`` flag for the duration of the block.

    torch's optimizers refuse to run in a capture without it. It does not change the arithmetic of a fused step.
    """
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value
