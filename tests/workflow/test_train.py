"""What the commands do and say: train, evaluate, predict."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import pty
import random
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from importlib.metadata import version
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

import fcnet
from fcnet import cli, evaluate, predict, train
from fcnet.config.toml import load_config
from fcnet.diagnostics import advice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Main = Callable[[list[str]], int]

# 24 training images of each of three kinds of picture, of which 3 are kept aside: 8 steps an epoch.
PETS = """\
seed = 2
[data]
source = "images"
path = "pets"
validation = 0.125
augment = { flip = true }
[model]
hidden = [8]
[optimizer]
lr = 0.01
[train]
epochs = 3
batch_size = 8
"""
# Some seconds of training: time enough to be stopped in.
LONG = """\
seed = 4
[data]
source = "synthetic"
shape = [1, 4, 4]
train_size = 300
test_size = 30
num_classes = 3
[model]
hidden = [8, 8]
normalization = "batch"
dropout = 0.1
[optimizer]
schedule = "cosine"
[train]
epochs = 250
batch_size = 32
save_seconds = 1000
"""
CLASSES = ("ant", "bee", "cat")
FILES = {
    *("config.toml", "metrics.jsonl", "diagnostics.jsonl", "summary.json", "model.safetensors", "model.json"),
    *("predictions.safetensors", "predictions.json", "report.html"),
}
RECORD = {
    *("epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
    *("seconds", "images_per_second"),
}
WAIT_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working folder beside an empty cache, and the signals and threads of before afterwards."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(fcnet.__file__).parents[1]))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def draw(folder: str, counts: dict[str, int]) -> None:
    """Pictures of 5×4 grey pixels: noise, brighter from class to class, but not by so much that all can be told."""
    draws = random.Random(folder)
    for (label, name), (split, count) in itertools.product(enumerate(CLASSES), counts.items()):
        (Path(folder) / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = bytes(draws.randrange(170) + 30 * label for _ in range(20))
            Image.frombytes("L", (5, 4), pixels).save(f"{folder}/{split}/{name}/{number}.png")


@pytest.fixture
def pets() -> None:
    draw("pets", {"train": 24, "test": 10})
    Path("pets.toml").write_text(PETS)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of the long training that nothing disturbed."""
    folder, threads = tmp_path_factory.mktemp("uninterrupted"), torch.get_num_threads()
    (folder / "long.toml").write_text(LONG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCNET_CACHE", str(folder / "cache"))
        assert train.main(["--config", str(folder / "long.toml"), "--out", str(folder / "run")]) == 0
    torch.set_num_threads(threads)
    return str(folder / "run")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command in this process, which must end well and without a word on standard error; what it says."""

    def run(main: Main, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fcnet", *arguments])
        with pytest.raises(SystemExit) as leaving:
            cli.run_command(main)
        out, err = capsys.readouterr()
        assert (leaving.value.code, err) == (0, "")
        return out

    return run


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"fcnet.{module}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def network(run: str) -> list[bytes]:
    return [(Path(run) / f"model.{ending}").read_bytes() for ending in ("safetensors", "json")]


def records(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def course(run: str) -> list[dict[str, Any]]:
    """The epochs without what a clock measured."""
    clock = {"seconds", "images_per_second"}
    return [{key: value for key, value in record.items() if key not in clock} for record in records(run)]


def summary(run: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((Path(run) / "summary.json").read_text())
    return facts


def everything(folder: str = ".") -> dict[Path, bytes | None]:
    return {entry: entry.read_bytes() if entry.is_file() else None for entry in Path(folder).rglob("*")}


# --- train ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pets")
def test_training_says_what_it_trains_then_a_line_an_epoch_then_the_result(command: Callable[..., str]) -> None:
    decoded, first, *epochs, last = command(train.main, "--config", "pets.toml", "--out", "run").splitlines()
    assert re.fullmatch(r"decoded 102 images in \d+\.\d s", decoded)
    assert first == (
        "63 training, 9 validation and 30 test images in 3 classes; layers 20-8-3, 195 parameters; cpu, 1 thread; run"
    )
    assert len(epochs) == 3
    for line, record in zip(epochs, records("run"), strict=True):
        assert line == (
            f"epoch {record['epoch']}/3"
            f" · training loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.2%}"
            f" · validation loss {record['validation_loss']:.4f} accuracy {record['validation_accuracy']:.2%}"
            f" · {record['images_per_second']:,.0f} images/s"
        )
    facts = summary("run")
    low, high = facts["test_interval"]
    assert last == (
        f"test accuracy {facts['test_accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})"
        f" on 30 images after {facts['train_seconds']:.1f} s of training"
    )


@pytest.mark.usefixtures("pets")
def test_training_says_what_it_skipped_and_that_classes_are_uneven_and_predicts_other_sizes(
    command: Callable[..., str],
) -> None:
    for number in range(13):
        Path(f"pets/train/ant/{number}.png").write_bytes(b"")
    Image.new("L", (50, 30), 7).save("large.png")
    changes = ["--set", "data.skip_broken=true", "--set", "data.size=[4,6]"]
    decoded, first, skipped, uneven, *_ = command(
        train.main, "--config", "pets.toml", "--out", "run", *changes
    ).splitlines()
    assert decoded.startswith("decoded 102 images in ")
    assert "; layers 24-8-3, " in first
    assert re.fullmatch(
        r"skipped 13 broken of 102 images: train/ant/0\.png, train/ant/1\.png, train/ant/10\.png, …; all of them, .*",
        skipped,
    )
    assert uneven.startswith("classes are uneven: ")
    assert command(predict.main, "run", "large.png", "pets/test/bee/0.png").count("\n") == 2


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("loss", ["logistic", "hinge", "quadratic"])
def test_a_run_whose_scores_are_no_probabilities_says_so(command: Callable[..., str], loss: str) -> None:
    changes = ("--set", f"train.loss={loss}", "--set", "data.classes=['ant','bee']")
    said = command(train.main, "--config", "pets.toml", "--out", "run", *changes)
    notes = [remark for remark in summary("run")["warnings"] if "no probabilities" in remark]
    assert notes == ([] if loss == "logistic" else advice.score_advice(loss))
    assert said.count("makes scores that are no probabilities") == len(notes)


@pytest.mark.usefixtures("pets")
def test_what_the_figures_say_is_said_once_and_kept(command: Callable[..., str]) -> None:
    slow = ("--set", "optimizer.lr=1e-9", "--set", "train.epochs=8")
    said = command(train.main, "--config", "pets.toml", "--out", "run", *slow).splitlines()
    notes = [line for line in said if line.startswith("note: ")]
    assert notes == [f"note: {remark}" for remark in summary("run")["warnings"]] == said[-1 - len(notes) : -1]
    assert any("; try optimizer.lr = " in note and "1e-08 (now 1e-09)" in note for note in notes)
    assert len(command(train.main, "--resume", "--out", "run").splitlines()) == 1


@pytest.mark.usefixtures("pets")
def test_a_run_folder_holds_these_files_with_these_keys(command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml", "--out", "run")
    assert {entry.name for entry in Path("run").iterdir()} == FILES
    seen = records("run")
    assert [set(record) for record in seen] == [RECORD] * 3
    assert [(record["epoch"], record["step"], record["lr"]) for record in seen] == [
        (1, 8, 0.01),
        (2, 16, 0.01),
        (3, 24, 0.01),
    ]
    for record in seen:
        assert 0.0 <= record["train_accuracy"] <= 1.0
        assert record["validation_accuracy"] in {hits / 9 for hits in range(10)}
        assert record["images_per_second"] == pytest.approx(63 / record["seconds"])
    facts = summary("run")
    expected = {
        "epochs": 3,
        "parameters": 20 * 8 + 8 + 8 * 3 + 3,
        "train_seconds": pytest.approx(sum(record["seconds"] for record in seen)),
        "device": "cpu",
        "torch": torch.__version__,
        "fcnet": version("fcnet"),
        "seed": 2,
        "threads": 1,
        "ranks": 1,
    }
    assert {key: facts[key] for key in expected} == expected
    assert facts["test_accuracy"] in {hits / 30 for hits in range(31)}
    assert facts["test_loss"] > 0.0
    description = json.loads((Path("run") / "model.json").read_text())
    assert description["classes"] == list(CLASSES)
    assert description["shape"] == [1, 4, 5]


@pytest.mark.usefixtures("pets")
def test_validation_figures_are_null_where_nothing_was_kept_aside(command: Callable[..., str]) -> None:
    out = command(train.main, "--config", "pets.toml", "--out", "run", "--set", "data.validation=0")
    assert {(record["validation_loss"], record["validation_accuracy"]) for record in records("run")} == {(None, None)}
    assert "validation loss" not in out


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("changes", [[], ["data={source='synthetic',shape=[2,3,4],train_size=50}", "train.epochs=2"]])
def test_the_configuration_of_a_run_trains_the_identical_network(
    changes: list[str], command: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [part for change in changes for part in ("--set", change)]
    command(train.main, "--config", "pets.toml", "--out", "one", *flags)
    command(train.main, "--config", "pets.toml", "--out", "two", *flags)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    command(train.main, "--config", "../here/one/config.toml", "--out", "three")
    runs = ["../here/one", "../here/two", "three"]
    assert network(runs[0]) == network(runs[1]) == network(runs[2])
    assert course(runs[0]) == course(runs[1]) == course(runs[2])
    assert len({(Path(run) / "config.toml").read_bytes() for run in runs}) == 1


@pytest.mark.usefixtures("pets")
def test_another_seed_is_another_network(command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml", "--out", "one")
    command(train.main, "--config", "pets.toml", "--out", "two", "--set", "seed=3")
    assert network("one")[0] != network("two")[0]


@pytest.mark.usefixtures("pets")
def test_runs_are_named_after_the_configuration_and_numbered(command: Callable[..., str]) -> None:
    for name in ("runs/pets", "runs/pets-2", "runs/pets-3"):
        first = command(train.main, "--config", "pets.toml").splitlines()[-5]
        assert first.endswith(f"; {name}")
        assert {entry.name for entry in Path(name).iterdir()} == FILES


@pytest.mark.usefixtures("pets")
def test_set_changes_what_is_trained(command: Callable[..., str]) -> None:
    changes = ["train.epochs=1", "model.hidden=[7, 6]", "data.classes=['cat','ant']", "optimizer.name=sgd", "seed=9"]
    command(train.main, "--config", "pets.toml", "--out", "run", *(part for c in changes for part in ("--set", c)))
    description = json.loads(Path("run/model.json").read_text())
    assert description["arguments"]["hidden"] == [7, 6]
    assert description["classes"] == ["cat", "ant"]
    assert len(records("run")) == 1
    kept = load_config(Path("run/config.toml"))
    assert (kept.optimizer.name, kept.seed, kept.data.augment.flip) == ("sgd", 9, True)


@pytest.mark.usefixtures("pets")
def test_the_printed_configuration_is_the_same_configuration(command: Callable[..., str]) -> None:
    before = everything()
    printed = command(train.main, "--config", "pets.toml", "--set", "train.epochs=5", "--print-config")
    assert everything() == before
    Path("printed.toml").write_text(printed)
    expected = load_config(Path("pets.toml"), ["train.epochs=5"])
    assert load_config(Path("printed.toml")) == expected
    assert expected.data.path == str(Path("pets").absolute())
    command(train.main, "--config", "printed.toml", "--out", "run")
    assert command(train.main, "--resume", "--out", "run", "--print-config") == printed


@pytest.mark.usefixtures("pets")
def test_a_run_that_ends_early_says_which_epoch_is_kept(command: Callable[..., str]) -> None:
    changes = ["train.patience=2", "train.epochs=200", "optimizer.lr=0.1"]
    *_, result = command(
        train.main, "--config", "pets.toml", "--out", "run", *(part for c in changes for part in ("--set", c))
    ).splitlines()
    accuracies = [record["validation_accuracy"] for record in records("run")]
    best = accuracies.index(max(accuracies)) + 1
    assert len(accuracies) == best + 2
    assert result.endswith(f"; the best of {best + 2} epochs, {best}, is kept")
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["epochs"], summary["best_epoch"]) == (best + 2, best)
    assert summary["validation_accuracy"] == max(accuracies)


def round_to_two(value: float) -> float:
    return float(f"{value:.1e}")


@pytest.mark.usefixtures("pets")
def test_a_range_test_suggests_a_learning_rate_and_draws_the_loss(command: Callable[..., str]) -> None:
    for flags, folder in ([], "runs/pets-lr"), (["--out", "elsewhere/lr"], "elsewhere/lr"):
        *_, said = command(train.main, "--config", "pets.toml", "--find-lr", *flags).splitlines()
        trials = [json.loads(line) for line in Path(folder, "lr.jsonl").read_text().splitlines()]
        assert [set(trial) for trial in trials] == [{"lr", "loss", "smoothed"}] * len(trials)
        best = min(trials, key=lambda trial: trial["smoothed"])
        assert f"a tenth of that may serve: --set optimizer.lr={round_to_two(best['lr'] / 10):g} (now 0.01)" in said
        assert said.endswith(f"picture: {folder}/lr.png")
        with Image.open(f"{folder}/lr.png") as picture:
            assert picture.size == (640, 400)
    assert not Path("runs/pets").exists()


@pytest.mark.parametrize("main", [train.main, evaluate.main, predict.main])
def test_version_is_the_packages(main: Main, command: Callable[..., str]) -> None:
    assert command(main, "--version") == f"fcnet {version('fcnet')}\n"


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (
            train.main,
            {"--config FILE", "--set KEY=VALUE", "--out DIR", "--device", "--resume", "--print-config", "--find-lr"},
        ),
        (evaluate.main, {"RUN", "--data PATH", "--corruptions", "--device"}),
        (
            predict.main,
            {"RUN", "IMAGE", "--json", "--csv", "--top K", "--probabilities", "--batch-size N", "--device"},
        ),
    ],
)
def test_help_explains_each_flag(main: Main, flags: set[str], command: Callable[..., str]) -> None:
    _, _, explained = command(main, "--help").partition("\n\n")
    for flag in flags | {"--version"}:
        assert re.search(rf"^  (-h, )?{re.escape(flag)}\b.*\s+\w", explained, re.MULTILINE), flag


# --- going on ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pets")
def test_resume_of_a_finished_run_says_so_and_changes_nothing(command: Callable[..., str]) -> None:
    *_, result = command(train.main, "--config", "pets.toml").splitlines()
    before = everything("runs")
    for flags in (["--out", "runs/pets"], ["--config", "pets.toml"], ["--config", "pets.toml", "--out", "runs/pets"]):
        assert command(train.main, "--resume", *flags) == f"runs/pets is finished: {result}\n"
    assert everything("runs") == before


@pytest.mark.usefixtures("pets")
def test_resume_of_a_run_killed_in_its_last_moment_removes_the_checkpoints(command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml")
    before = everything("runs")
    Path("runs/pets/checkpoints").mkdir()
    Path("runs/pets/checkpoints/step-0000000009.json").write_text("{}")
    assert command(train.main, "--resume", "--out", "runs/pets").startswith("runs/pets is finished: ")
    assert everything("runs") == before


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(("flags", "run"), [([], "runs/pets"), (["--out", "a/b"], "a/b")])
def test_resume_of_nothing_starts_from_the_start(flags: list[str], run: str, command: Callable[..., str]) -> None:
    _, first, *epochs, _ = command(train.main, "--resume", "--config", "pets.toml", *flags).splitlines()
    assert first.endswith(f"; {run}")
    assert len(epochs) == 3
    command(train.main, "--config", "pets.toml", "--out", "again")
    assert network(run) == network("again")


def test_resume_without_out_goes_on_with_the_newest_run(command: Callable[..., str]) -> None:
    Path("long.toml").write_text(LONG)
    short = ["--config", "long.toml", "--set", "train.epochs=1"]
    command(train.main, *short)
    Path("runs/long-2/checkpoints").mkdir(parents=True)
    (Path("runs/long-2") / "config.toml").write_bytes(Path("runs/long/config.toml").read_bytes())
    first, *_ = command(train.main, "--resume", *short).splitlines()
    assert first.endswith("; runs/long-2")
    assert network("runs/long-2") == network("runs/long")


def lines_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """What a process says until a line that begins so."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(wanted):
            break
    return lines


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT, signal.SIGINT], 130),
    ],
)
def test_a_signal_stops_and_saves_a_run_that_goes_on_as_if_nothing_had_happened(
    signals: list[signal.Signals], code: int, uninterrupted: str, command: Callable[..., str]
) -> None:
    Path("long.toml").write_text(LONG)
    process = start("train", "--config", "long.toml", "--out", "my run")
    lines_until(process, "epoch   2/250")
    for number in signals:
        process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, err) == (code, "")
    said = re.fullmatch(
        r"stopped and saved in epoch (\d+) of 250, step (\d+); go on with: python -m fcnet\.train (.*)",
        out.splitlines()[-1],
    )
    assert said
    epoch, step = int(said[1]), int(said[2])
    assert len(records("my run")) == step // 9 == epoch - 1
    assert not (Path("my run") / "summary.json").exists()
    _, *epochs, _ = command(train.main, *shlex.split(said[3])).splitlines()
    assert len(epochs) == 250 - step // 9
    assert network("my run") == network(uninterrupted)
    assert course("my run") == course(uninterrupted)
    assert {entry.name for entry in Path("my run").iterdir()} == FILES


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_images_are_read_leaves_nothing_half_written(number: signal.Signals, tmp_path: Path) -> None:
    waiting = Path("pets/train/bee/5.png")
    waiting.unlink()
    os.mkfifo(waiting)  # who reads it waits until somebody writes
    before = set(Path().rglob("*"))
    process = start("train", "--config", "pets.toml")
    writer = opened_by_a_reader(waiting, process)
    assert list((tmp_path / "cache").glob(".images-*.unfinished"))
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    os.close(writer)
    assert (process.returncode, out, err) == (128 + number, "", f"stopped by {number.name}\n")
    assert {entry.suffix for entry in (tmp_path / "cache").iterdir()} == {".lock"}
    assert set(Path().rglob("*")) == before


