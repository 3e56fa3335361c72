"""Tests of fcnet.export.formats: exported files give the model's probabilities and carry its metadata."""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
import pytest
import torch
from torch.testing import assert_close

from fcnet.data.transforms.whitening import Whitening
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.export import formats
from fcnet.export.formats import METADATA_FILE, check_output_file, export_classifier, read_opset
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SHAPE = (3, 4, 5)
CLASSES = ("ant", "bee ✓", 'c"at', "dog", "eel")


def make_classifier(num_classes: int = 5, components: int = 0, **arguments: Any) -> ImageClassifier:
    """A classifier with random layers, statistics and whitening, so that an omission of any changes its output."""
    rng = torch.Generator().manual_seed(num_classes)
    options: dict[str, Any] = {"hidden": (7, 7), "generator": rng, **arguments}
    classifier = ImageClassifier(
        MLP(components or 60, num_classes=num_classes, **options),
        classes=CLASSES[:num_classes],
        shape=SHAPE,
        mean=torch.tensor([0.2, 0.5, 0.7]),
        std=torch.tensor([0.1, 0.3, 0.2]),
        whitening=Whitening(components, 60) if components else None,
    )
    for name, buffer in classifier.named_buffers():
        if "running" in name or "whitening" in name:
            buffer.copy_(torch.rand(buffer.shape, generator=rng) + 0.1)
    return classifier.eval()


CLASSIFIERS = {
    "softmax of five, batch norm, dropout": lambda: make_classifier(normalization="batch", dropout=0.5),
    "one node, layer norm, whitened": lambda: make_classifier(2, 6, normalization="layer", activation="gelu"),
    "residual, no bias": lambda: make_classifier(activation="elu", residual=True, bias=False),
    "softmax regression": lambda: make_classifier(hidden=()),
}


