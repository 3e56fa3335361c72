"""Tests of fcnet.experiment.provenance."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from fcnet.experiment.provenance import CommandRecord, GitStatus
from fcnet.experiment.run_folder import Run
from fcnet.runtime.errors import UserError
from tests.helpers import flip_bit

if TYPE_CHECKING:
    from pathlib import Path

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git on the path")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    result = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return result.stdout.strip()


def read_status(folder: Path, seconds: float = 30.0) -> dict[str, Any] | None:
    with contextlib.closing(GitStatus(folder)) as status:
        return status.read(seconds)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set while git runs a hook
        monkeypatch.delenv(name, raising=False)
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    return tmp_path


@needs_git
def test_the_commit_and_changes_of_tracked_files_are_told(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert read_status(repository) == {"commit": commit, "modified": False}
    (repository / "new.py").write_text("")
    assert read_status(repository) == {"commit": commit, "modified": False}
    (repository / "code.py").write_text("x = 2\n")
    assert read_status(repository) == {"commit": commit, "modified": True}
    (repository / "inside").mkdir()
    assert read_status(repository / "inside") == {"commit": commit, "modified": True}
    git(repository, "commit", "--quiet", "-am", "two")
    second = git(repository, "rev-parse", "HEAD")
    assert read_status(repository) == {"commit": second, "modified": False}
    assert second != commit


@needs_git
def test_there_is_no_commit_outside_a_repository_and_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_status(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert read_status(tmp_path) is None


def test_there_is_no_commit_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_status(tmp_path) is None


def test_git_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    start = time.monotonic()
    assert read_status(tmp_path, seconds=0.1) is None
    with contextlib.closing(CommandRecord("train", ["digits"])):
        pass
    assert time.monotonic() - start < 20.0


@needs_git
def test_a_program_that_the_repository_names_does_not_run(repository: Path) -> None:
    program = repository / "monitor"
    program.write_text(f"#!/bin/sh\n/bin/touch {repository / 'ran'}\n")
    program.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(program))
    assert read_status(repository) is not None
    assert not (repository / "ran").exists()


def test_each_command_adds_a_line(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "", "")
    assert run.commands() == []
    with contextlib.closing(CommandRecord("train", ["--set", "data.path=my images"])) as record:
        line = record.to_dict({"seed": "--set"})
    run.add_command(line)
    run.add_command(line | {"command": "second", "git": None})
    first, second = run.commands()
    assert first == line
    assert first["command"] == "python -m fcnet.train --set 'data.path=my images'"
    moment = datetime.datetime.fromisoformat(first["time"])
    assert abs((datetime.datetime.now(datetime.UTC) - moment).total_seconds()) < 60.0
    assert (second["command"], second["git"]) == ("second", None)


def test_damaged_commands_are_refused_by_name_and_begin_anew(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "", "")
    line: dict[str, Any] = {
        "time": "2026-01-02T03:04:05+00:00",
        "command": "one",
        "fcnet": "1",
        "git": None,
        "sources": {},
    }
    run.add_command(line)
    flip_bit(run.path / "commands.jsonl")
    with pytest.raises(UserError, match=r"commands\.jsonl is damaged: its bytes do not match"):
        run.commands()
    notes: list[str] = []
    run.add_command(line | {"command": "two"}, notes.append)
    assert [command["command"] for command in run.commands()] == ["two"]
    assert len(notes) == 1
    assert notes[0].endswith("commands.jsonl is damaged: its bytes do not match the checksum in checksums.json; "
                             "it is written again")  # fmt: skip
