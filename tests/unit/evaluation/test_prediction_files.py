"""Tests of fcnet.evaluation.prediction_files."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fcnet.data.batches import Batches
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.prediction_files import ensure_mistakes, read_predictions, write_mistakes, write_predictions
from fcnet.evaluation.predictions import Mistake, PredictionCollector, Predictions
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, write_checksummed

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

IMAGES = torch.rand(23, 6, generator=torch.Generator().manual_seed(0))
NAMES = [f"test/{'é猫'[number % 2]}/{number}.png" for number in range(23)]


def make_model(num_classes: int, seed: int = 1) -> MLP:
    return MLP(6, (5,), num_classes, generator=torch.Generator().manual_seed(seed))


def predict(num_classes: int, names: list[str] | None = None) -> Predictions:
    batches = Batches(IMAGES, torch.arange(23) % num_classes, names=names)
    collector = PredictionCollector(batches)
    evaluate(make_model(num_classes), batches, on_batch=collector.update)
    return collector.compute()


def write_model(path: Path, num_classes: int, seed: int = 1) -> Path:
    half = torch.full((1,), 0.5)
    classes = [str(index) for index in range(num_classes)]
    ImageClassifier(make_model(num_classes, seed), classes=classes, shape=(1, 2, 3), mean=half, std=half).save(
        path / "model", {}
    )
    return path


@pytest.mark.parametrize("num_classes", [2, 12])
def test_written_predictions_are_read_back(num_classes: int, tmp_path: Path) -> None:
    folder, predictions = write_model(tmp_path, num_classes), predict(num_classes)
    write_predictions(folder, predictions, ["a"] * num_classes, "fingerprint")
    again = read_predictions(folder)
    assert again is not None
    expected = vars(predictions) | {"names": None}
    assert again.names is None
    assert_close(vars(again), expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", ["", "test/cat/a b.png", "=1+1\n", "猫/👩‍🔬", "\udcff\ud800", "x" * 5000])
def test_written_names_are_read_back_and_never_change(name: str, tmp_path: Path) -> None:
    names = [*NAMES[:5], name, *NAMES[6:]]
    write_predictions(write_model(tmp_path, 3), predict(3, names), ["a", "b", "c"], "fingerprint")
    again = read_predictions(tmp_path)
    assert again is not None
    assert again.names is not None
    assert list(again.names) == names


def test_names_that_no_image_has_are_not_written(tmp_path: Path) -> None:
    write_predictions(write_model(tmp_path, 3), predict(3), ["a", "b", "c"], "fingerprint")
    assert not read_checksummed(tmp_path / "predictions")[0].keys() & {"names", "name_ends"}


def test_a_run_without_predictions_reads_as_none(tmp_path: Path) -> None:
    assert read_predictions(write_model(tmp_path, 2)) is None


def test_predictions_of_another_model_read_as_none(tmp_path: Path) -> None:
    write_predictions(write_model(tmp_path, 2), predict(2), ["a", "b"], "fingerprint")
    write_model(tmp_path, 2, seed=2)
    assert read_predictions(tmp_path) is None


def test_a_changed_bit_is_refused(tmp_path: Path) -> None:
    write_predictions(write_model(tmp_path, 2), predict(2), ["a", "b"], "fingerprint")
    file = tmp_path / "predictions.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"predictions\.safetensors is damaged"):
        read_predictions(tmp_path)


def reseal(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Changes tensors and entries of the predictions, and writes the checksums that fit; None removes an entry."""
    old_tensors, old_metadata = read_checksummed(folder / "predictions")
    content = {key: value for key, value in (old_metadata | metadata).items() if value is not None}
    new_tensors = {name: tensor for name, tensor in (old_tensors | tensors).items() if tensor.ndim < 3}
    write_checksummed(folder / "predictions", new_tensors, content)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": 1}, "must have format version 2, got 1"),
        ({"format": None}, "must have format version 2, got 1"),
        ({"classes": None}, "classes must be there, got nothing"),
        ({"classes": "ab"}, 'classes must be a list, got "ab"'),
        ({"classes": ["a", 1, "c"]}, "classes.1 must be a string, got 1"),
        ({"classes": ["a", "b"]}, "must have the 3 classes of the model"),
        ({"model_checksum": None}, "model_checksum must be there, got nothing"),
        ({"model_checksum": [1]}, "model_checksum must be a string, got [1]"),
    ],
)
def test_a_wrong_entry_is_named(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_predictions(write_model(tmp_path, 3), predict(3), ["a", "b", "c"], "fingerprint")
    reseal(tmp_path, {}, metadata)
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path))}/predictions\.json:? {re.escape(message)}$"):
        read_predictions(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"labels": torch.full((23,), 3).int()}, "labels must be from 0 to 2, got 3 to 3"),
        ({"labels": torch.full((23,), -1).int()}, "labels must be from 0 to 2, got -1 to -1"),
        ({"labels": torch.zeros(22).int()}, "classes must be int32 (22, 3), got int32 (23, 3)"),
        ({"labels": torch.zeros(23, 1).int()}, "labels must be int32 (23,), got int32 (23, 1)"),
        ({"labels": torch.zeros(23)}, "labels must be int32 (23,), got float32 (23,)"),
        ({"labels": torch.zeros(1, 1, 1)}, "labels must be int32 (1,), got absent"),
        ({"more": torch.zeros(23)}, "more must be absent, got float32 (23,)"),
        ({"classes": torch.full((23, 3), 10**9).int()}, "classes must be from 0 to 2, got 1e+09 to 1e+09"),
        ({"classes": torch.zeros(23, 2).int()}, "classes must be int32 (23, 3), got int32 (23, 2)"),
        ({"probabilities": torch.full((23, 3), torch.nan)}, "probabilities must be finite, got NaN or infinity"),
        ({"probabilities": torch.full((23, 3), 1.5)}, "probabilities must be from 0 to 1.00001, got 1.5 to 1.5"),
        ({"true_probabilities": torch.full((23,), -0.5)}, "true_probabilities must be from 0 to 1.00001, got -0.5 to"),
        ({"rows": torch.arange(23) - 1}, "rows must be from 0 to 9.22337e+18, got -1 to 21"),
        ({"rows": torch.zeros(1, 1, 1)}, "rows must be int64 (23,), got absent"),
        ({"name_ends": torch.arange(23)}, "name_ends must be absent, got int64 (23,)"),
    ],
)
def test_a_wrong_tensor_is_named(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    write_predictions(write_model(tmp_path, 3), predict(3), ["a", "b", "c"], "fingerprint")
    reseal(tmp_path, tensors, {})
    expected = f"{tmp_path / 'predictions.safetensors'}: the tensor {message}"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}"):
        read_predictions(tmp_path)


