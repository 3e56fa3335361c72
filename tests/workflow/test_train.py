"""The command train: its output, its run folder, resuming, and signals."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from fcnet import cli, evaluate, predict, train
from fcnet.arguments import describe_version
from fcnet.config.toml import load_config
from fcnet.diagnostics import advice
from fcnet.experiment.run_folder import Run
from fcnet.report import __main__ as report
from fcnet.runtime.terminal import MIN_BAR_CELLS
from tests.helpers import (
    RUN_FILES,
    WAIT_SECONDS,
    command_output,
    list_run_files,
    model_files,
    preserve_process_state,
    read_json_lines,
    read_learning_curve,
    read_records,
    read_summary,
    read_tree,
    run_command,
    run_python,
    set_flags,
    wait_until,
)
from tests.processes import call_command, call_redirected
from tests.unit.data.decoding.hostile_images import flat_png

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.processes import WarmProcess, WarmServer

    Main = Callable[[list[str]], int]

# Trains for some seconds, which leaves time to stop it.
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
RECORD_KEYS = {
    *("epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
    *("seconds", "images_per_second"),
}
pytestmark = pytest.mark.usefixtures("working_folder")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An uninterrupted run of the long training."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "long.toml").write_text(LONG)
    with pytest.MonkeyPatch.context() as patch, preserve_process_state():
        patch.setenv("FCNET_CACHE", str(folder / "cache"))
        assert train.main(["--config", str(folder / "long.toml"), "--out", str(folder / "run")]) == 0
    return str(folder / "run")


# --- train ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pets")
def test_training_prints_the_model_then_a_line_an_epoch_then_the_result() -> None:
    decoded, first, *epochs, last, ending = command_output(
        train.main, "--config", "pets.toml", "--out", "run"
    ).splitlines()
    assert re.fullmatch(r"decoded 102 images in \d+\.\d s", decoded)
    assert first == (
        "63 training, 9 validation and 30 test images in 3 classes; layers 20-8-3, 195 parameters; cpu, 1 thread; run"
    )
    assert len(epochs) == 3
    for line, record in zip(epochs, read_records("run"), strict=True):
        assert line == (
            f"epoch {record['epoch']}/3"
            f" · training loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.2%}"
            f" · validation loss {record['validation_loss']:.4f} accuracy {record['validation_accuracy']:.2%}"
            f" · {record['images_per_second']:,.0f} images/s"
        )
    summary = read_summary("run")
    low, high = summary["test_interval"]
    assert last == (
        f"test accuracy {summary['test_accuracy']:.2%} (95% interval {low:.2%} to {high:.2%})"
        f" on 30 images after {summary['train_seconds']:.1f} s of training"
    )
    assert ending == "report: run/report.html; next: python -m fcnet.evaluate run"


@pytest.mark.usefixtures("pets")
def test_training_reports_skipped_images_and_uneven_classes_and_predicts_other_sizes() -> None:
    for number in range(13):
        Path(f"pets/train/ant/{number}.png").write_bytes(b"")
    Image.new("L", (50, 30), 7).save("large.png")
    changes = ["--set", "data.skip_broken=true", "--set", "data.size=[4,6]"]
    decoded, first, skipped, uneven, *_ = command_output(
        train.main, "--config", "pets.toml", "--out", "run", *changes
    ).splitlines()
    assert decoded.startswith("decoded 102 images in ")
    assert "; layers 24-8-3, " in first
    assert re.fullmatch(
        r"skipped 13 broken of 102 images: train/ant/0\.png, train/ant/1\.png, train/ant/10\.png, …; the full list .*",
        skipped,
    )
    assert uneven.startswith("classes are imbalanced: ")
    assert command_output(predict.main, "run", "large.png", "pets/test/bee/0.png").count("\n") == 2


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("loss", ["logistic", "hinge", "quadratic"])
def test_a_loss_without_probabilities_prints_a_warning(loss: str) -> None:
    changes = ("--set", f"train.loss={loss}", "--set", "data.classes=['ant','bee']")
    said = command_output(train.main, "--config", "pets.toml", "--out", "run", *changes)
    notes = [warning for warning in read_summary("run")["warnings"] if "not yield probabilities" in warning]
    assert notes == ([] if loss == "logistic" else advice.score_advice(loss))
    assert said.count("does not yield probabilities") == len(notes)


@pytest.mark.usefixtures("pets")
def test_advice_on_training_is_printed_once_and_recorded() -> None:
    slow = ("--set", "optimizer.lr=1e-9", "--set", "train.epochs=8")
    said = command_output(train.main, "--config", "pets.toml", "--out", "run", *slow).splitlines()
    notes = [line for line in said if line.startswith("note: ")]
    assert notes == [f"note: {warning}" for warning in read_summary("run")["warnings"]] == said[-2 - len(notes) : -2]
    assert any("; try optimizer.lr = " in note and "1e-08 (now 1e-09)" in note for note in notes)
    assert len(command_output(train.main, "--resume", "--out", "run").splitlines()) == 1


@pytest.mark.usefixtures("pets")
def test_a_run_folder_holds_these_files_with_these_keys() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run")
    assert list_run_files("run") == RUN_FILES
    seen = read_records("run")
    assert [set(record) for record in seen] == [RECORD_KEYS] * 3
    assert [(record["epoch"], record["step"], record["lr"]) for record in seen] == [
        (1, 8, 0.01),
        (2, 16, 0.01),
        (3, 24, 0.01),
    ]
    for record in seen:
        assert 0.0 <= record["train_accuracy"] <= 1.0
        assert record["validation_accuracy"] in {num_correct / 9 for num_correct in range(10)}
        assert record["images_per_second"] == pytest.approx(63 / record["seconds"])
    summary = read_summary("run")
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
    assert {key: summary[key] for key in expected} == expected
    assert summary["test_accuracy"] in {num_correct / 30 for num_correct in range(31)}
    assert summary["test_loss"] > 0.0
    description = json.loads((Path("run") / "model.json").read_text())
    assert description["classes"] == list(CLASSES)
    assert description["shape"] == [1, 4, 5]


@pytest.mark.usefixtures("pets")
def test_a_run_remembers_its_commands_and_where_its_settings_come_from() -> None:
    # Another commit, or none, gives the same run: nothing of it is in any other file.
    command_output(train.main, "--config", "pets.toml", "--out", "run", *set_flags("train.epochs=2"))
    (first,) = read_json_lines(Path("run/commands.jsonl"))
    assert first["command"] == "python -m fcnet.train --config pets.toml --out run --set train.epochs=2"
    assert first["sources"]["train.epochs"] == "--set"
    assert first["sources"]["data.path"] == first["sources"]["seed"] == "pets.toml"
    assert "model.dropout" not in first["sources"]
    command_output(train.main, "--resume", "run", "--set", "train.epochs=3")
    again, second = read_json_lines(Path("run/commands.jsonl"))
    assert again == first
    assert second["command"] == "python -m fcnet.train --resume run --set train.epochs=3"
    assert second["sources"] == {"train.epochs": "--set"}
    assert second["time"] >= first["time"]
    assert first["command"] not in Path("run/summary.json").read_text() + Path("run/model.json").read_text()


@pytest.mark.usefixtures("pets")
def test_validation_figures_are_null_without_held_out_images() -> None:
    out = command_output(train.main, "--config", "pets.toml", "--out", "run", "--set", "data.validation=0")
    assert {(record["validation_loss"], record["validation_accuracy"]) for record in read_records("run")} == {
        (None, None)
    }
    assert "validation loss" not in out


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("changes", [[], ["data={source='synthetic',shape=[2,3,4],train_size=50}", "train.epochs=2"]])
def test_the_configuration_of_a_run_trains_an_identical_model(
    changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = set_flags(*changes)
    command_output(train.main, "--config", "pets.toml", "--out", "one", *flags)
    command_output(train.main, "--config", "pets.toml", "--out", "two", *flags)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    command_output(train.main, "--config", "../here/one/config.toml", "--out", "three")
    runs = ["../here/one", "../here/two", "three"]
    assert model_files(runs[0]) == model_files(runs[1]) == model_files(runs[2])
    assert read_learning_curve(runs[0]) == read_learning_curve(runs[1]) == read_learning_curve(runs[2])
    assert len({(Path(run) / "config.toml").read_bytes() for run in runs}) == 1


@pytest.mark.usefixtures("pets")
def test_another_seed_trains_another_model() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "one")
    command_output(train.main, "--config", "pets.toml", "--out", "two", "--set", "seed=3")
    assert model_files("one")[0] != model_files("two")[0]


@pytest.mark.usefixtures("pets")
def test_runs_are_named_after_the_configuration_and_numbered() -> None:
    for name in ("runs/pets", "runs/pets-2", "runs/pets-3"):
        first = command_output(train.main, "--config", "pets.toml").splitlines()[-6]
        assert first.endswith(f"; {name}")
        assert list_run_files(name) == RUN_FILES


@pytest.mark.usefixtures("pets")
def test_set_changes_the_configuration() -> None:
    changes = ["train.epochs=1", "model.hidden=[7, 6]", "data.classes=['cat','ant']", "optimizer.name=sgd", "seed=9"]
    command_output(train.main, "--config", "pets.toml", "--out", "run", *set_flags(*changes))
    description = json.loads(Path("run/model.json").read_text())
    assert description["arguments"]["hidden"] == [7, 6]
    assert description["classes"] == ["cat", "ant"]
    assert len(read_records("run")) == 1
    kept = load_config(Path("run/config.toml"))
    assert (kept.optimizer.name, kept.seed, kept.data.augment.flip) == ("sgd", 9, True)


@pytest.mark.usefixtures("pets")
def test_the_printed_configuration_is_the_same_configuration() -> None:
    before = read_tree()
    printed = command_output(train.main, "--config", "pets.toml", "--set", "train.epochs=5", "--print-config")
    assert read_tree() == before
    Path("printed.toml").write_text(printed)
    expected = load_config(Path("pets.toml"), ["train.epochs=5"])
    assert load_config(Path("printed.toml")) == expected
    assert expected.data.path == str(Path("pets").absolute())
    command_output(train.main, "--config", "printed.toml", "--out", "run")
    assert command_output(train.main, "--resume", "--out", "run", "--print-config") == printed


@pytest.mark.usefixtures("pets")
def test_early_stopping_prints_the_best_epoch() -> None:
    changes = ["train.patience=2", "train.epochs=200", "optimizer.lr=0.1"]
    output = command_output(train.main, "--config", "pets.toml", "--out", "run", *set_flags(*changes))
    result = output.splitlines()[-2]
    accuracies = [record["validation_accuracy"] for record in read_records("run")]
    best = accuracies.index(max(accuracies)) + 1
    assert len(accuracies) == best + 2
    assert result.endswith(f"; weights of epoch {best} of {best + 2}, the best by validation accuracy")
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["epochs"], summary["best_epoch"]) == (best + 2, best)
    assert summary["validation_accuracy"] == max(accuracies)


def round_to_two(value: float) -> float:
    return float(f"{value:.1e}")


@pytest.mark.usefixtures("pets")
def test_find_lr_suggests_a_learning_rate_and_plots_the_loss() -> None:
    for flags, folder in ([], "runs/pets-lr"), (["--out", "elsewhere/lr"], "elsewhere/lr"):
        *_, said = command_output(train.main, "--config", "pets.toml", "--find-lr", *flags).splitlines()
        trials = [json.loads(line) for line in Path(folder, "lr.jsonl").read_text().splitlines()]
        assert [set(trial) for trial in trials] == [{"lr", "loss", "smoothed"}] * len(trials)
        best = min(trials, key=lambda trial: trial["smoothed"])
        suggestion = f"--set optimizer.lr={round_to_two(best['lr'] / 10):g} (now 0.01)"
        assert f"a tenth of that is a good start: {suggestion}" in said
        assert said.endswith(f"plot: {folder}/lr-light.png")
        for theme in ("light", "dark"):
            assert Path(f"{folder}/lr-{theme}.svg").is_file()
            with Image.open(f"{folder}/lr-{theme}.png") as plot:
                assert plot.size == (960, 570)
    assert not Path("runs/pets").exists()


@pytest.mark.parametrize("main", [train.main, evaluate.main, predict.main])
def test_version_prints_the_packages_version(main: Main) -> None:
    assert command_output(main, "--version") == f"{describe_version()}\n"


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (
            train.main,
            {
                "--config CONFIG",
                "--set KEY=VALUE",
                "--out DIR",
                "--device",
                "--resume",
                "--print-config",
                "--find-lr",
            },
        ),
        (evaluate.main, {"RUN", "--data PATH", "--corruptions", "--device"}),
        (
            predict.main,
            {"RUN", "IMAGE", "--json", "--csv", "--top K", "--probabilities", "--batch-size N", "--device"},
        ),
    ],
)
def test_help_explains_each_flag(main: Main, flags: set[str]) -> None:
    _, _, explained = command_output(main, "--help").partition("\n\n")
    for flag in flags | {"--version"}:
        assert re.search(rf"^  (-h, )?{re.escape(flag)}\b.*\s+\w", explained, re.MULTILINE), flag


@pytest.mark.usefixtures("pets")
def test_the_commands_run_as_modules() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run")
    image = "pets/test/cat/0.png"
    refusal = "RUN must be a run folder, got gone: no such folder\n"
    cases: Sequence[tuple[str, list[str], tuple[int, str, str]]] = [
        ("evaluate", ["run"], (0, command_output(evaluate.main, "run"), "")),
        ("predict", ["run", image], (0, command_output(predict.main, "run", image), "")),
        ("predict", ["gone", image], (2, "", refusal)),
    ]
    for module, arguments, expected in cases:
        process = run_python("-m", f"fcnet.{module}", *arguments)
        assert (process.returncode, process.stdout, process.stderr) == expected


# --- resume -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pets")
def test_resuming_a_finished_run_prints_its_result_and_changes_nothing() -> None:
    *_, result, _ = command_output(train.main, "--config", "pets.toml").splitlines()
    before = read_tree("runs")
    for flags in (["--out", "runs/pets"], ["--config", "pets.toml"], ["--config", "pets.toml", "--out", "runs/pets"]):
        assert command_output(train.main, "--resume", *flags) == f"runs/pets is finished: {result}\n"
    assert read_tree("runs") == before


@pytest.mark.usefixtures("pets")
def test_resuming_a_run_killed_after_its_summary_removes_the_checkpoints() -> None:
    command_output(train.main, "--config", "pets.toml", "--set", "optimizer.schedule=cosine")  # it cannot be continued
    before = read_tree("runs")
    Path("runs/pets/checkpoints").mkdir()
    Path("runs/pets/checkpoints/step-0000000009.json").write_text("{}")
    assert command_output(train.main, "--resume", "--out", "runs/pets").startswith("runs/pets is finished: ")
    assert read_tree("runs") == before


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(("flags", "run"), [([], "runs/pets"), (["--out", "a/b"], "a/b")])
def test_resume_without_a_run_starts_one(flags: list[str], run: str) -> None:
    _, first, *epochs, _, _ = command_output(train.main, "--resume", "--config", "pets.toml", *flags).splitlines()
    assert first.endswith(f"; {run}")
    assert len(epochs) == 3
    command_output(train.main, "--config", "pets.toml", "--out", "again")
    assert model_files(run) == model_files("again")


def test_resume_without_out_resumes_the_newest_run() -> None:
    Path("long.toml").write_text(LONG)
    short = ["--config", "long.toml", "--set", "train.epochs=1"]
    command_output(train.main, *short)
    Run.create(Path("runs/long-2"), "long", Path("runs/long/config.toml").read_text())
    first, *_ = command_output(train.main, "--resume", *short).splitlines()
    assert first.endswith("; runs/long-2")
    assert model_files("runs/long-2") == model_files("runs/long")


def wait_for_line(process: WarmProcess, start: str) -> None:
    """Waits until a process has printed a line with this start."""
    assert wait_until(lambda: f"\n{start}" in process.out, process)


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT, signal.SIGINT], 130),
    ],
)
def test_a_signal_saves_the_run_which_then_resumes_to_an_identical_result(
    signals: list[signal.Signals], code: int, uninterrupted: str, warm: WarmServer
) -> None:
    Path("long.toml").write_text(LONG)
    process = warm.command("train", "--config", "long.toml", "--out", "my run")
    wait_for_line(process, "epoch   2/250")
    for number in signals:
        process.send_signal(number)
    ended = process.wait()
    assert (ended.code, ended.err) == (code, "")
    said = re.fullmatch(
        r"stopped and saved in epoch (\d+) of 250, step (\d+); resume with: python -m fcnet\.train (.*)",
        ended.out.splitlines()[-1],
    )
    assert said
    epoch, step = int(said[1]), int(said[2])
    assert len(read_records("my run")) == epoch - 1
    assert 9 * (epoch - 1) <= step <= 9 * epoch  # after the last step, the record of the epoch may be still to come
    assert not (Path("my run") / "summary.json").exists()
    _, *epochs, _, _ = command_output(train.main, *shlex.split(said[3])).splitlines()
    assert len(epochs) == 250 - (epoch - 1)
    assert model_files("my run") == model_files(uninterrupted)
    assert read_learning_curve("my run") == read_learning_curve(uninterrupted)
    assert list_run_files("my run") == RUN_FILES


@pytest.mark.parametrize("flags", [["--resume"], ["--config", "long.toml"], ["--resume", "--config", "long.toml"]])
def test_a_second_process_on_a_run_is_told_who_has_it_and_changes_nothing(flags: list[str], warm: WarmServer) -> None:
    Path("long.toml").write_text(LONG.replace("epochs = 250", "epochs = 1000000"))
    process = warm.command("train", "--config", "long.toml", "--out", "run")
    try:
        wait_for_line(process, "epoch")
        process.send_signal(signal.SIGSTOP)  # holds the run, and writes nothing
        before = read_tree("run")
        code, out, err = run_command(train.main, *flags, "--out", "run")
        assert (code, out) == (2, "")
        holder = f"process {process.pid} on {socket.gethostname()}"
        assert err == f"run is in training: {holder} holds the lock; wait until it ends, or stop it\n"
        command_output(report.main, "run", "--out", "page.html")
        assert read_tree("run") == before
    finally:
        process.kill()
        process.wait()
    # A lock ends with its process.
    resumed = warm.command("train", "--resume", "--out", "run")
    wait_for_line(resumed, "epoch")
    resumed.send_signal(signal.SIGTERM)
    assert resumed.wait().err == ""
    assert not list(Path("run").glob(".*"))


def test_of_two_processes_that_start_one_run_one_trains_and_one_is_refused(warm: WarmServer) -> None:
    Path("long.toml").write_text(LONG)
    command_output(train.main, "--config", "long.toml", "--out", "alone", "--set", "train.epochs=20")
    flags = ["--config", "long.toml", "--out", "run", "--set", "train.epochs=20"]
    processes = [warm.command("train", *flags) for _ in range(2)]
    ended = [process.wait() for process in processes]
    assert sorted(each.code for each in ended) == [0, 2]
    (err,) = (each.err for each in ended if each.err)
    assert err.count("\n") == 1
    assert err.startswith(("run is in training: process ", "--out: run already exists and is not empty"))
    assert model_files("run") == model_files("alone")
    assert list_run_files("run") == RUN_FILES


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_images_are_decoded_leaves_nothing_half_written(
    number: signal.Signals, tmp_path: Path, warm: WarmServer
) -> None:
    Path("pets/train/bee/5.png").write_bytes(flat_png(0))  # takes seconds to decode
    before = set(Path().rglob("*"))
    process = warm.command("train", "--config", "pets.toml")
    assert wait_until(lambda: list((tmp_path / "cache").glob(".images-*.unfinished")), process)
    process.send_signal(number)
    code, out, err, _ = process.wait()
    assert (code, out, err) == (128 + number, "", f"stopped by {number.name}\n")
    assert {entry.suffix for entry in (tmp_path / "cache").iterdir()} <= {".lock"}
    assert set(Path().rglob("*")) == before


def train_with_small_files(*arguments: str) -> None:
    """Trains where no file may have more than 1,100 bytes, and without standard output, which is a file here."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1100, 1100))
    call_command("train", *arguments)


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        (
            ["train.save_seconds=1000", "train.diagnostics_every=0"],
            r"cannot write run/metrics\.jsonl: File too large\n",
        ),
        (["train.save_seconds=1000"], r"cannot write run/diagnostics\.jsonl: File too large\n"),
        (
            ["train.save_seconds=0", "train.diagnostics_every=0"],
            r"cannot write run/checkpoints/step-0000000001\.safetensors: .*File too large.*\n",
        ),
    ],
)
def test_a_run_stopped_by_a_full_disk_resumes_once_there_is_space(
    settings: list[str], refusal: str, warm: WarmServer
) -> None:
    Path("long.toml").write_text(LONG)
    changes = set_flags(*settings, "train.epochs=7")
    flags = ["--config", "long.toml", *changes]
    command_output(train.main, *flags, "--out", "uninterrupted")
    ended = warm.start(train_with_small_files, *flags, "--out", "run").wait()
    assert ended.code == 2
    assert re.fullmatch(refusal, ended.err)
    names = {"config.toml", "commands.jsonl", "checkpoints", "metrics.jsonl", "checksums.json"}
    assert {entry.name for entry in Path("run").rglob("*")} <= names
    command_output(train.main, "--resume", "--out", "run")
    assert model_files("run") == model_files("uninterrupted")
    assert read_learning_curve("run") == read_learning_curve("uninterrupted")


