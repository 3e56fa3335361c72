"""Tests of fcnet.evaluation.predictions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fcnet.data.batches import Batches
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.predictions import TOP_K, PredictionCollector, Predictions, read_predictions, write_predictions
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, write_checksummed

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

IMAGES = torch.rand(23, 6, generator=torch.Generator().manual_seed(0))


def make_model(num_classes: int) -> MLP:
    return MLP(6, (5,), num_classes, generator=torch.Generator().manual_seed(1))


def predict(num_classes: int, batch_size: int = 7) -> Predictions:
    collector = PredictionCollector()
    batches = Batches(IMAGES, torch.arange(23) % num_classes, batch_size=batch_size)
    evaluate(make_model(num_classes), batches, on_batch=collector.update)
    return collector.compute()


def write_model(path: Path, num_classes: int, seed: int = 1) -> Path:
    half = torch.full((1,), 0.5)
    net = MLP(6, (5,), num_classes, generator=torch.Generator().manual_seed(seed))
    classes = [str(index) for index in range(num_classes)]
    ImageClassifier(net, classes=classes, shape=(1, 2, 3), mean=half, std=half).save(path / "model", {})
    return path


@given(st.sampled_from([2, 3, 11, 30]), st.integers(1, 30))
def test_predictions_agree_with_predict_proba(num_classes: int, batch_size: int) -> None:
    predictions, probabilities = predict(num_classes, batch_size), make_model(num_classes).predict_proba(IMAGES)
    assert predictions.probabilities.shape == (23, min(num_classes, TOP_K))
    assert_close(predictions.probabilities, probabilities.sort(dim=1, descending=True).values[:, :TOP_K])
    assert_close(probabilities.gather(1, predictions.classes), predictions.probabilities)
    assert_close(probabilities.gather(1, predictions.labels[:, None]).squeeze(1), predictions.true_probabilities)
    assert predictions.labels.tolist() == [index % num_classes for index in range(23)]


@pytest.mark.parametrize("num_classes", [2, 3, 30])
def test_the_confusion_matrix_agrees_with_evaluate(num_classes: int) -> None:
    result = evaluate(make_model(num_classes), Batches(IMAGES, torch.arange(23) % num_classes))
    predictions = predict(num_classes)
    assert predictions.confusion(num_classes) == result.confusion
    assert int(predictions.is_correct.sum()) == result.num_correct


def test_ties_go_to_the_first_class() -> None:
    collector = PredictionCollector()
    collector.update(torch.zeros(2, 3000), torch.tensor([0, 1]))
    collector.update(torch.zeros(1, 3000), torch.tensor([3]))
    assert collector.compute().is_correct.tolist() == [True, False, False]
    binary = PredictionCollector()
    binary.update(torch.zeros(2), torch.tensor([0, 1]))
    assert binary.compute().classes[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize("num_classes", [2, 12])
def test_written_predictions_are_read_back(num_classes: int, tmp_path: Path) -> None:
    folder, predictions = write_model(tmp_path, num_classes), predict(num_classes)
    write_predictions(folder, predictions, ["a"] * num_classes, "fingerprint")
    again = read_predictions(folder)
    assert again is not None
    assert_close(vars(again), vars(predictions), rtol=0.0, atol=0.0)


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
    ],
)
def test_a_wrong_tensor_is_named(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    write_predictions(write_model(tmp_path, 3), predict(3), ["a", "b", "c"], "fingerprint")
    reseal(tmp_path, tensors, {})
    expected = f"{tmp_path / 'predictions.safetensors'}: the tensor {message}"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}"):
        read_predictions(tmp_path)
