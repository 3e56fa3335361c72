"""Times an epoch of training by fcnet, by other libraries, and at the speed limit."""

from __future__ import annotations

import itertools
import statistics
from typing import TYPE_CHECKING

import torch

from benchmarks.cases import CLASSES, LR, MOMENTUM, Case, Contender, Data
from benchmarks.limits import copy_bandwidth, matmul_speed, speed_limit
from benchmarks.peers import missing_packages, peers, suppress_warnings
from benchmarks.report import LIMIT, OURS, Measurement, print_measurements, time_interleaved
from fcnet import MLP, GradientDescent
from fcnet.data.batches import Batches, Preprocessing
from fcnet.experiment.build import choose_threads
from fcnet.optim.optimizers import Muon, parameter_groups
from fcnet.runtime.hardware import num_processors
from fcnet.training.loop import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FILL_SECONDS = 0.5
PRECISIONS = (torch.float32, torch.bfloat16)


def fcnet_contender(case: Case, data: Data) -> Contender:
    """Returns the contender that trains with `fcnet.training.loop`."""
    model = MLP(case.in_features, case.hidden, CLASSES, generator=torch.Generator().manual_seed(0)).to(data.device)
    batches = Batches(
        data.pixels,
        data.labels,
        batch_size=case.batch_size,
        preprocessing=Preprocessing(*data.statistics),
        device=data.device,
    )
    groups = parameter_groups(model, 0.0)
    optimizer: torch.optim.Optimizer
    if case.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM, fused=True)
    else:
        optimizer = Muon(groups, lr=LR)
    algorithm = GradientDescent(optimizer, epochs=1_000_000, precision=case.precision)
    events = Training(model, batches, algorithm).advance()

    def train() -> None:
        for _ in itertools.takewhile(lambda record: record is None, events):
            pass

    return Contender(OURS, train, len(data.labels), lambda: model.parameters(), choose_threads(model, case.batch_size))


def contenders(case: Case, data: Data) -> list[Contender]:
    """Returns all contenders of a case, with one limit for each plausible number of threads."""
    threads = {1, num_processors()} if data.device.type == "cpu" else {1}
    return [
        fcnet_contender(case, data),
        *(speed_limit(case, data, number) for number in sorted(threads)),
        *peers(case, data),
    ]


def measure(case: Case, data: Data, repeats: int) -> list[Measurement]:
    """Measures the seconds per epoch; of the limits, only the faster one is returned."""
    entered = contenders(case, data)
    runs = {f"{each.name} {each.threads}": _with_threads(each) for each in entered}
    with suppress_warnings():
        times = time_interleaved(runs, repeats, fill_seconds=FILL_SECONDS, device=data.device)
    images = len(data.labels)
    measurements = []
    for each, values in zip(entered, times.values(), strict=True):
        speed = each.images / statistics.median(values)
        extra = {"images/s": speed, "TFLOP/s": speed * case.flops / 1e12, "threads": each.threads}
        epoch = tuple(value * images / each.images for value in values)
        measurements.append(
            Measurement(f"{case}: an epoch of {images:,} images", each.name, epoch, "s", extra, each.differs)
        )
    best = min(
        (measurement for measurement in measurements if measurement.contender == LIMIT),
        key=lambda measurement: measurement.median,
    )
    return [measurement for measurement in measurements if measurement.contender != LIMIT or measurement is best]


def _with_threads(contender: Contender) -> Callable[[], None]:
    def run() -> None:
        torch.set_num_threads(contender.threads)
        contender.train()

    return run


def compare(cases: Sequence[Case], data: Data, repeats: int) -> list[Measurement]:
    """Measures several cases, and prints each as soon as it is measured."""
    device = data.device
    if device.type == "cuda":
        print(f"copy {copy_bandwidth(device) / 1e12:.2f} TB/s, ", end="")
        products = (f"{matmul_speed(device, dtype) / 1e12:.0f} TFLOP/s {dtype}" for dtype in PRECISIONS)
        print("fastest products " + ", ".join(products) + "\n")
    for package in sorted({package for case in cases for package in missing_packages(case, data)}):
        print(f"{package} is not installed and is left out: pip install -e '.[peers]'\n")
    measurements = []
    for case in cases:
        group = measure(case, data, repeats)
        print_measurements(group)
        measurements += group
    return measurements
