"""Communication between the processes that train one model together.

Each process, a rank, holds a contiguous slice of every global batch. Sums over the batch become sums over ranks, so
the loss, the batch-norm statistics and the gradients equal those of a single process. In a single process every
function here returns at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fcnet.runtime import signals
from fcnet.runtime.errors import UserError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if dist.is_available():
    # This module binds the process group as a default argument when it is first imported, and torch imports it during
    # the first step. Imported by then, it has no group to keep alive: one that outlives `destroy_process_group` has
    # threads that may abort the interpreter as it exits.
    import torch.distributed.nn.functional
    from torch.distributed.distributed_c10d import PrefixStore, Store
    from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")
JOIN_SECONDS = 300.0
"""Time for all ranks to start."""
ANSWER_SECONDS = 45.0
"""Time for another rank to take part in a sum or an exchange, which all ranks reach at about the same time."""
_HEARTBEAT_SECONDS = 1.0
"""Time between two heartbeats of a rank in long work."""
_POLL_SECONDS = 0.1


class LostRankError(UserError):
    """Another rank ended, or did not answer in time."""


def launched_ranks() -> int:
    """Returns the number of processes that a launcher such as ``torchrun`` started together: 1 without one.

    Raises:
        UserError: the variables that launchers set are incomplete or contradict each other.
    """
    ranks = launch_variable("WORLD_SIZE", default=1)
    if ranks < 1:
        raise UserError(f"WORLD_SIZE must be at least 1, got {ranks}")
    if ranks > 1:
        own = launch_variable("RANK")
        if own >= ranks:
            raise UserError(f"RANK must be less than WORLD_SIZE, {ranks}, got {own}")
        if not os.environ.get("MASTER_ADDR"):
            raise UserError("MASTER_ADDR must be set to the host of rank 0, or start the ranks with torchrun")
        if not 0 < (port := launch_variable("MASTER_PORT")) < 65536:
            raise UserError(f"MASTER_PORT must be from 1 to 65535, got {port}")
    return ranks


def launch_variable(name: str, default: int | None = None) -> int:
    """Returns a number from the environment, which a launcher such as ``torchrun`` sets.

    Raises:
        UserError: it is not a whole number of at least 0, or is missing and has no default.
    """
    text = os.environ.get(name)
    if text is None:
        if default is not None:
            return default
        raise UserError(f"{name} must be set as well as WORLD_SIZE, or start the ranks with torchrun")
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(f"{name} must be a whole number of at least 0, got {text!r}")
    return int(text)


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the group of the processes that a launcher started while the block runs.

    Args:
        device: the device of this rank's tensors.

    Raises:
        UserError: the other ranks did not come within `JOIN_SECONDS`, or cannot be reached.
    """
    own, ranks = launch_variable("RANK"), launched_ranks()
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    problem = f"rank {own} of {ranks} must meet the others at {where} (MASTER_ADDR, MASTER_PORT)"
    try:
        with signals.exit_after(JOIN_SECONDS + ANSWER_SECONDS, f"{problem}: no answer"):
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore("fcnet", _meet(own, ranks)),
                rank=own,
                world_size=ranks,
                timeout=timedelta(seconds=ANSWER_SECONDS),
            )
    except (RuntimeError, OSError) as error:
        raise UserError(f"{problem}: {first_line(error)}") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def _meet(own: int, ranks: int) -> Store:
    """Waits until all ranks have started; returns the store with which they find each other."""
    address = os.environ["MASTER_ADDR"], launch_variable("MASTER_PORT")
    deadline = time.monotonic() + JOIN_SECONDS
    if own > 0:
        # torch's own client logs a stack trace for each attempt.
        while not _is_listening(address):
            _check_deadline(deadline, "rank 0 does not listen there")
    store: Store = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))[0]
    store.set(f"started/{own}", "")
    while missing := _missing_ranks(store, ranks):
        # Rank 0 listens, but counts as started only once all others have come.
        _check_deadline(deadline, f"no rank {', '.join([rank for rank in missing if rank != '0'] or missing)}")
    return store


def _missing_ranks(store: Store, ranks: int) -> list[str]:
    """Returns the ranks that have not started.

    Raises:
        ConnectionError: rank 0, which has the store, has ended.
    """
    try:
        return [str(other) for other in range(ranks) if not store.check([f"started/{other}"])]
    except RuntimeError as error:
        raise ConnectionError("rank 0 has ended") from error


