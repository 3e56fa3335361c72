"""The checkpoints of a run: the last two that are whole, each a pair of files that is never written over."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING, Any

from fcnet.experiment.run_schema import EpochLine, SnapshotLine, check_lines
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, read_metadata, write_checksummed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

_NAME = re.compile(r"step-(\d{10})(?:-(\d+))?")


class Checkpoints:
    """The folder ``checkpoints`` of a run.

    Args:
        folder: the folder. It need not exist before the first save.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._good: Path | None = None  # the last that this object read or wrote

    @property
    def initial(self) -> Path:
        """The path, without an ending, of the trained model that the run started from, if it started from one."""
        return self.folder / "initial"

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint; None if there are none."""
        return next((step for step, _, _ in self._list("*.json")), None)

    def save(self, step: int, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Writes a checkpoint, then removes all others but the one before, and whatever is incomplete.

        No checkpoint is written over: a second one of the same step gets a number.
        """
        taken = [number for found, number, _ in self._list("*") if found == step]
        stem = self.folder / (f"step-{step:010d}" + (f"-{max(taken) + 1}" if taken else ""))
        write_checksummed(stem, tensors, metadata)
        # The one before is the last that is known to be whole. One that this process has not read may be damaged.
        before = self._good or next((each for each in self._complete() if each != stem), None)
        self._remove_all_but(stem, before)
        self._good = stem

    def latest(self, note: Callable[[str], None] = lambda _: None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns the newest complete checkpoint, or None if there are none.

        Args:
            note: called with one line for each newer checkpoint that is damaged.

        Raises:
            UserError: there are checkpoints, and all of them are damaged.
        """
        errors: list[UserError] = []
        for stem in self._stems():
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
            self._good = stem
            return tensors, metadata
        if errors:
            raise errors[0]
        return None

    def metadata(self) -> Iterator[dict[str, Any]]:
        """Yields the metadata of the checkpoints whose metadata are undamaged, the newest first."""
        for stem in self._stems():
            with contextlib.suppress(UserError):
                yield read_metadata(stem)

    def keep_last(self) -> None:
        """Removes all checkpoints but the newest complete one."""
        self._remove_all_but(next(iter(self._complete()), None))

    def clear(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_all_but(self, *kept: Path | None) -> None:
        for _, _, file in self._list("*"):
            if file.with_suffix("") not in kept:
                file.unlink()

    def _complete(self) -> list[Path]:
        return [stem for stem in self._stems() if stem.with_suffix(".safetensors").is_file()]

    def _stems(self) -> list[Path]:
        """Returns the stems of the checkpoints that have metadata, the newest first."""
        return [file.with_suffix("") for _, _, file in self._list("*.json")]

    def _list(self, pattern: str) -> list[tuple[int, int, Path]]:
        """Returns step, number and path of the files of checkpoints, the newest first."""
        files = [
            (int(match[1]), int(match[2] or 1), file)
            for file in self.folder.glob(f"step-{pattern}")
            if (match := _NAME.fullmatch(file.stem)) and file.suffix in {".json", ".safetensors"}
        ]
        return sorted(files, reverse=True)