# --- output -----------------------------------------------------------------------------------------------------


def test_a_terminal_of_80_columns_shows_a_bar_of_twenty_cells_and_an_epoch_a_line() -> None:
    Path("long.toml").write_text(LONG)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "fcnet.train", "--config", "long.toml", "--out", "run"], stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # reading fails once the process has closed the terminal
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    assert process.wait(timeout=WAIT_SECONDS) == 0
    text = shown.decode()
    bars = re.findall(r"\d+%\|(.*)\| \d+/2250 \[\d\d:\d\d<\d\d:\d\d, loss \d+\.\d{3}, \d+\.\d%\]", text)
    assert bars
    assert min(map(len, bars)) >= MIN_BAR_CELLS
    lines = re.findall(r"^\s*(epoch +\d+/250 · train \d.*? images/s)", text.replace("\r", "\n"), re.MULTILINE)
    assert len(lines) == 250
    assert max(map(len, lines)) <= 80
    assert "Traceback" not in text


def test_training_continues_after_its_output_pipe_is_closed(uninterrupted: str) -> None:
    Path("long.toml").write_text(LONG)
    program = shlex.join([sys.executable, "-m", "fcnet.train", "--config", "long.toml", "--out", "run"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} | head -1"],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "standard output: Broken pipe; the command continues without it\n")
    assert re.fullmatch(r"270 training, .*; run\n", done.stdout)
    assert model_files("run") == model_files(uninterrupted)


@pytest.mark.parametrize(("out", "err"), [("full", "kept"), ("full", "full"), ("kept", "closed")])
@pytest.mark.usefixtures("pets")
def test_training_ends_as_it_would_if_an_output_fails(out: str, err: str, warm: WarmServer) -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "expected")
    ended = warm.start(call_redirected, out, err, "train", "--config", "pets.toml", "--out", "run").wait()
    lost = "standard output: No space left on device; the command continues without it\n"
    assert (ended.code, ended.err) == (0, lost if (out, err) == ("full", "kept") else "")
    assert (ended.out == "") == (out == "full")
    assert model_files("run") == model_files("expected")


