"""``fcnet COMMAND`` and ``python -m fcnet COMMAND``."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from fcnet import __main__ as fcnet_command
from fcnet.arguments import DOCUMENTATION, GPU_STATUS
from tests.helpers import run_python, subprocess_environment


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, program: str = "/bin/fcnet"
) -> tuple[object, str, str]:
    """Runs ``fcnet ARGUMENT…`` in this process, without the handlers of signals."""
    monkeypatch.setattr(fcnet_command, "start_command", lambda: None)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as exiting:
        fcnet_command.main()
    out, err = capsys.readouterr()
    return exiting.value.code, out, err


def test_the_installation_puts_a_script_beside_python() -> None:
    scripts = entry_points(group="console_scripts", name="fcnet")
    if not scripts:
        pytest.skip("fcnet is imported from a folder, not installed")
    assert {script.value for script in scripts} == {"fcnet.__main__:main"}
    script = Path(sys.executable).with_name("fcnet")
    done = subprocess.run(
        [script, "train", "digits", "--print-config"], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("seed = 0\n")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_in_80_columns(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_main(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    for name, (_, description) in fcnet_command.COMMANDS.items():
        assert f"  {name:8}  {description}\n" in out
    assert out.endswith(f"examples:\n  fcnet train digits\n  fcnet evaluate runs/digits\n\n{DOCUMENTATION}\n")
    assert max(map(len, out.splitlines())) <= 80


def test_help_names_the_form_that_was_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run_main(monkeypatch, capsys, "--help", program="/x/fcnet/__main__.py")
    assert out.startswith("usage: python -m fcnet COMMAND")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("trian", "unknown command trian; write fcnet train (fcnet --help lists all commands)"),
        ("Evaluate", "unknown command Evaluate; write fcnet evaluate (fcnet --help lists all commands)"),
        ("fit", "unknown command fit; write fcnet train (fcnet --help lists all commands)"),
        ("monitor", "unknown command monitor; write fcnet watch (fcnet --help lists all commands)"),
        ("digits", "unknown command digits; fcnet --help lists all commands"),
        (
            "--config",
            "unknown flag --config; flags follow the command: fcnet train --config … (fcnet --help lists all commands)",
        ),
    ],
)
def test_an_unknown_command_suggests_the_nearest(
    given: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, capsys, given) == (2, "", f"{line}\n")


def test_a_command_gets_its_arguments_and_is_named_as_it_was_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "RUN is missing: fcnet report RUN\n"
    assert run_main(monkeypatch, capsys, "report") == (2, "", line)
    line = "RUN is missing: python -m fcnet report RUN\n"
    assert run_main(monkeypatch, capsys, "report", program="/x/fcnet/__main__.py") == (2, "", line)
    code, out, err = run_main(monkeypatch, capsys, "train", "--list")
    assert (code, err) == (0, "")
    assert "digits" in out


def test_the_module_runs_as_the_program_does(tmp_path: Path) -> None:
    done = run_python("-m", "fcnet", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fcnet {version('fcnet')} ({GPU_STATUS})\n", "")


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_version_and_help_import_nothing_heavy(flag: str) -> None:
    program = (
        f"import sys; sys.argv = ['fcnet', {flag!r}]; from fcnet.__main__ import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({'torch', 'numpy', 'pydantic', 'tqdm'} & set(sys.modules)))"
    )
    done = run_python("-W", "error", "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n[]\n")


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs a pseudo-terminal and /proc")
@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["fcnet", "train", "--list"], "python -m fcnet train"), (["fcnet.train", "--list"], "python -m fcnet.train")],
)
def test_a_command_says_on_a_terminal_that_it_starts_before_it_imports_torch(arguments: list[str], name: str) -> None:
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, stderr=terminal, env=subprocess_environment()
    )
    try:
        assert os.read(screen, 1000).decode() == f"{name}: loading PyTorch …\r\n"
        assert "libc10" not in Path(f"/proc/{process.pid}/maps").read_text()
    finally:
        process.kill()
        process.wait()
        os.close(screen)
        os.close(terminal)
