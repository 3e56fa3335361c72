"""Times an epoch against the usual `DataLoader` loop and the machine's floor, interleaved in one run.

The floor is what no training can leave out: one read of the data (a batch's uint8 rows gathered in
the epoch's random order and turned into float32), the matrix products of the forward and backward
pass into buffers made beforehand, and the same optimizer's step; with the better of one thread and
all. Normalisation, activations, loss, counts and everything between are what is to be kept small.

With ``--losses`` it times the cross-entropy, forward and backward, against torch's, with the memory at
the peak, and with a linear layer before it against the layer's products. With ``--augment`` it times the
making of a batch, plain and with each change of the images. With ``--store`` it times the making of a
store of small JPEG files by one process and by all processors, against Pillow alone in as many
processes, which keep nothing of what they decode.

    python scripts/benchmark.py [--losses | --augment | --store] [--images 50000] [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import fcnet.functional
from fcnet import MLP, GradientDescent
from fcnet.build import choose_threads
from fcnet.data import sources, store, workers
from fcnet.data.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.batches import Batches
from fcnet.data.mixing import Mixing
from fcnet.optim import parameter_groups
from fcnet.training import Training

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (3, 32, 32)
FEATURES = 3 * 32 * 32
CLASSES = 10
IMAGES = 50_000
USUAL_IMAGES = 6_400
LR, MOMENTUM = 1e-3, 0.9


@dataclass(frozen=True)
class Case:
    """A network and a batch size to time."""

    name: str
    hidden: tuple[int, ...]
    batch_size: int = 128


CASES = (Case("softmax regression", ()), Case("[512, 256]", (512, 256)))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Resident images, decoded and transformed one by one, as torchvision's CIFAR10 does it."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def ours(case: Case, pixels: Tensor, labels: Tensor) -> Callable[[], float]:
    """Seconds an image of an epoch of `fcnet.training`."""
    model = MLP(FEATURES, case.hidden, CLASSES, generator=torch.Generator().manual_seed(0))
    mean_and_std = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])
    batches = Batches(pixels, labels, batch_size=case.batch_size, statistics=mean_and_std)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.0), lr=LR, momentum=MOMENTUM, fused=True)
    training = Training(model, batches, GradientDescent(optimizer, epochs=1_000_000))
    events = training.advance()
    threads = choose_threads(model, case.batch_size)

    def epoch() -> float:
        torch.set_num_threads(threads)
        started = time.perf_counter()
        for _ in itertools.takewhile(lambda record: record is None, events):
            pass
        return (time.perf_counter() - started) / len(labels)

    return epoch


def usual(case: Case, pixels: Tensor, labels: Tensor) -> Callable[[], float]:
    """Seconds an image of the loop that tutorials show; a part of an epoch stands for all."""
    widths = [FEATURES, *case.hidden, CLASSES]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in itertools.pairwise(widths):
        layers += [nn.Linear(before, width), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    loader = DataLoader(
        Pictures(pixels[:USUAL_IMAGES], labels[:USUAL_IMAGES]), batch_size=case.batch_size, shuffle=True
    )

    def epoch() -> float:
        torch.set_num_threads(os.cpu_count() or 1)
        started, total = time.perf_counter(), 0.0
        for images, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return (time.perf_counter() - started) / USUAL_IMAGES

    return epoch


def floor(case: Case, pixels: Tensor, threads: int) -> Callable[[], float]:
    """Seconds an image of what cannot be left out, with some number of threads."""
    widths = [FEATURES, *case.hidden, CLASSES]
    flat = pixels.view(len(pixels), -1)
    weights = [torch.randn(after, before) for before, after in itertools.pairwise(widths)]
    parameters = [*weights, *(torch.zeros(width) for width in widths[1:])]
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, fused=True)
    raw = torch.empty(case.batch_size, FEATURES, dtype=torch.uint8)
    outputs = [torch.randn(case.batch_size, width) for width in widths]

    def step(rows: Tensor) -> None:
        torch.index_select(flat, 0, rows, out=raw)
        outputs[0].copy_(raw)
        for layer, weight in enumerate(weights):
            torch.mm(outputs[layer], weight.T, out=outputs[layer + 1])
        for layer in reversed(range(len(weights))):
            torch.mm(outputs[layer + 1].T, outputs[layer], out=gradients[layer])
            if layer:
                torch.mm(outputs[layer + 1], weights[layer], out=outputs[layer])
        optimizer.step()

    def epoch() -> float:
        torch.set_num_threads(threads)
        started = time.perf_counter()
        parts = torch.randperm(len(pixels)).split(case.batch_size)[:-1]
        for rows in parts:
            step(rows)
        return (time.perf_counter() - started) / (len(parts) * case.batch_size)

    return epoch


def measure(case: Case, pixels: Tensor, labels: Tensor, repeats: int) -> dict[str, list[float]]:
    """Seconds an image of each contender, in turn, after one round that does not count."""
    contenders = {
        "ours": ours(case, pixels, labels),
        "floor, 1 thread": floor(case, pixels, 1),
        "floor, all threads": floor(case, pixels, os.cpu_count() or 1),
        "usual loop": usual(case, pixels, labels),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.no_grad():
        for _ in range(repeats + 1):
            for name, epoch in contenders.items():
                with torch.set_grad_enabled(not name.startswith("floor")):
                    times[name].append(epoch())
    times = {name: values[1:] for name, values in times.items()}
    one, every = times.pop("floor, 1 thread"), times.pop("floor, all threads")
    times["floor"] = min(one, every, key=statistics.median)
    return times


SIZES = ((128, 10), (8192, 10), (65536, 10), (4096, 1000), (2048, 21841))
LOSS_SECONDS = 0.2
LINEAR = (4096, 512, 21841)


def loss_step(cross_entropy: Callable[..., Tensor], x: Tensor, target: Tensor, smoothing: float) -> Callable[[], None]:
    """The loss and its gradient in the logits."""
    x = x.clone().requires_grad_()

    def step() -> None:
        torch.autograd.grad(cross_entropy(x, target, label_smoothing=smoothing), x)

    return step


def peak_bytes(step: Callable[[], None]) -> int:
    """The most memory that torch held at a time during a step, beyond what it held before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    results = profile.profiler.kineto_results if profile.profiler else None
    events = results.events() if results else []
    changes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]
    return int(max(itertools.accumulate(changes, initial=0)))


