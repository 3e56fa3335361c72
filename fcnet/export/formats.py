"""Exports a trained model as a ``torch.export`` archive or as ONNX: uint8 pixels in, class probabilities out.

A model of features takes float32 features instead. The file includes normalisation and whitening, and running it does
not need fcnet. Letters: B images of C channels, H rows and W columns, or B vectors of D features.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from functools import partial
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.models.mlp import logits_to_probabilities
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import atomic_write
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch.export import ExportedProgram

    from fcnet.experiment.image_classifier import ImageClassifier

SUFFIXES = (".pt2", ".onnx")
METADATA_FILE = "fcnet.json"
"""The name of the metadata within a ``.pt2`` archive."""
_MAX_ONNX_BYTES = 2**31 - 2**20
"""A protobuf message holds at most 2 GiB; this leaves room for the graph."""
_FIRST_OPSET, _LAST_OPSET = 18, 23
"""The opsets that every supported version of torch exports."""
_NUM_CHECKED_IMAGES = 16
_MAX_DIFFERENCE = 1e-2
"""Rounding cannot explain a larger difference between probabilities."""


class ExportedModule(nn.Module):
    """Maps inputs to probabilities: a copy of a classifier on the CPU, in evaluation mode, without gradients.

    Args:
        classifier: the trained model; it does not change.
    """

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier).cpu().eval().requires_grad_(requires_grad=False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Computes probabilities, uint8 (B, C, H, W) or float32 (B, D) -> float32 (B, number of classes)."""
        return logits_to_probabilities(self.classifier(pixels))


def check_output_file(file: Path, opset: int | None = None) -> None:
    """Checks that an export to ``file`` is possible, before any work is done.

    Args:
        file: the output file.
        opset: the ONNX opset, or None for torch's default.

    Raises:
        UserError: the suffix is neither ``.pt2`` nor ``.onnx``, the folder does not exist, the path is a folder, a
            required package is not installed, or the opset is not supported.
    """
    if file.suffix not in SUFFIXES:
        raise UserError(f"FILE must end in {' or '.join(SUFFIXES)}, got {file}")
    if file.is_dir():
        raise UserError(f"FILE must be a file, got the folder {file}")
    if not file.parent.is_dir():
        raise UserError(f"FILE must be in an existing folder, got {file}")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if file.suffix == ".onnx" and missing:
        raise UserError(f"ONNX export needs packages that are not installed: pip install {' '.join(missing)}")
    if opset is not None:
        _check_opset(file, opset)


def _check_opset(file: Path, opset: int) -> None:
    if file.suffix != ".onnx":
        raise UserError(f"--opset must be left out for a {file.suffix} file, got {opset}")
    from onnx import defs

    # Below the first, torch's exporter writes another opset than it was asked for; an older onnx may know fewer.
    most = min(_LAST_OPSET, defs.onnx_opset_version())
    if isinstance(opset, bool) or not isinstance(opset, int) or not _FIRST_OPSET <= opset <= most:
        raise UserError(f"--opset must be an integer from {_FIRST_OPSET} to {most}, got {opset!r}")


def read_opset(file: Path) -> int:
    """Returns the opset of an ONNX file."""
    import onnx

    version: int = next(entry.version for entry in onnx.load(file).opset_import if not entry.domain)
    return version


