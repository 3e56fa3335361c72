"""Two processes that train together learn what one process learns, except for rounding.

The fixture runs the same jobs twice: here as one process, and as two ranks. The tests compare the results.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import socket
import weakref
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

import fcnet
from fcnet import cli
from fcnet.config.toml import dump_config, load_config
from fcnet.data.batches import Batches
from fcnet.data.transforms.whitening import fit_whitening
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.models.batch_norm import BatchNorm
from fcnet.models.mlp import MLP
from fcnet.runtime import distributed
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.runtime.seeds import generator
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training, train_step
from tests.helpers import (
    advance_run,
    preserve_process_state,
    read_json_lines,
    read_records,
    read_summary,
    run_python,
    wait_until,
)
from tests.processes import call_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.processes import WarmProcess, WarmServer

CPU = torch.device("cpu")
# Odd batch sizes cannot be split evenly. The validation shares leave 1,321 and 251 training images: one more than a
# multiple of the batch size, so that an epoch's last batch is a single image, and one of the ranks gets none.
CONFIGS = {
    "normalised": """
[data]
validation = 0.08
augment = { shift = 1 }
[model]
hidden = [32, 32]
normalization = "batch"
residual = true
[optimizer]
name = "sgd"
lr = 0.05
nesterov = true
[train]
epochs = 3
batch_size = 165
label_smoothing = 0.1
calibrate = true
""",
    "binary": """
[data]
classes = ["3", "8"]
whiten = 20
validation = 0.12
augment = { flip = true, shift = 1 }
[model]
kind = "logistic"
[optimizer]
lr = 0.01
[train]
epochs = 3
batch_size = 25
calibrate = true
""",
    "averaged": """
[data]
validation = 0.08
augment = { shift = 1 }
[model]
hidden = [32, 32]
normalization = "batch"
[optimizer]
name = "muon"
lr = 0.01
schedule = "one_cycle"
clip_norm = 0.5
[train]
epochs = 3
batch_size = 165
ema_decay = 0.9
patience = 2
select = "mean_average_precision"
calibrate = true
""",
    "line_search": """
[data]
validation = 0.08
[model]
hidden = [16]
activation = "gelu"
[optimizer]
name = "lbfgs"
weight_decay = 0.001
[train]
epochs = 12
batch_size = "all"
accumulate = 3
""",
    "long": """
[data]
validation = 0.08
augment = { shift = 1 }
[model]
hidden = [32]
normalization = "batch"
[optimizer]
name = "sgd"
lr = 0.02
schedule = "cosine"
[train]
epochs = 2
batch_size = 15
""",
}
SHORT = """
[model]
hidden = [16]
[optimizer]
name = "sgd"
lr = 0.05
[train]
epochs = 1
batch_size = 165
label_smoothing = 0.1
"""
ALL_CHANGES = (
    "augment = { flip = true, shift = 1, rotate = 20, scale = 0.2, color_jitter = 0.4, cutout = 2, mixup = 0.4, "
    "cutmix = 1 }"
)
DATA_CHANGES = {
    "affine": "augment = { rotate = 20, scale = 0.2 }",
    "color_jitter": "augment = { color_jitter = 0.4, cutout = 2 }",
    "mixup": "augment = { mixup = 0.4 }",
    "cutmix": 'augment = { cutmix = 1 }\nclasses = ["3", "8"]',
    "weights": 'balance = "weights"',
    "sampling": 'balance = "sampling"',
    "all": f'{ALL_CHANGES}\nbalance = "weights"',
    "sampled": f'{ALL_CHANGES}\nbalance = "sampling"',
}
CONFIGS |= {name: f"[data]\nvalidation = 0.08\n{change}\n{SHORT}" for name, change in DATA_CHANGES.items()}
# Every optimizer with every schedule, every second one with an average of the weights.
OPTIMIZATIONS = {
    f"{optimizer} {schedule}": (
        f'[data]\nvalidation = 0.08\naugment = {{ shift = 1 }}\n[model]\nhidden = [16]\nnormalization = "batch"\n'
        f'[optimizer]\nname = "{optimizer}"\nlr = 0.005\nwarmup_epochs = 0.5\n'
        f'schedule = "{schedule}"\nmilestones = [1]\n'
        f"[train]\nepochs = 2\nbatch_size = 165\nema_decay = {0.9 * (number % 2)}\n"
    )
    for number, (optimizer, schedule) in enumerate(
        itertools.product(("sgd", "adam", "adamw", "muon"), ("constant", "cosine", "linear", "one_cycle", "steps"))
    )
}
CONFIGS |= OPTIMIZATIONS
LOSSES, ACCURACIES = ("train_loss", "validation_loss"), ("train_accuracy", "validation_accuracy")


def train_run(folder: Path, name: str, *, until: int | None = None) -> None:
    """Trains a run to the end, or until a step."""
    config = load_config(folder / f"{name}.toml")
    experiment = build(config, CPU)
    run = Run(folder / (name if until is None else f"{name}-stopped"))
    if distributed.rank() == 0:
        Run.create(run.path, name, dump_config(config))
    distributed.any_rank(False)  # the folder exists
    advance_run(experiment, run, until=until)


def write_batches(folder: Path, name: str) -> None:
    """Writes this rank's slice of every batch of two epochs."""
    batches = build(load_config(folder / f"{name}.toml"), CPU).training.batches
    tensors = {}
    for epoch in range(2):
        for number, batch in enumerate(batches.epoch(0, epoch)):
            tensors[f"{epoch}.{number}.images"] = batch.images
            tensors[f"{epoch}.{number}.labels"] = batch.labels.clone()
            tensors[f"{epoch}.{number}.target"] = batch.target.clone()
    save_file(tensors, folder / f"{name}-batches-{distributed.rank()}.safetensors")


