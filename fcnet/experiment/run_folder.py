"""Run folders: configuration, records, snapshots, checkpoints and summary of a run."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet.config.presets import list_presets
from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.checkpoints import Checkpoints
from fcnet.experiment.extension import schedule_allows, stopped_early
from fcnet.experiment.run_identity import check_settings
from fcnet.experiment.run_schema import CommandEntry, EpochLine, SnapshotLine, Summary, check_lines, check_object
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import (
    ChecksummedFolder,
    parse_json_object,
    read_metadata,
    remove_temporary_files,
    sha256,
)
from fcnet.runtime.locks import exclusive_lock, lock_holder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import BaseModel

    from fcnet.config.schema import Config

_CONFIG, _RECORDS, _SNAPSHOTS, _SUMMARY = "config.toml", "metrics.jsonl", "diagnostics.jsonl", "summary.json"
_COMMANDS, _PROBE = "commands.jsonl", "probe.json"
_RESULTS = (
    *("model.json", "model.safetensors", "predictions.json", "predictions.safetensors", "mistakes.csv", "report.html"),
    *("probe.csv", "few_shot.csv"),
    *("evaluation.json", "evaluation-mistakes.csv", "corruptions.json"),
    *(f"corruptions-{theme}.{form}" for theme in ("light", "dark") for form in ("svg", "png")),
)
"""What describes the trained model, besides the summary. ``model.json`` is first, since a model without it is none."""


class Run:
    """A run folder.

    Args:
        path: the folder; use `create` for a new one.

    Attributes:
        checkpoints: its checkpoints.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._files = ChecksummedFolder(path)

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
        run.checkpoints.folder.mkdir(exist_ok=True)
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
    def is_probe(self) -> bool:
        """Whether the run is that of ``python -m fcnet.probe``, which alone continues it."""
        return (self.path / _PROBE).is_file()

    @property
    def finished(self) -> bool:
        """Whether the run is complete. The summary is its last file; that of fewer epochs than configured is not.

        Raises:
            UserError: the run was complete, and its summary is gone; or what tells whether it is complete is damaged.
        """
        if (self.path / _SUMMARY).is_file():
            return self._has_summary_of(self.load_config())
        is_resumable = self.checkpoints.saved_step is not None
        try:
            checksums = self._files.checksums() if self._files.checksums_file.is_file() else {}
        except UserError:
            if is_resumable:  # resuming writes damaged checksums again
                return False
            raise
        # Killed before it wrote its summary, a run still has a checkpoint, and its summary may be absent.
        if _SUMMARY in checksums and not (is_resumable and None in checksums[_SUMMARY]):
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

    def trainer(self) -> str | None:
        """Returns the process that trains in the folder, such as ``process 12 on ada``; None if there is none."""
        return lock_holder(self.path / "run")

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
        # Checkpoints know the configuration too, and can say what was changed.
        saved = next((metadata.get("config") for metadata in self.checkpoints.metadata()), None)
        try:
            is_unchanged = sha256(self.config) in self._files.checksums().get(_CONFIG, [])
        except UserError:
            if not isinstance(saved, dict):
                raise
            is_unchanged = False
        if is_unchanged:
            return load_config(self.config)
        if isinstance(saved, dict):
            config = load_config(self.config)
            check_settings(saved, config, self.config)
            if not self._has_summary_of(config):
                return config
        raise UserError(f"{self.config} was changed after the run began; undo the change, or begin a new run")

    def _has_summary_of(self, config: Config) -> bool:
        """Returns whether there is a summary, and of a training that ended as the configuration asks."""
        if not (self.path / _SUMMARY).is_file():
            return False
        summary, train = self.summary(), config.train
        epochs: int = summary["epochs"]
        return epochs >= train.epochs or stopped_early(epochs, summary["best_epoch"], train.patience)

    def change_config(self, config: Config) -> None:
        """Writes the configuration with another place of the same data, or with more epochs.

        With more epochs than the summary has, the run is unfinished from this moment on.
        """
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

    def commands(self) -> list[dict[str, Any]]:
        """Returns what is known of the commands that trained in the folder; see `fcnet.experiment.provenance`.

        Empty for runs of older versions.

        Raises:
            UserError: ``commands.jsonl`` is damaged.
        """
        file, data = self.path / _COMMANDS, self._files.read(_COMMANDS)
        lines = [parse_json_object(line, file) for line in (data or b"").splitlines()]
        for line in lines:
            check_object(CommandEntry, line, file)
        return lines

    def add_command(self, command: dict[str, Any], note: Callable[[str], None] = lambda _: None) -> None:
        """Adds a line to ``commands.jsonl``.

        Args:
            command: the line; see `fcnet.experiment.provenance.CommandRecord`.
            note: called with one line if the file is damaged, and begins anew.
        """
        try:
            earlier = self.commands()
        except UserError as error:
            note(f"{error}; it is written again")
            earlier = []
        self._files.write(_COMMANDS, _to_lines([*earlier, command]))

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

    def remove_results(self) -> None:
        """Removes what describes the model of a former end, before that of the new end is written."""
        for name in _RESULTS:
            (self.path / name).unlink(missing_ok=True)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary, which completes the run, and removes the checkpoints that are not needed any more."""
        text = json.dumps(nan_to_none(summary), indent=2, allow_nan=False) + "\n"
        self._files.write(_SUMMARY, text.encode())
        self._files.settle()
        self._remove_checkpoints()

    def clean_up(self) -> None:
        """Removes the checkpoints and temporary files that a process leaves if it is killed at the end of the run."""
        self._remove_checkpoints()
        self.remove_temporary_files()

    def _remove_checkpoints(self) -> None:
        """Keeps the last checkpoint of a finished run if it can continue to more epochs, and removes all others."""
        config, summary = self.load_config(), self.summary()
        early = stopped_early(summary["epochs"], summary["best_epoch"], config.train.patience)
        if schedule_allows(config) and not early:
            self.checkpoints.keep_last()
        else:
            self.checkpoints.clear()

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
        if data is None and any(metadata.get(key) for metadata in self.checkpoints.metadata()):
            raise UserError(f"{file}: no such file")
        lines = [parse_json_object(line, file) for line in (data or b"").splitlines()]
        check_lines(schema, lines, file)
        return lines


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
        >>> describe_no_run(Path("elsewhere/mine"))
        'no such folder'
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
