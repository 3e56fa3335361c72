"""Images of the next batches, read by a thread and copied to a GPU while the current batch is computed.

For images that stay on the host because they do not fit on the GPU. Gathering rows takes the host's time and copying
takes the bus's, so both can be hidden behind the steps.
"""

from __future__ import annotations

import queue
import sys
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BATCHES_AHEAD = 2
"""The most batches whose images are on the way or on the GPU before the loop asks for them: a double buffer."""
Item = TypeVar("Item")
Made = TypeVar("Made")


def read_ahead(
    make: Callable[[Item], Made], items: Iterable[Item], num_ahead: int = BATCHES_AHEAD
) -> Iterator[tuple[Item, Made]]:
    """Yields each item with what ``make`` returns for it, which a thread computes ahead of the loop.

    The thread ends with the iterator: after the last item, when the loop is left early, or after an error of ``make``
    or of the items, which is raised where its item would have come. Where the system refuses a thread, nothing is read
    ahead.

    Args:
        make: called in the thread, for one item after another.
        items: iterated in the thread.
        num_ahead: the most items that ``make`` has been called for and the loop has not been given.

    Example:
        >>> list(read_ahead(lambda number: number**2, [1, 2, 3]))
        [(1, 1), (2, 4), (3, 9)]
    """
    reader = _Reader(make, items, num_ahead)
    try:
        reader.start()
    except RuntimeError:
        yield from ((item, make(item)) for item in items)
        return
    try:
        while (result := reader.take()) is not None:
            yield result
    finally:
        reader.end()


class _Reader(threading.Thread, Generic[Item, Made]):
    """The thread of `read_ahead`. It is a daemon, since an iterator that nobody ends must not keep the interpreter."""

    def __init__(self, make: Callable[[Item], Made], items: Iterable[Item], num_ahead: int) -> None:
        super().__init__(name="read-ahead", daemon=True)
        self._make, self._items = make, items
        self._results: queue.SimpleQueue[tuple[Item, Made] | BaseException | None] = queue.SimpleQueue()
        self._free_places, self._is_left = threading.Semaphore(num_ahead), False

    def run(self) -> None:
        """Makes one item after another while there are free places."""
        try:
            for item in self._items:
                self._free_places.acquire()
                if self._is_left:
                    return
                self._results.put((item, self._make(item)))
            self._results.put(None)
        except BaseException as error:  # noqa: BLE001 - the loop raises it
            self._results.put(error)

    def take(self) -> tuple[Item, Made] | None:
        """Waits for the next item and frees its place; None after the last. Raises an error of the thread."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        self._free_places.release()
        return result

    def end(self) -> None:
        """Ends the thread, after the item that it is making."""
        self._is_left = True
        self._free_places.release()
        if not sys.is_finalizing():  # the interpreter has stopped the thread
            self.join()


class RowUploader:
    """Copies rows of a tensor to a GPU through pinned memory, on a stream of its own.

    One thread calls `send`, another `receive`. `send` first waits until the GPU has finished the work that was queued
    at the last `receive`, so that a host far ahead of the GPU does not fill its memory.

    Args:
        values: (N, D), on the host.
        device: the GPU.
    """

    def __init__(self, values: Tensor, device: torch.device) -> None:
        self._values, self._device = values, device
        self._stream = torch.cuda.Stream(device)
        self._finished: torch.cuda.Event | None = None

    def send(self, rows: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Starts the copy of some rows.

        Args:
            rows: int64 (B,), on the host.

        Returns:
            (B, D) on the GPU, and the event after which it holds the rows.
        """
        with torch.cuda.stream(self._stream):
            if self._finished is not None:
                self._finished.synchronize()
            # torch's allocator uses pinned memory again only after the copy from it.
            pinned = torch.empty(len(rows), self._values.shape[1], dtype=self._values.dtype, pin_memory=True)
            torch.index_select(self._values, 0, rows, out=pinned)
            return pinned.to(self._device, non_blocking=True), self._stream.record_event()

    def receive(self, sent: Tensor, arrived: torch.cuda.Event) -> Tensor:
        """Lets the current stream wait for the rows that `send` returned, and returns them; the host does not wait."""
        current = torch.cuda.current_stream(self._device)
        event = torch.cuda.Event(blocking=True)
        event.record(current)
        self._finished = event
        current.wait_event(arrived)
        sent.record_stream(current)
        return sent
