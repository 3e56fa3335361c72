"""Image decoding in several processes.

Pillow holds the interpreter lock for most of the time that a small image takes, so threads do not help. The worker
processes are joblib's (loky): unlike those of `multiprocessing`, they do not import the caller's main module, which
usually imports torch and may lack an ``if __name__ == "__main__"`` guard. Two idle resource trackers, of
`multiprocessing` and of loky, remain until this process ends.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import num_processors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future

    from fcnet.data.decoding.decode_batch import DecodedImages, DecodeOptions, ImageFile

    DecodeFunction = Callable[[Sequence[ImageFile], DecodeOptions], DecodedImages]

_MIN_SECONDS = 1.0
_PARENT_CHECK_SECONDS = 0.5
_MAX_POOLS = 3  # workers that keep dying leave the rest to this process
# A worker died, or the system has no room for processes or semaphores.
_POOL_ERRORS = (BrokenProcessPool, OSError, ImportError, NotImplementedError)


def parallel_map(
    function: DecodeFunction, batches: Sequence[Sequence[ImageFile]], options: DecodeOptions
) -> Generator[DecodedImages]:
    """Decodes batches of images, in worker processes where they save time.

    This process decodes the first batches. Once the remaining ones would take it longer than a second, it starts
    one worker for each processor. Results, their order and errors are the same with and without workers.

    Args:
        function: `decode_images` or `detect_grey`.
        batches: the images of each call.
        options: passed to each call.

    Yields:
        The result for each batch, in order.

    Raises:
        UserError: the error of the first batch that fails.
    """
    num_workers, pools_left = num_processors(), _MAX_POOLS
    seconds, num_timed, done = 0.0, 0, 0
    while done < len(batches):
        saves_time = num_timed and seconds / num_timed * (len(batches) - done) > _MIN_SECONDS
        if saves_time and num_workers > 1 and pools_left:
            pools_left -= 1
            with contextlib.suppress(*_POOL_ERRORS):
                for result in _map_in_workers(function, batches[done:], options, num_workers):
                    done += 1
                    yield result
                return
        started = time.perf_counter()
        result = function(batches[done], options)
        seconds, num_timed, done = seconds + time.perf_counter() - started, num_timed + 1, done + 1
        yield result


def _map_in_workers(
    function: DecodeFunction, batches: Sequence[Sequence[ImageFile]], options: DecodeOptions, num_workers: int
) -> Iterator[DecodedImages]:
    from multiprocessing import resource_tracker

    from joblib.externals.loky import ProcessPoolExecutor

    resource_tracker.ensure_running()  # else the first worker starts it, and that unblocks SIGINT for the others
    executor = ProcessPoolExecutor(
        num_workers,
        initializer=_initialize_worker,
        initargs=(os.getpid(),),
        env={"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
    )
    pending: deque[tuple[Sequence[ImageFile], Future[DecodedImages]]] = deque()

    def next_result() -> DecodedImages:
        batch, future = pending.popleft()
        try:
            return future.result()
        except (UserError, MemoryError):
            return function(batch, options)  # raises the error in this process, without the worker's traceback

    remaining = iter(batches)
    try:
        ready = _start_workers(executor)
        # A worker takes about 0.3 seconds to start: this process goes ahead in the meantime.
        while not _is_done(ready) and (batch := next(remaining, None)):
            yield function(batch, options)
        for batch in remaining:
            pending.append((batch, executor.submit(function, batch, options)))
            if len(pending) > 2 * num_workers:
                yield next_result()
        while pending:
            yield next_result()
    finally:
        _end_workers(executor)


def _start_workers(executor: Any) -> Future[int]:  # noqa: ANN401 - joblib has no types
    """Starts all workers, or none. Returns a future that is done when the first one is ready."""
    try:
        with _sigint_blocked():
            ready: Future[int] = executor.submit(os.getpid)
    except OSError:
        # The system has no room for another process. An executor stops its workers only if all of them have started.
        for worker in executor._processes.values():
            worker.terminate()
            worker.join()
        raise
    return ready


def _end_workers(executor: Any) -> None:  # noqa: ANN401 - joblib has no types
    """Ends the workers at once: nothing that they still do is needed.

    The executor's thread would fail, and leave them, if a call was cancelled or not yet handed to them.
    """
    thread = executor._executor_manager_thread
    while thread is not None and thread.is_alive() and not executor._work_ids.empty():
        time.sleep(0.001)
    executor.shutdown(kill_workers=True)


def _is_done(ready: Future[int]) -> bool:
    """Returns whether the first worker is ready, or has failed. Tests replace this function, to wait instead."""
    return ready.done()


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Blocks SIGINT in workers that start in this block, which inherit the mask: Ctrl-C is for the parent alone."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _initialize_worker(parent: int) -> None:
    """Prepares a worker of the process ``parent``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An image makes many small objects and no reference cycles: frequent collections only take time.
    gc.freeze()
    gc.set_threshold(100_000)
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _exit_with(parent: int) -> None:
    """Ends this process when its parent is gone: a killed parent cannot tell its workers to stop."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)