def stop_at_nan(folder: Path) -> None:
    """Writes this rank's error for a NaN in the last rank's slice of the second batch."""
    lines = []
    for normalization in ("none", "batch"):
        images, labels = torch.randn(45, 6, generator=torch.Generator().manual_seed(0)), torch.arange(45) % 3
        model = fcnet.MLP(6, (4,), 3, normalization=normalization, generator=torch.Generator().manual_seed(0))
        order = torch.randperm(45, generator=generator(0, "order", 0))
        images[order[18]] = float("nan")
        algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=1)
        try:
            fcnet.fit(model, Batches(images, labels, batch_size=10), algorithm)
        except NonFiniteError as error:
            total = sum(parameter.detach().double().sum() for parameter in model.parameters())
            lines.append(f"{error} {error.step} {error.layer} {float(total):.4f}\n")
    (folder / f"stopped-{distributed.rank()}.txt").write_text("".join(lines))


def run_jobs(folder: Path) -> None:
    stop_at_nan(folder)
    for name in ("normalised", *DATA_CHANGES):
        write_batches(folder, name)
        train_run(folder, name)
    for name in ("binary", "averaged", "line_search", *OPTIMIZATIONS):
        train_run(folder, name)
    train_run(folder, "long", until=32)


def run_jobs_as_rank(folder: Path) -> None:
    with cli.process_group(CPU):
        group = weakref.ref(torch.distributed.group.WORLD)
        run_jobs(folder)
    # A group that anything keeps alive keeps its threads, which may abort the interpreter as it exits.
    assert group() is None


