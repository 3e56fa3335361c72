"""A disk that fails: one chosen call on a file below a folder raises an `OSError`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.truncate", "os.chmod"}


class FailingDisk:
    """Counts the calls that change or read files below a folder, and lets one of them fail.

    Args:
        folder: the folder; calls on other files neither count nor fail.

    Attributes:
        calls: the names of the calls that were made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.calls: list[str] = []
        self._failing, self._number, self._active = -1, 0, False
        sys.addaudithook(self._audit)  # it stays for ever, and does nothing outside `failing`

    @contextlib.contextmanager
    def failing(self, call: int = -1, number: int = 0) -> Iterator[None]:
        """Lets a call fail while the block runs, counted from 0; -1 for none.

        Args:
            call: the number of the call.
            number: the error number.
        """
        self.calls, self._failing, self._number = [], call, number
        real_open, real_fsync = io.open, os.fsync

        def open_counted(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            opened = real_open(file, mode, *arguments, **options)
            if self._is_below(file):
                name = "read" if mode.startswith("r") and "+" not in mode else "write"
                method = getattr(opened, name)

                def counted(*given: Any) -> Any:
                    self._count(name, "")
                    return method(*given)

                with contextlib.suppress(AttributeError):
                    setattr(opened, name, counted)
            return opened

        def fsync(descriptor: int) -> None:
            self._count("fsync", "")
            real_fsync(descriptor)

        with mock.patch.object(io, "open", open_counted), mock.patch.object(os, "fsync", fsync):
            self._active = True
            try:
                yield
            finally:
                self._active = False

    def _is_below(self, file: object) -> bool:
        return isinstance(file, str | os.PathLike) and str(Path(os.fspath(file)).absolute()).startswith(self.folder)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._active and event in _EVENTS and self._is_below(arguments[0]):
            self._count(event, os.fspath(arguments[0]))

    def _count(self, name: str, file: str) -> None:
        self.calls.append(f"{name} {file}".strip())
        if len(self.calls) - 1 == self._failing:
            raise OSError(self._number, os.strerror(self._number), *filter(None, [file]))
