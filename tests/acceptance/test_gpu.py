"""Training, batches and losses on a CUDA device agree with the CPU's."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fcnet.functional as F
from fcnet import cli, train
from fcnet.data import batches as batches_module
from fcnet.data.batches import Augmentation, Batches, Preprocessing
from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.functional import fused
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import Muon, parameter_groups
from fcnet.optim.schedules import cosine
from fcnet.training.algorithm import GradientDescent
from fcnet.training.cuda_graphs import GraphedSteps
from fcnet.training.loop import Training
from tests.helpers import model_files, read_learning_curve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CONFIG = """
[data]
source = "synthetic"
shape = [3, 16, 16]
train_size = 1000
test_size = 200
augment = { flip = true, shift = 2 }
[model]
hidden = [64, 64]
normalization = "batch"
dropout = 0.2
residual = true
[train]
epochs = 4
batch_size = 96
"""


def train_run(folder: Path, name: str, *flags: str) -> tuple[bytes, list[dict[str, Any]]]:
    """Trains a run; returns the bytes of its weights and its records without measured times."""
    config = folder / "config.toml"
    config.write_text(CONFIG)
    assert train.main(["--config", str(config), "--out", str(folder / name), *flags]) == 0
    return model_files(folder / name)[0], read_learning_curve(folder / name)


def test_two_runs_on_one_device_are_identical_to_the_bit(tmp_path: Path) -> None:
    assert train_run(tmp_path, "one", "--device", "cuda") == train_run(tmp_path, "other", "--device", "cuda")


def test_the_gpu_learns_what_the_cpu_learns(tmp_path: Path) -> None:
    without_dropout = ("--set", "model.dropout=0.0")
    _, there = train_run(tmp_path, "there", "--device", "cuda", *without_dropout)
    _, here = train_run(tmp_path, "here", "--device", "cpu", *without_dropout)
    # The devices add the terms of a product in different orders, and the rounding differences grow with the steps.
    assert there[0]["train_loss"] == pytest.approx(here[0]["train_loss"], rel=1e-3)


@pytest.mark.parametrize("resident", [True, False])
def test_batches_equal_the_cpus_whether_or_not_the_images_fit_on_the_gpu(
    resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not resident:
        monkeypatch.setattr(batches_module, "_move_if_fits", lambda images, device: images)
    pixels = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    labels, statistics = torch.arange(50), (torch.full((3,), 0.5), torch.full((3,), 0.2))
    here, there = (
        Batches(
            pixels,
            labels,
            batch_size=16,
            preprocessing=Preprocessing(*statistics),
            augmentation=Augmentation((Flip(), Shift(1))),
            device=device,
        )
        for device in ("cpu", "cuda")
    )
    for ours, theirs in zip(here.epoch(0, 1), there.epoch(0, 1), strict=True):
        assert theirs.images.device.type == theirs.labels.device.type == "cuda"
        assert_close(theirs.images.cpu(), ours.images)
        assert_close(theirs.labels.cpu(), ours.labels)


def test_images_on_the_host_are_read_ahead_until_the_loop_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "_move_if_fits", lambda images, device: images)
    x = torch.rand(4096, 1024)
    batches = Batches(x, torch.arange(4096), batch_size=64, device="cuda")
    weight = torch.rand(1024, 1024, device="cuda")
    seen: list[Tensor] = []
    rows: list[Tensor] = []
    for batch in batches.epoch(0, 0):
        for _ in range(20):
            torch.mm(weight, weight)  # the GPU lags behind the host
        seen.append(batch.images.clone())
        rows.append(batch.labels)
        if len(seen) == 40:
            break
    assert torch.equal(torch.cat(seen).cpu(), x[torch.cat(rows).cpu()])
    names = {thread.name for thread in threading.enumerate()}
    assert "read-ahead" not in names


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_chosen_gpu_is_torchs_current_one() -> None:
    before = torch.cuda.current_device()
    try:
        assert cli.choose_device("cuda:1") == torch.device("cuda", 1)
        assert torch.cuda.current_device() == 1
    finally:
        torch.cuda.set_device(before)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"accumulate": 2, "clip_norm": 0.5, "ema_decay": 0.9, "loss": CrossEntropy(0.1)},
    "bfloat16": {"precision": torch.bfloat16},
    "tf32": {"precision": "tf32"},
}
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "muon": partial(Muon, lr=1e-3),
}


def make_training(
    optimizer: str = "adamw", settings: str = "plain", *, steps_per_graph: int = 4, batch_size: int = 50, **network: Any
) -> Training:
    """Returns a training of eleven steps an epoch, the last of 12 images."""
    pixels = torch.randint(0, 256, (512, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches = Batches(
        pixels,
        torch.arange(512) % 10,
        batch_size=batch_size,
        augmentation=Augmentation(TRANSFORMS, MixupCutmix(0.4, 1.0)),
        device="cuda",
    )
    model = MLP(192, (32, 32), 10, generator=torch.Generator().manual_seed(0), **network).cuda()
    torch_optimizer = OPTIMIZERS[optimizer](parameter_groups(model, 0.01))
    algorithm = GradientDescent(torch_optimizer, epochs=4, schedule=cosine(44), **SETTINGS[settings])
    training = Training(model, batches, algorithm, seed=3)
    assert training.graphed_steps is not None
    training.graphed_steps.steps_per_graph = steps_per_graph
    return training


def fail_to_record(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    raise RuntimeError("recording fails")


def without_graphs(training: Training) -> Training:
    """Makes a training record no CUDA graph, and returns it."""
    training.graphed_steps = GraphedSteps(
        fail_to_record, training.model, training.batches, training.algorithm, training.dropout_rng
    )
    return training


def final_state(training: Training) -> dict[str, Tensor]:
    """Trains to the end; returns all tensors of the training's state."""
    for _ in training.advance():
        pass
    return training.state()[0]


