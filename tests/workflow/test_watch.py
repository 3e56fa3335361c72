"""``watch`` beside a run that trains, is killed, resumes, is extended or damaged; the run never notices."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist

from fcnet import watch
from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from tests.helpers import (
    RUN_FILES,
    advance_run,
    command_output,
    flip_bit,
    list_run_files,
    make_record,
    run_command,
    run_result,
    set_flags,
    wait_until,
)

if TYPE_CHECKING:
    from tests.processes import WarmProcess, WarmServer

pytestmark = pytest.mark.usefixtures("working_folder")
CONFIG = """
seed = 3
[data]
source = "synthetic"
shape = [3, 6, 6]
train_size = 100
test_size = 30
num_classes = 4
[model]
hidden = [12, 12]
dropout = 0.2
[optimizer]
lr = 0.01
[train]
epochs = 12
batch_size = 10
threads = 1
"""
COMMAND = "python -m fcnet"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_POLL_SECONDS", 0.02), ("_SETTLE_SECONDS", 0.1)):
        monkeypatch.setattr(watch, name, seconds)


def make_run(name: str = "run", *changes: str) -> Run:
    Path("made.toml").write_text(CONFIG)
    return Run.create(Path(name), name, dump_config(load_config(Path("made.toml"), changes)))


def finished_run(name: str = "run", *changes: str) -> Run:
    run = make_run(name, "train.epochs=2", *changes)
    advance_run(build(run.load_config(), torch.device("cpu")), run)
    return run


def page_state(file: Path | str = "run/watch.html") -> str:
    found = re.search(r"<p><strong>(.*?)\.</strong>", Path(file).read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def reloads(file: Path | str = "run/watch.html") -> bool:
    return 'http-equiv="refresh"' in Path(file).read_text(encoding="utf-8")


def run_watched(*arguments: object) -> tuple[int, list[str], str]:
    code, out, err = run_command(watch.main, *arguments)
    assert isinstance(code, int)
    return code, out.splitlines(), err


def test_a_finished_run_is_named_with_its_report_and_gets_no_page() -> None:
    run = finished_run()
    accuracy = f"{run.summary()['test_accuracy']:.2%}"
    lines = [f"run is finished after 2 epochs, test accuracy {accuracy}"]
    report = f"to write a report: {COMMAND}.report run"
    assert run_watched("run") == (0, [*lines, report], "")
    assert list_run_files("run") == RUN_FILES - {"report.html", "commands.jsonl"}
    (run.path / "report.html").write_text("")
    Path("run/watch.html").write_text("left by a watch that was killed")
    assert run_watched("run") == (0, [*lines, "report: run/report.html"], "")
    assert page_state() == f"Finished after 2 epochs, test accuracy {accuracy}"
    assert not reloads()
    assert '<a href="report.html">' in Path("run/watch.html").read_text(encoding="utf-8")
    Path("elsewhere").mkdir()
    assert run_watched("run", "--out", "elsewhere/page.html")[0] == 0
    link = (Path.cwd() / "run" / "report.html").as_uri()
    assert f'<a href="{link}">' in Path("elsewhere/page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], f"RUN is missing: {COMMAND}.watch RUN"),
        (
            ["none"],
            "RUN must be a run folder, got none: no such folder; a training makes it once the data are prepared",
        ),
        (["digits"], "RUN must be a run folder, got digits: a preset, not a folder"),
        (["empty"], "RUN must be a run folder, got empty: it holds no config.toml"),
        (["run", "--out", "empty"], "--out must be a file, got the folder empty"),
        (
            ["run", "--out", "run/report.html"],
            "--out must be outside the run folder, whose files are the training's, got run/report.html",
        ),
        (["run", "--out", "none/page.html"], "--out must be in an existing folder, got none/page.html"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str) -> None:
    make_run()
    Path("empty").mkdir()
    assert run_watched(*arguments) == (2, [], f"{line}\n")


def test_damage_that_stays_is_one_line_and_ends_the_page() -> None:
    run = make_run()
    run.write_records([make_record(1)])
    flip_bit("run/metrics.jsonl")
    line = "run/metrics.jsonl is damaged: its bytes do not match the checksum in checksums.json\n"
    assert run_watched("run") == (2, [], line)


def test_a_page_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    make_run()

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(watch, "write_text", refuse)
    code, _, err = run_watched("run")
    assert (code, err) == (2, "cannot write run/watch.html: Permission denied; --out names another place\n")


def test_the_page_is_written_again_if_a_resuming_run_removes_its_temporary_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, calls = finished_run(), list[Path]()
    Path("run/watch.html").write_text("")

    def write_once_removed(path: Path, text: str) -> None:
        calls.append(path)
        if len(calls) < 3:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        path.write_text(text, encoding="utf-8")

    monkeypatch.setattr(watch, "write_text", write_once_removed)
    assert run_watched("run")[0] == 0
    assert len(calls) == 3
    assert page_state().startswith("Finished")
    assert run.finished


# --- beside a process that trains ---------------------------------------------------------------------------------


def start_watch(warm: WarmServer, *arguments: object) -> WarmProcess:
    return warm.start(watch_quickly, *map(str, arguments), folder=Path.cwd() / "outputs-watch")


def watch_quickly(*arguments: str) -> None:
    from tests.processes import call_command

    watch._POLL_SECONDS, watch._SETTLE_SECONDS = 0.05, 0.5
    call_command("watch", *arguments)


def start_training(warm: WarmServer, *arguments: object, **options: Any) -> WarmProcess:
    return warm.command("train", *arguments, "--device", "cpu", folder=Path.cwd() / "outputs-train", **options)


def watch_from(epoch: int, training: WarmProcess, warm: WarmServer) -> WarmProcess:
    """Holds a training after an epoch, and starts a watch of it that has written its page."""
    assert wait_until(lambda: num_records() >= epoch, training)
    training.send_signal(signal.SIGSTOP)
    watching = start_watch(warm, "run")
    assert wait_until(lambda: Path("run/watch.html").is_file(), watching)
    return watching


def epochs_of(lines: list[str]) -> list[int]:
    return [int(found[1]) for line in lines if (found := re.match(r"epoch +(\d+)/12 · training loss", line))]


def num_records(run: str = "run") -> int:
    file = Path(run) / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def test_a_watched_run_that_is_killed_and_resumed_ends_as_an_unwatched_one(warm: WarmServer) -> None:
    whole = make_run("whole", "train.save_seconds=0.05")
    advance_run(build(whole.load_config(), torch.device("cpu")), whole)
    flags = ["--config", "made.toml", *set_flags("train.save_seconds=0.05"), "--out", "run"]
    training = start_training(warm, *flags)
    watching = watch_from(5, training, warm)
    assert page_state().startswith("In training, epoch ")
    assert reloads()
    training.send_signal(signal.SIGKILL)
    training.wait()
    assert wait_until(lambda: f"to continue the run: {COMMAND}.train --resume run" in watching.out, watching)
    stopped = f"Stopped after epoch {num_records()} of 12, with a checkpoint of step "
    assert wait_until(lambda: page_state().startswith(stopped), watching)
    ended = start_training(warm, "--resume", "run").wait()
    assert (ended.code, ended.err) == (0, "")
    watched = watching.wait()
    assert (watched.code, watched.err) == (0, "")
    lines = watched.out.splitlines()
    assert lines[-1] == "report: run/report.html"
    assert lines[-2].startswith("finished after 12 epochs, test accuracy ")
    assert any(line.startswith("in training, epoch ") for line in lines[2:])
    shown = epochs_of(lines)
    assert shown[-1] == 12
    assert set(shown) == set(range(min(shown), 13))  # the checkpoint may be older than the first epoch shown
    assert page_state().startswith("Finished after 12 epochs")
    assert not reloads()
    assert run_result("run") == run_result("whole")
    assert list_run_files("run") == RUN_FILES | {"watch.html"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_watch_alone(number: signal.Signals, warm: WarmServer) -> None:
    Path("made.toml").write_text(CONFIG)
    training = start_training(warm, "--config", "made.toml", "--out", "run")
    watching = watch_from(2, training, warm)
    watching.send_signal(number)
    ended = watching.wait()
    assert (ended.code, ended.err) == (128 + number, "")
    assert ended.out.splitlines()[-1] == "stopped watching run"
    page = Path("run/watch.html").read_text(encoding="utf-8")
    assert f"Watching has ended; {COMMAND}.watch run continues." in page
    assert not reloads()
    assert training.poll() is None
    training.kill()


def test_a_run_that_goes_back_to_its_checkpoint_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of the epochs after the checkpoint are replaced by those of the second time."""
    run = make_run()
    stages = [
        lambda: run.write_records([make_record(epoch) for epoch in range(1, 4)]),
        lambda: run.write_records([make_record(1)]),
        lambda: run.write_records([make_record(1), make_record(2, seconds=9.0), make_record(3, train_loss=None)]),
    ]
    stops: list[int] = []

    def stop() -> int:
        if stages:
            stages.pop(0)()
            return 0
        stops.append(1)
        return signal.SIGINT if len(stops) > 1 else 0

    monkeypatch.setattr(watch, "_MAX_SHARE", 1e6)
    monkeypatch.setattr("fcnet.watch.time.sleep", lambda _: None)
    lines: list[str] = []
    monkeypatch.setattr("fcnet.watch.cli.print_status", lines.append)
    with run.lock():
        assert watch.Watch(run.path, Path("page.html")).follow(stop) == 130
    short = [line.split(" · ")[0].replace("  ", " ") for line in lines[2:]]
    assert short == ["epoch 3/12", "resumed after epoch 1", "epoch 2/12", "epoch 3/12", "stopped watching run"]
    assert "training loss nan" in lines[-2]