def compare_losses(repeats: int) -> None:
    """A table over sizes and kinds of targets: milliseconds and mebibytes, ours and torch's."""
    print("| logits | target | ours, ms | torch's, ms | ratio | ours, MiB | torch's, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    draws = torch.Generator().manual_seed(0)
    for size in SIZES:
        x = torch.randn(size, generator=draws)
        labels = torch.randint(size[1], size[:1], generator=draws)
        soft = torch.rand(size, generator=draws)
        soft /= soft.sum(1, keepdim=True)
        for kind, target, smoothing in (("index", labels, 0.0), ("smoothed", labels, 0.1), ("soft", soft, 0.0)):
            steps = [
                loss_step(function, x, target, smoothing)
                for function in (fcnet.functional.cross_entropy, nn.functional.cross_entropy)
            ]
            memory = [peak_bytes(step) / 2**20 for step in steps]
            times = interleaved(steps, repeats)
            ours, theirs = (1e3 * statistics.median(values) for values in times)
            ratio = statistics.median(mine / other for mine, other in zip(*times, strict=True))
            print(
                f"| {size} | {kind} | {ours:.3f} | {theirs:.3f} | {ratio:.2f} | {memory[0]:.2f} | {memory[1]:.2f} |",
                flush=True,
            )


def compare_linear(repeats: int) -> None:
    """The linear layer with the cross-entropy of its logits, against its three products alone with all logits."""
    rows, features, classes = LINEAR
    draws = torch.Generator().manual_seed(0)
    x, w = torch.randn(rows, features, generator=draws), torch.randn(classes, features, generator=draws) / 20
    labels = torch.randint(classes, (rows,), generator=draws)

    def ours() -> None:
        inputs = x.clone().requires_grad_(), w.requires_grad_()
        torch.autograd.grad(fcnet.functional.linear_cross_entropy(*inputs, labels), inputs)

    @torch.no_grad()
    def products() -> None:
        logits = x @ w.T
        _ = logits @ w, logits.T @ x

    times = interleaved([ours, products], repeats)
    ratio = statistics.median(mine / other for mine, other in zip(*times, strict=True))
    logits, gradients = 4 * rows * classes, 4 * features * (2 * rows + classes)
    print(
        f"\nlinear_cross_entropy of {rows} rows, {features} features, {classes} classes: {ratio:.2f} × its products "
        f"({statistics.median(times[0]):.2f} s); beside the gradients it holds "
        f"{(peak_bytes(ours) - gradients) / logits:.1%} of the logits' {logits / 2**20:.0f} MiB"
    )


def interleaved(steps: list[Callable[[], None]], repeats: int) -> list[list[float]]:
    """Seconds a call of each, in turn; a repeat makes as many calls as fill `LOSS_SECONDS`."""
    started = time.perf_counter()
    for step in steps:
        step()
    calls = max(1, round(LOSS_SECONDS * len(steps) / (time.perf_counter() - started)))
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, values in zip(steps, times, strict=True):
            started = time.perf_counter()
            for _ in range(calls):
                step()
            values.append((time.perf_counter() - started) / calls)
    return times


AUGMENT_BATCH = 256
AUGMENT_BATCHES = 20
CHANGES = {
    "flip": Flip(),
    "shift": Shift(4),
    "rotate, scale": Affine(15.0, 0.2),
    "color_jitter": ColorJitter(0.4),
    "cutout": Cutout(8),
}


def measure_augmentation(pixels: Tensor, labels: Tensor, repeats: int) -> dict[str, list[float]]:
    """Seconds a batch of an epoch's making, drawing included, without a network; one round does not count."""
    kinds: dict[str, dict[str, object]] = {"plain": {}}
    kinds |= {name: {"augment": [change]} for name, change in CHANGES.items()}
    kinds |= {"mixup": {"mixing": Mixing(mixup=0.4)}, "cutmix": {"mixing": Mixing(cutmix=1.0)}}
    kinds["all"] = {"augment": list(CHANGES.values()), "mixing": Mixing(0.4, 1.0)}
    size = AUGMENT_BATCH * AUGMENT_BATCHES
    sets = {
        name: Batches(pixels[:size], labels[:size], batch_size=AUGMENT_BATCH, **options)  # type: ignore[arg-type]
        for name, options in kinds.items()
    }
    times: dict[str, list[float]] = {name: [] for name in sets}
    for repeat in range(repeats + 1):
        for name, batches in sets.items():
            started = time.perf_counter()
            for _ in batches.epoch(0, repeat, recycle=True):
                pass
            times[name].append((time.perf_counter() - started) / AUGMENT_BATCHES)
    return {name: values[1:] for name, values in times.items()}


def make_pictures(folder: Path, count: int) -> list[str]:
    """JPEG files of 32×32 smooth noise, the last sixth to test on; their paths."""
    draws, paths = np.random.default_rng(0), []
    for number in range(count):
        split, label = "test" if 6 * number >= 5 * count else "train", number % CLASSES
        path = folder / split / str(label) / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=75)
        paths.append(str(path))
    return paths


