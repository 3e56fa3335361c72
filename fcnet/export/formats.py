"""A finished network as one file that other programs run: uint8 pixels go in, class probabilities come out.

B images of C channels, H rows and W columns. The file holds the normalisation and the whitening, so whoever runs it
needs neither fcnet nor a word about how it was trained.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.models.mlp import logits_to_probabilities
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import atomic_write
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from pathlib import Path

    from torch.export import ExportedProgram

    from fcnet.experiment.image_classifier import ImageClassifier

SUFFIXES = (".pt2", ".onnx")
METADATA_FILE = "fcnet.json"
"""The name under which a ``.pt2`` file keeps what it says of itself."""
_MAX_ONNX_BYTES = 2**31 - 2**20
"""What one ONNX file can hold, by the format it is written in, with room for the graph."""
_NUM_CHECKED_IMAGES = 16
_MAX_DIFFERENCE = 1e-2
"""A difference between probabilities that no rounding explains."""


class ExportedModule(nn.Module):
    """Pixels -> probabilities, with nothing to be learnt or chosen any more.

    Args:
        classifier: what is to be carried elsewhere; a copy of it is, on the CPU and in evaluation mode.
    """

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier).cpu().eval().requires_grad_(requires_grad=False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Uint8 (B, C, H, W) -> float32 (B, number of classes)."""
        return logits_to_probabilities(self.classifier(pixels))


def check_output_file(file: Path) -> None:
    """Refuses a file that cannot be written, before anything is.

    Raises:
        UserError: its ending is neither ``.pt2`` nor ``.onnx``, its folder is not there, it is a folder itself, or
            the packages that it takes are not installed.
    """
    if file.suffix not in SUFFIXES:
        raise UserError(f"FILE must end in {' or '.join(SUFFIXES)}, got {file}")
    if file.is_dir():
        raise UserError(f"FILE must be a file, got the folder {file}")
    if not file.parent.is_dir():
        raise UserError(f"FILE must be in a folder that is there, got {file}")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if file.suffix == ".onnx" and missing:
        raise UserError(f"{file} takes packages that are not installed here: pip install {' '.join(missing)}")


def export_classifier(classifier: ImageClassifier, file: Path) -> float:
    """Writes a network for other programs: by the ending a ``torch.export`` archive or an ONNX model.

    Both take ``pixels``, uint8 (B, C, H, W) with any B, and give ``probabilities``, float32 (B, number of classes).
    Both say which classes, input shape and version of fcnet they are of: `torch.export.load` puts it into
    ``extra_files["fcnet.json"]``, ONNX has it in ``metadata_props``, each as JSON. What was written is read back and
    run before it takes the place of an older file.

    Args:
        classifier: the finished network; it stays as it is.
        file: ends in ``.pt2`` or ``.onnx``.

    Returns:
        The largest difference between a probability of the file's and one of the network's, over some images.

    Raises:
        UserError: as `check_output_file` does, or the network is too large for an ONNX file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fcnet.models.mlp import MLP
        >>> from fcnet.experiment.image_classifier import ImageClassifier
        >>> half = torch.full((1,), 0.5)
        >>> classifier = ImageClassifier(MLP(4, (3,), 3), classes=("a", "b", "c"), shape=(1, 2, 2), mean=half, std=half)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     difference = export_classifier(classifier, Path(folder) / "small.pt2")
        ...     run = torch.export.load(Path(folder) / "small.pt2").module()
        >>> difference < 1e-5, run(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)).shape
        (True, torch.Size([5, 3]))
    """
    check_output_file(file)
    num_bytes = sum(tensor.nbytes for tensor in classifier.state_dict().values())
    if file.suffix == ".onnx" and num_bytes > _MAX_ONNX_BYTES:
        raise UserError(f"a network must be smaller than 2 GiB for {file}, got {num_bytes / 2**30:.1f}: take .pt2")
    module = ExportedModule(classifier)
    pixels = _random_images(classifier.shape)
    program = _export_program(module, pixels)
    metadata = {"classes": list(classifier.classes), "input_shape": list(classifier.shape), "fcnet": version("fcnet")}
    with atomic_write(file) as sibling:
        with sibling.open("wb") as opened:
            (_write_pt2 if file.suffix == ".pt2" else _write_onnx)(program, metadata, opened)
        result = (_run_pt2 if file.suffix == ".pt2" else _run_onnx)(sibling, pixels)
        difference: float = (result - module(pixels)).abs().max().item()
        assert difference < _MAX_DIFFERENCE, f"{file} differs from the network by {difference}"
    return difference


def _export_program(module: ExportedModule, pixels: Tensor) -> ExportedProgram:
    """The computation for any number of images, without the places in files that it was read from."""
    batch = torch.export.Dim("batch", min=0)
    program = torch.export.export(module, (pixels,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _write_pt2(program: ExportedProgram, metadata: dict[str, Any], file: IO[bytes]) -> None:
    torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(metadata)})


def _run_pt2(file: Path, pixels: Tensor) -> Tensor:
    with file.open("rb") as opened:
        result: Tensor = torch.export.load(opened).module()(pixels)
    return result


def _write_onnx(program: ExportedProgram, metadata: dict[str, Any], file: IO[bytes]) -> None:
    written = torch.onnx.export(
        program,
        input_names=["pixels"],
        output_names=["probabilities"],
        dynamic_shapes=({0: "batch"},),
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    model = written.model_proto
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    file.write(model.SerializeToString())


def _run_onnx(file: Path, pixels: Tensor) -> Tensor:
    """By ONNX's own reference, which no exporter has a hand in."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    onnx.checker.check_model(file, full_check=True)
    (result,) = ReferenceEvaluator(str(file)).run(["probabilities"], {"pixels": pixels.numpy()})
    return torch.from_numpy(result)


def _random_images(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(256, (_NUM_CHECKED_IMAGES, *shape), dtype=torch.uint8, generator=generator(0, "export"))
