"""Run folders: configuration, records, snapshots, checkpoints and summary of a run."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, write_checksummed, write_text

if TYPE_CHECKING:
    from torch import Tensor

_NUM_CHECKPOINTS = 2


class Run:
    """A run folder.

    Args:
        path: the folder; use `create` for a new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpoints = path / "checkpoints"

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
        if out is None:
            run = cls(_claim_folder(name))
        else:
            check_new(out)
            out.mkdir(parents=True, exist_ok=True)
            run = cls(out)
        run._checkpoints.mkdir(exist_ok=True)
        write_text(run.config, config)
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
        return (self.path / "config.toml").is_file()

    @property
    def finished(self) -> bool:
        """Whether the run is complete. The summary is its last file."""
        return (self.path / "summary.json").is_file()

    @property
    def config(self) -> Path:
        """The path of the run's configuration."""
        return self.path / "config.toml"

    def records(self) -> list[dict[str, Any]]:
        """Returns the records of the completed epochs."""
        return _read_lines(self.path / "metrics.jsonl")

    def write_records(self, records: list[dict[str, Any]]) -> None:
        """Writes the records of all epochs, one per line, in place of the earlier ones."""
        _write_lines(self.path / "metrics.jsonl", records)

    def snapshots(self) -> list[dict[str, Any]]:
        """Returns the diagnostics snapshots; see `fcnet.experiment.snapshots`."""
        return _read_lines(self.path / "diagnostics.jsonl")

    def write_snapshots(self, snapshots: list[dict[str, Any]]) -> None:
        """Writes all diagnostics snapshots, one per line, in place of the earlier ones."""
        _write_lines(self.path / "diagnostics.jsonl", snapshots)

    def save_checkpoint(self, step: int, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Writes a checkpoint, and removes all but the newest two and whatever is incomplete."""
        write_checksummed(self._checkpoints / f"step-{step:010d}", tensors, metadata)
        pairs = [stem for stem in self._checkpoint_stems() if stem.with_suffix(".safetensors").is_file()]
        for file in sorted(self._checkpoints.glob("step-*")):
            if file.with_suffix("") not in pairs[:_NUM_CHECKPOINTS]:
                file.unlink()

    def latest_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns the newest complete checkpoint, or None if there are none.

        Raises:
            UserError: there are checkpoints, and all of them are damaged.
        """
        first_error = None
        for stem in self._checkpoint_stems():
            try:
                return read_checksummed(stem)
            except UserError as error:
                first_error = first_error or error
        if first_error is not None:
            raise first_error
        return None

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint; None if there are none."""
        return next((int(stem.name.removeprefix("step-")) for stem in self._checkpoint_stems()), None)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary, which completes the run, and removes the checkpoints."""
        write_text(self.path / "summary.json", json.dumps(_nan_to_none(summary), indent=2, allow_nan=False) + "\n")
        self.clear()

    def clear(self) -> None:
        """Removes the checkpoints of a finished run."""
        shutil.rmtree(self._checkpoints, ignore_errors=True)

    def clean_up(self) -> None:
        """Removes the checkpoints and temporary files that a process leaves if it is killed at the end of the run."""
        self.clear()
        self.remove_temporary_files()

    def remove_temporary_files(self) -> None:
        """Removes temporary files of `fcnet.runtime.files.atomic_write`, named ``.NAME.ENDING.xxxxxxxx``."""
        for file in self.path.rglob(".*.*.????????"):
            file.unlink()

    def summary(self) -> dict[str, Any]:
        """Returns the summary that `finish` wrote."""
        file = self.path / "summary.json"
        return _parse_object(file.read_bytes(), file)

    def _checkpoint_stems(self) -> list[Path]:
        """Returns the stems of the checkpoints that have metadata, the newest first."""
        return sorted((file.with_suffix("") for file in self._checkpoints.glob("step-*.json")), reverse=True)


def check_new(out: Path) -> None:
    """Checks that a folder can take a new run.

    Raises:
        UserError: it is a file, or a folder that is not empty. What a run leaves if it is killed before it has written
            its configuration does not count.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out must be a folder, got the file {out}")
    if out.is_dir() and any(_is_content(entry) for entry in out.iterdir()):
        raise UserError(f"--out: {out} already exists and is not empty (use --resume to continue a run)")


def _is_content(entry: Path) -> bool:
    """Returns whether an entry of a folder is more than a hidden file or an empty checkpoint folder."""
    return entry.name[0] != "." and (entry.name != "checkpoints" or any(entry.iterdir()))


def _parse_object(text: bytes, file: Path) -> dict[str, Any]:
    """Parses a JSON object from a file of a run."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{file} is damaged: expected a JSON object, got {text[:60].decode(errors='replace')!r}")
    return value


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Reads a file with one JSON object per line; an absent file is empty."""
    return [_parse_object(line, file) for line in file.read_bytes().splitlines()] if file.is_file() else []


def _write_lines(file: Path, records: list[dict[str, Any]]) -> None:
    write_text(file, "".join(json.dumps(record, allow_nan=False) + "\n" for record in map(_nan_to_none, records)))


def _claim_folder(name: str) -> Path:
    """Creates the first of ``runs/NAME``, ``runs/NAME-2``, … that does not exist yet; safe between processes."""
    Path("runs").mkdir(exist_ok=True)
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _nan_to_none(record: dict[str, Any]) -> dict[str, Any]:
    """Replaces NaN and inf by None, since JSON has neither."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