def start_ranks(
    warm: WarmServer,
    function: Callable[..., None],
    *arguments: object,
    cwds: tuple[Path | None, ...] = (None, None),
) -> list[WarmProcess]:
    """Starts processes that call a function, two or one for each folder, with the variables that a launcher sets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    launch: dict[str, Any] = {"WORLD_SIZE": str(len(cwds)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [warm.start(function, *arguments, cwd=cwd, RANK=str(rank), **launch) for rank, cwd in enumerate(cwds)]


def assert_ranks_succeed(ranks: list[WarmProcess]) -> None:
    for ended in [rank.wait() for rank in ranks]:
        assert ended.code == 0, ended.err


@pytest.fixture(scope="module")
def folders(warm: WarmServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of the jobs that one process ran, and of those that two ranks ran."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as monkeypatch, preserve_process_state():
        monkeypatch.setenv("FCNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        for folder in (one, two):
            for name, text in CONFIGS.items():
                (folder / f"{name}.toml").write_text(text)
        run_jobs(one)
        train_run(one, "long")
        assert_ranks_succeed(start_ranks(warm, run_jobs_as_rank, two))
        flags = ("--resume", "--out", str(one / "long-stopped"), "--config", str(one / "long.toml"))
        assert_ranks_succeed(start_ranks(warm, call_command, "train", *flags))
        resumed = build(load_config(two / "long.toml"), CPU)
        advance_run(resumed, Run(two / "long-stopped"))
    return one, two


def assert_same_learning_curve(ours: Path, theirs: Path) -> None:
    """Asserts that two runs agree in the figures of every epoch and of the test set, except for rounding.

    Two ranks add the terms of a batch in another order, a relative difference of 1e-7. Some hundred steps amplify it
    to 1e-5, which may move an image or two across a decision boundary.
    """
    for mine, other in zip(read_records(ours), read_records(theirs), strict=True):
        assert (mine["epoch"], mine["step"], mine["lr"]) == (other["epoch"], other["step"], other["lr"])
        assert [mine[key] for key in LOSSES] == pytest.approx([other[key] for key in LOSSES], rel=1e-4)
        assert [mine[key] for key in ACCURACIES] == pytest.approx([other[key] for key in ACCURACIES], abs=2 / 1321)
    mine, other = (read_summary(run) for run in (ours, theirs))
    assert mine["test_accuracy"] == other["test_accuracy"]
    assert mine["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)


@pytest.mark.parametrize("name", ["normalised", *DATA_CHANGES])
def test_ranks_split_the_batches_of_one_process(name: str, folders: tuple[Path, Path]) -> None:
    one, two = folders
    whole = load_file(one / f"{name}-batches-0.safetensors")
    parts: list[dict[str, Tensor]] = [load_file(two / f"{name}-batches-{rank}.safetensors") for rank in range(2)]
    assert parts[0].keys() == parts[1].keys() == whole.keys()
    for key, tensor in whole.items():
        assert torch.equal(torch.cat([part[key] for part in parts]), tensor), key
    if name != "cutmix":  # it has the images of only two classes
        assert {len(part["0.0.labels"]) for part in parts} == {82, 83}
        assert {len(part["0.8.labels"]) for part in parts} == {0, 1}


@pytest.mark.parametrize("name", ["normalised", "binary", "averaged", "line_search", *DATA_CHANGES, *OPTIMIZATIONS])
def test_two_ranks_learn_what_one_process_learns(name: str, folders: tuple[Path, Path]) -> None:
    one, two = folders
    assert_same_learning_curve(two / name, one / name)
    ours, theirs = (load_file(folder / name / "model.safetensors") for folder in (two, one))
    assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    our_predictions, their_predictions = (load_file(run / name / "predictions.safetensors") for run in (two, one))
    assert our_predictions["labels"].equal(their_predictions["labels"])
    assert_close(our_predictions["true_probabilities"], their_predictions["true_probabilities"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["normalised", "binary", "averaged"])
def test_the_temperature_of_two_ranks_is_that_of_one_process(name: str, folders: tuple[Path, Path]) -> None:
    ours, theirs = (read_summary(folder / name)["calibration"] for folder in (folders[1], folders[0]))
    assert ours["temperature"] == pytest.approx(theirs["temperature"], rel=1e-3)
    assert ours["reason"] == theirs["reason"]
    if name != "binary":  # whose validation images are all classified correctly
        assert ours["gap"] < 1e-12
    for name, moment in itertools.product(("validation", "test"), ("before", "after")):
        assert ours[name][moment]["log_loss"] == pytest.approx(theirs[name][moment]["log_loss"], rel=1e-3)
        counts = [sum(count for count, _, _ in each[name][moment]["bins"]) for each in (ours, theirs)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["normalised", "binary", "averaged", "line_search", "all"])
def test_diagnostics_of_two_ranks_are_those_of_one_process(name: str, folders: tuple[Path, Path]) -> None:
    one, two = (read_json_lines(folder / name / "diagnostics.jsonl") for folder in folders)
    assert [(each["epoch"], each["step"]) for each in one] == [(each["epoch"], each["step"]) for each in two]
    assert one[0] == two[0]  # bit-identical before training
    assert one[-1]["step"] == read_records(folders[0] / name)[-1]["step"]
    for figure in ("activation_mean", "weight_norm", "effective_rank"):
        mine, other = ([layer[figure] for layer in snapshots[-1]["layers"]] for snapshots in (two, one))
        assert mine == pytest.approx(other, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("started_by", [0, 1])
def test_a_run_resumes_with_another_number_of_ranks(started_by: int, folders: tuple[Path, Path]) -> None:
    assert_same_learning_curve(folders[started_by] / "long-stopped", folders[0] / "long")


def test_all_ranks_stop_at_a_nan_in_the_slice_of_one(folders: tuple[Path, Path]) -> None:
    one, two = folders
    alone = (one / "stopped-0.txt").read_text()
    assert [line.split(";")[0] for line in alone.splitlines()] == ["NaN or inf in step 2 of 5, first in the images"] * 2
    assert [(two / f"stopped-{rank}.txt").read_text() for rank in range(2)] == [alone, alone]


def test_ranks_of_torchrun_that_stop_print_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "long.toml"
    file.write_text(CONFIGS["long"])
    flags = ("--config", str(file), "--out", str(tmp_path / "run"), "--set", "optimizer.lr=1e30")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = run_python(*launcher, "-m", "fcnet.train", *flags)
    assert process.returncode == 1
    (line,) = (line for line in process.stderr.splitlines() if "NaN" in line)
    assert line.startswith("NaN or inf in step 2 of ")
    assert "fcnet/training/loop.py" not in process.stderr  # torchrun prints its own traceback, but none of fcnet
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


WHITENED = """
[data]
whiten = 20
[model]
hidden = [1024, 64]
normalization = "batch"
[optimizer]
name = "muon"
lr = 0.01
clip_norm = 0.1
[train]
epochs = 1
batch_size = 165
"""


def train_with_other_processors(folder: Path) -> None:
    """Trains with more processors on each later rank; writes the whitening, the weights and the number of fits."""
    with cli.process_group(CPU), pytest.MonkeyPatch.context() as monkeypatch:
        fits = Mock(wraps=fit_whitening)
        monkeypatch.setattr("fcnet.experiment.build_data.fit_whitening", fits)
        rank = distributed.rank()
        monkeypatch.setattr(
            "fcnet.experiment.build_training.num_processors", lambda: distributed.world_size() * (1 + rank)
        )
        torch.set_num_threads(1 + rank)
        experiment = build(load_config(folder / "whitened.toml"), CPU)
        torch.set_num_threads(experiment.threads)
        assert experiment.training.batches.preprocessing.whitening is experiment.classifier.whitening
        for _ in experiment.training.advance():
            pass
        whitening = experiment.classifier.whitening
        assert whitening is not None
        tensors = experiment.training.model.state_dict() | {
            f"whitening.{k}": v for k, v in whitening.state_dict().items()
        }
        save_file(tensors | {"fits": torch.tensor(fits.call_count)}, folder / f"{rank}.safetensors")


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_ranks_have_the_whitening_of_the_first_and_the_same_weights(
    ranks: int, warm: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "whitened.toml").write_text(WHITENED)
    assert_ranks_succeed(start_ranks(warm, train_with_other_processors, tmp_path, cwds=(None,) * ranks))
    first, *others = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(ranks))
    assert first.pop("fits") == 1
    assert first["whitening.weight"].any()
    for other in others:
        assert other.pop("fits") == 0
        assert {name: tensor.equal(other[name]) for name, tensor in first.items()} == dict.fromkeys(first, True)


def normalize_as_rank(folder: Path) -> None:
    """Normalizes this rank's rows of batches of 1,000 ± 1; writes results, gradients and the number of messages."""
    results = dict[str, Tensor]()
    with cli.process_group(CPU), count_messages() as messages:
        for size in (2, 7, 50):
            x, weights = offset_batch(size)
            norm, own = BatchNorm(5), distributed.rank_slice(size)
            z = x[own].clone().requires_grad_()
            (norm(z) * weights[own]).sum().backward()
            assert z.grad is not None
            results |= {f"{size}.z": norm(x[own]).detach(), f"{size}.grad": z.grad, f"{size}.var": norm.running_var}
            results[f"{size}.mean"] = norm.running_mean
        results["messages"] = torch.tensor(len(messages))
    save_file(results, folder / f"{distributed.launch_variable('RANK')}.safetensors")


