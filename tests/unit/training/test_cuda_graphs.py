"""Rules of fcnet.training.cuda_graphs, with a recorder on the CPU in the place of a CUDA graph."""

from __future__ import annotations

import copy
import dataclasses
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
from fcnet.functional import binary_cross_entropy, softmax_loss
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import LBFGS, Muon, parameter_groups
from fcnet.optim.schedules import add_warmup, cosine, multi_step
from fcnet.training.algorithm import GradientDescent
from fcnet.training.cuda_graphs import GraphedSteps, num_steps_per_graph, unsupported_reason
from fcnet.training.loop import Training, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fcnet.experiment.build import Experiment
    from fcnet.training.cuda_graphs import Record, Replay
    from fcnet.training.records import EpochRecord

PIXELS = torch.randint(0, 256, (37, 1, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(3, (37,), generator=torch.Generator().manual_seed(2))
STEPS = 10
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "item", "bincount"}
RUNNING = {"native_batch_norm": (3, 4)}
"""Operations that write to arguments without saying so, and to which."""


class Tape(TorchDispatchMode):
    """What a graph is: operations on the memory and with the numbers that they had when they were recorded.

    Like a device that records, it leaves every tensor as it was, and refuses what the host would wait for.
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
        if name in WAITS:
            raise RuntimeError(f"{name} is not permitted when a stream is capturing\nlook elsewhere")
        for place, argument in enumerate(func._schema.arguments):
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            if (argument.alias_info and argument.alias_info.is_write) or place in RUNNING.get(name, ()):
                self._before += [(leaf, leaf.clone()) for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def record(self, work: Callable[[], None]) -> None:
        """Runs it, and gives every tensor that was there the values that it had."""
        try:
            with self:
                work()
        finally:
            with torch.no_grad():
                for tensor, values in reversed(self._before):
                    tensor.copy_(values)
            self._before = []

    def replay(self) -> None:
        """Does it all again, and writes what comes out where it was written when it was recorded."""
        with torch.no_grad():
            for func, args, kwargs, result in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Recorder:
    """In the place of `fcnet.training.cuda_graphs.cuda_graph`; counts."""

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
def device_that_would_have_to_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are not recorded look at no number either, as on a GPU."""
    for module in (binary_cross_entropy, softmax_loss):
        monkeypatch.setattr(module, "can_read_without_sync", lambda tensor: False)


def refusing(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
    raise RuntimeError("no graphs today")


# Rates and their factors are powers of two, so that they are the same in float32.
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
CHANGES = (Flip(), Shift(1), Affine(15.0, 0.2), ColorJitter(0.4), Cutout(2))
FEEDS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "changed": {"augmentation": Augmentation(CHANGES)},
    "mixed": {"augmentation": Augmentation((Flip(),), MixupCutmix(0.4, 1.0)), "balance": "weights"},
    "sampled": {"balance": "sampling"},
}
ALL_SETTINGS: dict[str, Any] = {"accumulate": 3, "clip_norm": 0.5, "ema_decay": 0.9, "loss": CrossEntropy(0.1)}


def training(
    record: Record | None,
    network: str = "all",
    optimizer: str = "adamw",
    feed: dict[str, Any] = FEEDS["changed"],
    *,
    steps_per_graph: int = 4,
    num_classes: int = 3,
    **settings: Any,
) -> Training:
    """Ten steps an epoch, the last of 1 image; None steps one by one, as on a CPU."""
    batches = Batches(PIXELS, LABELS % num_classes, batch_size=4, **feed)
    initial = torch.Generator().manual_seed(1)
    model = MLP(20, num_classes=num_classes, generator=initial, **NETWORKS[network])
    settings = {"schedule": multi_step([7, 23, 31], 0.5), **settings}
    algorithm = GradientDescent(OPTIMIZERS[optimizer](parameter_groups(model, 0.0625)), epochs=4, **settings)
    kept = Batches(PIXELS, LABELS % num_classes, batch_size=10)
    made = Training(model, batches, algorithm, validation=kept, seed=5)
    made.reads_losses = False
    return made if record is None else replaying(made, record, steps_per_graph)


def replaying(made: Training, record: Record, steps_per_graph: int) -> Training:
    """The same, as on a device that records."""
    made.graphed_steps = GraphedSteps(record, made.model, made.batches, made.algorithm, made.dropout_rng)
    made.graphed_steps.steps_per_graph = steps_per_graph
    return made


def timeless(record: EpochRecord) -> dict[str, Any]:
    return dataclasses.asdict(record) | {"seconds": None, "images_per_second": None}


def course(made: Training) -> list[dict[str, Any]]:
    """Trains to the end; the records without the times."""
    return [timeless(record) for record in made.advance() if record is not None]


def everything(made: Training) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a step changes, without the times."""
    tensors, metadata = made.state()
    return {name: tensor.clone() for name, tensor in tensors.items()}, metadata | {"seconds": 0, "previous_seconds": 0}


def assert_same(ours: Training, theirs: Training) -> None:
    """Equal to the bit, and of one type."""
    (tensors, metadata), (others, other_facts) = everything(ours), everything(theirs)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    assert metadata == other_facts
    assert all(type(group["lr"]) is float for group in ours.algorithm.optimizer.param_groups)


def assert_one_course(record: Record, *arguments: Any, **settings: Any) -> Training:
    ours, theirs = training(record, *arguments, **settings), training(None, *arguments, **settings)
    assert course(ours) == course(theirs)
    assert_same(ours, theirs)
    return ours


@pytest.mark.parametrize("steps_per_graph", [1, 4, 16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_replayed_steps_are_the_steps(network: str, optimizer: str, steps_per_graph: int) -> None:
    recorder = Recorder()
    made = assert_one_course(recorder, network, optimizer, steps_per_graph=steps_per_graph)
    kinds = {1: 2, 4: 2, 16: 1}[steps_per_graph]  # full runs and the epoch's last
    assert recorder.recorded == kinds
    assert recorder.replayed == 4 * -(-STEPS // steps_per_graph) - kinds  # each kind is made once step by step
    assert made.graphed_steps is not None
    assert made.graphed_steps.capture_error is None


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("settings", [{}, ALL_SETTINGS, {"patience": 2}], ids=["none", "all", "patience"])
@pytest.mark.parametrize("feed", FEEDS)
def test_replayed_steps_are_the_steps_whatever_the_batches_are_made_of(
    feed: str, settings: dict[str, Any], num_classes: int
) -> None:
    recorder = Recorder()
    assert_one_course(recorder, "all", "adamw", FEEDS[feed], num_classes=num_classes, **settings)
    assert recorder.replayed


def test_whitened_images_are_replayed() -> None:
    whitening = fit_whitening((batch.images for batch in Batches(PIXELS, LABELS)), 20)
    assert_one_course(
        Recorder(),
        "plain",
        "sgd",
        {"preprocessing": Preprocessing(whitening=whitening), "augmentation": Augmentation((Flip(),))},
    )


def test_steps_of_bfloat16_are_replayed() -> None:
    assert_one_course(Recorder(), precision=torch.bfloat16)


def of_modules(record: Record | None, *modules: nn.Module) -> Training:
    """Nine steps an epoch on images that are no pixels."""
    model, batches = nn.Sequential(*modules), Batches(PIXELS[:36].flatten(1) / 255.0, LABELS[:36], batch_size=4)
    optimizer = OPTIMIZERS["sgd"]([{"params": list(model.parameters())}])
    made = Training(model, batches, GradientDescent(optimizer, epochs=3))
    made.reads_losses = False
    return made if record is None else replaying(made, record, 4)


def test_floating_images_and_torchs_own_modules_are_replayed() -> None:
    modules = nn.Linear(20, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    ours, theirs = of_modules(Recorder(), *copy.deepcopy(modules)), of_modules(None, *modules)
    assert course(ours) == course(theirs)
    assert_same(ours, theirs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_recorded_rate_is_the_schedules_in_float32(optimizer: str) -> None:
    """Rates that float32 does not hold: equal to the bit to the steps of one who is refused, nearly to a CPU's."""
    schedule = add_warmup(cosine(4 * STEPS), 13)
    ours, refused, plain = (
        training(record, optimizer=optimizer, schedule=schedule) for record in (Recorder(), refusing, None)
    )
    assert course(ours) == course(refused)
    assert_same(ours, refused)
    course(plain)
    for mine, theirs in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)  # an ulp of the rate, over 40 steps


