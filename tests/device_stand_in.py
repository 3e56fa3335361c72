"""A device that no machine needs to have: tensors on ``meta``, watched by two modes of torch.

Tensors on ``meta`` have shapes and dtypes but no values, so that a training runs there as it would on a GPU, kernel for
kernel, without computing anything. A dispatch mode sees each operation and refuses what a GPU would pay for: a wait for
a value, a copy between host and device, and operands on both. `torch.tensor` with a device copies below the dispatcher,
so a function mode watches the functions that make tensors from Python numbers.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim import optimizer as fused
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fcnet.data.batches import Batches
from fcnet.training import backpropagation, dropout_seeds, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

DEVICE = torch.device("meta")

_ROOT = Path(__file__).parents[1]
_SOURCES = (str(_ROOT / "fcnet"), str(_ROOT / "tests"))
_WAITS = {
    *("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
    *("_linalg_eigh", "linalg_eig", "linalg_cholesky_ex", "linalg_inv_ex", "_linalg_svd"),
}
"""Operations whose result, its shape, or an error that they check, the host reads from the device."""
_INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
_COPIES = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"}
_FROM_NUMBERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
_PRODUCTS = {torch.nn.functional.linear, torch.addmm, torch.mm, torch.matmul, Tensor.matmul, Tensor.__matmul__}


class DeviceFaultError(AssertionError):
    """A wait, a copy or a mixture of devices where there must be none."""


class StandIn(TorchDispatchMode):
    """Watches the operations on the stand-in device.

    Waits and copies raise `DeviceFaultError`, but inside of `permit` they are counted and answered: a number is 0, a
    flag is true, a mask selects nothing. Operands on both devices always raise.

    Attributes:
        waits: a line for each permitted wait, with its place.
        copies: a line for each permitted copy from the host to the device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []
        self.copies: list[str] = []
        self._permits = 0

    @contextlib.contextmanager
    def permit(self) -> Iterator[None]:
        """Permits waits and copies for the duration of the block."""
        self._permits += 1
        try:
            yield
        finally:
            self._permits -= 1

    def record(self, kind: str, what: str) -> None:
        """Adds a wait or a copy, or raises where it is not permitted."""
        line = f"{what} at {_place()}"
        if not self._permits:
            raise DeviceFaultError(f"{'waits for the device' if kind == 'waits' else 'copies to the device'}: {line}")
        getattr(self, kind).append(line)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if name in _COPIES:
            return self._copy(func, name, args, kwargs)
        if DEVICE.type not in devices:
            return func(*args, **kwargs)
        if len(devices) > 1:
            raise DeviceFaultError(f"operands on host and device: {name} at {_place()}")
        if name in _WAITS or (name in _INDEXING and _has_mask(args[1])):
            self.record("waits", name)
            return _answer(func, name, args, kwargs)
        if name.startswith("_fused_"):
            return None  # in place, and there is no kernel for this device
        return func(*args, **kwargs)

    def _copy(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source = args[0] if name == "_to_copy" else args[1]
        target = torch.device(kwargs.get("device") or source.device) if name == "_to_copy" else args[0].device
        if source.device.type == target.type:
            return func(*args, **kwargs)
        if target.type == DEVICE.type:
            self.record("copies", name)
            return func(*args, **kwargs)
        self.record("waits", name)
        fill = torch.ones if source.dtype == torch.bool else torch.zeros
        values = fill(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        return values if name == "_to_copy" else args[0].copy_(values)


class _NumberWatch(TorchFunctionMode):
    """Records the tensors that are made on the device from numbers of the host, and stands in for autocast."""

    def __init__(self, stand_in: StandIn) -> None:
        super().__init__()
        self._stand_in = stand_in
        self.dtype: torch.dtype | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FROM_NUMBERS:
            source = args[0] if args else kwargs.get("data")
            on_device = isinstance(source, Tensor) and source.device == DEVICE
            default = DEVICE if func is Tensor.new_tensor and on_device else "cpu"
            from_host = func is Tensor.new_tensor or not on_device
            if from_host and torch.device(kwargs.get("device") or default) == DEVICE:
                self._stand_in.record("copies", func.__name__)
        if self.dtype is not None and func in _PRODUCTS:
            args = tuple(_cast(value, self.dtype) for value in args)
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def autocast(self, dtype: torch.dtype) -> Iterator[None]:
        """Computes matrix products in a dtype, as `torch.autocast` would if it knew the device."""
        before, self.dtype = self.dtype, dtype if dtype != torch.float32 else None
        try:
            yield
        finally:
            self.dtype = before


@contextlib.contextmanager
def stand_in_device() -> Iterator[StandIn]:
    """Watches all work on ``meta`` for the duration of the block.

    The plan of an epoch is drawn on the host, so its copy to the device is permitted. ``meta`` has no generator and no
    autocast of its own: dropout draws from a generator of the host, and a function mode casts the operands of products.
    torch's fused optimizers take its parameters.
    """
    stand_in = StandIn()
    numbers = _NumberWatch(stand_in)
    plan_epoch = Batches.plan_epoch

    def permitted_plan(batches: Batches, *args: Any, **kwargs: Any) -> Any:
        with stand_in.permit():
            return plan_epoch(batches, *args, **kwargs)

    def autocast(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[None]:
        assert device == DEVICE
        return numbers.autocast(dtype)

    def is_autocast_enabled(device_type: str) -> bool:
        return device_type == DEVICE.type and numbers.dtype is not None

    generators = SimpleNamespace(Generator=lambda device: torch.Generator())
    with (
        mock.patch.object(Batches, "plan_epoch", permitted_plan),
        mock.patch.object(dropout_seeds, "torch", generators),
        mock.patch.object(backpropagation, "autocast", autocast),
        mock.patch.object(state, "autocast", autocast),
        mock.patch.object(torch, "is_autocast_enabled", is_autocast_enabled),
        mock.patch.object(fused, "_get_fused_kernels_supported_devices", return_value=[DEVICE.type]),
        stand_in,
        numbers,
    ):
        yield stand_in


def _has_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _answer(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns what a device without values answers: 0, true for a flag, and nothing for a selection."""
    first: Tensor = args[0]
    if name == "_local_scalar_dense":
        return True if first.dtype == torch.bool else 0.0 if first.is_floating_point() else 0
    if name == "nonzero":
        return first.new_empty((0, first.ndim), dtype=torch.int64)
    if name == "bincount":
        return first.new_empty(kwargs.get("minlength", args[2] if len(args) > 2 else 0))
    if name in {"index", "_unsafe_index"}:
        mask = next(index for index in args[1] if index is not None)
        return first.new_empty((0, *first.shape[mask.ndim :]))
    return func(*args, **kwargs)


def _place() -> str:
    """Returns the file and line of the package or of the tests that started an operation."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_SOURCES) and file != __file__:
            return f"{Path(file).relative_to(_ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown place"