def export_classifier(classifier: ImageClassifier, file: Path, opset: int | None = None) -> float:
    """Exports a trained model, as a ``torch.export`` archive or as ONNX by the file's suffix.

    Both formats take ``pixels``, uint8 (B, C, H, W) for any B, or ``features``, float32 (B, D), and return
    ``probabilities``, float32 (B, number of classes). Both contain the class names, the input shape and the version of
    fcnet as JSON: in ``.pt2`` files, `torch.export.load` puts them into ``extra_files["fcnet.json"]``; in ONNX files,
    they are ``metadata_props``. The new file is read back and run before it replaces an older one.

    Args:
        classifier: the trained model; it does not change.
        file: a path that ends in ``.pt2`` or ``.onnx``.
        opset: the ONNX opset, from 18 to 23: the version of the operators, for a runtime that does not know the newest;
            None takes torch's default.

    Returns:
        The largest difference between the file's probabilities and the model's over 16 random images.

    Raises:
        UserError: as for `check_output_file`, or the model is too large for an ONNX file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fcnet.models.mlp import MLP
        >>> from fcnet.experiment.image_classifier import ImageClassifier
        >>> half = torch.full((1,), 0.5)
        >>> classifier = ImageClassifier(MLP(4, (3,), 3), classes=("a", "b", "c"), shape=(1, 2, 2), mean=half, std=half)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     difference = export_classifier(classifier, Path(folder) / "small.pt2")
        ...     model = torch.export.load(Path(folder) / "small.pt2").module()
        >>> difference < 1e-5, model(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)).shape
        (True, torch.Size([5, 3]))
    """
    check_output_file(file, opset)
    num_bytes = sum(tensor.nbytes for tensor in classifier.state_dict().values())
    if file.suffix == ".onnx" and num_bytes > _MAX_ONNX_BYTES:
        raise UserError(f"an ONNX model must be smaller than 2 GiB, got {num_bytes / 2**30:.1f} GiB; use .pt2 instead")
    write: Callable[[ExportedProgram, dict[str, Any], IO[bytes]], None]
    write, run = _write_pt2, _run_pt2
    if file.suffix == ".onnx":
        write, run = partial(_write_onnx, name=input_name(classifier), opset=opset), _run_onnx
    module = ExportedModule(classifier)
    pixels = _random_inputs(classifier)
    program = torch.export.export(module, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch", min=0)},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it contains paths of this machine
    metadata = {"classes": list(classifier.classes), "input_shape": list(classifier.shape), "fcnet": version("fcnet")}
    with atomic_write(file) as temporary:
        with temporary.open("wb") as opened:
            write(program, metadata, opened)
        assert opset is None or read_opset(temporary) == opset, f"the exporter wrote another opset than {opset}"
        difference: float = (run(temporary, pixels) - module(pixels)).abs().max().item()
        assert difference < _MAX_DIFFERENCE, f"{file} differs from the model by {difference}"
    return difference


def input_name(classifier: ImageClassifier) -> str:
    """Returns what an exported file calls its input: ``pixels``, or ``features``."""
    return "features" if classifier.takes_features else "pixels"


def _random_inputs(classifier: ImageClassifier) -> Tensor:
    shape, random = (_NUM_CHECKED_IMAGES, *classifier.shape), generator(0, "export")
    if classifier.takes_features:
        return torch.randn(shape, generator=random) * classifier.std.cpu() + classifier.mean.cpu()
    return torch.randint(256, shape, dtype=torch.uint8, generator=random)


def _write_pt2(program: ExportedProgram, metadata: dict[str, Any], file: IO[bytes]) -> None:
    torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(metadata)})


def _run_pt2(file: Path, pixels: Tensor) -> Tensor:
    with file.open("rb") as opened:
        result: Tensor = torch.export.load(opened).module()(pixels)
    return result


def _write_onnx(
    program: ExportedProgram, metadata: dict[str, Any], file: IO[bytes], *, name: str, opset: int | None = None
) -> None:
    onnx_program = torch.onnx.export(
        program,
        input_names=[name],
        output_names=["probabilities"],
        dynamic_shapes=({0: "batch"},),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert onnx_program is not None
    model = onnx_program.model_proto
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    file.write(model.SerializeToString())


def _run_onnx(file: Path, pixels: Tensor) -> Tensor:
    """Runs an ONNX file with ONNX's reference evaluator, which is independent of the exporter."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    onnx.checker.check_model(file, full_check=True)
    evaluator = ReferenceEvaluator(str(file))
    (result,) = evaluator.run(["probabilities"], {evaluator.input_names[0]: pixels.numpy()})
    return torch.from_numpy(result)