@pytest.mark.parametrize("steps_per_graph", [1, 3])
@pytest.mark.parametrize("network", ["plain", "all"])
def test_a_training_restored_at_any_pause_ends_as_if_it_had_never_stopped(network: str, steps_per_graph: int) -> None:
    whole = training(Recorder(), network, steps_per_graph=steps_per_graph, ema_decay=0.9)
    saved, events = [], []
    for record in whole.advance():
        events.append(None if record is None else timeless(record))
        saved.append(everything(whole))
    for pause, (tensors, metadata) in list(enumerate(saved))[:: 1 if steps_per_graph > 1 else 4]:
        again = training(Recorder(), network, steps_per_graph=steps_per_graph, ema_decay=0.9)
        again.restore(tensors, metadata)
        rest = [None if record is None else timeless(record) for record in again.advance()]
        assert rest == events[pause + 1 :]
        assert_same(again, whole)


def test_a_training_is_restored_in_the_midst_of_a_run() -> None:
    whole, plain = training(None), training(None)
    course(whole)
    for _ in itertools.islice(plain.advance(), 2 * STEPS):
        again = training(Recorder())
        again.restore(*everything(plain))
        course(again)
        assert_same(again, whole)


def test_a_training_that_is_gone_on_with_comes_back_to_the_runs_that_it_would_have_had() -> None:
    plain, again = training(None), training(Recorder())
    list(itertools.islice(plain.advance(), 5))
    again.restore(*everything(plain))
    assert [again.step for _ in itertools.islice(again.advance(), 5)] == [8, 10, 10, 14, 18]