def offset_batch(size: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(size)
    return 1000.0 + torch.randn(size, 5, generator=draws), torch.randn(size, 5, generator=draws)


@contextlib.contextmanager
def count_messages() -> Iterator[list[str]]:
    """Yields the names of all exchanges of tensors in the block."""
    messages = list[str]()
    with contextlib.ExitStack() as stack:
        for name in ("all_reduce", "all_gather", "broadcast"):
            function = getattr(torch.distributed, name)

            def counted(*args: Any, function: Any = function, name: str = name, **kwargs: Any) -> Any:
                messages.append(name)
                return function(*args, **kwargs)

            stack.enter_context(patch.object(torch.distributed, name, counted))
        yield messages


def test_ranks_normalize_as_one_process_does_with_two_messages(warm: WarmServer, tmp_path: Path) -> None:
    assert_ranks_succeed(start_ranks(warm, normalize_as_rank, tmp_path, cwds=(None,) * 3))
    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(3)]
    assert [int(rank["messages"]) for rank in ranks] == [3 * (2 + 1)] * 3  # a second forward pass for each size
    for size in (2, 7, 50):
        x, weights = (part.double() for part in offset_batch(size))
        norm = torch.nn.BatchNorm1d(5).double()
        z = x.clone().requires_grad_()
        (norm(z) * weights).sum().backward()
        expected = {"z": norm(x).detach(), "grad": z.grad}
        for name, value in expected.items():
            found = torch.cat([rank[f"{size}.{name}"] for rank in ranks]).double()
            assert_close(found, value, rtol=1e-3, atol=2e-3 if size > 2 else 0.1)
        assert_close(ranks[0][f"{size}.var"].double(), norm.running_var, rtol=1e-4, atol=0)
        for name in ("mean", "var"):
            assert all(rank[f"{size}.{name}"].equal(ranks[0][f"{size}.{name}"]) for rank in ranks)