def make_pixels(count: int) -> Tensor:
    return torch.randint(256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_pt2_file_gives_the_models_probabilities_for_any_batch_size(kind: str, tmp_path: Path) -> None:
    classifier = CLASSIFIERS[kind]()
    difference = export_classifier(classifier, tmp_path / "x.pt2")
    run = torch.export.load(tmp_path / "x.pt2").module()
    for count in (0, 1, 2, 1000):
        assert_close(run(make_pixels(count)), classifier.predict_proba(make_pixels(count)), rtol=0, atol=1e-5)
    assert 0.0 <= difference < 1e-5


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_an_onnx_file_gives_the_models_probabilities_for_any_batch_size(kind: str, tmp_path: Path) -> None:
    classifier = CLASSIFIERS[kind]()
    difference = export_classifier(classifier, tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for count in (1, 2, 1000):
        (probabilities,) = session.run(["probabilities"], {"pixels": make_pixels(count).numpy()})
        assert_close(torch.from_numpy(probabilities), classifier.predict_proba(make_pixels(count)), rtol=0, atol=1e-5)
    assert 0.0 <= difference < 1e-5


@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("kind", list(CLASSIFIERS)[:2])
def test_an_onnx_file_of_any_supported_opset_runs_elsewhere(kind: str, opset: int, tmp_path: Path) -> None:
    classifier = CLASSIFIERS[kind]()
    export_classifier(classifier, tmp_path / "x.onnx", opset)
    assert [(entry.domain, entry.version) for entry in onnx.load(tmp_path / "x.onnx").opset_import] == [("", opset)]
    assert read_opset(tmp_path / "x.onnx") == opset
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    (probabilities,) = session.run(["probabilities"], {"pixels": make_pixels(3).numpy()})
    assert_close(torch.from_numpy(probabilities), classifier.predict_proba(make_pixels(3)), rtol=0, atol=1e-5)


def test_without_an_opset_torchs_default_is_taken(tmp_path: Path) -> None:
    export_classifier(make_classifier(), tmp_path / "x.onnx")
    program = torch.onnx.export(torch.nn.Linear(2, 2).eval(), (torch.ones(1, 2),), dynamo=True, verbose=False)
    assert program is not None
    assert read_opset(tmp_path / "x.onnx") == program.model.opset_imports[""]


@pytest.mark.parametrize("opset", [17, 24, 0, -1, True, 18.0])
def test_another_opset_is_refused_with_the_range(opset: Any, tmp_path: Path) -> None:
    most = min(23, onnx.defs.onnx_opset_version())  # an older onnx knows fewer
    with pytest.raises(UserError, match=rf"^--opset must be an integer from 18 to {most}, got {opset}$"):
        export_classifier(make_classifier(), tmp_path / "x.onnx", opset)
    with pytest.raises(UserError, match=r"^--opset must be left out for a \.pt2 file, got 18$"):
        export_classifier(make_classifier(), tmp_path / "x.pt2", 18)
    assert not list(tmp_path.iterdir())


def test_both_formats_contain_the_classes_the_input_shape_and_the_version(tmp_path: Path) -> None:
    expected = {"classes": list(CLASSES), "input_shape": [3, 4, 5], "fcnet": version("fcnet")}
    for name in ("x.pt2", "x.onnx"):
        export_classifier(make_classifier(), tmp_path / name)
    extra_files = {METADATA_FILE: ""}
    torch.export.load(tmp_path / "x.pt2", extra_files=extra_files)
    assert json.loads(extra_files[METADATA_FILE]) == expected
    model = onnx.load(tmp_path / "x.onnx")
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == expected
    (source,), (target,) = model.graph.input, model.graph.output
    assert (source.name, source.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
    assert [side.dim_value or side.dim_param for side in source.type.tensor_type.shape.dim] == ["batch", 3, 4, 5]
    assert [side.dim_value or side.dim_param for side in target.type.tensor_type.shape.dim] == ["batch", 5]
    assert target.name == "probabilities"


def test_a_file_contains_no_path_of_the_machine(tmp_path: Path) -> None:
    root = formats.__file__.removesuffix("fcnet/export/formats.py").encode()
    for name in ("x.pt2", "x.onnx"):
        export_classifier(make_classifier(), tmp_path / name)
        content = (tmp_path / name).read_bytes()
        assert root not in content
        assert b"site-packages" not in content


def test_export_does_not_change_the_classifier(tmp_path: Path) -> None:
    classifier = make_classifier(dropout=0.5).train()
    export_classifier(classifier, tmp_path / "x.pt2")
    assert classifier.training
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    run = torch.export.load(tmp_path / "x.pt2").module()
    assert not run(make_pixels(2)).requires_grad


def test_a_pt2_file_refuses_pixels_of_another_dtype_or_shape(tmp_path: Path) -> None:
    export_classifier(make_classifier(), tmp_path / "x.pt2")
    run = torch.export.load(tmp_path / "x.pt2").module()
    with pytest.raises(RuntimeError, match="dtype mismatch"):
        run(torch.rand(2, *SHAPE))
    with pytest.raises(AssertionError, match="Guard failed"):
        run(torch.zeros(2, 1, 4, 5, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["x.pt2", "x.onnx"])
def test_a_file_that_disagrees_with_the_model_does_not_replace_an_older_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"before")
    runner = "_run_pt2" if name == "x.pt2" else "_run_onnx"
    original = getattr(formats, runner)
    monkeypatch.setattr(formats, runner, lambda file, pixels: original(file, pixels).flip(1))
    with pytest.raises(AssertionError, match="differs from the model"):
        export_classifier(make_classifier(), tmp_path / name)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, b"before")]


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for name, message in (
        ("x.pt", r"FILE must end in \.pt2 or \.onnx, got .*x\.pt$"),
        ("folder.onnx", "FILE must be a file, got the folder"),
        ("none/x.pt2", "FILE must be in an existing folder, got"),
    ):
        with pytest.raises(UserError, match=message):
            check_output_file(tmp_path / name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_output_file(tmp_path / "x.pt2")
    with pytest.raises(
        UserError, match=r"^ONNX export needs packages that are not installed: pip install onnx onnxscript$"
    ):
        check_output_file(tmp_path / "x.onnx")


def test_a_model_too_large_for_onnx_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_MAX_ONNX_BYTES", 1000)
    with pytest.raises(UserError, match=r"^an ONNX model must be smaller than 2 GiB, got .* GiB; use \.pt2 instead$"):
        export_classifier(make_classifier(), tmp_path / "x.onnx")
    export_classifier(make_classifier(), tmp_path / "x.pt2")