def test_a_training_that_goes_back_to_a_checkpoint_forgets_its_graphs() -> None:
    ours, theirs = training(Recorder()), training(None)
    kept = everything(ours)
    list(itertools.islice(ours.advance(), 9))
    ours.restore(*kept)
    assert course(ours) == course(theirs)
    assert_same(ours, theirs)


def test_it_pauses_after_each_run_and_each_pause_is_a_step_of_the_whole() -> None:
    ours, theirs = training(Recorder()), training(None)
    passed = {}
    for record in theirs.advance():
        passed[theirs.step, record is not None] = everything(theirs)
    pauses = []
    for record in ours.advance():
        pauses.append(ours.step)
        tensors, metadata = everything(ours)
        others, other_facts = passed[ours.step, record is not None]
        assert metadata == other_facts
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
    assert pauses[:8] == [4, 8, 10, 10, 14, 18, 20, 20]


def spoiling(after: int) -> Record:
    """Runs the work's Python, as far as ``after`` operations, and then fails as a capture does."""

    class Broken(Tape):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if len(self.operations) == after:
                raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
            return super().__torch_dispatch__(func, types, args, kwargs)

    def fail(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
        Broken().record(work)
        raise AssertionError("the work is shorter")

    return fail


@pytest.mark.parametrize("after", [0, 30, 150, 400])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_recording_that_fails_leaves_no_trace_and_says_why(optimizer: str, after: int) -> None:
    ours, theirs = (training(record, optimizer=optimizer) for record in (spoiling(after), None))
    assert course(ours) == course(theirs)
    assert_same(ours, theirs)
    assert ours.graphed_steps is not None
    assert ours.graphed_steps.capture_error == "operation not permitted when stream is capturing"


def test_a_network_that_waits_for_the_device_is_refused() -> None:
    class Waits(nn.ReLU):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
            return super().forward(input) if input.sum().item() > -1e9 else input

    Waits.__module__ = "torch.nn"
    made = of_modules(Recorder(), nn.Linear(20, 6), Waits(), nn.Linear(6, 3))
    assert len(course(made)) == 3
    assert made.graphed_steps is not None
    assert made.graphed_steps.capture_error == "_local_scalar_dense is not permitted when a stream is capturing"


class Own(nn.Linear):
    pass


class OwnLoss(CrossEntropy):
    pass


def hooked(model: nn.Module) -> nn.Module:
    model.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    ("model", "optimizer", "settings", "why"),
    [
        (MLP(20, (4,), 3), OPTIMIZERS["adamw"], {}, None),
        (MLP(20, (4,), 3), LBFGS, {}, "LBFGS takes numbers from the host, as no fused SGD, Adam or AdamW does"),
        (
            MLP(20, (4,), 3),
            partial(torch.optim.SGD, lr=0.1),
            {},
            "SGD takes numbers from the host, as no fused SGD, Adam or AdamW does",
        ),
        (Own(20, 3), OPTIMIZERS["sgd"], {}, "Own is not fcnet's or torch's"),
        (nn.Linear(20, 3), OPTIMIZERS["sgd"], {"loss": OwnLoss()}, "OwnLoss is not fcnet's or torch's"),
        (hooked(nn.Linear(20, 3)), OPTIMIZERS["sgd"], {}, "a module of the network has a hook"),
    ],
)
def test_what_cannot_be_recorded_is_known_before(
    model: nn.Module, optimizer: Any, settings: dict[str, Any], why: str | None
) -> None:
    algorithm = GradientDescent(optimizer([{"params": list(model.parameters())}]), epochs=1, **settings)
    assert unsupported_reason(model, Batches(torch.rand(37, 20), LABELS), algorithm) == why


