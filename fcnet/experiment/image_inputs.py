"""Images as callers have them, as the pixels that a classifier takes: paths, PIL images, arrays and tensors.

C channels, H rows and W columns; N images in a stack.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fcnet.data.arrays import advise_pixels
from fcnet.data.decoding.image_decoding import decode_image
from fcnet.data.sources.image_paths import ImageEntry
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

_MODES = {2: "LA", 3: "RGB", 4: "RGBA"}  # of the channels of an array (H, W, C)
_KINDS = "a path, a PIL image, or a uint8 array or tensor"


def iterate_images(images: object, shape: Sequence[int]) -> Iterator[Any]:
    """Iterates over several images, after a check that the argument holds them.

    Args:
        images: a list, another iterable, or a stack of images: an array or a tensor of (N, H, W) or more axes.
        shape: (C, H, W) of the classifier.

    Raises:
        UserError: it is a single image, or nothing that holds images.

    Example:
        >>> iterate_images("digit.png", (1, 8, 8))
        Traceback (most recent call last):
        fcnet.UserError: images must be a list of images, got the path 'digit.png'; pass ['digit.png']
    """
    found = _describe_single(images, shape)
    if found:
        raise UserError(f"images must be a list of images, got {found}")
    try:
        return iter(images)  # type: ignore[call-overload, no-any-return] # torch's datasets iterate by __getitem__
    except TypeError:
        raise UserError(f"images must be a list of images, got {images!r}") from None


def image_name(image: object, index: int) -> str:
    """Returns the name of an item of ``images`` for errors."""
    if isinstance(image, ImageEntry):
        return image.name
    return str(image) if isinstance(image, str | Path) else f"images[{index}]"


def to_pixels(image: Any, index: int, shape: Sequence[int], *, resize: bool) -> Tensor:  # noqa: ANN401 - checked here
    """Returns the pixels of one image.

    Args:
        image: a path; an open PIL image or binary file; the bytes of a file; a uint8 array (H, W), (H, W, C) or
            (C, H, W); a uint8 tensor (C, H, W), or (H, W) for grey images; or an `ImageEntry`.
        index: its place among the images, for errors.
        shape: (C, H, W) of the classifier. Files, PIL images and arrays get its channels.
        resize: whether files, PIL images and arrays of another size are resized.

    Returns:
        uint8 (C, H, W).

    Raises:
        UserError: it is not an image, or does not fit.
    """
    name, content = image_name(image, index), image.content if isinstance(image, ImageEntry) else image
    if isinstance(content, UserError):
        raise content
    if isinstance(content, Tensor):
        return _check_tensor(content, name, shape)
    if isinstance(content, np.ndarray):
        content = _open_array(content, name, shape)
    elif isinstance(content, str):
        content = Path(content)
    elif isinstance(content, bytes):
        content = io.BytesIO(content)
    elif not (isinstance(content, Path) or hasattr(content, "read") or hasattr(content, "convert")):
        pair = "; for pairs (image, label) pass [image for image, label in images]"
        found = f"a {type(content).__name__}{pair if isinstance(content, tuple | list) else ''}"
        raise UserError(f"{name} must be {_KINDS}, got {found}")
    size = (shape[1], shape[2]) if resize else None
    pixels = torch.from_numpy(decode_image(content, shape[0], name, size))
    if tuple(pixels.shape) != tuple(shape):
        (_, height, width), (_, own_height, own_width) = shape, pixels.shape
        raise UserError(
            f"{name} must be {width}×{height} pixels like the training images, got {own_width}×{own_height}; "
            "a model trained with data.size resizes its images"
        )
    return pixels


def _describe_single(images: object, shape: Sequence[int]) -> str:
    """Describes a single image with what to pass instead, or returns nothing for several images."""
    if isinstance(images, str | Path):
        if Path(images).is_dir():
            return f"the folder {str(images)!r}; pass fcnet.data.sources.image_paths.iter_images([{str(images)!r}])"
        return f"the path {str(images)!r}; pass [{str(images)!r}]"
    if isinstance(images, Tensor) or (isinstance(images, np.ndarray) and images.dtype.kind in "biuf"):
        kind = "tensor" if isinstance(images, Tensor) else "array"
        if _is_single(tuple(images.shape), shape):
            return f"one image, a{'n' * (kind == 'array')} {kind} of the shape {tuple(images.shape)}; pass [image]"
        return ""
    if isinstance(images, bytes) or hasattr(images, "read") or hasattr(images, "convert"):
        return f"one image of the type {type(images).__name__}; pass [image]"
    return "a dict; pass its values" if isinstance(images, dict) else ""


def _is_single(array_shape: tuple[int, ...], shape: Sequence[int]) -> bool:
    """Returns whether an array is one image and not a stack of images."""
    if len(array_shape) != 3:
        return len(array_shape) < 3
    if array_shape == tuple(shape):
        return shape[0] > 1  # (1, H, W) is also a stack of one image
    if array_shape[1:] == tuple(shape[1:]):
        return False
    return array_shape[-1] in (1, *_MODES)


def _check_tensor(pixels: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    if pixels.ndim == 2 and shape[0] == 1:
        pixels = pixels[None]
    if tuple(pixels.shape) != tuple(shape):
        advice = "; permute(2, 0, 1) moves the channels" if tuple(pixels.shape) == (*shape[1:], shape[0]) else ""
        raise UserError(f"{name} must have the shape {tuple(shape)} (C, H, W), got {tuple(pixels.shape)}{advice}")
    if pixels.dtype != torch.uint8:
        raise UserError(f"{name} must be uint8, got {pixels.dtype}{advise_pixels(pixels)}")
    return pixels


def _open_array(array: np.ndarray[Any, Any], name: str, shape: Sequence[int]) -> Image.Image:
    """Returns an array (H, W), (H, W, C) or (C, H, W) as a PIL image, which is decoded like one from a file."""
    from PIL import Image

    if array.dtype != np.uint8:
        raise UserError(f"{name} must be uint8, got {array.dtype}{advise_pixels(array)}")
    if array.ndim == 3 and (array.shape == tuple(shape) or _has_channels_first(array.shape)):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _MODES)):
        raise UserError(f"{name} must be an array (H, W), (H, W, C) or (C, H, W), got the shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))


def _has_channels_first(array_shape: tuple[int, ...]) -> bool:
    channels = (1, *_MODES)
    return array_shape[0] in channels and array_shape[2] not in channels
