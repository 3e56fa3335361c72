"""Memory that training needs, memory that is free, and the setting to lower if the one exceeds the other.

n[l] is the number of units in layer l, P the number of parameters.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import GPU_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BYTES_PER_FLOAT = 4
# Floats alive at the peak of a step, for each example and unit of a hidden layer, by activation, and for each example
# and class of the last layer: z, a, their gradients, and temporaries. Measured.
_FLOATS_PER_UNIT = {"identity": 2, "relu": 4, "leaky_relu": 5, "elu": 6, "sigmoid": 6, "gelu": 7}
_FLOATS_PER_CLASS = 4
_ADVICE = {
    "reading the data": "lower data.size or data.shape, or choose fewer data.classes",
    "fitting the whitening": "lower data.whiten or data.size",
    "building the network": "lower model.hidden",
    "making a training step": "lower train.batch_size or model.hidden, or raise train.accumulate",
    "taking a diagnostics snapshot": "lower model.hidden, or set train.diagnostics_every = 0",
    "evaluating the model": "lower model.hidden (train.batch_size does not matter here)",
    "saving the run": "lower model.hidden",
    "loading the model": "free memory for this command, or choose another device",
    "predicting": "lower --batch-size",
    "embedding images": "lower --batch-size or --size",
    "fitting the regressions": "choose fewer --Cs, or another device",
    "writing the report": "free memory for this command",
}
"""What to do if memory runs out while a command does one of these."""
_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of a training run, split by what it grows with.

    Attributes:
        num_parameters: P.
        parameter_bytes: bytes of the parameters, their gradients and the optimizer's state.
        bytes_per_image: bytes of one image and its activations during a step.
        num_images: images in this process's slice of a batch.
        data_bytes: bytes of the images stored on the device.
        remedy: what makes the network smaller.
        min_images: the number of images that a step must have: two with batch normalization.
    """

    num_parameters: int
    parameter_bytes: int
    bytes_per_image: int
    num_images: int
    data_bytes: int = 0
    remedy: str = "lower model.hidden"
    min_images: int = 1

    @property
    def step_bytes(self) -> int:
        """Bytes held at the peak of a step."""
        return self.data_bytes + self.parameter_bytes + self.num_images * self.bytes_per_image

    def check_parameters(self, free_bytes: int) -> None:
        """Raises an error if the parameters alone do not fit.

        Args:
            free_bytes: bytes that are free.

        Raises:
            fcnet.UserError: the parameters do not fit; the message names the setting to lower.

        Example:
            >>> MemoryEstimate(10**9, 16 * 10**9, 1, 8).check_parameters(2**33)
            Traceback (most recent call last):
            fcnet.UserError: out of memory: 1e+09 parameters need 14.9 GiB and 8.0 GiB are free; lower model.hidden
        """
        if self.parameter_bytes > free_bytes:
            raise UserError(
                f"out of memory: {self.num_parameters:.2g} parameters need {_gib(self.parameter_bytes)} and "
                f"{_gib(free_bytes)} are free; {self.remedy}"
            )

    def out_of_memory_message(self, free_bytes: int, *, batch_size: int, ranks: int = 1) -> str:
        r"""Returns the error message for a step that ran out of memory: the need, and the setting to lower.

        Args:
            free_bytes: bytes that were free before training began.
            batch_size: the configured batch size of all processes together; it may exceed the number of images.
            ranks: number of processes.

        Example:
            >>> estimate = MemoryEstimate(10**6, 16 * 10**6, 10**6, 65536)
            >>> print(estimate.out_of_memory_message(2**34, batch_size=65536).replace("; ", ";\n"))
            out of memory: a step needs about 61.1 GiB and 16.0 GiB are free;
            lower train.batch_size from 65536 to 8192, or raise train.accumulate
        """
        need = f"out of memory: a step needs about {_gib(self.step_bytes)} and {_gib(free_bytes)} are free"
        room = int(0.9 * free_bytes) - self.data_bytes - self.parameter_bytes
        # At most half of the batch that failed, which the estimate may have found to fit.
        fitting = min(room // self.bytes_per_image, self.num_images // 2)
        if fitting < self.min_images:
            parameters = f"{self.num_parameters:.2g} parameters need {_gib(self.parameter_bytes)}"
            return f"{need}; {self.remedy} ({parameters})"
        power_of_two = 2 ** ((fitting * ranks).bit_length() - 1)
        return f"{need}; lower train.batch_size from {batch_size} to {power_of_two}, or raise train.accumulate"


def estimate_memory(
    widths: Sequence[int],
    *,
    num_images: int,
    activation: str = "relu",
    normalization: str = "none",
    dropout: bool = False,
    moments: int = 2,
    num_pixels: int = 0,
    data_bytes: int = 0,
    remedy: str = "lower model.hidden",
) -> MemoryEstimate:
    """Estimates the memory to train a dense network in float32, within a factor of two.

    Each parameter takes its value, its gradient and the optimizer's moments. Each image takes its pixels, twice while
    one epoch follows another, and for each unit z, a, their gradients and some temporaries. The number of temporaries
    depends on the activation.

    Args:
        widths: n[0], …, n[L].
        num_images: images in this process's slice of a batch.
        activation: activation of the hidden layers.
        normalization: normalization of the hidden layers.
        dropout: whether the hidden layers have dropout.
        moments: numbers that the optimizer stores for each parameter: AdamW 2, SGD with momentum 1.
        num_pixels: pixels of an image that whitening reduces to n[0] inputs; 0 without whitening.
        data_bytes: bytes of the images stored on the device.
        remedy: what makes the network smaller, for the error message.
    """
    hidden = sum(widths[1:-1])
    vectors = (2 if normalization != "none" else 1) * hidden + widths[-1]
    num_parameters = sum(before * width for before, width in itertools.pairwise(widths)) + vectors
    floats_per_unit = _FLOATS_PER_UNIT[activation] + 2 * (normalization != "none") + 2 * dropout
    values = num_pixels or widths[0]
    floats = 2 * values + (widths[0] if num_pixels else 0) + floats_per_unit * hidden + _FLOATS_PER_CLASS * widths[-1]
    return MemoryEstimate(
        num_parameters,
        num_parameters * _BYTES_PER_FLOAT * (2 + moments),
        floats * _BYTES_PER_FLOAT + values,
        num_images,
        data_bytes,
        remedy,
        min_images=2 if normalization == "batch" else 1,
    )


def free_bytes(device: torch.device) -> int | None:
    """Returns the bytes that this process can still allocate on a device, or None if the system does not tell.

    For the CPU (on Linux) this is the available memory and swap, limited by the control group and by the process's
    address space.
    """
    if device.type in GPU_TYPES:
        module = torch.get_device_module(device)
        free, _ = module.mem_get_info(device)
        # The allocator keeps blocks that no tensor uses any more.
        return int(free + module.memory_reserved(device) - module.memory_allocated(device))
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    import resource

    kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE))
    free = 1024 * (int(kilobytes["MemAvailable"]) + int(kilobytes.get("SwapFree", 0)))
    limit, used, stat = (_CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if limit.is_file() and (text := limit.read_text().strip()).isdigit() and used.is_file():
        cached = re.search(r"^inactive_file (\d+)$", stat.read_text() if stat.is_file() else "", re.MULTILINE)
        free = min(free, int(text) - int(used.read_text()) + int(cached[1] if cached else 0))
    if (addresses := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        free = min(free, addresses - int(_STATM.read_text().split()[0]) * resource.getpagesize())
    return max(free, 0)


@contextlib.contextmanager
def phase(doing: str) -> Iterator[None]:
    """Notes what was being done on an error of memory or of the system, for `describe_phase`. The innermost counts.

    Args:
        doing: what the block does, one of the keys of the table of advice.

    Example:
        >>> try:
        ...     with phase("evaluating the model"):
        ...         raise MemoryError
        ... except MemoryError as error:
        ...     print(describe_out_of_memory(error))
        out of memory while evaluating the model; lower model.hidden (train.batch_size does not matter here)
    """
    assert doing in _ADVICE
    try:
        yield
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        error.add_note(f"while {doing}")
        raise


def describe_phase(error: Exception) -> str:
    """Returns ``" while DOING"`` for an error from a `phase`, else an empty text."""
    return next((f" {note}" for note in getattr(error, "__notes__", []) if note[6:] in _ADVICE), "")


def describe_out_of_memory(error: Exception) -> str:
    """Returns the error message for a lack of memory: when, and the setting to lower."""
    when = describe_phase(error)
    return f"out of memory{when}; {_ADVICE.get(when[7:], 'free memory for this command, or choose another device')}"


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error means that memory ran out."""
    # On the CPU torch raises a plain RuntimeError, the loader of libraries an ImportError, and an interpreter without
    # memory for a call a SystemError: only the message tells.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(
        re.search("allocate memory|Storage size|failed to map segment|return without exception set", str(error))
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes < 2**50 else f"{num_bytes / 2**30:.2g} GiB"
