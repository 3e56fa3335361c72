"""Tests of fcnet.training.cuda_graphs, with a recorder on the CPU in place of CUDA graphs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fcnet.config.toml import dump_config, load_config
from fcnet.data.batches import Augmentation, Batches, Preprocessing
from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.data.transforms.whitening import fit_whitening
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import Stopped, run_experiment
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import LBFGS, Muon, parameter_groups
from fcnet.optim.schedules import add_warmup, cosine, multi_step
from fcnet.training import cuda_graphs
from fcnet.training.algorithm import GradientDescent
from fcnet.training.cuda_graphs import GraphedSteps, cuda_graph, num_steps_per_graph, unsupported_reason
from fcnet.training.fit import fit
from fcnet.training.loop import Training
from tests.unit.training.helpers import HOOKS, avoid_free_reads, register_hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fcnet.experiment.build import Experiment
    from fcnet.training.cuda_graphs import Record, Replay
    from fcnet.training.records import EpochRecord

PIXELS = torch.randint(0, 256, (37, 1, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(3, (37,), generator=torch.Generator().manual_seed(2))
STEPS = 10
HOST_SYNCS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "item", "bincount"}
UNDECLARED_WRITES = {"native_batch_norm": (3, 4)}
"""Operations that write to arguments without declaring it in their schema, with the positions of those arguments."""


class Tape(TorchDispatchMode):
    """A recording of operations, which replay on the same memory and with the same Python numbers, like a CUDA graph.

    Like a capture, recording leaves every tensor unchanged and raises at an operation that the host would wait for.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in HOST_SYNCS:
            raise RuntimeError(f"{name} is not permitted when a stream is capturing\nlook elsewhere")
        for place, argument in enumerate(func._schema.arguments):
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            if (argument.alias_info and argument.alias_info.is_write) or place in UNDECLARED_WRITES.get(name, ()):
                self._before += [(leaf, leaf.clone()) for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def record(self, work: Callable[[], None]) -> None:
        """Runs the work, then restores the values of all tensors that existed before."""
        try:
            with self:
                work()
        finally:
            with torch.no_grad():
                for tensor, values in reversed(self._before):
                    tensor.copy_(values)
            self._before = []

    def replay(self) -> None:
        """Repeats all operations and writes each result into the memory of the recorded one."""
        with torch.no_grad():
            for func, args, kwargs, result in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Recorder:
    """Stands in for `fcnet.training.cuda_graphs.cuda_graph`, and counts captures and replays."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
        tape, states = Tape(), [generator.get_state() for generator in generators]
        try:
            tape.record(work)
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay


@pytest.fixture(autouse=True)
def device_without_free_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    avoid_free_reads(monkeypatch)


def failing_capture(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
    raise RuntimeError("no graphs today")


# Learning rates and schedule factors are powers of two, so that float32 holds them exactly.
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.125, momentum=0.9, nesterov=True, fused=True),
    "sgd without momentum": partial(torch.optim.SGD, lr=0.125, fused=True),
    "adam": partial(torch.optim.Adam, lr=2.0**-7, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=2.0**-7, fused=True),
    "muon": partial(Muon, lr=2.0**-7),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "logistic regression": {"hidden": ()},
    "plain": {"hidden": (6, 6), "activation": "sigmoid"},
    "all": {"hidden": (6, 6), "normalization": "batch", "dropout": 0.3, "residual": True},
}
TRANSFORMS = (Flip(), Shift(1), Affine(15.0, 0.2), ColorJitter(0.4), Cutout(2))
BATCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "augmented": {"augmentation": Augmentation(TRANSFORMS)},
    "mixed": {"augmentation": Augmentation((Flip(),), MixupCutmix(0.4, 1.0)), "balance": "weights"},
    "sampled": {"balance": "sampling"},
}
ALL_SETTINGS: dict[str, Any] = {"accumulate": 2, "clip_norm": 0.5, "ema_decay": 0.9, "loss": CrossEntropy(0.1)}


def training(
    record: Record | None,
    network: str = "all",
    optimizer: str = "adamw",
    batches_settings: dict[str, Any] = BATCHES["augmented"],
    *,
    steps_per_graph: int = 4,
    num_classes: int = 3,
    **settings: Any,
) -> Training:
    """Returns a new training: ten steps an epoch, the last on 1 image. Without a recorder it makes steps one by one."""
    batches = Batches(PIXELS, LABELS % num_classes, batch_size=4, **batches_settings)
    initial = torch.Generator().manual_seed(1)
    model = MLP(20, num_classes=num_classes, generator=initial, **NETWORKS[network])
    settings = {"schedule": multi_step([7, 23, 31], 0.5), **settings}
    algorithm = GradientDescent(OPTIMIZERS[optimizer](parameter_groups(model, 0.0625)), epochs=4, **settings)
    held_out = Batches(PIXELS, LABELS % num_classes, batch_size=10)
    made = Training(model, batches, algorithm, validation=held_out, seed=5)
    made.reads_losses = False
    return made if record is None else with_graphs(made, record, steps_per_graph)


def with_graphs(made: Training, record: Record, steps_per_graph: int) -> Training:
    """Lets a training capture its steps, as on a GPU."""
    made.graphed_steps = GraphedSteps(record, made.model, made.batches, made.algorithm, made.dropout_rng)
    made.graphed_steps.steps_per_graph = steps_per_graph
    return made


def without_timings(record: EpochRecord) -> dict[str, Any]:
    return dataclasses.asdict(record) | {"seconds": None, "images_per_second": None}


def train(made: Training) -> list[dict[str, Any]]:
    """Trains to the end and returns the records without measured times."""
    return [without_timings(record) for record in made.advance() if record is not None]


def copy_state(made: Training) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns a copy of a training's state without measured times."""
    tensors, metadata = made.state()
    return {name: tensor.clone() for name, tensor in tensors.items()}, metadata | {"seconds": 0, "previous_seconds": 0}


def assert_same_state(ours: Training, theirs: Training) -> None:
    """Asserts that two trainings agree in every bit, and that the learning rates are floats again."""
    (tensors, metadata), (others, other_metadata) = copy_state(ours), copy_state(theirs)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    assert metadata == other_metadata
    assert all(type(group["lr"]) is float for group in ours.algorithm.optimizer.param_groups)


def assert_replays_match_single_steps(record: Record, *arguments: Any, **settings: Any) -> Training:
    ours, theirs = training(record, *arguments, **settings), training(None, *arguments, **settings)
    assert train(ours) == train(theirs)
    assert_same_state(ours, theirs)
    return ours


@pytest.mark.parametrize("steps_per_graph", [1, 4, 16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_replayed_steps_equal_single_steps(network: str, optimizer: str, steps_per_graph: int) -> None:
    recorder = Recorder()
    made = assert_replays_match_single_steps(recorder, network, optimizer, steps_per_graph=steps_per_graph)
    shapes = {1: 2, 4: 2, 16: 1}[steps_per_graph]  # full runs, and the last of an epoch
    assert recorder.recorded == shapes
    assert recorder.replayed == 4 * -(-STEPS // steps_per_graph) - shapes  # the first run of a shape is not a replay
    assert made.graphed_steps is not None
    assert made.graphed_steps.capture_error is None


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("settings", [{}, ALL_SETTINGS, {"patience": 2}], ids=["none", "all", "patience"])
@pytest.mark.parametrize("batches", BATCHES)
def test_replayed_steps_equal_single_steps_for_all_kinds_of_batches(
    batches: str, settings: dict[str, Any], num_classes: int
) -> None:
    recorder = Recorder()
    assert_replays_match_single_steps(recorder, "all", "adamw", BATCHES[batches], num_classes=num_classes, **settings)
    assert recorder.replayed


def test_steps_on_whitened_images_are_replayed() -> None:
    whitening = fit_whitening((batch.images for batch in Batches(PIXELS, LABELS)), 20)
    settings = {"preprocessing": Preprocessing(whitening=whitening), "augmentation": Augmentation((Flip(),))}
    assert_replays_match_single_steps(Recorder(), "plain", "sgd", settings)


def test_bfloat16_steps_are_replayed() -> None:
    assert_replays_match_single_steps(Recorder(), precision=torch.bfloat16)


def torch_training(record: Record | None, *modules: nn.Module) -> Training:
    """Returns a training of torch's own modules on floating-point images, with nine steps an epoch."""
    model, batches = nn.Sequential(*modules), Batches(PIXELS[:36].flatten(1) / 255.0, LABELS[:36], batch_size=4)
    optimizer = OPTIMIZERS["sgd"]([{"params": list(model.parameters())}])
    made = Training(model, batches, GradientDescent(optimizer, epochs=3))
    made.reads_losses = False
    return made if record is None else with_graphs(made, record, 4)


def test_steps_of_torchs_own_modules_on_floating_images_are_replayed() -> None:
    modules = nn.Linear(20, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    ours, theirs = torch_training(Recorder(), *copy.deepcopy(modules)), torch_training(None, *modules)
    assert train(ours) == train(theirs)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_captured_learning_rate_is_the_schedules_rounded_to_float32(optimizer: str) -> None:
    """Replays equal the steps after a failed capture bit for bit, and those of a CPU up to the rounding of the rate."""
    schedule = add_warmup(cosine(4 * STEPS), 13)
    ours, fallback, plain = (
        training(record, optimizer=optimizer, schedule=schedule) for record in (Recorder(), failing_capture, None)
    )
    assert train(ours) == train(fallback)
    assert_same_state(ours, fallback)
    train(plain)
    for mine, theirs in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)  # an ulp of the rate, over 40 steps


@pytest.mark.parametrize("steps_per_graph", [1, 3])
@pytest.mark.parametrize("network", ["plain", "all"])
def test_a_training_restored_at_any_pause_ends_bit_for_bit_like_an_uninterrupted_one(
    network: str, steps_per_graph: int
) -> None:
    whole = training(Recorder(), network, steps_per_graph=steps_per_graph, ema_decay=0.9)
    saved, events = [], []
    for record in whole.advance():
        events.append(None if record is None else without_timings(record))
        saved.append(copy_state(whole))
    for pause, (tensors, metadata) in list(enumerate(saved))[:: 1 if steps_per_graph > 1 else 4]:
        again = training(Recorder(), network, steps_per_graph=steps_per_graph, ema_decay=0.9)
        again.restore(tensors, metadata)
        rest = [None if record is None else without_timings(record) for record in again.advance()]
        assert rest == events[pause + 1 :]
        assert_same_state(again, whole)


def test_a_training_can_be_restored_in_the_middle_of_a_graph() -> None:
    whole, plain = training(None), training(None)
    train(whole)
    for _ in itertools.islice(plain.advance(), 2 * STEPS):
        again = training(Recorder())
        again.restore(*copy_state(plain))
        train(again)
        assert_same_state(again, whole)


def test_graphs_of_a_resumed_training_end_at_the_same_steps() -> None:
    plain, again = training(None), training(Recorder())
    list(itertools.islice(plain.advance(), 5))
    again.restore(*copy_state(plain))
    assert [again.step for _ in itertools.islice(again.advance(), 5)] == [8, 10, 10, 14, 18]


def test_a_restore_discards_the_captured_graphs() -> None:
    ours, theirs = training(Recorder()), training(None)
    saved = copy_state(ours)
    list(itertools.islice(ours.advance(), 9))
    ours.restore(*saved)
    assert train(ours) == train(theirs)
    assert_same_state(ours, theirs)


def test_training_pauses_after_each_graph_with_the_state_of_single_steps() -> None:
    ours, theirs = training(Recorder()), training(None)
    states = {}
    for record in theirs.advance():
        states[theirs.step, record is not None] = copy_state(theirs)
    pauses = []
    for record in ours.advance():
        pauses.append(ours.step)
        tensors, metadata = copy_state(ours)
        others, other_metadata = states[ours.step, record is not None]
        assert metadata == other_metadata
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
    assert pauses[:8] == [4, 8, 10, 10, 14, 18, 20, 20]


def failing_after(operations: int) -> Record:
    """Returns a recorder that fails after a number of operations, as a capture does."""

    class Broken(Tape):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if len(self.operations) == operations:
                raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
            return super().__torch_dispatch__(func, types, args, kwargs)

    def fail(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
        Broken().record(work)
        raise AssertionError("the work has fewer operations")

    return fail


@pytest.mark.parametrize("after", [0, 30, 150, 400])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_failed_capture_changes_nothing_and_stores_its_reason(optimizer: str, after: int) -> None:
    ours, theirs = (training(record, optimizer=optimizer) for record in (failing_after(after), None))
    assert train(ours) == train(theirs)
    assert_same_state(ours, theirs)
    assert ours.graphed_steps is not None
    assert ours.graphed_steps.capture_error == "operation not permitted when stream is capturing"


def test_a_failed_capture_ends_the_replays_of_the_captured_runs() -> None:
    recorder = Recorder()

    def record_once(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
        if recorder.recorded:
            raise RuntimeError("no second graph")
        return recorder(work, generators)

    ours, theirs = training(record_once), training(None)
    assert train(ours) == train(theirs)
    assert_same_state(ours, theirs)
    assert ours.graphed_steps is not None
    assert ours.graphed_steps.capture_error == "no second graph"
    assert recorder.replayed == 3  # the second run of the first epoch, and two before the short run of the second


def test_a_network_with_a_host_sync_is_not_captured() -> None:
    class Waits(nn.ReLU):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
            return super().forward(input) if input.sum().item() > -1e9 else input

    Waits.__module__ = "torch.nn"
    made = torch_training(Recorder(), nn.Linear(20, 6), Waits(), nn.Linear(6, 3))
    assert len(train(made)) == 3
    assert made.graphed_steps is not None
    assert made.graphed_steps.capture_error == "_local_scalar_dense is not permitted when a stream is capturing"


HOOK_REASON = "a module, a parameter or the optimizer has a hook"


class CustomLinear(nn.Linear):
    pass


class CustomLoss(CrossEntropy):
    pass


def with_hook(register: str) -> nn.Module:
    model = nn.Linear(20, 3)
    register_hook(model, register, lambda *_: None)
    return model


def hooked_sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    optimizer = OPTIMIZERS["sgd"](groups)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


@pytest.mark.parametrize(
    ("model", "optimizer", "settings", "reason"),
    [
        (MLP(20, (4,), 3), OPTIMIZERS["adamw"], {}, None),
        (MLP(20, (4,), 3), LBFGS, {}, "the optimizer LBFGS reads values on the host; use a fused SGD, Adam or AdamW"),
        (
            MLP(20, (4,), 3),
            partial(torch.optim.SGD, lr=0.1),
            {},
            "the optimizer SGD reads values on the host; use a fused SGD, Adam or AdamW",
        ),
        (CustomLinear(20, 3), OPTIMIZERS["sgd"], {}, "CustomLinear is not part of fcnet or torch"),
        (nn.Linear(20, 3), OPTIMIZERS["sgd"], {"loss": CustomLoss()}, "CustomLoss is not part of fcnet or torch"),
        *((with_hook(register), OPTIMIZERS["sgd"], {}, HOOK_REASON) for register in HOOKS),
        (nn.Linear(20, 3), hooked_sgd, {}, HOOK_REASON),
    ],
)
def test_the_reason_against_graphs_is_known_in_advance(
    model: nn.Module, optimizer: Any, settings: dict[str, Any], reason: str | None
) -> None:
    algorithm = GradientDescent(optimizer([{"params": list(model.parameters())}]), epochs=1, **settings)
    assert unsupported_reason(model, Batches(torch.rand(37, 20), LABELS), algorithm) == reason


@pytest.mark.parametrize("capturable", [True, False])
def test_muon_is_captured_if_it_is_capturable(capturable: bool) -> None:
    model = MLP(20, (4,), 3)
    optimizer = Muon(parameter_groups(model, 0.0))
    for group in optimizer.param_groups:
        group["capturable"] = capturable
    reason = unsupported_reason(model, Batches(PIXELS, LABELS), GradientDescent(optimizer, epochs=1))
    assert (reason is None) == capturable


def test_images_on_another_device_rule_graphs_out() -> None:
    model = MLP(20, (4,), 3)
    batches = Batches(PIXELS, LABELS)
    batches.images = batches.images.to("meta")
    algorithm = GradientDescent(OPTIMIZERS["sgd"](parameter_groups(model, 0.0)), epochs=1)
    assert unsupported_reason(model, batches, algorithm) == "the images are not on the device"


def test_several_ranks_rule_graphs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.runtime.distributed.world_size", lambda: 2)
    made = GradientDescent(OPTIMIZERS["sgd"](parameter_groups(MLP(20, (4,), 3), 0.0)), epochs=1)
    assert unsupported_reason(MLP(20, (4,), 3), Batches(PIXELS, LABELS), made) == "several ranks sum their gradients"


@pytest.mark.parametrize("record", [Recorder(), failing_capture])
def test_unsupported_steps_and_steps_that_read_their_losses_run_one_by_one(record: Record) -> None:
    ours = training(record)
    ours.reads_losses = True
    pauses = [ours.step for event in ours.advance() if event is None]
    assert pauses == list(range(1, 4 * STEPS + 1))
    blocked = training(record)
    assert blocked.graphed_steps is not None
    blocked.graphed_steps.unsupported_reason = "anything"
    train(blocked)
    assert_same_state(ours, blocked)
    assert blocked.graphed_steps.capture_error is None


CONFIG = """
data = { source = "synthetic", shape = [1, 4, 4], train_size = 60, test_size = 20, augment = { flip = true } }
model = { hidden = [5], dropout = 0.2, normalization = "batch" }
train = { epochs = 4, batch_size = 8, save_seconds = 0.0 }
"""


def build_experiment(folder: Path, record: Record) -> Experiment:
    file = folder / "config.toml"
    file.write_text(CONFIG)
    made = build(load_config(file, []), torch.device("cpu"))
    made.training.reads_losses = False
    with_graphs(made.training, record, 3)
    return made


def run_to_end(folder: Path, name: str, record: Record, stops: Sequence[int] = ()) -> dict[str, Any]:
    """Runs an experiment, stops and resumes it after each of some numbers of pauses, and returns its summary."""
    file = folder / "config.toml"
    file.write_text(CONFIG)
    run = Run.create(folder / name, name, dump_config(load_config(file, [])))
    for num_pauses in stops:
        stop = itertools.chain([False] * num_pauses, [True]).__next__
        with pytest.raises(Stopped):
            list(run_experiment(build_experiment(folder, record), run, save_seconds=0.0, stop=stop))
    list(run_experiment(build_experiment(folder, record), run, save_seconds=0.0))
    return run.summary()


def test_a_replayed_run_that_is_stopped_and_resumed_gives_the_same_model(tmp_path: Path) -> None:
    whole = run_to_end(tmp_path, "whole", Recorder())
    parts = run_to_end(tmp_path, "parts", Recorder(), stops=(1, 2, 4))
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert parts["test_loss"] == whole["test_loss"]
    assert not any("CUDA graph" in warning for warning in whole["warnings"])


def test_a_failed_capture_is_a_warning_and_does_not_change_the_model(tmp_path: Path) -> None:
    whole, failed = run_to_end(tmp_path, "whole", Recorder()), run_to_end(tmp_path, "failed", failing_capture)
    assert failed["test_loss"] == whole["test_loss"]
    line = "steps were launched one by one, not replayed as a CUDA graph: no graphs today"
    assert failed["warnings"] == [*whole["warnings"], line]


def test_nothing_is_captured_on_a_cpu() -> None:
    model = MLP(20, (4,), 3)
    assert (
        Training(model, Batches(PIXELS, LABELS), GradientDescent(LBFGS(model.parameters()), epochs=1)).graphed_steps
        is None
    )
    assert fit(model, (PIXELS, LABELS))


@pytest.mark.parametrize(
    ("parameters", "batch_size", "steps"),
    [(30_000, 128, 16), (1_700_000, 1024, 16), (10**7, 1024, 3), (10**9, 4096, 1)],
)
def test_a_graph_has_fewer_steps_the_larger_they_are(parameters: int, batch_size: int, steps: int) -> None:
    assert num_steps_per_graph(nn.ParameterList([torch.empty(parameters, device="meta")]), batch_size) == steps


# --- a capture that is refused -----------------------------------------------------------------------------------


class Cuda:
    """Stands in for torch's streams, graphs and allocator on a GPU.

    Attributes:
        streams: all streams that were made.
        current: the current stream.
        generator: the default generator.
        recording: the memory pools to which the allocator directs a capture's tensors.
        uses: the number of uses of each memory pool.
        ends_broken_captures: whether the end of a broken capture ends the use of its pool, as newer versions of torch
            do.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, ends_broken_captures: bool) -> None:
        self.main = self.current = object()
        self.streams: list[object] = []
        self.recording: set[tuple[int, int]] = set()
        self.uses: dict[tuple[int, int], int] = {}
        self.is_broken, self.ends_broken_captures = False, ends_broken_captures
        self.generator = FakeGenerator()
        replacements = {
            "CUDAGraph": lambda: FakeGraph(self),
            "Stream": self._new_stream,
            "current_device": lambda: 0,
            "current_stream": lambda index: self.current,
            "default_generators": (self.generator,),
            "device": contextlib.nullcontext,
            "graph": self.capture,
            "graph_pool_handle": lambda: (0, len(self.uses) + 1),
            "stream": self.use_stream,
        }
        for name, replacement in replacements.items():
            monkeypatch.setattr(torch.cuda, name, replacement)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self._end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self._release, raising=False)
        monkeypatch.setattr(cuda_graphs, "_capture_stream", functools.cache(cuda_graphs._capture_stream.__wrapped__))

    def _new_stream(self, device: torch.device) -> object:
        self.streams.append(object())
        return self.streams[-1]

    @contextlib.contextmanager
    def use_stream(self, stream: object) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def capture(self, graph: FakeGraph, *, pool: tuple[int, int], stream: object) -> Iterator[None]:
        """As `torch.cuda.graph`, which does not restore the stream if the end of the capture raises."""
        before, self.current, self.is_broken = self.current, stream, False
        graph.pool = pool
        self.recording.add(pool)
        self.generator.is_capturing = True
        self.uses[pool] = self.uses.get(pool, 0) + 1
        try:
            yield
        finally:
            if not self.is_broken or self.ends_broken_captures:
                self._end(0, pool)
            if self.is_broken:
                raise RuntimeError("operation failed due to a previous error during capture")
            graph.has_ended, self.generator.is_capturing = True, False
            self.current = before

    def wait(self) -> None:
        """Waits for the device, which breaks a capture."""
        self.is_broken = True
        raise RuntimeError("operation not permitted when stream is capturing")

    def _end(self, index: int, pool: tuple[int, int]) -> None:
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)

    def _release(self, index: int, pool: tuple[int, int]) -> None:
        self.uses[pool] -= 1
        assert self.uses[pool] >= 0


class FakeGenerator:
    """A generator, whose state a broken capture leaves in a capture."""

    def __init__(self) -> None:
        self.is_capturing = False

    def clone_state(self) -> FakeGenerator:
        return FakeGenerator()

    def graphsafe_set_state(self, other: FakeGenerator) -> None:
        self.is_capturing = other.is_capturing


class FakeGraph:
    """A graph, which gives its pool back when it is reset, if its capture has ended."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.pool = (0, 0)
        self.has_ended = False

    def replay(self) -> None:
        raise AssertionError("nothing to replay")

    def reset(self) -> None:
        if self.has_ended or self._cuda.ends_broken_captures:
            self._cuda._release(0, self.pool)
        self.has_ended = False


@pytest.mark.parametrize("ends_broken_captures", [False, True])
@pytest.mark.parametrize("is_broken", [True, False], ids=["a wait", "another error"])
def test_a_refused_capture_leaves_nothing_behind(
    is_broken: bool, ends_broken_captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(monkeypatch, ends_broken_captures=ends_broken_captures)

    def work() -> None:
        assert cuda.current is cuda.streams[0]
        if is_broken:
            cuda.wait()
        raise RuntimeError("no graph of this")

    for _ in range(2):
        with pytest.raises(RuntimeError) as raised:
            cuda_graph(torch.device("cuda"), work, [])
        assert str(raised.value.__context__ or raised.value).startswith(("operation not permitted", "no graph of this"))
        assert cuda.current is cuda.main
        assert not cuda.recording
        assert not cuda.generator.is_capturing
        assert set(cuda.uses.values()) == {0}
    assert len(cuda.uses) == 2


def test_captures_share_a_stream_and_have_pools_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch, ends_broken_captures=True)
    for _ in range(3):
        cuda_graph(torch.device("cuda:0"), lambda: None, [])
    assert cuda.current is cuda.main
    assert len(cuda.streams) == 1
    assert list(cuda.uses.values()) == [1, 1, 1]
    assert not cuda.recording