def step_as_rank(folder: Path) -> None:
    """Makes two steps with buckets of several sizes; writes the weights and the number of messages of each."""
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(33, 6, generator=draws), torch.arange(33) % 3
    results = dict[str, Tensor]()
    with cli.process_group(CPU), pytest.MonkeyPatch.context() as monkeypatch:
        for normalization, bucket_bytes in itertools.product(("none", "batch"), (1, 100, 1 << 24)):
            monkeypatch.setattr("fcnet.training.gradient_sums._BUCKET_BYTES", bucket_bytes)
            model = MLP(6, (5, 5, 5), 3, normalization=normalization, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
            algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=1)
            training = Training(model.train(), Batches(x, y, batch_size=33), algorithm)
            with count_messages() as messages:
                for epoch in range(2):
                    train_step(training, next(training.batches.epoch(0, epoch)))
            name = f"{normalization} {bucket_bytes}"
            results |= {f"{name} {key}": value for key, value in model.state_dict().items()}
            results[f"messages {name}"] = torch.tensor(len(messages) // 2)
    save_file(results, folder / f"{distributed.launch_variable('RANK')}.safetensors")


def test_buckets_of_gradients_change_no_sum_and_few_messages_are_sent(warm: WarmServer, tmp_path: Path) -> None:
    assert_ranks_succeed(start_ranks(warm, step_as_rank, tmp_path))
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert {name: value.equal(second[name]) for name, value in first.items()} == dict.fromkeys(first, True)
    for name, value in first.items():
        if " 1 " in name:
            assert value.equal(first[name.replace(" 1 ", " 100 ")])
            assert value.equal(first[name.replace(" 1 ", f" {1 << 24} ")])
    counts = {name.removeprefix("messages "): int(value) for name, value in first.items() if "messages" in name}
    # Four layers: three batch normalizations with two messages each, and the gradients.
    assert counts == {
        "none 1": 8,
        "none 100": 3,
        f"none {1 << 24}": 1,
        "batch 1": 3 * 2 + 11,
        "batch 100": 3 * 2 + 4,
        f"batch {1 << 24}": 3 * 2 + 1,
    }


def fail_to_fit_whitening(*arguments: str) -> None:
    """Trains as a rank whose whitening cannot be fitted."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("fcnet.experiment.build_data.fit_whitening", Mock(side_effect=UserError("no whitening")))
        call_command("train", *arguments)


def test_a_whitening_that_cannot_be_fitted_ends_all_ranks_with_one_line(
    warm: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "whitened.toml").write_text(WHITENED)
    flags = ("--config", str(tmp_path / "whitened.toml"), "--out", str(tmp_path / "run"))
    ended = [rank.wait() for rank in start_ranks(warm, fail_to_fit_whitening, *flags)]
    assert [each.code for each in ended] == [2, 2]
    assert [each.err for each in ended] == ["no whitening\n", "rank 1 of 2 stopped: another rank failed\n"]


def train_run_until_stopped(config: Path, out: Path) -> None:
    """Trains the first steps of a run."""
    experiment = build(load_config(config), CPU)
    advance_run(experiment, Run.create(out, "run", dump_config(load_config(config))), until=8)


def train_as_rank(*arguments: str) -> None:
    """Trains as a rank that waits for 5 seconds at most."""
    distributed.ANSWER_SECONDS = 5.0
    call_command("train", *arguments)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "ended"), (signal.SIGSTOP, "did not answer for 5 s")])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_ends_the_others_with_one_line_and_the_run_resumes(
    number: signal.Signals,
    reason: str,
    lost: int,
    warm: WarmServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    (tmp_path / "long.toml").write_text(CONFIGS["long"])
    flags = ("--config", str(tmp_path / "long.toml"), "--set", "train.epochs=200", "--set", "train.save_seconds=0.2")
    ranks = start_ranks(warm, train_as_rank, *flags, "--out", str(run))
    assert wait_until(lambda: len(list(run.glob("checkpoints/step-*.json"))) == 2, ranks[0])
    ranks[lost].send_signal(number)
    code, _, err, _ = ranks[1 - lost].wait()
    assert code == 2
    step = Run(run).checkpoints.saved_step
    assert err == (
        f"rank {1 - lost} of 2 stopped: another rank {reason}; the checkpoint of step {step} is kept, "
        f"resume with: python -m fcnet.train --resume {run}\n"
    )
    ranks[lost].kill()
    ranks[lost].wait()
    checkpoint = Run(run).checkpoints.latest()
    assert checkpoint is not None
    assert checkpoint[1]["step"] == step


def test_one_signal_stops_and_saves_all_ranks(
    warm: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    (tmp_path / "long.toml").write_text(CONFIGS["long"])
    flags = ("--config", str(tmp_path / "long.toml"), "--set", "train.epochs=200", "--out", str(run))
    ranks = start_ranks(warm, train_as_rank, *flags)
    assert wait_until((run / "metrics.jsonl").is_file, ranks[0])
    ranks[1].send_signal(signal.SIGTERM)
    ended = [rank.wait() for rank in ranks]
    assert [(each.code, each.err) for each in ended] == [(143, ""), (143, "")]
    out, nothing = (each.out for each in ended)
    assert re.sub(r"^\[Gloo\] Rank 1 is connected to .*\n", "", nothing) == ""  # torch 2.10 says so itself
    assert out.splitlines()[-1].startswith("stopped and saved in epoch ")
    assert Run(run).checkpoints.saved_step is not None


def test_ranks_that_see_different_checkpoints_do_not_resume(
    warm: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on two machines without a shared file system: the second rank's working folder has no run."""
    config = tmp_path / "long.toml"
    config.write_text(CONFIGS["long"])
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    with preserve_process_state():
        train_run_until_stopped(config, tmp_path / "0" / "run")
    flags = ("--config", str(config), "--resume", "--out", "run")
    for rank in start_ranks(warm, train_as_rank, *flags, cwds=(tmp_path / "0", tmp_path / "1")):
        code, _, err, _ = rank.wait()
        assert code == 2
        assert err == (
            "--resume needs a run folder that all ranks see, on a shared file system: "
            "rank 1 sees other checkpoints than rank 0\n"
        )
    assert list((tmp_path / "1").iterdir()) == []


def test_a_run_of_two_ranks_has_the_files_of_one_process(folders: tuple[Path, Path]) -> None:
    one, two = folders
    assert {file.name for file in (two / "normalised").iterdir()} == {
        file.name for file in (one / "normalised").iterdir()
    }
    environment = json.loads((two / "normalised" / "model.json").read_text())["environment"]
    assert environment["ranks"] == 2
