"""Tests of fcnet.cli."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import torch
import torch.distributed as dist

from fcnet import cli
from fcnet.arguments import GPU_STATUS, Parser
from fcnet.data.batches import Batches
from fcnet.models.mlp import LogisticRegression
from fcnet.runtime import memory, signals
from fcnet.runtime.errors import UserError
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training
from fcnet.training.records import EpochRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _restored_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Returns the exit code of a command and its standard error."""
    with pytest.raises(SystemExit) as exiting:
        cli.run_command(main)
    return exiting.value.code, capsys.readouterr().err


def make_parser() -> Parser:
    parser = Parser("train", "Train.")
    parser.add_config()
    parser.add_argument("--steps", type=int)
    return parser


@pytest.mark.parametrize(
    ("flag", "start"), [("--version", f"fcnet {version('fcnet')} ({GPU_STATUS})\n"), ("--help", "usage: python")]
)
def test_version_and_help_go_to_standard_output(flag: str, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exiting:
        make_parser().parse([flag])
    assert exiting.value.code == 0
    assert capsys.readouterr().out.startswith(start)


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_gets_its_arguments_and_sets_the_exit_code(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fcnet/train.py", "--config", "a b"])
    given: list[str] = []

    def main(arguments: list[str]) -> int:
        given.extend(arguments)
        return code

    assert run(main, capsys) == (code, "")
    assert given == ["--config", "a b"]


def read_file(path: Path) -> Callable[[list[str]], int]:
    def main(arguments: list[str]) -> int:
        path.read_text()
        return 0

    return main


def raising(error: BaseException) -> Callable[[list[str]], int]:
    def main(arguments: list[str]) -> int:
        raise error

    return main


def test_each_user_error_is_one_line_and_the_exit_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(UserError("lr must be greater than 0, got 0")), capsys) == (
        2,
        "lr must be greater than 0, got 0\n",
    )
    assert run(raising(UserError("one", "two")), capsys) == (2, "one\ntwo\n")
    assert run(raising(UserError("a\nb\x1b[2J", "c\udcff")), capsys) == (2, "a\\nb\\x1b[2J\nc\\udcff\n")


def test_an_unusable_file_is_one_line_and_the_exit_code_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "missing"
    assert run(read_file(path), capsys) == (2, f"{path}: No such file or directory\n")
    assert run(read_file(tmp_path), capsys) == (2, f"{tmp_path}: Is a directory\n")


@pytest.mark.parametrize("error", [MemoryError(), SystemError("error return without exception set")], ids=repr)
def test_a_lack_of_memory_is_one_line_and_the_exit_code_is_2(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "out of memory; free memory for this command, or choose another device\n"
    assert run(raising(error), capsys) == (2, line)


@pytest.mark.parametrize(
    "bug",
    [
        KeyError("ours"),
        ValueError("ours"),
        io.UnsupportedOperation("ours"),
        AssertionError("ours"),
        SystemError("ours"),
    ],
)
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)) as error:
        cli.run_command(raising(bug))
    assert error.value is bug


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_with_its_exit_code(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    caught: list[str] = []

    def main(arguments: list[str]) -> int:
        try:
            signal.raise_signal(number)
        except Exception:  # noqa: BLE001 - handlers of errors must not catch a signal
            caught.append("caught")
        return 0

    assert run(main, capsys) == (128 + number, f"stopped by {number.name}\n")
    assert caught == []


def test_an_error_of_the_system_without_a_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def save(arguments: list[str]) -> int:
        with memory.phase("saving the run"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert run(save, capsys) == (2, "No space left on device while saving the run\n")
    assert run(raising(OSError(errno.EIO, os.strerror(errno.EIO))), capsys) == (2, "Input/output error\n")
    assert run(raising(OSError("no connection")), capsys) == (2, "no connection\n")


def test_a_thread_or_a_library_that_the_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def load(error: Exception) -> Callable[[list[str]], int]:
        def main(arguments: list[str]) -> int:
            with memory.phase("loading the model"):
                raise error

        return main

    refused = "the system refuses a new thread while loading the model: too little memory, or too many processes\n"
    assert run(load(RuntimeError("can't start new thread")), capsys) == (2, refused)
    code, line = run(load(ImportError("x.so: failed to map segment from shared object")), capsys)
    assert (code, line.split(";")[0]) == (2, "out of memory while loading the model")


@pytest.mark.parametrize("print_line", [cli.print_status, cli.print_result, cli.print_error])
def test_names_are_printed_and_not_executed(
    print_line: Callable[[str], object], capsys: pytest.CaptureFixture[str]
) -> None:
    print_line("a\x1b[2Jb\r\nc\x9b\u202e\udcff naïve")
    out, err = capsys.readouterr()
    assert out + err == "a\\x1b[2Jb\\r\\nc\\u009b\\u202e\\udcff naïve\n"


def full_disk() -> io.TextIOWrapper:
    return Path("/dev/full").open("w")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_lost_status_lines_are_told_once_and_results_end_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished: list[str] = []

    def train(arguments: list[str]) -> int:
        for _ in range(3):
            cli.print_status("a line")
        finished.append("train")
        return 5

    def evaluate(arguments: list[str]) -> int:
        cli.print_status("decoded 3 images")
        cli.print_result("the table")
        finished.append("evaluate")
        return 0

    def predict(arguments: list[str]) -> int:
        cli.print_result("a line")
        finished.append("predict")
        return 0

    line = "standard output: No space left on device"
    for main, expected in (
        (train, (5, f"{line}; the command continues without it\n")),
        (evaluate, (2, f"{line}; the command continues without it\n")),
        (predict, (2, f"{line}\n")),
    ):
        with full_disk() as output:
            monkeypatch.setattr(sys, "stdout", output)
            assert run(main, capsys) == expected
    assert finished == ["train"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_help_that_cannot_be_printed_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk() as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert run(lambda arguments: vars(make_parser().parse(["--help"]))["code"], capsys) == (
            2,
            "standard output: No space left on device\n",
        )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_error_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(arguments: list[str]) -> int:
        print("a warning", file=sys.stderr)  # noqa: T201
        return cli.print_error("the error") + 1

    with full_disk() as errors:
        monkeypatch.setattr(sys, "stderr", errors)
        with pytest.raises(SystemExit) as exiting:
            cli.run_command(main)
    assert exiting.value.code == 3


def test_a_closed_reader_is_not_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    def main(arguments: list[str]) -> int:
        sys.stdout.write("a line\n")
        return 0

    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        with pytest.raises(SystemExit) as exiting:
            cli.run_command(main)
    assert exiting.value.code == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deferred_signal_is_recorded_and_the_handlers_are_restored(number: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with signals.defer_signals() as received_signal:
        assert received_signal() == 0
        signal.raise_signal(number)
        assert received_signal() == number
        signal.raise_signal(number)
    assert received_signal() == number
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_handlers_are_restored_after_an_error() -> None:
    def fail() -> None:
        with signals.defer_signals():
            raise KeyError("ours")

    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyError):
        fail()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(
    ("name", "meant"),
    [("", ""), ("gpu", "cuda"), ("gpu0", "cuda:0"), ("1", "cuda:1"), ("CPU", "cpu"), ("cpu:x", ""), ("cuda:-1", "")],
)
def test_an_unknown_device_is_an_error(name: str, meant: str) -> None:
    with pytest.raises(UserError) as error:
        cli.choose_device(name)
    remedy = f"; write --device {meant}" if meant else ""
    assert str(error.value) == f"--device must be auto, cpu, cuda or another device of torch, got '{name}'{remedy}"


@pytest.mark.parametrize("name", ["meta", "hpu", "opencl", "cuda:99"])
def test_an_unavailable_device_is_an_error(name: str) -> None:
    with pytest.raises(UserError) as error:
        cli.choose_device(name)
    assert str(error.value).startswith(f"device {name} is not available: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "rank", "has_gpu", "device"),
    [
        ("auto", None, False, "cpu"),
        ("auto", None, True, "cuda:0"),
        ("auto", "3", True, "cuda:3"),
        ("auto", "3", False, "cpu"),
        ("cpu", "3", True, "cpu"),
        ("cuda", None, True, "cuda:0"),
        ("cuda", "3", True, "cuda:3"),
        ("cuda:1", "3", True, "cuda:1"),
    ],
)
def test_each_rank_takes_the_gpu_with_its_number(
    name: str, rank: str | None, has_gpu: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1, 1))
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    if rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert cli.choose_device(name) == torch.device(device)
    assert current == ([] if device == "cpu" else [torch.device(device)])


def test_a_gpu_that_cannot_be_opened_is_one_line_and_no_tensor_is_made_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a tensor only to try the device")

    def busy(_: torch.device) -> NoReturn:
        raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(UserError) as error:
        cli.choose_device("cuda:1")
    reason = "CUDA-capable device(s) is/are busy or unavailable"
    assert str(error.value) == f"device cuda:1 is not available: {reason}; --device cpu uses the processor"


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="has a GPU of Apple's")
def test_a_missing_gpu_of_apples_is_one_short_line() -> None:
    with pytest.raises(UserError) as error:
        cli.choose_device("mps")
    reason = "torch finds no GPU of Apple's"
    assert str(error.value) == f"device mps is not available: {reason}; --device cpu uses the processor"


def test_a_command_that_needs_float64_refuses_a_device_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert cli.choose_device("mps") == torch.device("mps")
    with pytest.raises(UserError, match=r"^--device must compute in float64 here, as cpu and cuda do, got mps$"):
        cli.choose_device("mps", needs_float64=True)


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_several_processes_need_a_device_that_can_add_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UserError, match=f"^--device must be cpu or cuda for several processes, got {kind}$"),
        cli.process_group(torch.device(kind)),
    ):
        pass


