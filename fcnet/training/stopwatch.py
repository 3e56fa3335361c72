"""The seconds of a training, on a device that works while the host goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fcnet.runtime.hardware import synchronize

if TYPE_CHECKING:
    import torch


class Stopwatch:
    """Measures the seconds from the first queued operation until the device has finished the last one.

    The host only queues work on a GPU, so the time of its calls says nothing about the work. `stop` waits for the
    device, and the wait counts. Until then the stopwatch runs, whatever the host does meanwhile.

    Args:
        device: the device of the work.

    Example:
        >>> import torch
        >>> stopwatch = Stopwatch(torch.device("cpu"))
        >>> stopwatch.start()
        >>> stopwatch.stop()
        >>> stopwatch.seconds > 0.0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stopped = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """The seconds so far."""
        return self._stopped + (0.0 if self._since is None else time.perf_counter() - self._since)

    def start(self) -> None:
        """Starts, or runs on."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Waits until the device has finished its work, and stops."""
        synchronize(self._device)
        if self._since is not None:
            self._stopped += time.perf_counter() - self._since
            self._since = None

    def reset(self, seconds: float = 0.0) -> None:
        """Stops now and sets the seconds."""
        self._stopped, self._since = seconds, None
