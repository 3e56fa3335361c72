"""Exported programs: ours and others', by torch.export and ONNX, with fixed and open sizes and batches."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from fcnet.embed.exported_programs import Normalization, exported_backbone
from fcnet.export.formats import export_classifier
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import sha256
from tests.helpers import random_classifier, random_images

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HALF = Normalization((0.5,), (0.5,))


class Convolution(nn.Module):
    """A small network of float32 images, of any size."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layer = nn.Conv2d(channels, 5, 3)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layer(images).relu().mean((2, 3))
        return features


def export(module: nn.Module, file: Path, example: Tensor, open_axes: Sequence[int] = (0,), **bounds: int) -> Path:
    """Exports a module whose named axes may have any length, as the suffix says."""
    with warnings.catch_warnings(action="ignore"):
        shapes: Any = ({axis: torch.export.Dim(f"axis_{axis}", **bounds) for axis in open_axes},)
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=shapes)
        if file.suffix == ".pt2":
            torch.export.save(program, file)
        else:
            torch.onnx.export(
                program, dynamic_shapes=({axis: f"axis_{axis}" for axis in open_axes},), dynamo=True, verbose=False
            ).save(file)  # type: ignore[union-attr]
    return file


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
@pytest.mark.parametrize("channels", [1, 3])
def test_our_own_networks_give_their_probabilities(tmp_path: Path, suffix: str, channels: int) -> None:
    classifier = random_classifier((channels, 4, 6))
    file = tmp_path / f"net.{suffix}"
    export_classifier(classifier, file)
    backbone = exported_backbone(file)
    pixels = random_images(5, (channels, 4, 6))
    assert backbone.preprocessing.shape == (channels, 4, 6)
    torch.testing.assert_close(backbone(pixels), classifier.predict_proba(pixels), atol=1e-6, rtol=1e-5)
    assert backbone.description["name"] == file.name
    assert backbone.description["sha256"] == sha256(file)


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_a_network_of_floats_gets_normalized_pixels(tmp_path: Path, suffix: str) -> None:
    network = Convolution()
    file = export(network, tmp_path / f"net.{suffix}", torch.zeros(2, 3, 6, 5))
    backbone = exported_backbone(file, normalization=HALF)
    pixels = random_images(7, (3, 6, 5))
    with torch.inference_mode():
        expected = network(pixels.float() / 127.5 - 1)
    torch.testing.assert_close(backbone(pixels), expected, atol=1e-5, rtol=1e-5)
    assert (backbone.least, backbone.most) == (backbone.least, None)
    torch.testing.assert_close(backbone(pixels[:1]), expected[:1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_a_fixed_batch_is_filled_up(tmp_path: Path, suffix: str) -> None:
    network = Convolution()
    file = export(network, tmp_path / f"net.{suffix}", torch.zeros(4, 3, 6, 5), open_axes=())
    backbone = exported_backbone(file, normalization=HALF)
    assert (backbone.least, backbone.most) == (4, 4)
    pixels = random_images(3, (3, 6, 5))
    with torch.inference_mode():
        expected = network(pixels.float() / 127.5 - 1)
    torch.testing.assert_close(backbone(pixels), expected, atol=1e-5, rtol=1e-5)


def test_a_bounded_batch_keeps_its_bounds(tmp_path: Path) -> None:
    file = export(Convolution(), tmp_path / "net.pt2", torch.zeros(4, 3, 6, 5), min=3, max=8)
    backbone = exported_backbone(file, normalization=HALF)
    assert (backbone.least, backbone.most) == (3, 8)


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_an_open_size_is_asked_for(tmp_path: Path, suffix: str) -> None:
    file = export(Convolution(), tmp_path / f"net.{suffix}", torch.zeros(5, 3, 8, 9), open_axes=(0, 2, 3), min=4)
    with pytest.raises(UserError, match=r"--size is missing for \S+, which takes images of any size"):
        exported_backbone(file, normalization=HALF)
    assert exported_backbone(file, normalization=HALF, size=9).preprocessing.shape == (3, 9, 9)


def test_what_does_not_fit_the_input_is_refused(tmp_path: Path) -> None:
    floats = export(Convolution(), tmp_path / "floats.pt2", torch.zeros(2, 3, 6, 5))
    export_classifier(random_classifier((3, 4, 6)), tmp_path / "bytes.pt2")
    with pytest.raises(UserError, match=r"--mean and --std are missing for \S+floats\.pt2, which takes float32"):
        exported_backbone(floats)
    with pytest.raises(UserError, match=r"--mean and --std must be left out for \S+, which takes uint8 pixels"):
        exported_backbone(tmp_path / "bytes.pt2", normalization=HALF)
    with pytest.raises(UserError, match=r"--mean and --std must be one number or 3 for \S+, got 2 and 1"):
        exported_backbone(floats, normalization=Normalization((0.5, 0.5), (1.0,)))
    with pytest.raises(UserError, match=r"--size must be left out for \S+, which takes images of 5×6 pixels"):
        exported_backbone(floats, normalization=HALF, size=6)
    with pytest.raises(UserError, match=r"\(B, C, H, W\) with 1 or 3 channels, takes torch.float32"):
        exported_backbone(export(Convolution(2), tmp_path / "two.pt2", torch.zeros(2, 2, 6, 5)), normalization=HALF)
    with pytest.raises(UserError, match=r"with 1 or 3 channels, takes tensor\(float\)"):
        exported_backbone(export(nn.Linear(2, 2), tmp_path / "flat.onnx", torch.zeros(3, 2)), normalization=HALF)


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_broken_and_missing_files_are_one_line(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"net.{suffix}"
    with pytest.raises(UserError, match=r"net\.\w+: no such file"):
        exported_backbone(file)
    file.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"net\.\w+ must be an (archive of torch.export|ONNX file), got: [^\n]+"):
        exported_backbone(file)


def test_a_missing_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.onnx").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"net\.onnx needs a package that is not installed: pip install onnxruntime"):
        exported_backbone(tmp_path / "net.onnx")


def test_a_runtime_without_the_device_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    with pytest.raises(UserError, match="the installed onnxruntime does not run on meta; write --device cpu"):
        exported_backbone(tmp_path / "net.onnx", device="meta")
