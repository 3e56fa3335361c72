"""How much memory a training step needs, how much is free, and which setting makes the one fit the other.

B examples, n[l] units in layer l, P parameters.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_BYTES_PER_FLOAT = 4
_FLOATS_PER_UNIT = {"identity": 2, "relu": 4, "leaky_relu": 5, "elu": 6, "sigmoid": 6, "gelu": 7}
_FLOATS_PER_CLASS = 4
_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryEstimate:
    """What a training needs, by what it grows with.

    Attributes:
        num_parameters: P.
        parameter_bytes: of the parameters, their gradients and what the optimizer keeps of each.
        bytes_per_image: of an image on its way through a step.
        num_images: how many of them a step takes in this process.
        data_bytes: of the images that lie on the device.
    """

    num_parameters: int
    parameter_bytes: int
    bytes_per_image: int
    num_images: int
    data_bytes: int = 0

    @property
    def step_bytes(self) -> int:
        """All that is held at the height of a step."""
        return self.data_bytes + self.parameter_bytes + self.num_images * self.bytes_per_image

    def check_parameters(self, free_bytes: int) -> None:
        """Refuses a network that cannot fit by its parameters alone.

        Raises:
            fcnet.UserError: it names the setting to lower.

        Example:
            >>> MemoryEstimate(10**9, 16 * 10**9, 1, 8).check_parameters(2**33)
            Traceback (most recent call last):
            fcnet.UserError: memory: lower model.hidden: its 1e+09 parameters need 14.9 GiB and 8.0 GiB are free
        """
        if self.parameter_bytes > free_bytes:
            raise UserError(
                f"memory: lower model.hidden: its {self.num_parameters:.2g} parameters need {_gib(self.parameter_bytes)}"
                f" and {_gib(free_bytes)} are free"
            )

    def out_of_memory_message(self, free_bytes: int, *, batch_size: int, ranks: int = 1) -> str:
        r"""What to say when a step has found no memory.

        Args:
            free_bytes: what was free before the training began.
            batch_size: as it is set, for all processes together; it may be more than there are images.
            ranks: the number of processes.

        Example:
            >>> said = MemoryEstimate(10**6, 16 * 10**6, 10**6, 65536).out_of_memory_message(2**34, batch_size=65536)
            >>> print(said.replace("; ", ";\n"))
            memory: a step needs about 61.1 GiB and 16.0 GiB are free;
            lower train.batch_size from 65536 to 8192, or raise train.accumulate
        """
        needs = f"memory: a step needs about {_gib(self.step_bytes)} and {_gib(free_bytes)} are free"
        room = int(0.9 * free_bytes) - self.data_bytes - self.parameter_bytes
        fitting = min(room // self.bytes_per_image, self.num_images // 2)
        if fitting < 1:
            share = _gib(self.parameter_bytes)
            return f"{needs}; lower model.hidden: its {self.num_parameters:.2g} parameters need {share}"
        fitting = 2 ** ((fitting * ranks).bit_length() - 1)
        return f"{needs}; lower train.batch_size from {batch_size} to {fitting}, or raise train.accumulate"


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
) -> MemoryEstimate:
    """What a dense network's training needs, estimated from its widths.

    Of each parameter there are itself, its gradient and the optimizer's moments. Of each image there are
    its values, twice at the turn of an epoch, and numbers of each unit: z, a, what goes back through them
    and what is laid aside meanwhile, which depends on g. How many was measured; it is right within a
    factor of two.

    Args:
        widths: n[0], …, n[L].
        num_images: in this process's part of a batch.
        activation: g of the hidden layers.
        normalization: of the hidden layers.
        dropout: whether hidden units are dropped.
        moments: how many numbers the optimizer keeps of each parameter: AdamW 2, SGD with momentum 1.
        num_pixels: values of an image as it is read, where they are whitened to n[0]; 0: they are not.
        data_bytes: of the images that lie on the device.

    Returns:
        The need of a step in float32.
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
    )


def free_bytes(device: torch.device) -> int | None:
    """How many bytes this process may still take on a device, None where nobody tells.

    On Linux's processors it is what is available without pushing anything out, and no more than what the
    process and its group may take.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    import resource

    kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE))
    free = 1024 * (int(kilobytes["MemAvailable"]) + int(kilobytes.get("SwapFree", 0)))
    limit, used, facts = (_CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if limit.is_file() and (text := limit.read_text().strip()).isdigit() and used.is_file():
        cached = re.search(r"^inactive_file (\d+)$", facts.read_text() if facts.is_file() else "", re.MULTILINE)
        free = min(free, int(text) - int(used.read_text()) + int(cached[1] if cached else 0))
    if (addresses := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        free = min(free, addresses - int(_STATM.read_text().split()[0]) * resource.getpagesize())
    return max(free, 0)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short; on the processor only torch's words tell."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(
        re.search("allocate memory|Storage size", str(error))
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes < 2**50 else f"{num_bytes / 2**30:.2g} GiB"
