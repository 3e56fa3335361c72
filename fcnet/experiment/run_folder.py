"""Run folders: configuration, records, snapshots, checkpoints and summary of a run."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet.config.presets import list_presets
from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.run_identity import check_settings
from fcnet.experiment.run_schema import EpochLine, SnapshotLine, Summary, check_lines, check_object
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import (
    ChecksummedFolder,
    parse_json_object,
    read_checksummed,
    read_metadata,
    remove_temporary_files,
    sha256,
    write_checksummed,
)
from fcnet.runtime.locks import exclusive_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import BaseModel
    from torch import Tensor

    from fcnet.config.schema import Config

_CONFIG, _RECORDS, _SNAPSHOTS, _SUMMARY = "config.toml", "metrics.jsonl", "diagnostics.jsonl", "summary.json"
_CHECKPOINT = re.compile(r"step-(\d{10})(?:-(\d+))?")


class Run:
    """A run folder.

    Args:
        path: the folder; use `create` for a new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = ChecksummedFolder(path)
        self._checkpoints = path / "checkpoints"
        self._good_checkpoint: Path | None = None  # the last that this object read or wrote

    @classmethod
    def create(cls, out: Path | None, name: str, config: str) -> Run:
        """Creates a run folder and writes the configuration into it.

        Args:
            out: the folder; None for ``runs/NAME``, with a number if that exists.
            name: the name of the run, for the default folder.
            config: the resolved configuration, as TOML.

        Raises:
            UserError: ``out`` exists and is not empty.
        """
        run = cls(claim_folder(out, name))
        check_new(run.path)
        run._checkpoints.mkdir(exist_ok=True)
        run._files.write(_CONFIG, config.encode())
        return run

    @classmethod
    def find(cls, out: Path | None, name: str) -> Run | None:
        """Finds the run to resume: the one in ``out``, else the newest of ``runs/NAME``; None if there is none."""
        if out is not None:
            runs = [cls(out)]
        else:
            numbers = re.compile(re.escape(name) + r"(?:-(\d+))?")
            folders = [
                (match, folder) for folder in Path("runs").glob("*") if (match := numbers.fullmatch(folder.name))
            ]
            folders.sort(key=lambda pair: int(pair[0][1] or 1), reverse=True)
            runs = [cls(folder) for _, folder in folders]
        return next((run for run in runs if run.started), None)

    @property
    def started(self) -> bool:
        """Whether the folder holds a run."""
        return self.config.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run is complete. The summary is its last file.

        Raises:
            UserError: the run was complete, and its summary is gone.
        """
        if (self.path / _SUMMARY).is_file():
            return True
        # Killed before it wrote its summary, a run still has a checkpoint.
        if self.saved_step is None and self._files.checksums_file.is_file() and _SUMMARY in self._files.checksums():
            raise UserError(f"{self.path / _SUMMARY}: no such file, but the run was finished")
        return False

    @property
    def config(self) -> Path:
        """The path of the run's configuration."""
        return self.path / _CONFIG

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from training in the folder while the block runs. Reading needs no lock.

        Raises:
            UserError: another process trains in the folder; the message names it.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive_lock(self.path / "run"))
            except BlockingIOError as error:
                raise UserError(
                    f"{self.path} is in training: {error.strerror}; wait until it ends, or stop it"
                ) from None
            yield

    def check_unlocked(self) -> None:
        """Checks that no other process trains in the folder; see `lock`. It need not exist."""
        if (self.path / ".run.lock").exists():
            with self.lock():
                pass

    def load_config(self) -> Config:
        """Returns the run's configuration.

        Raises:
            UserError: the file was changed or damaged after the run began.
        """
        # The checkpoints of an unfinished run know the configuration too, and can say what was changed.
        saved = next((metadata.get("config") for metadata in self._checkpoint_metadata()), None)
        try:
            is_unchanged = sha256(self.config) in self._files.checksums().get(_CONFIG, [])
        except UserError:
            if not isinstance(saved, dict):
                raise
            is_unchanged = False
        if not is_unchanged and isinstance(saved, dict):
            config = load_config(self.config)
            check_settings(saved, config, self.config)
            return config
        if not is_unchanged:
            raise UserError(f"{self.config} was changed after the run began; undo the change, or begin a new run")
        return load_config(self.config)

    def move_data(self, config: Config) -> None:
        """Writes the configuration with another place of the same data."""
        self._files.write(_CONFIG, dump_config(config).encode())

    def keep_config(self, note: Callable[[str], None]) -> None:
        """Keeps a configuration that was changed after the run began, once `load_config` has accepted it.

        Args:
            note: called with one line if it was changed.
        """
        if sha256(self.config) not in self._files.checksums().get(_CONFIG, []):
            note(f"{self.config} was changed after the run began, in settings that do not change its result")
            self._files.write(_CONFIG, self.config.read_bytes())

    def records(self) -> list[dict[str, Any]]:
        """Returns the records of the completed epochs.

        Raises:
            UserError: ``metrics.jsonl`` is damaged or gone.
        """
        return self._read_lines(_RECORDS, EpochLine, "records")

    def write_records(self, records: list[dict[str, Any]]) -> None:
        """Writes the records of all epochs, one per line, in place of the earlier ones."""
        self._files.write(_RECORDS, _to_lines(records))

    def snapshots(self) -> list[dict[str, Any]]:
        """Returns the diagnostics snapshots; see `fcnet.experiment.snapshots`.

        Raises:
            UserError: ``diagnostics.jsonl`` is damaged or gone.
        """
        return self._read_lines(_SNAPSHOTS, SnapshotLine, "snapshots")

    def write_snapshots(self, snapshots: list[dict[str, Any]]) -> None:
        """Writes all diagnostics snapshots, one per line, in place of the earlier ones."""
        self._files.write(_SNAPSHOTS, _to_lines(snapshots))

    def rewind(
        self, records: list[dict[str, Any]], snapshots: list[dict[str, Any]], note: Callable[[str], None]
    ) -> None:
        """Replaces the records and snapshots by those of a checkpoint, also if the files are damaged or gone.

        Args:
            records: the records of the epochs up to the checkpoint.
            snapshots: the snapshots up to it.
            note: called with one line for each damaged file.
        """
        is_rebuilt = False
        try:
            self._files.checksums()
        except UserError as error:
            note(f"{error}; it is written again")
            self._files.adopt(_CONFIG)  # the checkpoint has vouched for it
            is_rebuilt = True
        for read, write, lines in (
            (self.records, self.write_records, records),
            (self.snapshots, self.write_snapshots, snapshots),
        ):
            try:
                if read() == lines:
                    continue
            except UserError as error:
                if not is_rebuilt:
                    note(f"{error}; it is written again")
            write(lines)

    def save_checkpoint(self, step: int, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Writes a checkpoint, then removes all others but the one before, and whatever is incomplete.

        No checkpoint is written over: a second one of the same step gets a number.
        """
        taken = [number for found, number, _ in self._list_checkpoints("*") if found == step]
        stem = self._checkpoints / (f"step-{step:010d}" + (f"-{max(taken) + 1}" if taken else ""))
        write_checksummed(stem, tensors, metadata)
        complete = [each for each in self._checkpoint_stems() if each.with_suffix(".safetensors").is_file()]
        # The one before is the last that is known to be whole. One that this process has not read may be damaged.
        before = self._good_checkpoint or next((each for each in complete if each != stem), None)
        for _, _, file in self._list_checkpoints("*"):
            if file.with_suffix("") not in (stem, before):
                file.unlink()
        self._good_checkpoint = stem

    def latest_checkpoint(
        self, note: Callable[[str], None] = lambda _: None
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns the newest complete checkpoint, or None if there are none.

        Args:
            note: called with one line for each newer checkpoint that is damaged.

        Raises:
            UserError: there are checkpoints, and all of them are damaged.
        """
        errors: list[UserError] = []
        for stem in self._checkpoint_stems():
            try:
                tensors, metadata = read_checksummed(stem)
                file = stem.with_suffix(".json")
                for key, schema in (("records", EpochLine), ("snapshots", SnapshotLine)):
                    check_lines(schema, metadata.get(key, []), file)
            except UserError as error:
                errors.append(error)
                continue
            for damage in errors:
                note(f"{damage}; the run resumes from {stem.name}")
            self._good_checkpoint = stem
            return tensors, metadata
        if errors:
            raise errors[0]
        return None

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint; None if there are none."""
        return next((step for step, _, _ in self._list_checkpoints("*.json")), None)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary, which completes the run, and removes the checkpoints."""
        text = json.dumps(nan_to_none(summary), indent=2, allow_nan=False) + "\n"
        self._files.write(_SUMMARY, text.encode())
        self.clear()

    def clear(self) -> None:
        """Removes the checkpoints of a finished run."""
        shutil.rmtree(self._checkpoints, ignore_errors=True)

    def clean_up(self) -> None:
        """Removes the checkpoints and temporary files that a process leaves if it is killed at the end of the run."""
        self.clear()
        self.remove_temporary_files()

    def remove_temporary_files(self) -> None:
        """Removes what killed processes have left of files that they were writing."""
        remove_temporary_files(self.path)

    def summary(self) -> dict[str, Any]:
        """Returns the summary that `finish` wrote.

        Raises:
            UserError: ``summary.json`` is missing or damaged.
        """
        file, data = self.path / _SUMMARY, self._files.read(_SUMMARY)
        if data is None:
            raise UserError(f"{file}: no such file")
        summary = parse_json_object(data, file)
        check_object(Summary, summary, file)
        return summary

    def data_fingerprint(self) -> str:
        """Returns the fingerprint of the data that the run's model was trained on.

        Raises:
            UserError: the model is missing or damaged.
        """
        file = self.path / "model.json"
        environment = read_metadata(self.path / "model").get("environment")
        if not isinstance(environment, dict) or not isinstance(environment.get("data"), str):
            raise UserError(f"{file} is damaged: environment.data must be the fingerprint of the data")
        return str(environment["data"])

    def _read_lines(self, name: str, schema: type[BaseModel], key: str) -> list[dict[str, Any]]:
        """Reads a file with one JSON object per line, which checkpoints save as ``key``; an absent file is empty."""
        file, data = self.path / name, self._files.read(name)
        # A kill may come before the file is written for the first time. Checkpoints are written after it.
        if data is None and any(metadata.get(key) for metadata in self._checkpoint_metadata()):
            raise UserError(f"{file}: no such file")
        lines = [parse_json_object(line, file) for line in (data or b"").splitlines()]
        check_lines(schema, lines, file)
        return lines

    def _list_checkpoints(self, pattern: str) -> list[tuple[int, int, Path]]:
        """Returns step, number and path of the files of checkpoints, the newest first."""
        files = [
            (int(match[1]), int(match[2] or 1), file)
            for file in self._checkpoints.glob(f"step-{pattern}")
            if (match := _CHECKPOINT.fullmatch(file.stem)) and file.suffix in {".json", ".safetensors"}
        ]
        return sorted(files, reverse=True)

    def _checkpoint_stems(self) -> list[Path]:
        """Returns the stems of the checkpoints that have metadata, the newest first."""
        return [file.with_suffix("") for _, _, file in self._list_checkpoints("*.json")]

    def _checkpoint_metadata(self) -> Iterator[dict[str, Any]]:
        """Yields the metadata of the checkpoints whose metadata are undamaged, the newest first."""
        for stem in self._checkpoint_stems():
            with contextlib.suppress(UserError):
                yield read_metadata(stem)


def check_new(out: Path, flag: str = "--out") -> None:
    """Checks that a folder can take a new run.

    Args:
        out: the folder; it need not exist.
        flag: name of the argument that gave it, for the error.

    Raises:
        UserError: it is a file, or a folder that is not empty. What a run leaves if it is killed before it has written
            its configuration does not count.
    """
    _check_folder(out, flag)
    if not out.is_dir() or not any(_is_content(entry) for entry in out.iterdir()):
        return
    if Run(out).started:
        raise UserError(f"{flag}: {out} already holds a run; --resume continues it, another folder begins a new one")
    raise UserError(f"{flag}: {out} is not empty and holds no run; name a new or an empty folder")


def claim_folder(out: Path | None, name: str) -> Path:
    """Creates the folder of a new run, which no other process gets unless both name it.

    Args:
        out: the folder; it may exist. None for ``runs/NAME``, with a number if that exists.
        name: the name of the run, for the default folder.

    Raises:
        UserError: ``out`` is a file.
    """
    if out is not None:
        _check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        return out
    try:
        Path("runs").mkdir(exist_ok=True)
    except FileExistsError:
        raise UserError("runs must be a folder, got a file or a broken link; --out DIR names another place") from None
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def describe_no_run(path: Path) -> str:
    """Returns why a path is no run folder, and the name of the run that it nearly names.

    Example:
        >>> describe_no_run(Path("digits"))
        'a preset, not a folder'
    """
    if path.is_dir():
        return "it holds no config.toml"
    if path.exists():
        return "a file"
    runs = [str(file.parent) for file in sorted(Path("runs").glob("*/config.toml"))]
    near = [difflib.get_close_matches(str(name), runs, n=1, cutoff=0.8) for name in (path, Path("runs") / path)]
    nearest = "".join(f"; the nearest is {name[0]}" for name in near if name)
    return ("a preset, not a folder" if str(path) in list_presets() else "no such folder") + nearest


def _check_folder(out: Path, flag: str = "--out") -> None:
    if "\0" in str(out):
        raise UserError(f"{flag} must be a path without NUL characters, got {str(out)!r}")
    if out.exists() and not out.is_dir():
        raise UserError(f"{flag} must be a folder, got the file {out}")


def _is_content(entry: Path) -> bool:
    """Returns whether an entry of a folder is more than a run has before its configuration is written."""
    if entry.name == "checksums.json":
        try:
            return bool(ChecksummedFolder(entry.parent).checksums().keys() - {_CONFIG})
        except UserError:
            return True
    return entry.name[0] != "." and (entry.name != "checkpoints" or any(entry.iterdir()))


def _to_lines(records: list[dict[str, Any]]) -> bytes:
    lines = [json.dumps(record, allow_nan=False) + "\n" for record in map(nan_to_none, records)]
    return "".join(lines).encode()


def nan_to_none(record: dict[str, Any]) -> dict[str, Any]:
    """Replaces NaN and inf by None, since JSON has neither."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