def decode_only(path: str) -> None:
    """What a pool of processes that only decodes does to a file."""
    with Image.open(path) as image:
        np.asarray(image.convert("RGB"))


def making(folder: Path, processors: int) -> Callable[[], float]:
    """Seconds to make the store of a folder of images from nothing."""

    def make() -> float:
        workers.num_processors = lambda: processors
        with tempfile.TemporaryDirectory() as cache:
            started = time.perf_counter()
            store.open_store(sources.images(folder), Path(cache))
            return time.perf_counter() - started

    return make


def compare_stores(count: int, repeats: int) -> None:
    """Pictures a second, in turn, after one round that does not count."""
    processors = workers.num_processors()
    with tempfile.TemporaryDirectory() as name, multiprocessing.get_context("spawn").Pool(processors) as pool:
        paths = make_pictures(Path(name), count)

        def bare() -> float:
            started = time.perf_counter()
            pool.map(decode_only, paths, chunksize=256)
            return time.perf_counter() - started

        contenders = {
            "one process": making(Path(name), 1),
            "all processors": making(Path(name), processors),
            "bare": bare,
        }
        rounds = [{name: run() for name, run in contenders.items()} for _ in range(repeats + 1)][1:]
    for contender in contenders:
        speeds = sorted(count / times[contender] for times in rounds)
        print(f"  {contender:14} {statistics.median(speeds):8,.0f} images/s ({speeds[0]:,.0f} to {speeds[-1]:,.0f})")
    faster = statistics.median(times["one process"] / times["all processors"] for times in rounds)
    share = statistics.median(times["bare"] / times["all processors"] for times in rounds)
    print(f"  {faster:.2f} × one process, {share:.0%} of what Pillow alone decodes in {processors} processes")