def opened_by_a_reader(fifo: Path, process: subprocess.Popen[str]) -> int:
    """Opens a fifo for writing as soon as a process reads it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        (
            ["train.save_seconds=1000", "train.diagnostics=false"],
            r"run/metrics\.jsonl must have room on its disk, got: File too large\n",
        ),
        (["train.save_seconds=1000"], r"run/diagnostics\.jsonl must have room on its disk, got: File too large\n"),
        (
            ["train.save_seconds=0", "train.diagnostics=false"],
            r"run/checkpoints/step-0000000001\.safetensors must be on a disk that takes it, got: .*File too large.*\n",
        ),
    ],
)
def test_a_run_that_found_no_room_goes_on_when_there_is_some(
    settings: list[str], refusal: str, command: Callable[..., str]
) -> None:
    Path("long.toml").write_text(LONG)
    changes = [part for setting in (*settings, "train.epochs=7") for part in ("--set", setting)]
    flags = ["--config", "long.toml", *changes]
    command(train.main, *flags, "--out", "roomy")
    program = shlex.join([sys.executable, "-m", "fcnet.train", *flags, "--out", "run"])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 1; {program}"],  # no file of more than 1,024 bytes
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(refusal, done.stderr)
    assert {entry.name for entry in Path("run").rglob("*")} <= {"config.toml", "checkpoints", "metrics.jsonl"}
    command(train.main, "--resume", "--out", "run")
    assert network("run") == network("roomy")
    assert course("run") == course("roomy")


# --- where it is said -------------------------------------------------------------------------------------------


def test_a_terminal_shows_a_bar_with_loss_accuracy_speed_and_the_time_left() -> None:
    Path("long.toml").write_text(LONG)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "fcnet.train", "--config", "long.toml", "--out", "run"], stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone once nobody writes to it
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    assert process.wait(timeout=WAIT_SECONDS) == 0
    text = shown.decode()
    assert re.search(
        r"\d+%\|.*\| \d+/2250 \[\d\d:\d\d<\d\d:\d\d, loss \d+\.\d{3}, accuracy \d+\.\d%, [\d,]+ images/s\]", text
    )
    assert len(re.findall(r"^\s*epoch +\d+/250 · training loss \d", text.replace("\r", "\n"), re.MULTILINE)) == 250
    assert "Traceback" not in text


def test_a_training_that_nobody_listens_to_goes_on_to_its_end(uninterrupted: str) -> None:
    Path("long.toml").write_text(LONG)
    program = shlex.join([sys.executable, "-m", "fcnet.train", "--config", "long.toml", "--out", "run"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} | head -1"],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"270 training, .*; run\n", done.stdout)
    assert network("run") == network(uninterrupted)


@pytest.mark.usefixtures("pets")
def test_what_a_terminal_cannot_write_stops_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["fcnet", "--config", "pets.toml", "--out", "run"])
    with pytest.raises(SystemExit) as leaving:
        cli.run_command(train.main)
    assert leaving.value.code == 0
    assert written.getvalue().count(rb"\xb7 training loss") == 3


# --- evaluate ---------------------------------------------------------------------------------------------------


def seen(folder: str, run: str) -> tuple[list[list[int]], float]:
    """Counts by truth and prediction, and the mean loss, one image at a time."""
    finished = fcnet.load(run)
    confusion = [[0] * 3 for _ in CLASSES]
    losses = []
    for label, name in enumerate(CLASSES):
        for file in sorted(Path(folder, "test", name).iterdir()):
            (prediction,) = finished.predict_images([file])
            confusion[label][CLASSES.index(prediction.class_name)] += 1
            losses.append(-math.log(prediction.probabilities[label]))
    return confusion, sum(losses) / len(losses)


def check_evaluation(facts: dict[str, Any], confusion: list[list[int]], loss: float) -> None:
    """Compares what evaluation.json says with what was counted."""
    count = sum(map(sum, confusion))
    accuracy = sum(confusion[label][label] for label in range(3)) / count
    assert facts["images"] == count
    assert facts["confusion"] == confusion
    assert facts["accuracy"] == accuracy
    assert facts["loss"] == pytest.approx(loss, rel=1e-5)  # sums in float32 there, one image at a time here
    for bound in facts["interval"]:  # where a test of this accuracy just fails
        deviation = NormalDist().inv_cdf(0.975) * math.sqrt(bound * (1 - bound) / count)
        assert abs(bound - accuracy) == pytest.approx(deviation, rel=1e-9)
    for label, (name, row) in enumerate(zip(CLASSES, facts["classes"], strict=True)):
        truths, called, hits = confusion[label], [other[label] for other in confusion], confusion[label][label]
        assert row == {
            "class": name,
            "count": sum(truths),
            "precision": pytest.approx(hits / sum(called)),
            "recall": pytest.approx(hits / sum(truths)),
            "f1": pytest.approx(2 * hits / (sum(called) + sum(truths))),
        }


def table_rows(out: str, start: str) -> list[list[str]]:
    """The words of the three lines below the one that begins so."""
    lines = out.splitlines()
    below = next(place for place, line in enumerate(lines) if line.startswith(start)) + 1
    return [line.split() for line in lines[below:]][:3]


@pytest.mark.usefixtures("pets")
def test_an_evaluation_is_what_one_counts_image_by_image(command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    out = command(evaluate.main, "run")
    confusion, loss = seen("pets", "run")
    facts = json.loads(Path("run/evaluation.json").read_text())
    assert facts["data"] is None
    check_evaluation(facts, confusion, loss)
    assert 0.4 < facts["accuracy"] < 1.0  # something was learnt, and there is something to count
    result = summary("run")
    assert (facts["accuracy"], facts["interval"]) == (result["test_accuracy"], result["test_interval"])
    assert facts["loss"] == pytest.approx(result["test_loss"], rel=1e-6)

    low, high = facts["interval"]
    assert out.splitlines()[0] == (
        f"accuracy {facts['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), loss {facts['loss']:.4f}, 30 images"
    )
    assert table_rows(out, "class ") == [
        [row["class"], "10", *(f"{row[figure]:.1%}" for figure in ("precision", "recall", "f1"))]
        for row in facts["classes"]
    ]
    _, taken, *_ = out.split("truth")
    assert taken.splitlines()[1].split() == list(CLASSES)
    assert [line.split() for line in taken.splitlines()[2:5]] == [
        [name, *map(str, row)] for name, row in zip(CLASSES, confusion, strict=True)
    ]
    assert out.splitlines()[-1] == "written to run/evaluation.json"
    assert {entry.name for entry in Path("run").iterdir()} == FILES | {"evaluation.json"}


@pytest.mark.usefixtures("pets")
def test_other_data_is_evaluated_in_place_of_ones_own(command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    draw("zoo", {"train": 1, "test": 17})
    out = command(evaluate.main, "run", "--data", "zoo")
    facts = json.loads(Path("run/evaluation.json").read_text())
    assert facts["data"] == "zoo"
    assert "51 images" in out
    check_evaluation(facts, *seen("zoo", "run"))


@pytest.mark.usefixtures("pets")
def test_how_other_data_differ_is_said_in_words_and_kept(command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    counts = summary("run")["class_images"]
    assert list(counts.items()) == [(name, 21) for name in CLASSES]
    draw("zoo", {"train": 1, "test": 60})
    for number in range(50):
        Path(f"zoo/test/ant/{number}.png").unlink()
    levels: list[int] = []
    for file in sorted(Path("zoo/test").rglob("*.png")):
        with Image.open(file) as image:
            lighter = image.point(lambda level: min(255, level + 60))
        lighter.save(file)
        levels += lighter.tobytes()
    out = command(evaluate.main, "run", "--data", "zoo").splitlines()
    shift = json.loads(Path("run/evaluation.json").read_text())["shift"]
    assert [line for line in out if line.startswith(("classes:", "pixels:", "accuracy:"))] == shift["description"]
    assert shift["description"][0].startswith("classes: not as often as in training: ant 33.3% → 7.7% (")
    assert shift["description"][1].startswith("pixels: brighter")
    assert [row["other"] for row in shift["classes"]["shares"]] == [10 / 130, 60 / 130, 60 / 130]
    assert shift["classes"]["total_variation"] == pytest.approx(1 / 3 - 10 / 130)
    assert shift["pixels"]["mean"] == pytest.approx([sum(levels) / len(levels) / 255])
    facts = json.loads(Path("run/evaluation.json").read_text())
    result = summary("run")
    assert shift["accuracy"]["difference"] == pytest.approx(facts["accuracy"] - result["test_accuracy"])
    assert shift["accuracy"]["run_images"] == result["test_images"]

    for key in ("class_images", "test_accuracy"):  # as of a run that said less
        kept = summary("run")
        Path("run/summary.json").write_text(json.dumps({name: kept[name] for name in kept if name != "class_images"}))
        if key == "test_accuracy":
            Path("run/summary.json").unlink()
        command(evaluate.main, "run", "--data", "zoo")
        less = json.loads(Path("run/evaluation.json").read_text())["shift"]
        assert less == shift | {
            "classes": None,
            "accuracy": shift["accuracy"] if key == "class_images" else None,
            "description": shift["description"][1 : 3 if key == "class_images" else 2],
        }
    command(evaluate.main, "run")
    assert json.loads(Path("run/evaluation.json").read_text())["shift"] is None


@pytest.mark.usefixtures("pets")
def test_damage_comes_as_a_table_a_file_and_a_figure_the_same_every_time(command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    out = command(evaluate.main, "run", "--corruptions").splitlines()
    facts = json.loads(Path("run/corruptions.json").read_text())
    assert facts["data"] is None
    assert facts["clean"]["accuracy"] == json.loads(Path("run/evaluation.json").read_text())["accuracy"]
    at = next(place for place, line in enumerate(out) if line.startswith("accuracy at"))
    rows = [line.split() for line in out[at : at + 9]]
    assert rows[0] == ["accuracy", "at", *"12345", "mean"]
    assert rows[1:7] == [
        [kind, *(f"{each['accuracy']:.1%}" for each in row["severities"]), f"{row['mean_accuracy']:.1%}"]
        for kind, row in facts["corruptions"].items()
    ]
    assert rows[7] == ["all", f"{facts['mean_accuracy']:.1%}"]
    assert rows[8] == ["as", "they", "are", f"{facts['clean']['accuracy']:.1%}"]
    figures = [f"corruptions-{theme}.{form}" for theme in ("light", "dark") for form in ("svg", "png")]
    assert out[-5:] == [f"written to run/{name}" for name in ("corruptions.json", *figures)]
    assert {entry.name for entry in Path("run").iterdir()} == {
        *FILES, "evaluation.json", "corruptions.json", *figures
    }  # fmt: skip
    before = everything("run")
    command(evaluate.main, "run", "--corruptions")
    assert everything("run") == before


# --- predict ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("classes", ["[]", "['cat','ant']"])
def test_predictions_are_those_of_the_loaded_network(classes: str, command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml", "--out", "run", "--set", f"data.classes={classes}")
    files = [f"pets/test/{name}/{number}.png" for name in CLASSES for number in (3, 1)]
    expected = fcnet.load("run").predict_images(files)
    assert len({prediction.class_name for prediction in expected}) > 1
    listed = json.loads(command(predict.main, "run", *files, "--json"))
    assert listed == [
        {"path": file, "class": prediction.class_name, "probability": prediction.probability}
        for file, prediction in zip(files, expected, strict=True)
    ]
    assert [list(row) for row in listed] == [["path", "class", "probability"]] * 6
    assert command(predict.main, "run", *files).splitlines() == [
        f"{file}: {prediction.class_name} ({prediction.probability:.1%})"
        for file, prediction in zip(files, expected, strict=True)
    ]


@pytest.mark.usefixtures("pets")
def test_a_file_name_that_is_not_utf8_is_predicted_like_any_other(command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml", "--out", "run")
    name = "k\udce4fer.png"
    Path("pets/test/bee/0.png").rename(name)
    (row,) = json.loads(command(predict.main, "run", name, "--json"))
    assert row["path"] == name
    assert command(predict.main, "run", name).startswith(r"k\udce4fer.png: ")


@pytest.mark.usefixtures("pets")
def test_the_commands_are_modules(command: Callable[..., str]) -> None:
    command(train.main, "--config", "pets.toml", "--out", "run")
    image = "pets/test/cat/0.png"
    mistaken = "RUN must be a run's folder, got gone\n"
    cases: Sequence[tuple[str, list[str], tuple[int, str, str]]] = [
        ("evaluate", ["run"], (0, command(evaluate.main, "run"), "")),
        ("predict", ["run", image], (0, command(predict.main, "run", image), "")),
        ("predict", ["gone", image], (2, "", mistaken)),
    ]
    for module, arguments, expected in cases:
        process = start(module, *arguments)
        out, err = process.communicate(timeout=WAIT_SECONDS)
        assert (process.returncode, out, err) == expected