def test_a_line_names_the_figure_that_selects(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("run", "train.select=roc_auc")
    run.write_records([make_record(1, validation_loss=0.5, validation_accuracy=0.75, validation_score=0.875)])
    lines: list[str] = []
    monkeypatch.setattr("fcnet.watch.cli.print_status", lines.append)
    with run.lock():
        stops = itertools.chain([0], itertools.repeat(signal.SIGINT))
        assert watch.Watch(run.path, Path("page.html")).follow(lambda: next(stops)) == 130
    (line,) = (line for line in lines if line.startswith("epoch"))
    assert "ROC AUC 87.50%" in line


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_a_run_of_several_ranks_is_watched_as_one(warm: WarmServer) -> None:
    Path("made.toml").write_text(CONFIG)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
    flags = ["--config", "made.toml", *set_flags("train.epochs=8", "train.batch_size=10"), "--out", "run"]
    ranks = [
        warm.command(
            "train", *flags, "--device", "cpu", folder=Path.cwd() / f"outputs-{rank}", RANK=str(rank), **launch
        )
        for rank in range(2)
    ]
    assert wait_until(lambda: num_records() >= 1, ranks[0])
    watching = start_watch(warm, "run")
    for rank in ranks:
        ended = rank.wait()
        assert (ended.code, ended.err) == (0, "")
    ended = watching.wait()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == "report: run/report.html"
    assert json.loads(Path("run/summary.json").read_text(encoding="utf-8"))["ranks"] == 2


def test_an_extended_run_is_watched_to_its_new_end(warm: WarmServer) -> None:
    finished_run("run", "optimizer.schedule=constant")
    training = start_training(warm, "--resume", "run", "--set", "train.epochs=12")
    watching = watch_from(4, training, warm)
    training.send_signal(signal.SIGCONT)
    watched = watching.wait()
    assert (watched.code, watched.err) == (0, "")
    assert epochs_of(watched.out.splitlines())[-1] == 12
    assert training.wait().code == 0


def test_a_folder_that_goes_away_is_one_line(warm: WarmServer) -> None:
    run = make_run()
    run.write_records([make_record(1)])
    watching = start_watch(warm, "run", "--out", "page.html")
    assert wait_until(lambda: Path("page.html").is_file(), watching)
    shutil.rmtree("run")
    ended = watching.wait()
    assert ended.code == 2
    assert ended.err.startswith("RUN must be a run folder, got run: no such folder")


def test_watching_takes_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that takes long to write is written rarely."""
    run, pages = make_run(), []
    run.write_records([make_record(1)])

    def write_slowly(path: Path, text: str) -> None:
        pages.append(text)
        time.sleep(0.05)

    monkeypatch.setattr(watch, "write_text", write_slowly)
    end = time.monotonic() + 1.6

    def stop() -> int:
        run.write_records([make_record(1, seconds=time.monotonic())])
        return signal.SIGINT if time.monotonic() > end else 0

    with run.lock():
        watch.Watch(run.path, Path("page.html")).follow(stop)
    assert 2 <= len(pages) <= 5  # each takes at least 0.05 s, a tenth of the time; the last says that it is the last
    command_output(watch.main, "--help")