@pytest.mark.parametrize(
    ("redirection", "err"),
    [
        (">&-", "standard output: Bad file descriptor; the command continues without it\n"),
        (">&- 2>&- <&-", ""),
    ],
)
@pytest.mark.usefixtures("pets")
def test_training_ends_as_it_would_if_nothing_can_be_printed(redirection: str, err: str) -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "expected")
    program = shlex.join([sys.executable, "-m", "fcnet.train", "--config", "pets.toml", "--out", "run"])
    done = subprocess.run(
        ["bash", "-c", f"{program} {redirection}"], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", err)
    assert model_files("run") == model_files("expected")


@pytest.mark.usefixtures("pets")
def test_training_continues_after_its_terminal_has_gone() -> None:
    """A bar on a terminal that fails, while standard output works."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fcnet.train", "--config", "pets.toml", "--set", "train.epochs=300", "--out", "run"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    out, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0
    assert out.count("· training loss") == 300
    assert (Path("run") / "summary.json").is_file()


@pytest.mark.usefixtures("pets")
def test_characters_the_terminal_cannot_encode_do_not_stop_training(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["fcnet", "--config", "pets.toml", "--out", "run"])
    with pytest.raises(SystemExit) as leaving:
        cli.run_command(train.main)
    assert leaving.value.code == 0
    assert written.getvalue().count(rb"\xb7 training loss") == 3
