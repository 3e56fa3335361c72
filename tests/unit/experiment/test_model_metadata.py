"""Tests of fcnet.experiment.model_metadata: a stranger's model files, with valid checksums."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import fcnet
from fcnet import predict
from fcnet.config.schema import MAX_HIDDEN_LAYERS
from fcnet.experiment.model_metadata import parse_metadata
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, write_checksummed
from tests.helpers import measure_peak, random_classifier, run_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def reseal(run: Path, metadata: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
    """Writes changed entries and tensors of a model, and the checksums that fit them."""
    old_tensors, content = read_checksummed(run / "model")
    write_checksummed(run / "model", old_tensors if tensors is None else tensors, content)
    content = json.loads((run / "model.json").read_bytes()) | metadata
    kept = {key: value for key, value in content.items() if value is not ... and key != "checksum"}
    write_sealed(run, json.dumps(kept | {"checksum": ""}))


def write_sealed(run: Path, text: str) -> None:
    """Writes ``model.json`` with a valid checksum as its last entry, whatever else the text holds."""
    start = text[: text.rindex('"checksum"')].encode()
    checksum = hashlib.sha256(start + b'"checksum": "%s"\n}\n' % (b"0" * 64)).hexdigest().encode()
    (run / "model.json").write_bytes(start + b'"checksum": "%s"\n}\n' % checksum)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    random_classifier(hidden=(8, 8)).save(tmp_path / "model", {})
    return tmp_path


def load_error(run: Path) -> str:
    with pytest.raises(UserError) as error:
        fcnet.load(run)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


ARGUMENTS = random_classifier(hidden=(8, 8)).model.arguments
WRONG_ENTRIES: list[tuple[dict[str, Any], str]] = [
    ({"format": 2}, "model.json must have format version 1, got 2"),
    ({"format": ...}, "model.json must have format version 1, got None"),
    ({"format": [1]}, "model.json must have format version 1, got [1]"),
    ({"kind": ...}, "model.json: kind must be there, got nothing"),
    ({"kind": "cnn"}, 'model.json: kind must be one of "mlp", "logistic", got "cnn"'),
    ({"kind": "logistic"}, "model.json: hidden must be empty for logistic regression"),
    ({"arguments": None}, "model.json: arguments must be a section, got None"),
    ({"classes": ["a", "a", "b"]}, "model.json: classes must be different names"),
    ({"classes": []}, "model.json: classes must be as many as num_classes"),
    ({"classes": ["a", "b"]}, "model.json: classes must be as many as num_classes"),
    ({"classes": ["a", "b", 3]}, "model.json: classes.2 must be a string, got 3"),
    ({"classes": "abc"}, 'model.json: classes must be a list, got "abc"'),
    ({"classes": ["a", "b", "\ud800"]}, "model.json: classes must be UTF-8 text"),
    ({"shape": [3, 2]}, "model.json: shape must have 3 values, or 1 for features"),
    ({"shape": []}, "model.json: shape must have 3 values, or 1 for features"),
    ({"shape": [24]}, "model.json: mean and std must have a value for each channel"),
    ({"shape": [3, -2, -4]}, "model.json: shape.1 must be at least 1, got -2"),
    ({"shape": [3, 2.0, 4]}, "model.json: shape.1 must be an integer, got 2.0"),
    ({"shape": [3, True, 8]}, "model.json: shape.1 must be an integer, got true"),
    ({"shape": [3, 4, 4]}, "model.json: in_features must be the values of an image"),
    ({"shape": [3, 10**30, 1]}, "model.json: shape.1 must be less than 2147483648"),
    ({"mean": [0.1, 0.2]}, "model.json: mean and std must have a value for each channel"),
    ({"mean": [0.1, 0.2, "0.3"]}, 'model.json: mean.2 must be a number, got "0.3"'),
    ({"mean": [0.1, 0.2, math.nan]}, "model.json: mean.2 must be finite, got nan"),
    ({"mean": [0.1, 0.2, 10**400]}, "model.json: mean.2 must be "),
    ({"mean": [0.1, 0.2, 0.3]}, "model.safetensors: the tensor mean must be that of model.json"),
    ({"std": [0.1, 0.2, math.inf]}, "model.json: std.2 must be finite, got inf"),
    ({"std": [0.1, 0.2, 0]}, "model.json: std.2 must be greater than 0.0, got 0"),
    ({"std": [0.1, 0.2, -1.0]}, "model.json: std.2 must be greater than 0.0, got -1.0"),
    ({"resize": 1}, "model.json: resize must be true or false, got 1"),
    ({"whiten": 24}, "model.safetensors: the tensor whitening.weight must be float32 (24, 24), got absent"),
    ({"whiten": 25}, "model.json: in_features must be the values of an image"),
    ({"whiten": 2**40}, "model.json: whiten must be less than 2147483648"),
    ({"whiten": -1}, "model.json: whiten must be at least 0, got -1"),
    ({"temperature": 0.0}, "model.json: temperature must be greater than 0.0, got 0.0"),
    ({"temperature": "1"}, 'model.json: temperature must be a number, got "1"'),
    ({"l2_normalize": True}, "model.json: l2_normalize must be false for images"),
    ({"l2_normalize": 1}, "model.json: l2_normalize must be true or false, got 1"),
    ({"tensors": None}, "model.safetensors is damaged: its bytes do not match the checksum in model.json"),
    ({"tensors": {}}, "model.safetensors is damaged: its bytes do not match the checksum in model.json"),
    *(
        ({"arguments": {**ARGUMENTS, **change}}, f"model.json: {message}")
        for change, message in (
            ({"in_features": "24"}, 'arguments.in_features must be an integer, got "24"'),
            ({"in_features": 25}, "in_features must be the values of an image"),
            ({"hidden": 8}, "arguments.hidden must be a list, got 8"),
            ({"hidden": [8, 0]}, "arguments.hidden.1 must be at least 1, got 0"),
            ({"hidden": [8.5, 8]}, "arguments.hidden.0 must be an integer, got 8.5"),
            ({"hidden": [1] * 100_000}, f"arguments.hidden must have at most {MAX_HIDDEN_LAYERS} values, got [1, 1"),
            ({"hidden": [2**31 - 1] * 2}, "the model must have less than 2⁴⁸ parameters"),
            ({"num_classes": 1}, "arguments.num_classes must be at least 2, got 1"),
            ({"num_classes": 4}, "classes must be as many as num_classes"),
            ({"activation": "tanh"}, "arguments.activation must be one of "),
            ({"dropout": 1.0}, "arguments.dropout must be less than 1.0, got 1.0"),
            ({"bias": "yes"}, 'arguments.bias must be true or false, got "yes"'),
            ({"generator": 1}, "arguments.generator must be absent, got 1"),
            ({"\x1b[2J": 1}, "arguments.\\u001b[2J must be absent, got 1"),
        )
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG_ENTRIES, ids=lambda value: str(value)[:50])
def test_a_wrong_entry_is_named(run: Path, change: dict[str, Any], message: str) -> None:
    reseal(run, change)
    assert load_error(run).startswith(f"{run}/{message}")


def test_residual_connections_need_equal_widths(run: Path) -> None:
    reseal(run, {"arguments": {**ARGUMENTS, "hidden": [8, 7], "residual": True}})
    assert load_error(run) == "hidden must have two equal widths in a row for residual=True, got [24, 8, 7]"


def test_further_entries_are_allowed(run: Path) -> None:
    before = fcnet.load(run).state_dict()
    reseal(run, {"environment": {"seed": 3}, "note": None})
    assert all(torch.equal(tensor, before[name]) for name, tensor in fcnet.load(run).state_dict().items())


@pytest.mark.parametrize(
    ("text", "start"),
    [("[" * 100_000, "[[["), ('{"a":' * 100_000, '{"a":{"a":'), ("[1, {", "[1, {"), ("null, {", "nu")],
)
def test_what_is_no_json_object_is_refused(run: Path, text: str, start: str) -> None:
    write_sealed(run, f'{text}"checksum"')
    assert load_error(run).startswith(f"{run / 'model.json'} is damaged: expected a JSON object, got '{start}")


def test_a_huge_metadata_file_is_not_read(run: Path) -> None:
    with (run / "model.json").open("wb") as file:
        file.truncate(2**40)
    assert load_error(run) == f"{run / 'model.json'} must have at most 268,435,456 bytes, got 1,099,511,627,776"


def test_a_huge_tensors_file_is_not_read(run: Path) -> None:
    with (run / "model.safetensors").open("ab") as file:
        file.truncate(2**40)
    num_bytes = sum(tensor.nbytes for tensor in random_classifier(hidden=(8, 8)).state_dict().values())
    assert load_error(run) == (
        f"{run / 'model.safetensors'} must have the size of its tensors, {num_bytes:,} bytes, got a larger file"
    )


TENSORS: list[tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = [
    (lambda t: {n: x for n, x in t.items() if n != "std"}, "std must be float32 (3,), got absent"),
    (lambda t: t | {"model.w": torch.ones(2)}, "model.w must be absent, got float32 (2,)"),
    (lambda t: t | {"mean": torch.ones(1)}, "mean must be float32 (3,), got float32 (1,)"),
    (lambda t: t | {"mean": torch.ones(3, 1)}, "mean must be float32 (3,), got float32 (3, 1)"),
    (lambda t: t | {"mean": torch.ones(3).half()}, "mean must be float32 (3,), got float16 (3,)"),
    (lambda t: t | {"mean": torch.ones(3).int()}, "mean must be float32 (3,), got int32 (3,)"),
    (
        lambda t: t | {"model.layers.0.bias": torch.tensor([math.nan] + [0.0] * 7)},
        "model.layers.0.bias must be finite",
    ),
    (
        lambda t: t | {"model.layers.0.bias": torch.tensor([-math.inf] + [0.0] * 7)},
        "model.layers.0.bias must be finite",
    ),
]


@pytest.mark.parametrize(("change", "message"), TENSORS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_tensor_is_named(
    run: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    reseal(run, {}, change(read_checksummed(run / "model")[0]))
    assert load_error(run).startswith(f"{run / 'model.safetensors'}: the tensor {message}")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}x", b"\x10\0\0\0\0\0\0\0" + b"[" * 16])
def test_what_is_no_safetensors_file_is_refused(run: Path, content: bytes) -> None:
    (run / "model.safetensors").write_bytes(content)
    reseal_file = {"tensors": {"file": "model.safetensors", "sha256": hashlib.sha256(content).hexdigest()}}
    content_json = json.loads((run / "model.json").read_bytes()) | reseal_file
    write_sealed(run, json.dumps(content_json))
    assert load_error(run).startswith(f"{run / 'model.safetensors'} must be a safetensors file, got: ")


def test_memory_is_taken_only_for_tensors_that_the_file_holds(run: Path) -> None:
    reseal(run, {"arguments": {**ARGUMENTS, "hidden": [30_000, 30_000]}})
    script = f"""
        import fcnet
        try:
            fcnet.load({str(run)!r})
        except fcnet.UserError as error:
            message = str(error)
    """
    assert measure_peak(script, imports="import fcnet.experiment.image_classifier")[0] < 100
    assert load_error(run) == (
        f"{run / 'model.safetensors'}: the tensor model.layers.0.weight must be float32 (30000, 24), "
        "got float32 (8, 24)"
    )


def test_outputs_that_are_not_finite_are_an_error_of_each_image(run: Path) -> None:
    tensors, _ = read_checksummed(run / "model")
    huge = {name: tensor.sign() * 3e38 if name.endswith("weight") else tensor for name, tensor in tensors.items()}
    reseal(run, {}, huge)
    (run / "x.pgm").write_bytes(b"P5 4 2 255 " + bytes(range(8)))
    result = run_command(predict.main, run, run / "x.pgm")
    assert result == (
        2,
        "",
        f"{run / 'x.pgm'}: the model's outputs must be finite, got NaN; its weights are too large\n",
    )


def test_every_saved_model_fits_its_own_metadata(run: Path) -> None:
    _, content = read_checksummed(run / "model")
    metadata = parse_metadata(content, run / "model.json")
    assert metadata.make_model().arguments == ARGUMENTS
