"""The run folder: its configuration, its records, its checkpoints and its end."""

from __future__ import annotations

import json
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
    """One run's folder.

    Args:
        path: the folder; `create` makes a new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, out: Path | None, name: str, config: str) -> Run:
        """Makes a new run's folder and writes its configuration.

        Args:
            out: the folder; None takes ``runs/NAME``, numbered when that is taken.
            name: what the run is called, for its default folder.
            config: the whole resolved configuration, as TOML.

        Raises:
            UserError: ``out`` is taken.
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
        """The run to go on with: in ``out``, else the newest of ``runs/NAME``; None where nothing began."""
        if out is not None:
            found = [cls(out)]
        else:
            numbers = re.compile(re.escape(name) + r"(?:-(\d+))?")
            folders = [
                (match, folder) for folder in Path("runs").glob("*") if (match := numbers.fullmatch(folder.name))
            ]
            folders.sort(key=lambda pair: int(pair[0][1] or 1), reverse=True)
            found = [cls(folder) for _, folder in folders]
        return next((run for run in found if run.started), None)

    @property
    def started(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "config.toml").is_file()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; the summary is written last."""
        return (self.path / "summary.json").is_file()

    @property
    def config(self) -> Path:
        """The file that the run's configuration is in."""
        return self.path / "config.toml"

    def records(self) -> list[dict[str, Any]]:
        """The epochs written so far."""
        return _read_lines(self.path / "metrics.jsonl")

    def write_records(self, records: list[dict[str, Any]]) -> None:
        """Replaces the epochs, a line each."""
        _write_lines(self.path / "metrics.jsonl", records)

    def snapshots(self) -> list[dict[str, Any]]:
        """The looks into the network written so far; see `fcnet.experiment.snapshots`."""
        return _read_lines(self.path / "diagnostics.jsonl")

    def write_snapshots(self, snapshots: list[dict[str, Any]]) -> None:
        """Replaces the looks, a line each."""
        _write_lines(self.path / "diagnostics.jsonl", snapshots)

    def save_checkpoint(self, step: int, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Writes a checkpoint, then removes all but the newest two, and what a killed process left of one."""
        write_checksummed(self._checkpoints / f"step-{step:010d}", tensors, metadata)
        pairs = [stem for stem in self._checkpoint_stems() if stem.with_suffix(".safetensors").is_file()]
        for file in sorted(self._checkpoints.glob("step-*")):
            if file.with_suffix("") not in pairs[:_NUM_CHECKPOINTS]:
                file.unlink()

    def latest_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint that is whole, or None where nothing was saved yet.

        Raises:
            UserError: there are checkpoints, and every one of them is damaged.
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
        """The step of the newest checkpoint, None where nothing was saved yet."""
        return next((int(stem.name.removeprefix("step-")) for stem in self._checkpoint_stems()), None)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary, which ends the run, and removes the checkpoints."""
        write_text(self.path / "summary.json", json.dumps(_nan_to_none(summary), indent=2, allow_nan=False) + "\n")
        self.clear()

    def clear(self) -> None:
        """Removes the checkpoints of a finished run, which a process killed in its last moment leaves."""
        shutil.rmtree(self._checkpoints, ignore_errors=True)

    def clean_up(self) -> None:
        """Removes the checkpoints and temporary files that a process killed at the end of the run left."""
        self.clear()
        self.remove_temporary_files()

    def remove_temporary_files(self) -> None:
        """Removes the temporary files of `fcnet.runtime.files.atomic_write`, named .NAME.ENDING.xxxxxxxx."""
        for file in self.path.rglob(".*.*.????????"):
            file.unlink()

    def summary(self) -> dict[str, Any]:
        """What `finish` wrote."""
        file = self.path / "summary.json"
        return _parse_object(file.read_bytes(), file)

    def _checkpoint_stems(self) -> list[Path]:
        """The checkpoints whose metadata are there, the newest first."""
        return sorted((file.with_suffix("") for file in self._checkpoints.glob("step-*.json")), reverse=True)


def check_new(out: Path) -> None:
    """Refuses a folder that holds something, unless it is what a run killed in its first moment left."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out must be a folder, got the file {out}")
    if out.is_dir() and any(_is_content(entry) for entry in out.iterdir()):
        raise UserError(f"--out must be a new or an empty folder, got {out}; --resume goes on with a run")


def _is_content(entry: Path) -> bool:
    """Whether an entry of a folder is more than a hidden file or checkpoints that are not begun."""
    return entry.name[0] != "." and (entry.name != "checkpoints" or any(entry.iterdir()))


def _parse_object(text: bytes, file: Path) -> dict[str, Any]:
    """One of the objects that a file of a run holds."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{file} is damaged: expected a JSON object, got {text[:60].decode(errors='replace')!r}")
    return value


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file with a line each; none where there is no file."""
    return [_parse_object(line, file) for line in file.read_bytes().splitlines()] if file.is_file() else []


def _write_lines(file: Path, records: list[dict[str, Any]]) -> None:
    """Replaces the file whole."""
    write_text(file, "".join(json.dumps(record, allow_nan=False) + "\n" for record in map(_nan_to_none, records)))


def _claim_folder(name: str) -> Path:
    """The first of runs/NAME, runs/NAME-2, … that nobody has, made."""
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
    """The record with null for what is no number, which JSON cannot hold."""
    return {key: None if isinstance(value, float) and value * 0 != 0 else value for key, value in record.items()}