NETWORKS: list[dict[str, Any]] = [{}, {"normalization": "batch"}, {"normalization": "layer", "dropout": 0.3}]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("steps_per_graph", [1, 4, 16])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replayed_steps_equal_plain_steps(
    optimizer: str, settings: str, steps_per_graph: int, network: dict[str, Any]
) -> None:
    replayed = make_training(optimizer, settings, steps_per_graph=steps_per_graph, **network)
    plain = without_graphs(make_training(optimizer, settings, steps_per_graph=steps_per_graph, **network))
    ours, theirs = final_state(replayed), final_state(plain)
    assert replayed.graphed_steps is not None
    assert replayed.graphed_steps.fallback_reason is None
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert_close(tensor, theirs[name], rtol=0.0, atol=0.0, msg=name)


def test_a_replayed_training_restored_from_its_state_ends_as_an_uninterrupted_one() -> None:
    whole = final_state(make_training(dropout=0.3))
    interrupted, resumed = make_training(dropout=0.3), make_training(dropout=0.3)
    list(itertools.islice(interrupted.advance(), 6))
    tensors, metadata = interrupted.state()
    resumed.restore({name: tensor.cpu().clone() for name, tensor in tensors.items()}, metadata)
    for name, tensor in final_state(resumed).items():
        assert_close(tensor, whole[name], rtol=0.0, atol=0.0, msg=name)


def test_a_model_that_synchronizes_trains_without_graphs_and_leaves_the_device_usable() -> None:
    class SynchronizingReLU(nn.ReLU):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
            return super().forward(input) if input.sum().item() > -1e30 else input

    SynchronizingReLU.__module__ = "torch.nn"
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), SynchronizingReLU(), nn.Linear(8, 10)).cuda()
    batches = make_training().batches
    training = Training(model, batches, GradientDescent(OPTIMIZERS["sgd"](parameter_groups(model, 0.0)), epochs=3))
    assert len([record for record in training.advance() if record is not None]) == 3
    assert training.graphed_steps is not None
    assert training.graphed_steps.capture_error is not None
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.rand(3, device="cuda").device.type == "cuda"
    again = make_training()
    final_state(again)
    assert again.graphed_steps is not None
    assert again.graphed_steps.fallback_reason is None


@pytest.mark.parametrize("target", ["indices", "smoothed", "soft"])
def test_a_captured_loss_equals_the_plain_loss(target: str) -> None:
    x = torch.randn(64, 10, device="cuda", requires_grad=True)
    labels = torch.arange(64, device="cuda") % 11 - 1
    y = torch.softmax(x.detach(), 1) if target == "soft" else labels.masked_fill(labels < 0, -100)

    def step() -> tuple[Tensor, Tensor]:
        loss = F.cross_entropy(x, y, label_smoothing=0.1 if target == "smoothed" else 0.0)
        return loss, torch.autograd.grad(loss, x)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.mul_(2.0)
    graph.replay()
    assert_close(captured, step())
    assert_close(captured[0].cpu(), F.cross_entropy(x.cpu(), y.cpu(), label_smoothing=0.1 * (target == "smoothed")))


def test_tf32_rounds_the_products_of_steps_and_nothing_beside_them() -> None:
    losses = {}
    for settings in ("plain", "tf32"):
        record = next(record for record in make_training(settings=settings).advance() if record is not None)
        losses[settings] = record.train_loss
    assert losses["tf32"] != losses["plain"]
    assert losses["tf32"] == pytest.approx(losses["plain"], rel=1e-2)
    assert torch.backends.cuda.matmul.fp32_precision == "none"


TRANSFORMS = (Flip(), Shift(1), Affine(15.0, 0.2), ColorJitter(0.4), Cutout(3))


