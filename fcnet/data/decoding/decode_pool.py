"""Several processes that decode images for one.

Pillow holds the interpreter's lock for most of a small image, so threads would gain nothing. The processes are
started as programs of their own rather than by `multiprocessing`, which would import the caller's main module in each,
torch and all. They are asked and answer through their standard input and output, and end with either: they cannot
outlive the process that started them, whatever becomes of it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from fcnet.data.decoding.decode_batch import DecodedImages, DecodeOptions
from fcnet.data.decoding.decode_worker import receive, send
from fcnet.runtime.hardware import num_processors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future

    from fcnet.data.decoding.decode_batch import ImageFile

    Work = Callable[[Sequence[ImageFile], DecodeOptions], DecodedImages]

_WORTH_SECONDS = 1.0
# The package itself imports torch, which takes seconds; this one stands for it, and has the same modules.
_PROGRAM = """
import sys, types
package = sys.modules["fcnet"] = types.ModuleType("fcnet")
package.__path__ = [sys.argv[1]]
from fcnet.data.decoding.decode_worker import serve
serve()
"""


def parallel_map(work: Work, runs: Sequence[Sequence[ImageFile]], how: DecodeOptions) -> Generator[DecodedImages]:
    """Does the work on each run of images: in this process, and in as many as there are processors once that pays.

    It pays where one process would still be busy for a second or more, judged by the runs that are done.

    Args:
        work: `decode_images` or `detect_grey`.
        runs: the images, some for each piece of work.
        how: what they are to become.

    Yields:
        What became of each run, in their order; the same whoever did it.

    Raises:
        UserError: as the work does, for the first run that it does it for.
    """
    seconds = 0.0
    for done, run in enumerate(runs):
        if done and num_processors() > 1 and seconds / done * (len(runs) - done) > _WORTH_SECONDS:
            yield from _shared(work, runs[done:], how, num_processors())
            return
        started = time.perf_counter()
        rows = work(run, how)
        seconds += time.perf_counter() - started
        yield rows


def _shared(work: Work, runs: Sequence[Sequence[ImageFile]], how: DecodeOptions, count: int) -> Iterator[DecodedImages]:
    pending: deque[tuple[Sequence[ImageFile], Future[DecodedImages | None]]] = deque()

    def finished() -> DecodedImages:
        run, answer = pending.popleft()
        # What no worker could do is done here: so its error is that of one process.
        return answer.result() or work(run, how)

    with _workers(count) as submit:
        for run in runs:
            pending.append((run, submit(work, run, how)))
            if len(pending) > 2 * count:
                yield finished()
        while pending:
            yield finished()


@contextlib.contextmanager
def _workers(
    count: int,
) -> Iterator[Callable[[Work, Sequence[ImageFile], DecodeOptions], Future[DecodedImages | None]]]:
    """So many workers, or fewer where the system gives no more; gone when the block ends.

    Yields:
        A function that has work done: in the end its answer, or None where no worker could do it.
    """
    workers = _started(count)
    free: SimpleQueue[subprocess.Popen[bytes] | None] = SimpleQueue()
    if not workers:
        free.put(None)
    for worker in workers:
        free.put(worker)
    threads = ThreadPoolExecutor(count, thread_name_prefix="decoding")
    try:
        yield lambda work, run, how: threads.submit(_asked, free, work, run, how)
    finally:
        for worker in workers:
            worker.kill()
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            with contextlib.suppress(BrokenPipeError), worker:
                pass


def _started(count: int) -> list[subprocess.Popen[bytes]]:
    """So many workers, or fewer where the system gives no more."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2])]
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    workers: list[subprocess.Popen[bytes]] = []
    with contextlib.suppress(OSError):
        while len(workers) < count:
            pipe = subprocess.PIPE
            # A group of their own: Ctrl-C is for the process that asks.
            workers.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, process_group=0))
    return workers


def _asked(
    free: SimpleQueue[subprocess.Popen[bytes] | None], work: Work, run: Sequence[ImageFile], how: DecodeOptions
) -> DecodedImages | None:
    """A worker's answer, once one is free; None where it could not do the work, or is no more."""
    worker = free.get()
    try:
        if worker is None or worker.stdin is None or worker.stdout is None:
            return None
        files = [(file.name, None if isinstance(file.content, bytes) else file.content, file.stamp) for file in run]
        contents = [file.content for file in run if isinstance(file.content, bytes)]
        send(worker.stdin, {"work": work.__name__, "how": asdict(how), "files": files}, contents)
        answer = receive(worker.stdout)
    except (OSError, ValueError):
        answer = None
    finally:
        free.put(worker)
    if answer is None or not answer[0]["done"]:
        return None
    facts, (data,) = answer
    return DecodedImages(data, tuple((place, reason) for place, reason in facts["skipped"]))
