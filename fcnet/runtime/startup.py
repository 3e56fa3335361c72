"""First steps of a command, before it imports torch, which takes seconds."""

from __future__ import annotations

import os

from fcnet.runtime.signals import exit_on_signals


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
