"""First steps of a command, before it imports torch, which takes seconds."""

from __future__ import annotations

import os
import sys

from fcnet.runtime.signals import exit_on_signals

LAUNCHERS = ("fcnet", "python -m fcnet")
"""Programs whose first argument is the name of a command."""


def start_command() -> None:
    """Lets a signal end the command properly, checks the working folder, and silences torch's own warnings of ranks.

    These come from its C++ code before the error that `fcnet.runtime.distributed` reports. ``TORCH_CPP_LOG_LEVEL``
    brings them back.

    Raises:
        SystemExit: with exit code 2 if the working folder was deleted. Libraries of torch would abort.
    """
    exit_on_signals()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        os.getcwd()  # noqa: PTH109 - pathlib takes longer to import
    except FileNotFoundError:
        os.write(2, b"the working folder no longer exists: change to another one\n")
        raise SystemExit(2) from None


def command_line(name: str) -> str:
    """Returns how to call a command, in the form in which the user called this one.

    Args:
        name: name of the command.

    Example:
        >>> command_line("train")
        'python -m fcnet.train'
    """
    launcher = sys.argv[0].rpartition(" ")[0]  # as `fcnet.__main__` leaves it
    return f"{launcher} {name}" if launcher in LAUNCHERS else f"python -m fcnet.{name}"


def announce(name: str) -> None:
    """Says on a terminal that a command starts: importing torch takes seconds."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        if os.isatty(2):
            os.write(2, f"{name}: loading PyTorch …\n".encode())
    except OSError:
        return