def test_augmented_images_equal_the_cpus() -> None:
    pixels = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    here, there = (
        Batches(
            pixels,
            torch.arange(50) % 10,
            batch_size=16,
            augmentation=Augmentation(TRANSFORMS, MixupCutmix(0.4, 1.0)),
            device=device,
        )
        for device in ("cpu", "cuda")
    )
    for ours, theirs in zip(here.epoch(0, 1), there.epoch(0, 1), strict=True):
        assert_close(theirs.target.cpu(), ours.target)
        # A grey level may be rounded the other way where the devices interpolate differently.
        assert ((theirs.images.cpu() - ours.images).abs() > 1.5 / 255).double().mean() < 0.01


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("replayed", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_step_synchronizes_with_the_device(optimizer: str, replayed: bool) -> None:
    """The first two steps of an epoch are not guarded, because its plan is copied to the device before them."""
    training = make_training(optimizer, "all", steps_per_graph=2, normalization="batch", dropout=0.1)
    if not replayed:
        training = without_graphs(training)
    assert training.graphed_steps is not None
    training.graphed_steps.steps_per_graph = 2
    events = training.advance()
    for _ in range(2):  # graphs are replayed from the second epoch on
        while next(events) is not None:
            pass
    assert (training.graphed_steps.fallback_reason is None) == replayed
    for _ in range(2):
        next(events)
        guarded = []
        torch.cuda.set_sync_debug_mode("error")
        try:
            while training.step % 11:
                next(events)
                guarded.append(training.step % 11)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert guarded == [4, 6, 8, 10, 0]
        assert next(events) is not None


LOSSES = [(target, dtype) for target in ("index", "smoothed", "weighted", "soft") for dtype in ("float32", "bfloat16")]


@pytest.mark.parametrize(("target", "dtype"), LOSSES)
@pytest.mark.parametrize("num_classes", [10, 1000, 1001, 21_841])
def test_the_fused_loss_has_the_value_and_gradient_of_the_plain_form(
    num_classes: int, target: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (3 * torch.randn(257, num_classes, device="cuda")).to(getattr(torch, dtype)).requires_grad_()
    y = torch.randint(num_classes, (257,), device="cuda")
    y[3], x.data[3, 0] = -100, float("nan")
    w = torch.rand(num_classes, device="cuda").to(x.dtype) if target == "weighted" else None
    if target == "soft":
        x.data[3, 0] = 0.0
        y = torch.softmax(torch.randn(257, num_classes, device="cuda"), 1)

    def loss_and_grad() -> tuple[Tensor, Tensor]:
        loss = F.cross_entropy(x, y, w, label_smoothing=0.1 if target == "smoothed" else 0.0)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    assert fused.is_supported(x, y, w)
    ours = loss_and_grad()
    monkeypatch.setattr(fused, "_DEVICE_TYPE", "nowhere")
    eps = torch.finfo(x.dtype).eps
    assert_close(ours, loss_and_grad(), rtol=max(eps, 1e-5), atol=1e-9 if dtype == "float32" else 1e-6)


@pytest.mark.parametrize("offset", [0.0, 4096.0])
def test_the_fused_loss_keeps_the_digits_of_a_confident_row(offset: float) -> None:
    x = (torch.tensor([[20.0, 0.0]], device="cuda") + offset).requires_grad_()
    loss = F.cross_entropy(x, torch.tensor([0], device="cuda"))
    (gradient,) = torch.autograd.grad(loss, x)
    assert_close(loss.item(), 2.0611536e-9, rtol=1e-6, atol=0)
    assert_close(gradient.tolist(), [[-2.0611536e-9, 2.0611536e-9]], rtol=1e-6, atol=0)


def test_the_exponentials_of_the_fused_loss_are_exact() -> None:
    """Differences of eighths are exact, and exp(d) as 2^(d log₂e) without a fused product would be 2.6e-6 off.

    Triton's interpreter has no fused product, so that only a GPU can test this.
    """
    x = (-torch.arange(640.0, device="cuda") / 8).unsqueeze(0).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(x, torch.tensor([0], device="cuda")), x)
    exact = torch.softmax(x.detach().double(), 1)
    assert_close(gradient[0, 1:].double(), exact[0, 1:], rtol=1e-6, atol=0)


def test_the_fused_loss_does_not_synchronize() -> None:
    x = torch.randn(64, 1001, device="cuda", requires_grad=True)
    y, soft = torch.arange(64, device="cuda"), torch.softmax(x.detach(), 1)

    def steps() -> None:
        for target in (y, soft):
            for reduction in ("none", "sum", "mean"):
                F.cross_entropy(x, target, reduction=reduction).sum().backward()

    steps()  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_fused_loss_indexes_beyond_2_to_the_31_logits() -> None:
    x = torch.zeros(17_000, 128_257, dtype=torch.bfloat16, device="cuda")
    y = torch.full((17_000,), 128_256, device="cuda")
    losses = F.cross_entropy(x, y, reduction="none")
    assert_close(losses, torch.full_like(losses, 11.7618), rtol=0.01, atol=0)