def _is_listening(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=1.0):
        return True
    return False


def _check_deadline(deadline: float, problem: str) -> None:
    """Sleeps for a moment, in which a signal may arrive."""
    if time.monotonic() > deadline:
        raise TimeoutError(f"waited for {JOIN_SECONDS:.0f} s, {problem}")
    time.sleep(_POLL_SECONDS)


def is_first_process() -> bool:
    """Returns whether this is the first process that a launcher started, before it joins the others."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """Returns the number of processes that train together: 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def rank_slice(size: int) -> slice:
    """Returns this rank's rows of a global batch of ``size`` rows: contiguous, and equal among ranks up to one row."""
    ranks, mine = world_size(), rank()
    return slice(size * mine // ranks, size * (mine + 1) // ranks)


def all_reduce(tensor: Tensor) -> Tensor:
    """Sums ``tensor`` over all ranks in place and returns it. Gradients do not flow through the sum."""
    if world_size() > 1:
        with _named_loss():
            dist.all_reduce(tensor)
    return tensor


def start_all_reduce(tensor: Tensor) -> Callable[[], None]:
    """Starts to sum ``tensor`` over all ranks in place.

    Returns:
        A function that waits for the sum. On a GPU it lets later kernels wait, not the host.
    """
    if world_size() == 1:
        return lambda: None
    with _named_loss():
        work = dist.all_reduce(tensor, async_op=True)

    def wait() -> None:
        with _named_loss():
            work.wait()

    return wait


def all_gather_tensor(tensor: Tensor) -> Tensor:
    """Returns the tensors (…) of all ranks, of one shape and dtype, as (ranks, …). Gradients do not flow through it."""
    if world_size() == 1:
        return tensor[None]
    tensors = [torch.empty_like(tensor) for _ in range(world_size())]
    with _named_loss():
        dist.all_gather(tensors, tensor)
    return torch.stack(tensors)


def any_rank(flag: bool) -> bool:  # noqa: FBT001 - it reads as a fact
    """Returns whether ``flag`` is true on any rank; every rank gets the same answer."""
    if world_size() == 1:
        return flag
    return bool(all_reduce(torch.tensor(int(flag))).item())


def broadcast_tensor(tensor: Tensor) -> Tensor:
    """Copies the first rank's tensor to every rank in place and returns it."""
    if world_size() > 1:
        with _named_loss():
            dist.broadcast(tensor, 0)
    return tensor


def broadcast(text: str) -> str:
    """Returns the first rank's text on every rank."""
    if world_size() == 1:
        return text
    texts = [text]
    with _named_loss():
        dist.broadcast_object_list(texts)
    return texts[0]


def all_gather(value: T) -> list[T]:
    """Returns the values of all ranks, in order of rank."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    with _named_loss():
        dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def long_work() -> Iterator[None]:
    """Lets each rank work in the block as long as it needs, and waits at the end until all have finished.

    Meanwhile a thread of each rank exchanges heartbeats with the others, which notice a rank that ends or stops. The
    work itself must not communicate.

    Raises:
        LostRankError: another rank ended, stopped or raised an error.
    """
    if world_size() == 1:
        yield
        return
    finished, failed, errors = threading.Event(), threading.Event(), list[LostRankError]()

    def send_heartbeats() -> None:
        num_working = 1
        try:
            while num_working:
                finished.wait(_HEARTBEAT_SECONDS)
                state = all_reduce(torch.tensor([not finished.is_set(), failed.is_set()], dtype=torch.int64))
                num_working, num_failed = state.tolist()
                if num_failed:
                    raise LostRankError(f"rank {rank()} of {world_size()} stopped: another rank failed")
        except LostRankError as error:
            errors.append(error)

    thread = threading.Thread(target=send_heartbeats, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        failed.set()
        raise
    finally:
        finished.set()
        thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def _named_loss() -> Iterator[None]:
    """Names the error of an exchange in which another rank did not take part."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo/transport" in str(error)):
            raise
        waited = re.search(r"Timed out waiting (\d+)000ms", str(error))
        reason = f"did not answer for {waited[1]} s" if waited else "ended"
        raise LostRankError(f"rank {rank()} of {world_size()} stopped: another rank {reason}") from error
