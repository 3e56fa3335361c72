"""Where a run comes from: the time, the command, the commit of the working folder, and the source of each setting.

A run folder keeps one line for each command that trained in it, in ``commands.jsonl``. Nothing in it changes a result.
"""

from __future__ import annotations

import contextlib
import datetime
import shlex
import subprocess
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fcnet.runtime.startup import command_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_GIT_SECONDS = 1.0
"""Time that git gets beyond what the command needs anyway to read its data."""
# No lock on the repository, no untracked files, which may be many, and no program that the repository names.
_GIT_STATUS = (
    *("git", "--no-optional-locks", "-c", "core.fsmonitor=false"),
    *("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=all"),
)


class GitStatus:
    """The commit of a folder, asked for in a process of its own, so that git slows nothing down.

    Args:
        folder: folder in a repository, or any other; None for the working folder.

    Example:
        >>> from pathlib import Path
        >>> with contextlib.closing(GitStatus(Path("/"))) as status:
        ...     print(status.read())
        None
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._process: subprocess.Popen[str] | None = None
        with contextlib.suppress(OSError):  # git is not installed
            self._process = subprocess.Popen(
                _GIT_STATUS,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
                cwd=folder,
            )

    def read(self, seconds: float = _GIT_SECONDS) -> dict[str, Any] | None:
        """Returns the commit and whether tracked files differ from it.

        Args:
            seconds: time to wait at most.

        Returns:
            ``{"commit": …, "modified": …}``, or None without git, outside a repository, before the first commit, or
            if git takes longer.
        """
        if self._process is None:
            return None
        try:
            text, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.close()
            return None
        if self._process.returncode != 0:
            return None
        lines = text.splitlines()
        commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "(initial)")
        if commit == "(initial)":
            return None
        return {"commit": commit, "modified": any(not line.startswith("#") for line in lines)}

    def close(self) -> None:
        """Ends git, if it still works."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            process.communicate()


class CommandRecord:
    """What a run folder remembers of a command that trains in it. Create it early: git works meanwhile.

    Args:
        name: name of the command.
        arguments: its arguments, without secrets.

    Example:
        >>> with contextlib.closing(CommandRecord("train", ["my digits.toml"])) as record:
        ...     line = record.to_dict({"train.epochs": "my digits.toml"})
        >>> line["command"], sorted(line)
        ("python -m fcnet.train 'my digits.toml'", ['command', 'fcnet', 'git', 'sources', 'time'])
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self._git = GitStatus()
        self._command = f"{command_line(name)} {shlex.join(arguments)}"

    def to_dict(self, sources: Mapping[str, str]) -> dict[str, Any]:
        """Returns a line of ``commands.jsonl``, with the present time in the local time zone.

        Args:
            sources: where the settings come from that the command gives, by dotted key.
        """
        return {
            "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": self._command,
            "fcnet": version("fcnet"),
            "git": self._commit,
            "sources": dict(sources),
        }

    @cached_property
    def _commit(self) -> dict[str, Any] | None:
        return self._git.read()

    def close(self) -> None:
        """Ends git, if it still works."""
        self._git.close()


def setting_sources(commands: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the source of each setting that a command gave, by dotted key. A later command overrides an earlier one.

    Example:
        >>> setting_sources([{"sources": {"seed": "digits", "train.epochs": "digits"}}, {"sources": {"seed": "--set"}}])
        {'seed': '--set', 'train.epochs': 'digits'}
    """
    return {key: source for command in commands for key, source in command["sources"].items()}
