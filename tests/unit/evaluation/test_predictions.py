"""Rules of fcnet.evaluation.predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = torch.rand(23, 6, generator=torch.Generator().manual_seed(0))


def model(num_classes: int) -> MLP:
    return MLP(6, (5,), num_classes, generator=torch.Generator().manual_seed(1))


def predicted(num_classes: int, batch_size: int = 7) -> Predictions:
    collector = PredictionCollector()
    batches = Batches(IMAGES, torch.arange(23) % num_classes, batch_size=batch_size)
    evaluate(model(num_classes), batches, on_batch=collector.update)
    return collector.compute()


def folder_with_a_network(path: Path, num_classes: int, seed: int = 1) -> Path:
    half = torch.full((1,), 0.5)
    net = MLP(6, (5,), num_classes, generator=torch.Generator().manual_seed(seed))
    classes = [str(place) for place in range(num_classes)]
    ImageClassifier(net, classes=classes, shape=(1, 2, 3), mean=half, std=half).save(path / "model", {})
    return path


@given(st.sampled_from([2, 3, 11, 30]), st.integers(1, 30))
def test_what_is_kept_is_what_the_network_says(num_classes: int, batch_size: int) -> None:
    kept, sure = predicted(num_classes, batch_size), model(num_classes).predict_proba(IMAGES)
    assert kept.probabilities.shape == (23, min(num_classes, TOP_K))
    assert_close(kept.probabilities, sure.sort(dim=1, descending=True).values[:, :TOP_K])
    assert_close(sure.gather(1, kept.classes), kept.probabilities)
    assert_close(sure.gather(1, kept.labels[:, None]).squeeze(1), kept.true_probabilities)
    assert kept.labels.tolist() == [place % num_classes for place in range(23)]


@pytest.mark.parametrize("num_classes", [2, 3, 30])
def test_counts_are_the_evaluations(num_classes: int) -> None:
    seen = evaluate(model(num_classes), Batches(IMAGES, torch.arange(23) % num_classes))
    kept = predicted(num_classes)
    assert kept.confusion(num_classes) == seen.confusion
    assert int(kept.is_correct.sum()) == seen.num_correct


def test_the_first_of_equally_probable_classes_is_the_most_probable() -> None:
    collector = PredictionCollector()
    collector.update(torch.zeros(2, 3000), torch.tensor([0, 1]))
    collector.update(torch.zeros(1, 3000), torch.tensor([3]))
    assert collector.compute().is_correct.tolist() == [True, False, False]
    binary = PredictionCollector()
    binary.update(torch.zeros(2), torch.tensor([0, 1]))
    assert binary.compute().classes[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize("num_classes", [2, 12])
def test_what_is_written_comes_back(num_classes: int, tmp_path: Path) -> None:
    folder, kept = folder_with_a_network(tmp_path, num_classes), predicted(num_classes)
    write_predictions(folder, kept, ["a"] * num_classes, "of the data")
    back = read_predictions(folder)
    assert back is not None
    assert_close(vars(back), vars(kept), rtol=0.0, atol=0.0)


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    assert read_predictions(folder_with_a_network(tmp_path, 2)) is None


def test_what_another_network_said_does_not_count(tmp_path: Path) -> None:
    write_predictions(folder_with_a_network(tmp_path, 2), predicted(2), ["a", "b"], "data")
    folder_with_a_network(tmp_path, 2, seed=2)
    assert read_predictions(tmp_path) is None


def test_a_changed_bit_is_refused(tmp_path: Path) -> None:
    write_predictions(folder_with_a_network(tmp_path, 2), predicted(2), ["a", "b"], "data")
    file = tmp_path / "predictions.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"predictions\.safetensors is damaged"):
        read_predictions(tmp_path)
