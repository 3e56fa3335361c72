"""Rules of fcnet.cli."""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fcnet import cli
from fcnet.data.batches import Batches
from fcnet.models.mlp import LogisticRegression
from fcnet.runtime.errors import UserError
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training
from fcnet.training.records import EpochRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers_of_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def leaves(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """The exit code of a command and what it says on standard error."""
    with pytest.raises(SystemExit) as leaving:
        cli.run_command(main)
    return leaving.value.code, capsys.readouterr().err


def parser() -> cli.Parser:
    made = cli.Parser("train", "Train.")
    made.add_argument("--config")
    made.add_argument("--steps", type=int)
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "unrecognized arguments: --nope"),
        (["--conf", "x"], "unrecognized arguments: --conf x"),
        (["--config"], "argument --config: expected one argument"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
    ],
)
def test_a_wrong_flag_is_a_users_mistake(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as error:
        parser().parse_args(arguments)
    assert str(error.value) == f"{message}; see python -m fcnet.train --help"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("flag", "said"), [("--version", f"fcnet {version('fcnet')}\n"), ("--help", "usage: python")])
def test_version_and_help_are_said_on_standard_output(flag: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parser().parse_args([flag])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_is_given_the_arguments_and_leaves_with_its_code(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fcnet/train.py", "--config", "a b"])
    given: list[str] = []

    def main(arguments: list[str]) -> int:
        given.extend(arguments)
        return code

    assert leaves(main, capsys) == (code, "")
    assert given == ["--config", "a b"]


def missing_file(path: Path) -> Callable[[list[str]], int]:
    def main(arguments: list[str]) -> int:
        path.read_text()
        return 0

    return main


def raising(error: BaseException) -> Callable[[list[str]], int]:
    def main(arguments: list[str]) -> int:
        raise error

    return main


def test_a_users_mistakes_are_a_line_each_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves(raising(UserError("lr must be greater than 0, got 0")), capsys) == (
        2,
        "lr must be greater than 0, got 0\n",
    )
    assert leaves(raising(UserError("one\ntwo\n")), capsys) == (2, "one\ntwo\n")


def test_a_file_that_cannot_be_used_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nowhere"
    assert leaves(missing_file(path), capsys) == (2, f"{path}: No such file or directory\n")
    assert leaves(missing_file(tmp_path), capsys) == (2, f"{tmp_path}: Is a directory\n")


@pytest.mark.parametrize("bug", [KeyError("ours"), ValueError("ours"), OSError("of no file"), AssertionError("ours")])
def test_a_bug_of_ours_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)) as error:
        cli.run_command(raising(bug))
    assert error.value is bug


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_with_its_code(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    passed: list[str] = []

    def main(arguments: list[str]) -> int:
        try:
            signal.raise_signal(number)
        except Exception:  # noqa: BLE001 - the rule: nothing on the way takes a signal for an error
            passed.append("taken for an error")
        return 0

    assert leaves(main, capsys) == (128 + number, f"stopped by {number.name}\n")
    assert passed == []


def test_a_reader_that_has_heard_enough_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    def main(arguments: list[str]) -> int:
        sys.stdout.write("a line\n")
        return 0

    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        with pytest.raises(SystemExit) as leaving:
            cli.run_command(main)
    assert leaving.value.code == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deferred_signal_leaves_its_number_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with cli.defer_signals() as received_signal:
        assert received_signal() == 0
        signal.raise_signal(number)
        assert received_signal() == number
        signal.raise_signal(number)
    assert received_signal() == number
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_handlers_come_back_after_an_error() -> None:
    def fail() -> None:
        with cli.defer_signals():
            raise KeyError("ours")

    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyError):
        fail()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cpu:x", "cuda:-1"])
def test_a_device_that_torch_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(UserError) as error:
        cli.choose_device(name)
    assert str(error.value) == f"--device must be auto, cpu, cuda or another of torch's devices, got '{name}'"


@pytest.mark.parametrize("name", ["meta", "hpu", "opencl", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(UserError) as error:
        cli.choose_device(name)
    assert str(error.value).startswith(f"--device {name} cannot be used here: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "rank", "there", "device"),
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
def test_each_rank_takes_the_gpu_of_its_number_where_there_is_one(
    name: str, rank: str | None, there: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(size: int, device: torch.device) -> Tensor:
        return torch.zeros(size)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch, "empty", empty)
    if rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert cli.choose_device(name) == torch.device(device)


def test_one_process_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_accuracy_is_said_with_its_interval() -> None:
    assert cli.format_accuracy(0.98, (0.9512, 0.99)) == "98.00% (95 % interval 95.12% to 99.00%)"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_training_is_a_line_an_epoch_and_a_bar_on_a_terminal_alone(
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
def test_decoding_is_a_bar_on_a_terminal_else_a_line(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    for told, line in (((0, 10, 20), "20 images in 0.0 s"), ((10, 20), "20 images in 0.0 s, 10 of them before")):
        with cli.show_decoding() as progress:
            for done in told:
                progress(done, 20)
        out, err = capsys.readouterr()
        assert ("20/20" in err) == terminal
        assert (out, err) == ("", err) if terminal else (f"decoded {line}\n", "")


def test_where_nothing_is_decoded_or_it_fails_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with cli.show_decoding():
        pass

    def failing() -> None:
        with cli.show_decoding() as progress:
            progress(0, 20)
            raise UserError

    with pytest.raises(UserError):
        failing()
    assert capsys.readouterr() == ("", "")