def main() -> int:
    """Measures, prints a table, and writes JSON lines where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="append a line for each case")
    parser.add_argument("--losses", action="store_true", help="compare the cross-entropy with torch's instead")
    parser.add_argument("--augment", action="store_true", help="time the making of a batch instead")
    parser.add_argument("--store", action="store_true", help="time the making of a store instead")
    parser.add_argument("--images", type=int, default=IMAGES, help="with --store: how many")
    flags = parser.parse_args()
    print(f"{os.cpu_count()} processors, torch {torch.__version__}, Python {platform.python_version()}")
    if flags.losses:
        print(f"{torch.get_num_threads()} threads; medians of {flags.repeats} interleaved repeats\n")
        compare_losses(flags.repeats)
        compare_linear(flags.repeats)
        return 0
    if flags.store:
        print(f"a store of {flags.images:,} JPEG files of 32×32; medians of {flags.repeats} interleaved repeats\n")
        compare_stores(flags.images, flags.repeats)
        return 0
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, *SHAPE), dtype=torch.uint8, generator=draws)
    labels = torch.randint(0, CLASSES, (IMAGES,), generator=draws)
    if flags.augment:
        print(
            f"{torch.get_num_threads()} threads; {flags.repeats} interleaved repeats; ms a batch of {AUGMENT_BATCH}\n"
        )
        for name, values in measure_augmentation(pixels, labels, flags.repeats).items():
            scaled = sorted(1e3 * value for value in values)
            print(f"  {name:14} {statistics.median(scaled):7.3f} ({scaled[0]:.3f} to {scaled[-1]:.3f})")
        return 0
    print(f"{flags.repeats} interleaved repeats; seconds for {IMAGES:,} images of {SHAPE}, median (least to most)\n")
    for case in CASES:
        times = measure(case, pixels, labels, flags.repeats)
        print(f"{case.name}, batch {case.batch_size}")
        for name, values in times.items():
            scaled = sorted(value * IMAGES for value in values)
            print(f"  {name:12} {statistics.median(scaled):8.3f} s ({scaled[0]:.3f} to {scaled[-1]:.3f})")
        pairs = list(zip(times["ours"], times["floor"], times["usual loop"], strict=True))
        over = statistics.median(mine / least for mine, least, _ in pairs)
        ahead = statistics.median(other / mine for mine, _, other in pairs)
        print(f"  {over:.2f} × the floor, {ahead:.1f} × faster than the usual loop\n")
        if flags.json:
            line = {"case": case.name, "batch_size": case.batch_size, "over_floor": over, "over_usual": ahead}
            with flags.json.open("a") as file:
                file.write(json.dumps(line | {"seconds_per_image": times, "torch": torch.__version__}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
