"""The run folder of a probe: what it began with, and the finished parts from which an interrupted one resumes.

``probe.json`` holds the features, the settings, and what determines the last bits. ``state`` holds the result of each
fit that has ended, and two states of the search under way; it goes when the run is finished.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fcnet.config.toml import describe_first_error
from fcnet.experiment import run_folder
from fcnet.experiment.run_folder import Run
from fcnet.probe.arguments import Settings
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import (
    ChecksummedFolder,
    parse_json_object,
    read_checksummed,
    read_metadata,
    write_checksummed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

RECORD = "probe.json"
NAME = "probe"


class ProbeRecord(BaseModel):
    """What a run began with: the content of ``probe.json``.

    Attributes:
        features: the path of the features, as it was given.
        settings: the settings.
        data: the fingerprint of the training and validation examples.
        threads: the number of threads, on which the last bits of sums depend.
        device: the device.
        ranks: the number of processes.
        fcnet: the version of fcnet.
        torch: the version of torch.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    features: str
    settings: Settings
    data: str
    threads: int
    device: str
    ranks: int
    fcnet: str
    torch: str


class ProbeRun:
    """The run folder of a probe.

    Args:
        path: the folder.

    Attributes:
        run: the same as any run, for locks and results.
        state: the folder of what an interrupted run resumes from.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.run, self.state = path, Run(path), path / "state"
        self._slot, self._number = 0, 0

    @property
    def started(self) -> bool:
        """Whether the folder holds a probe."""
        return (self.path / RECORD).is_file()

    @property
    def finished(self) -> bool:
        """Whether the probe is complete: the summary is its last file."""
        return (self.path / "summary.json").is_file()

    def record(self) -> ProbeRecord:
        """Returns what the run began with.

        Raises:
            UserError: ``probe.json`` is damaged.
        """
        file, data = self.path / RECORD, ChecksummedFolder(self.path).read(RECORD)
        if data is None:
            raise UserError(f"{file}: no such file")
        try:
            return ProbeRecord.model_validate(parse_json_object(data, file))
        except ValidationError as error:
            raise UserError(f"{file} is damaged: {describe_first_error(error)}") from None

    def write_record(self, record: ProbeRecord) -> None:
        """Writes what the run begins with, and makes the folder of its states."""
        self.state.mkdir(exist_ok=True)
        ChecksummedFolder(self.path).write(RECORD, f"{record.model_dump_json(indent=2)}\n".encode())

    def result(self, stage: str, note: Callable[[str], None]) -> tuple[dict[str, Tensor], float] | None:
        """Returns what `write_result` wrote for a part of the work, and its seconds; None if it is to be done.

        Args:
            stage: the part.
            note: called with one line if a file is damaged.
        """
        stem = self.state / stage
        if not stem.with_suffix(".json").is_file():
            return None
        try:
            tensors, metadata = _read(stem)
        except UserError as error:
            note(f"{error}; it is computed again")
            return None
        return tensors, float(metadata["seconds"])

    def write_result(self, stage: str, tensors: dict[str, Tensor], seconds: float) -> None:
        """Writes the result of a part of the work, and removes the states of its search."""
        write_checksummed(self.state / stage, tensors, {"seconds": seconds})
        for file in self.state.glob("search-*"):
            file.unlink()

    def save_search(self, stage: str, tensors: dict[str, Tensor], seconds: float) -> None:
        """Saves the state of a search after some seconds, beside the one before."""
        self._slot, self._number = 1 - self._slot, self._number + 1
        metadata = {"stage": stage, "number": self._number, "seconds": seconds}
        write_checksummed(self.state / f"search-{self._slot}", tensors, metadata)

    def search_state(self, stage: str) -> tuple[dict[str, Tensor], float] | None:
        """Returns the newest state of a search that is whole, and its seconds; None if there is none."""
        found = []
        for slot in (0, 1):
            with contextlib.suppress(UserError):
                metadata = read_metadata(self.state / f"search-{slot}")
                if metadata["stage"] == stage:
                    found.append((metadata["number"], slot, metadata["seconds"]))
        for number, slot, seconds in sorted(found, reverse=True):
            with contextlib.suppress(UserError):
                tensors, _ = _read(self.state / f"search-{slot}")
                self._slot, self._number = slot, number
                return tensors, float(seconds)
        return None

    def remove_state(self) -> None:
        """Removes what an interrupted run resumes from."""
        shutil.rmtree(self.state, ignore_errors=True)


def _read(stem: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors into memory of their own: last bits of products depend on where in memory a matrix begins."""
    tensors, metadata = read_checksummed(stem)
    return {name: part.clone() for name, part in tensors.items()}, metadata


def find_run(out: Path | None) -> ProbeRun | None:
    """Finds the run to resume: the one in ``out``, else the newest of ``runs/probe``; None if there is none."""
    if out is not None:
        folders = [out]
    else:
        numbers = re.compile(re.escape(NAME) + r"(?:-(\d+))?")
        matches = [(match, path) for path in Path("runs").glob("*") if (match := numbers.fullmatch(path.name))]
        folders = [path for _, path in sorted(matches, key=lambda pair: -int(pair[0][1] or 1))]
    return next((run for run in map(ProbeRun, folders) if run.started), None)


def check_new(out: Path | None, flag: str) -> None:
    """Checks that a folder can take a new run.

    Args:
        out: the folder; None for the default, which is always new.
        flag: the argument that names it.

    Raises:
        UserError: it is a file, or not empty.
    """
    if out is None:
        return
    if ProbeRun(out).started:
        raise UserError(f"{flag}: {out} already holds a probe; --resume continues it, another folder begins a new one")
    Run(out).check_unlocked()
    run_folder.check_new(out, flag)


def describe_no_probe(path: Path) -> str:
    """Returns why a path is no run folder of a probe."""
    if path.is_dir():
        return "a run of another command" if Run(path).started else f"it holds no {RECORD}"
    return "a file" if path.exists() else "no such folder"