def pack(*names: bytes) -> dict[str, Tensor]:
    """The tensors of names, each given by its bytes."""
    ends = torch.tensor([len(name) for name in names]).cumsum(0)
    return {"names": torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8), "name_ends": ends}


GOOD = [name.encode() for name in NAMES]
NOT_UTF8 = "names must hold UTF-8"


@pytest.mark.parametrize("at_once", [1, 4, 1000])
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"names": torch.zeros(1, 1, 1)}, "name_ends must be absent, got int64 (23,)"),
        ({"name_ends": torch.zeros(1, 1, 1)}, "name_ends must be int64 (23,), got absent"),
        ({"name_ends": torch.arange(22)}, "name_ends must be int64 (23,), got int64 (22,)"),
        ({"names": torch.zeros(2, 3, dtype=torch.uint8)}, "names must be uint8 (6,), got uint8 (2, 3)"),
        ({"name_ends": torch.arange(23)}, "name_ends must rise to 323, the bytes of the tensor names"),
        ({"name_ends": pack(*GOOD)["name_ends"].flip(0)}, "name_ends must rise to 323, the bytes of the tensor names"),
        ({"name_ends": pack(*GOOD)["name_ends"] - 323}, "name_ends must rise to 323, the bytes of the tensor names"),
        ({"name_ends": pack(*GOOD)["name_ends"] + 2**62}, "name_ends must rise to 323, the bytes of the tensor names"),
        (pack(*GOOD[1:], b"\xff"), NOT_UTF8),
        (pack(b"\xff", *GOOD[1:]), NOT_UTF8),
        (pack(*GOOD[2:], b"\xc3", b"\xa9"), NOT_UTF8),  # one character in two names
    ],
)
def test_wrong_names_are_refused(
    tensors: dict[str, Tensor], message: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_predictions(write_model(tmp_path, 3), predict(3, NAMES), ["a", "b", "c"], "fingerprint")
    reseal(tmp_path, tensors, {})
    monkeypatch.setattr("fcnet.evaluation.prediction_files._NAMES_AT_ONCE", at_once)
    expected = f"{tmp_path / 'predictions.safetensors'}: the tensor {message}"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        read_predictions(tmp_path)


# --- mistakes.csv -----------------------------------------------------------------------------------------------


def read_rows(file: Path) -> list[list[str]]:
    return list(csv.reader(file.read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("names", [None, NAMES])
def test_mistakes_are_written_surest_first_with_paths_or_indices(names: list[str] | None, tmp_path: Path) -> None:
    predictions, classes = predict(3, names), ["ant", "bee", "cat"]
    write_predictions(write_model(tmp_path, 3), predictions, classes, "fingerprint")
    probabilities = make_model(3).predict_proba(IMAGES).detach()
    best = probabilities.max(1)
    wrong = [place for place in range(23) if int(best.indices[place]) != place % 3]
    wrong.sort(key=lambda place: -float(best.values[place]))
    header, *rows = read_rows(tmp_path / "mistakes.csv")
    assert header == ["path" if names else "index", "true_class", "predicted_class", "probability", "true_probability"]
    assert [row[:3] for row in rows] == [
        [NAMES[place] if names else str(place), classes[place % 3], classes[best.indices[place]]] for place in wrong
    ]
    figures = np.array([row[3:] for row in rows], dtype=np.float64)
    true = probabilities[wrong, [place % 3 for place in wrong]]
    np.testing.assert_allclose(figures, torch.stack([best.values[wrong], true], 1), rtol=1e-5)


def test_a_file_without_mistakes_is_its_header(tmp_path: Path) -> None:
    write_mistakes(tmp_path / "mistakes.csv", [], ["a", "b"])
    assert (tmp_path / "mistakes.csv").read_text() == ("path,true_class,predicted_class,probability,true_probability\n")


def test_no_cell_begins_a_formula_and_every_path_still_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("=1+1", "-1", "+1", "@a", 'a "b", c', "ü"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
        write_mistakes(tmp_path / "mistakes.csv", [Mistake(0, f"{name}/1.png", 0, 1, 0.5, 0.25)], [name, "ok"])
        _, (path, truth, *_) = read_rows(tmp_path / "mistakes.csv")
        assert not path.startswith(("=", "+", "-", "@"))
        assert (tmp_path / path).samefile(tmp_path / name / "1.png")
        assert truth == (name if name in {'a "b", c', "ü"} else f"'{name}")


def test_a_name_that_a_terminal_would_execute_is_escaped(tmp_path: Path) -> None:
    write_mistakes(tmp_path / "mistakes.csv", [Mistake(0, "\x1b[2J\n\udcff.png", 0, 1, 0.5, 0.25)], ["a", "b"])
    assert read_rows(tmp_path / "mistakes.csv")[1][0] == r"\x1b[2J\n\udcff.png"


def test_missing_mistakes_are_written_again_and_others_stay(tmp_path: Path) -> None:
    write_predictions(write_model(tmp_path, 3), predict(3, NAMES), ["0", "1", "2"], "fingerprint")
    file = tmp_path / "mistakes.csv"
    whole = file.read_bytes()
    file.write_text("mine")
    ensure_mistakes(tmp_path)
    assert file.read_text() == "mine"
    file.unlink()
    ensure_mistakes(tmp_path)
    assert file.read_bytes() == whole


def test_mistakes_need_predictions_of_this_model(tmp_path: Path) -> None:
    write_model(tmp_path, 3)
    ensure_mistakes(tmp_path)
    write_predictions(tmp_path, predict(3), ["0", "1", "2"], "fingerprint")
    (tmp_path / "mistakes.csv").unlink()
    write_model(tmp_path, 3, seed=2)
    ensure_mistakes(tmp_path)
    assert not (tmp_path / "mistakes.csv").exists()
