"""Exported programs as backbones: archives of `torch.export` and ONNX files, whose output is taken as features.

Letters: B images of C channels, H rows and W columns.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fcnet.embed.backbone import Backbone, ImagePreprocessing
from fcnet.runtime.errors import UserError, first_line
from fcnet.runtime.files import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch.export import ExportedProgram

SUFFIXES = (".pt2", ".onnx")
_MAX_BATCH = 2**31  # torch states a greater bound where there is none
_ONNX_TYPES = {"tensor(uint8)": torch.uint8, "tensor(float)": torch.float32}


class Normalization(NamedTuple):
    """The mean and standard deviation of each channel, or of all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def exported_backbone(
    file: Path,
    *,
    normalization: Normalization | None = None,
    size: int | None = None,
    device: torch.device | str = "cpu",
) -> Backbone:
    """Returns an exported program as a backbone.

    Its one input is (B, C, H, W) with one or three channels: uint8 pixels, or float32 values that are normalized here.
    Images are scaled to cover H × W and cropped at the centre, as for a trained model of fcnet.

    Args:
        file: an archive of `torch.export`, ``.pt2``, or an ONNX file, ``.onnx``, which onnxruntime runs.
        normalization: how pixels become float32 values; None for a program that takes uint8 pixels.
        size: H and W, if the program leaves them open.
        device: the device of the network.

    Raises:
        UserError: the file is unreadable, or takes another input, or ``normalization`` or ``size`` is missing or does
            not fit.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    network, given = (_open_pt2 if file.suffix == ".pt2" else _open_onnx)(file, torch.device(device))
    shape = _fix_shape(file, given, size)
    if given.dtype == torch.uint8 and normalization:
        raise UserError(f"--mean and --std must be left out for {file}, which takes uint8 pixels")
    if given.dtype != torch.uint8 and not normalization:
        raise UserError(
            f"--mean and --std are missing for {file}, which takes float32: it gets (x / 255 - mean) / std of the "
            "pixels x; --mean 0 --std 1 gives values from 0 to 1"
        )
    mean, std = normalization or ((), ())
    if len(mean) not in (0, 1, shape[0]) or len(std) not in (0, 1, shape[0]):
        raise UserError(f"--mean and --std must be one number or {shape[0]} for {file}, got {len(mean)} and {len(std)}")
    description = {"name": file.name, "weights": file.name, "sha256": sha256(file)}
    return Backbone(
        network,
        ImagePreprocessing(shape[0], (shape[1], shape[2]), mean, std),
        description,
        device=device,
        batch_range=given.batch_range,
    )


class _Input(NamedTuple):
    """The input that a program takes.

    Attributes:
        shape: C, H and W; None for what it leaves open.
        dtype: uint8 or float32.
        batch_range: the least and the most images.
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype
    batch_range: tuple[int, int | None]


def _fix_shape(file: Path, given: _Input, size: int | None) -> tuple[int, int, int]:
    """Returns (C, H, W)."""
    channels, height, width = given.shape
    if size is not None and any(side not in (None, size) for side in (height, width)):
        raise UserError(f"--size must be left out for {file}, which takes images of {width}×{height} pixels")
    height, width = height or size, width or size
    if height is None or width is None:
        raise UserError(f"--size is missing for {file}, which takes images of any size")
    return channels or 3, height, width


def _check_input(file: Path, shape: Sequence[int | None], dtype: torch.dtype | None, found: str) -> None:
    if len(shape) != 4 or dtype not in _ONNX_TYPES.values() or shape[1] not in (None, 1, 3):
        raise UserError(f"{file} must take uint8 or float32 images (B, C, H, W) with 1 or 3 channels, takes {found}")


def _open_pt2(file: Path, device: torch.device) -> tuple[Callable[[Tensor], Any], _Input]:
    try:
        with file.open("rb") as opened:
            program = torch.export.load(opened)
        module = program.module()
    except Exception as error:  # noqa: BLE001 - torch raises almost anything for a broken archive
        raise UserError(f"{file} must be an archive of torch.export, got: {first_line(error)}") from None
    names = set(program.graph_signature.user_inputs)
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
        raise UserError(f"{file} must take one tensor, takes {len(inputs)} inputs")
    shape = [length if isinstance(length, int) else None for length in inputs[0].shape]
    _check_input(file, shape, inputs[0].dtype, f"{inputs[0].dtype} {tuple(inputs[0].shape)}")
    return module.to(device), _Input(tuple(shape[1:]), inputs[0].dtype, _batch_range(program, inputs[0].shape[0]))


def _batch_range(program: ExportedProgram, batch: int | torch.SymInt) -> tuple[int, int | None]:
    """Returns the least and the most images that a program takes at once."""
    if isinstance(batch, torch.SymInt):
        bounds = program.range_constraints.get(batch.node.expr)
        if bounds is None:
            return 1, None
        return int(bounds.lower), int(bounds.upper) if bounds.upper < _MAX_BATCH else None
    return batch, batch


def _open_onnx(file: Path, device: torch.device) -> tuple[Callable[[Tensor], Any], _Input]:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(f"{file} needs a package that is not installed: pip install onnxruntime")
    import onnxruntime

    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if device.type not in {"cpu", "cuda"} or provider not in onnxruntime.get_available_providers():
        raise UserError(f"the installed onnxruntime does not run on {device}; write --device cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised as well
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
    except Exception as error:  # noqa: BLE001 - its errors share no other base
        raise UserError(f"{file} must be an ONNX file, got: {first_line(error)}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(
            f"{file} must have one input and one output, has {len(inputs)} and {len(outputs)}: "
            f"{', '.join(each.name for each in (*inputs, *outputs))}"
        )
    shape = [length if isinstance(length, int) and length > 0 else None for length in inputs[0].shape]
    _check_input(file, shape, _ONNX_TYPES.get(inputs[0].type), f"{inputs[0].type} {inputs[0].shape}")

    def run(images: Tensor) -> Tensor:
        (output,) = session.run(None, {inputs[0].name: images.cpu().numpy()})
        return torch.from_numpy(output)

    batch_range = (1, None) if shape[0] is None else (shape[0], shape[0])
    return run, _Input(tuple(shape[1:]), _ONNX_TYPES[inputs[0].type], batch_range)