def test_a_single_process_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with cli.process_group(torch.device("cpu")):
        assert not dist.is_initialized()


def record(validation: float | None) -> EpochRecord:
    return EpochRecord(
        epoch=3,
        step=30,
        lr=0.1,
        train_loss=0.12345,
        train_accuracy=0.98765,
        validation_loss=validation,
        validation_accuracy=validation,
        seconds=1.0,
        images_per_second=12345.6,
    )


def test_an_epoch_is_one_line() -> None:
    assert cli.format_epoch(record(0.5), 100) == (
        "epoch   3/100 · training loss 0.1235 accuracy 98.77%"
        " · validation loss 0.5000 accuracy 50.00% · 12,346 images/s"
    )
    assert cli.format_epoch(record(None), 5) == "epoch 3/5 · training loss 0.1235 accuracy 98.77% · 12,346 images/s"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "epoch   3/100 · train 0.1235 (98.77%) · val 0.5000 (50.00%) · 12,346 images/s"),
        (79, "epoch   3/100 · train 0.1235 (98.77%) · val 0.5000 (50.00%) · 12,346 images/s"),
        (60, "epoch   3/100 · train 0.1235 (98.77%) · val 0.5000 (50.00%)"),
        (50, "epoch   3/100 · train 0.1235 · val 50.00%"),
    ],
)
def test_an_epoch_fits_into_one_line_of_the_terminal(columns: int, line: str) -> None:
    assert cli.format_epoch(record(0.5), 100, columns) == line
    assert len(line) <= columns
    for slow in (1.0, 1e7):
        changed = dataclasses.replace(record(0.5), images_per_second=slow, train_loss=123.4, train_accuracy=1.0)
        assert all(len(cli.format_epoch(changed, epochs, columns)) <= columns for epochs in (5, 10_000))


