"""The same code on a CUDA device."""

from __future__ import annotations

import dataclasses
import itertools
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fcnet.functional as F
from fcnet import train
from fcnet.data import batches as batches_module
from fcnet.data.batches import Batches
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


def trained(folder: Path, name: str, *flags: str) -> tuple[bytes, list[dict[str, Any]]]:
    """Trains on a device; the network's bytes and the records without the times."""
    config = folder / "config.toml"
    config.write_text(CONFIG)
    assert train.main(["--config", str(config), "--out", str(folder / name), *flags]) == 0
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        del record["seconds"], record["images_per_second"]
    return (folder / name / "model.safetensors").read_bytes(), records


def test_two_runs_on_one_device_are_equal_to_the_bit(tmp_path: Path) -> None:
    assert trained(tmp_path, "one", "--device", "cuda") == trained(tmp_path, "other", "--device", "cuda")


def test_the_device_learns_what_the_cpu_learns(tmp_path: Path) -> None:
    without_dropout = ("--set", "model.dropout=0.0")
    _, there = trained(tmp_path, "there", "--device", "cuda", *without_dropout)
    _, here = trained(tmp_path, "here", "--device", "cpu", *without_dropout)
    # the sums of a product are added in another order: rounding grows with the steps
    assert there[0]["train_loss"] == pytest.approx(here[0]["train_loss"], rel=1e-3)


@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_the_cpus_whether_or_not_the_images_fit(resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not resident:
        monkeypatch.setattr(batches_module, "_move_if_fits", lambda images, device: images)
    pixels = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    labels, statistics = torch.arange(50), (torch.full((3,), 0.5), torch.full((3,), 0.2))
    here, there = (
        Batches(pixels, labels, batch_size=16, statistics=statistics, augment=(Flip(), Shift(1)), device=device)
        for device in ("cpu", "cuda")
    )
    for ours, theirs in zip(here.epoch(0, 1), there.epoch(0, 1), strict=True):
        assert theirs.images.device.type == theirs.labels.device.type == "cuda"
        assert_close(theirs.images.cpu(), ours.images)
        assert_close(theirs.labels.cpu(), ours.labels)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"accumulate": 2, "clip_norm": 0.5, "ema_decay": 0.9, "loss": CrossEntropy(0.1)},
    "bfloat16": {"precision": torch.bfloat16},
}
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, fused=True),
}