@pytest.mark.parametrize("capturable", [True, False])
def test_muon_is_recorded_if_it_says_that_it_can_be(capturable: bool) -> None:
    model = MLP(20, (4,), 3)
    optimizer = Muon(parameter_groups(model, 0.0))
    for group in optimizer.param_groups:
        group["capturable"] = capturable
    why = unsupported_reason(model, Batches(PIXELS, LABELS), GradientDescent(optimizer, epochs=1))
    assert (why is None) == capturable


def test_images_that_are_elsewhere_cannot_be_recorded() -> None:
    model = MLP(20, (4,), 3)
    batches = Batches(PIXELS, LABELS)
    batches.images = batches.images.to("meta")
    algorithm = GradientDescent(OPTIMIZERS["sgd"](parameter_groups(model, 0.0)), epochs=1)
    assert unsupported_reason(model, batches, algorithm) == "the images are not on the device"


def test_ranks_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.runtime.distributed.world_size", lambda: 2)
    made = GradientDescent(OPTIMIZERS["sgd"](parameter_groups(MLP(20, (4,), 3), 0.0)), epochs=1)
    assert unsupported_reason(MLP(20, (4,), 3), Batches(PIXELS, LABELS), made) == "several ranks add up their gradients"


@pytest.mark.parametrize("record", [Recorder(), refusing])
def test_what_has_an_obstacle_or_reads_its_losses_is_made_one_by_one(record: Record) -> None:
    ours = training(record)
    ours.reads_losses = True
    pauses = [ours.step for event in ours.advance() if event is None]
    assert pauses == list(range(1, 4 * STEPS + 1))
    blocked = training(record)
    assert blocked.graphed_steps is not None
    blocked.graphed_steps.unsupported_reason = "anything"
    course(blocked)
    assert_same(ours, blocked)
    assert blocked.graphed_steps.capture_error is None


CONFIG = """
data = { source = "synthetic", shape = [1, 4, 4], train_size = 60, test_size = 20, augment = { flip = true } }
model = { hidden = [5], dropout = 0.2, normalization = "batch" }
train = { epochs = 4, batch_size = 8, save_seconds = 0.0 }
"""


def built(folder: Path, record: Record) -> Experiment:
    file = folder / "config.toml"
    file.write_text(CONFIG)
    made = build(load_config(file, []), torch.device("cpu"))
    made.training.reads_losses = False
    replaying(made.training, record, 3)
    return made


def carried_out(folder: Path, name: str, record: Record, stops: Sequence[int] = ()) -> dict[str, Any]:
    """Carries an experiment out, stopped after some pauses and gone on with; its summary."""
    file = folder / "config.toml"
    file.write_text(CONFIG)
    run = Run.create(folder / name, name, dump_config(load_config(file, [])))
    for stop in stops:
        pauses = itertools.count()
        with pytest.raises(Stopped):
            list(run_experiment(built(folder, record), run, save_seconds=0.0, stop=lambda: next(pauses) == stop))  # noqa: B023
    list(run_experiment(built(folder, record), run, save_seconds=0.0))
    return run.summary()


def test_a_replayed_run_that_is_stopped_and_gone_on_with_is_the_run(tmp_path: Path) -> None:
    whole = carried_out(tmp_path, "whole", Recorder())
    parts = carried_out(tmp_path, "parts", Recorder(), stops=(1, 2, 4))
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert parts["test_loss"] == whole["test_loss"]
    assert not any("CUDA graph" in remark for remark in whole["warnings"])


def test_a_run_whose_recording_failed_says_so_and_is_the_run(tmp_path: Path) -> None:
    whole, refused = carried_out(tmp_path, "whole", Recorder()), carried_out(tmp_path, "refused", refusing)
    assert refused["test_loss"] == whole["test_loss"]
    line = "steps were launched one by one, not replayed as a CUDA graph: no graphs today"
    assert refused["warnings"] == [*whole["warnings"], line]


def test_on_a_cpu_nothing_is_recorded() -> None:
    model = MLP(20, (4,), 3)
    assert (
        Training(model, Batches(PIXELS, LABELS), GradientDescent(LBFGS(model.parameters()), epochs=1)).graphed_steps
        is None
    )
    assert list(fit(model, (PIXELS, LABELS)))


@pytest.mark.parametrize(
    ("parameters", "batch_size", "steps"),
    [(30_000, 128, 16), (1_700_000, 1024, 16), (10**7, 1024, 3), (10**9, 4096, 1)],
)
def test_a_run_is_shorter_the_larger_its_steps(parameters: int, batch_size: int, steps: int) -> None:
    assert num_steps_per_graph(nn.ParameterList([torch.empty(parameters, device="meta")]), batch_size) == steps