def test_the_line_of_an_epoch_names_the_figure_that_selects() -> None:
    scored = dataclasses.replace(record(0.5), validation_score=0.25)
    assert cli.format_epoch(scored, 5, select="mean_average_precision") == (
        "epoch 3/5 · training loss 0.1235 accuracy 98.77%"
        " · validation loss 0.5000 accuracy 50.00% mAP 25.00% · 12,346 images/s"
    )
    short = "epoch 3/5 · train 0.1235 (98.77%) · val 0.5000 (50.00%) · Brier score 0.2500"
    assert cli.format_epoch(scored, 5, 80, "brier_score") == short
    assert cli.format_epoch(scored, 5, 50, "roc_auc") == "epoch 3/5 · train 0.1235 · ROC AUC 25.00%"


def test_a_slow_block_says_on_a_terminal_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for terminal, slow_seconds, line in ((True, 0.0, "reading …\n"), (True, 60.0, ""), (False, 0.0, "")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(cli, "_SLOW_SECONDS", slow_seconds)
        with cli.say_if_slow("reading"):
            time.sleep(0.1)
        assert capsys.readouterr() == ("", line)


def test_an_accuracy_is_written_with_its_interval() -> None:
    assert cli.format_accuracy(0.98, (0.9512, 0.99)) == "98.00% (95% interval 95.12% to 99.00%)"


@pytest.mark.parametrize("terminal", [True, False])
def test_training_prints_a_line_for_each_epoch_and_a_bar_on_a_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    model = LogisticRegression(2, generator=torch.Generator().manual_seed(0))
    batches = Batches(torch.zeros(6, 2), torch.arange(6) % 2, batch_size=2)
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.0), epochs=2)
    training = Training(model, batches, algorithm)
    cli.show_progress(training, training.advance())
    out, err = capsys.readouterr()
    lines = [line for line in out.split("\n") if line.strip()]
    assert [line.partition(" accuracy")[0] for line in lines] == [
        "epoch 1/2 · training loss 0.6931",
        "epoch 2/2 · training loss 0.6931",
    ]
    assert ("6/6" in err) == terminal
    assert terminal or not err


