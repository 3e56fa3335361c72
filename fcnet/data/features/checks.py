"""Arrays of features, and of their names, checked number by number."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fcnet.data.sources.array_labels import TEXT_KINDS
from fcnet.data.sources.source import iter_slices
from fcnet.data.store.image_names import ImageNames, encode_names
from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import num_processors

if TYPE_CHECKING:
    import numpy.typing as npt

    from fcnet.data.features.named_arrays import NamedArrays

FEATURE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_features(arrays: NamedArrays, name: str) -> Tensor:
    """Reads or maps features (N, D), and checks their shape and dtype.

    Raises:
        UserError: the array is something else.
    """
    x = arrays.read(name)
    where = f"{arrays.label(name)} in {arrays.path}"
    if x.ndim != 2:
        advice = "; flatten each example, x.reshape(len(x), -1)" if x.ndim > 2 else ""
        if x.ndim in (3, 4) and x.dtype in (np.uint8, torch.uint8):
            advice = '; for images set data.source = "arrays"'
        raise UserError(f"{where} must be features (N, D), got the shape {tuple(x.shape)}{advice}")
    if not isinstance(x, Tensor) or x.dtype not in FEATURE_DTYPES:
        raise UserError(
            f"{where} must be float16, bfloat16, float32 or float64, got {str(x.dtype).removeprefix('torch.')}"
            f"{_describe_conversion(x)}"
        )
    if not x.numel():
        raise UserError(f"{where} must hold at least one example and one feature, got the shape {tuple(x.shape)}")
    return x


def _describe_conversion(x: Tensor | npt.NDArray[Any]) -> str:
    """Returns the end of the error of features of another dtype: how to convert them."""
    if str(x.dtype) in ("|V2", "bfloat16"):
        return "; NumPy's files have no bfloat16, save a .safetensors file"
    is_number = isinstance(x, Tensor) or x.dtype.kind in "biuf"
    return '; save x.astype("float32")' if is_number else ""


def read_text(arrays: NamedArrays, name: str, num: int | None = None) -> npt.NDArray[Any]:
    """Reads an array of text (N,), of ``num`` strings unless that is None.

    Raises:
        UserError: the array is something else.
    """
    text = np.asarray(arrays.read(name))
    if text.ndim != 1 or text.dtype.kind not in TEXT_KINDS or len(text) != (len(text) if num is None else num):
        expected = f"({'N' if num is None else f'{num:,}'},) strings"
        raise UserError(f"{arrays.label(name)} in {arrays.path} must be {expected}, got {text.dtype} {text.shape}")
    return text


def read_names(arrays: NamedArrays, name: str, num_examples: int) -> ImageNames | None:
    """Reads the name of each example; None if there is no such array.

    Raises:
        UserError: the array is no text (N,).
    """
    if name not in arrays.readers:
        return None
    names = read_text(arrays, name, num_examples).tolist()
    return ImageNames(
        *encode_names([each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in names])
    )


def scan_features(x: Tensor, where: str) -> bytes:
    """Checks that features are finite, and returns a digest of them, in one pass over the file.

    Raises:
        UserError: a feature is NaN or infinite; the message names the first such row.
    """

    def scan_block(rows: slice) -> bytes:
        block = x[rows].contiguous()
        # The extremes tell without a copy of the block: with a NaN, both are NaN.
        if not all(bound.isfinite() for bound in block.aminmax()):
            row = int((~block.isfinite()).any(1).nonzero()[0])
            found = "NaN" if block[row].isnan().any() else "infinity"
            raise UserError(f"{where} must hold finite numbers, got {found} in row {rows.start + row:,}")
        return hashlib.sha256(block.view(torch.uint8).numpy().data).digest()

    with ThreadPoolExecutor(num_processors()) as pool:
        # Results come in order, so the first broken block raises.
        return b"".join(pool.map(scan_block, iter_slices(len(x), x.shape[1] * x.element_size())))