def course(
    optimizer: str = "adamw", settings: str = "plain", *, steps_per_graph: int = 4, batch_size: int = 50, **network: Any
) -> Training:
    """Eleven steps an epoch, the last of 12 images."""
    pixels = torch.randint(0, 256, (512, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches = Batches(
        pixels,
        torch.arange(512) % 10,
        batch_size=batch_size,
        augment=CHANGES,
        mixing=MixupCutmix(0.4, 1.0),
        device="cuda",
    )
    model = MLP(192, (32, 32), 10, generator=torch.Generator().manual_seed(0), **network).cuda()
    made = OPTIMIZERS[optimizer](parameter_groups(model, 0.01))
    algorithm = GradientDescent(made, epochs=4, schedule=cosine(44), **SETTINGS[settings])
    training = Training(model, batches, algorithm, seed=3)
    assert training.graphed_steps is not None
    training.graphed_steps.steps_per_graph = steps_per_graph
    return training


def refusing(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    raise RuntimeError("no graphs today")


def one_by_one(training: Training) -> Training:
    """The same, which records nothing."""
    training.graphed_steps = GraphedSteps(
        refusing, training.model, training.batches, training.algorithm, training.dropout_rng
    )
    return training


def ended(training: Training) -> dict[str, Tensor]:
    """All that a training changes, at its end."""
    for _ in training.advance():
        pass
    return training.state()[0]


NETWORKS: list[dict[str, Any]] = [{}, {"normalization": "batch"}, {"normalization": "layer", "dropout": 0.3}]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("steps_per_graph", [1, 4, 16])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replayed_steps_are_the_steps(
    optimizer: str, settings: str, steps_per_graph: int, network: dict[str, Any]
) -> None:
    replayed = course(optimizer, settings, steps_per_graph=steps_per_graph, **network)
    plain = one_by_one(course(optimizer, settings, steps_per_graph=steps_per_graph, **network))
    ours, theirs = ended(replayed), ended(plain)
    assert replayed.graphed_steps is not None
    assert replayed.graphed_steps.fallback_reason is None
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert_close(tensor, theirs[name], rtol=0.0, atol=0.0, msg=name)


def test_a_replayed_training_restored_at_a_pause_ends_as_if_it_had_never_stopped() -> None:
    whole = ended(course(dropout=0.3))
    broken_off, again = course(dropout=0.3), course(dropout=0.3)
    list(itertools.islice(broken_off.advance(), 6))
    tensors, facts = broken_off.state()
    again.restore({name: tensor.cpu().clone() for name, tensor in tensors.items()}, facts)
    for name, tensor in ended(again).items():
        assert_close(tensor, whole[name], rtol=0.0, atol=0.0, msg=name)


def test_a_network_that_waits_is_trained_step_by_step_and_the_device_is_left_whole() -> None:
    class Waits(nn.ReLU):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
            return super().forward(input) if input.sum().item() > -1e30 else input

    Waits.__module__ = "torch.nn"
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Waits(), nn.Linear(8, 10)).cuda()
    batches = course().batches
    training = Training(model, batches, GradientDescent(OPTIMIZERS["sgd"](parameter_groups(model, 0.0)), epochs=3))
    assert len([record for record in training.advance() if record is not None]) == 3
    assert training.graphed_steps is not None
    assert training.graphed_steps.capture_error is not None
    ended(course())


@pytest.mark.parametrize("target", ["indices", "smoothed", "soft"])
def test_a_captured_loss_is_the_loss(target: str) -> None:
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


CHANGES = (Flip(), Shift(1), Affine(15.0, 0.2), ColorJitter(0.4), Cutout(3))


def test_changes_of_images_are_the_cpus() -> None:
    pixels = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    here, there = (
        Batches(
            pixels, torch.arange(50) % 10, batch_size=16, augment=CHANGES, mixing=MixupCutmix(0.4, 1.0), device=device
        )
        for device in ("cpu", "cuda")
    )
    for ours, theirs in zip(here.epoch(0, 1), there.epoch(0, 1), strict=True):
        assert_close(theirs.target.cpu(), ours.target)
        # A grey level may be rounded the other way where the devices interpolate differently.
        assert ((theirs.images.cpu() - ours.images).abs() > 1.5 / 255).double().mean() < 0.01


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_no_step_waits_for_the_device(optimizer: str) -> None:
    """Neither one that is made by itself nor one that is replayed."""
    training = course(settings="all", steps_per_graph=2, normalization="batch", dropout=0.1)
    if optimizer == "muon":
        made = dataclasses.replace(training.algorithm, optimizer=Muon(parameter_groups(training.model, 0.01)))
        training = Training(training.model, training.batches, made)
    events = training.advance()
    for _ in range(2):  # the second epoch's first run is replayed
        while next(events) is not None:
            pass
    for _ in range(2):
        next(events)
        torch.cuda.set_sync_debug_mode("error")
        try:
            while training.step % len(training.batches):
                next(events)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert next(events) is not None


LOSSES = [(target, dtype) for target in ("index", "smoothed", "weighted", "soft") for dtype in ("float32", "bfloat16")]


@pytest.mark.parametrize(("target", "dtype"), LOSSES)
@pytest.mark.parametrize("num_classes", [10, 1000, 1001, 21_841])
def test_the_kernels_of_the_loss_give_the_plain_forms_value_and_gradient(
    num_classes: int, target: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (3 * torch.randn(257, num_classes, device="cuda")).to(getattr(torch, dtype)).requires_grad_()
    y = torch.randint(num_classes, (257,), device="cuda")
    y[3], x.data[3, 0] = -100, float("nan")
    w = torch.rand(num_classes, device="cuda").to(x.dtype) if target == "weighted" else None
    if target == "soft":
        x.data[3, 0] = 0.0
        y = torch.softmax(torch.randn(257, num_classes, device="cuda"), 1)

    def found() -> tuple[Tensor, Tensor]:
        loss = F.cross_entropy(x, y, w, label_smoothing=0.1 if target == "smoothed" else 0.0)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    assert fused.is_supported(x, y, w)
    ours = found()
    monkeypatch.setattr(fused, "_DEVICE_TYPE", "nowhere")
    eps = torch.finfo(x.dtype).eps
    assert_close(ours, found(), rtol=max(eps, 1e-5), atol=1e-9 if dtype == "float32" else 1e-6)


@pytest.mark.parametrize("offset", [0.0, 4096.0])
def test_a_confident_row_keeps_its_digits_in_the_kernels(offset: float) -> None:
    x = (torch.tensor([[20.0, 0.0]], device="cuda") + offset).requires_grad_()
    loss = F.cross_entropy(x, torch.tensor([0], device="cuda"))
    (gradient,) = torch.autograd.grad(loss, x)
    assert_close(loss.item(), 2.0611536e-9, rtol=1e-6, atol=0)
    assert_close(gradient.tolist(), [[-2.0611536e-9, 2.0611536e-9]], rtol=1e-6, atol=0)


def test_the_kernels_powers_are_as_exact_as_their_exponents() -> None:
    """Eighths differ exactly; 2^(d log₂e) alone is 2.6e-6 off. No interpreter has a fused product."""
    x = (-torch.arange(640.0, device="cuda") / 8).unsqueeze(0).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(x, torch.tensor([0], device="cuda")), x)
    exact = torch.softmax(x.detach().double(), 1)
    assert_close(gradient[0, 1:].double(), exact[0, 1:], rtol=1e-6, atol=0)


def test_the_kernels_of_the_loss_wait_for_nothing() -> None:
    x = torch.randn(64, 1001, device="cuda", requires_grad=True)
    y, soft = torch.arange(64, device="cuda"), torch.softmax(x.detach(), 1)

    def steps() -> None:
        for target in (y, soft):
            for reduction in ("none", "sum", "mean"):
                F.cross_entropy(x, target, reduction=reduction).sum().backward()

    steps()  # compiles them
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_rows_are_found_beyond_2_to_the_31_logits() -> None:
    x = torch.zeros(17_000, 128_257, dtype=torch.bfloat16, device="cuda")
    y = torch.full((17_000,), 128_256, device="cuda")
    costs = F.cross_entropy(x, y, reduction="none")
    assert_close(costs, torch.full_like(costs, 11.7618), rtol=0.01, atol=0)