@pytest.mark.parametrize("terminal", [True, False])
def test_work_of_unknown_length_has_a_bar_that_starts_where_an_earlier_command_ended(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(cli, "terminal_columns", lambda stream: 100)
    with cli.show_fraction() as show:
        show(0.25, "fold 1/2", "3 of 9 done")
        time.sleep(0.15)
        show(0.75, "fold 2/2", "x" * 100)
    out, err = capsys.readouterr()
    assert out == ""
    if not terminal:
        assert err == ""
        return
    first, *_, last = [line for line in err.replace("\n", "\r").split("\r") if line.strip()]
    assert first.startswith("fold 1/2: 3 of 9 done |")
    assert "25%" in first
    assert last.startswith("fold 2/2 |")
    assert "75%" in last


@pytest.mark.parametrize("terminal", [True, False])
def test_decoding_shows_a_bar_on_a_terminal_and_otherwise_prints_a_line(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    for counts, line in (
        ((0, 10, 20), "20 images in 0.0 s"),
        ((10, 20), "20 images in 0.0 s, 10 of them in an earlier run"),
    ):
        with cli.show_decoding() as progress:
            for done in counts:
                progress(done, 20)
        out, err = capsys.readouterr()
        assert ("20/20" in err) == terminal
        assert (out, err) == ("", err) if terminal else (f"decoded {line}\n", "")


def test_nothing_is_printed_if_nothing_is_decoded_or_decoding_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with cli.show_decoding():
        pass

    def failing() -> None:
        with cli.show_decoding() as progress:
            progress(0, 20)
            raise UserError

    with pytest.raises(UserError):
        failing()
    assert capsys.readouterr() == ("", "")


def test_a_bar_that_was_interrupted_while_it_was_made_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    bar = cli._Bar.__new__(cli._Bar)  # as a signal in its __init__ leaves it
    del bar
    assert capsys.readouterr() == ("", "")
