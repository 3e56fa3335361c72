"""Tests of fcnet.evaluation.predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fcnet.data.batches import Batches
from fcnet.data.store.image_names import ImageNames
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.predictions import TOP_K, Mistake, PredictionCollector, Predictions, pack_names
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError

IMAGES = torch.rand(23, 6, generator=torch.Generator().manual_seed(0))


def make_model(num_classes: int) -> MLP:
    return MLP(6, (5,), num_classes, generator=torch.Generator().manual_seed(1))


def predict(num_classes: int, batch_size: int = 7) -> Predictions:
    collector = PredictionCollector()
    batches = Batches(IMAGES, torch.arange(23) % num_classes, batch_size=batch_size)
    evaluate(make_model(num_classes), batches, on_batch=collector.update)
    return collector.compute()


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


@pytest.mark.parametrize("num_classes", [101, 500])
def test_of_many_classes_the_most_probable_are_those_of_a_stable_sort(num_classes: int) -> None:
    scores = torch.randn(40, num_classes, generator=torch.Generator().manual_seed(0))
    scores[:20] = scores[:20].round()  # with ties, also at the tenth place
    scores[5, 7] = float("nan")
    scores[6, 7:30] = float("inf")
    collector = PredictionCollector()
    collector.update(scores, torch.zeros(40, dtype=torch.int64))
    expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :TOP_K]
    assert torch.equal(collector.compute().classes, expected)


@pytest.mark.parametrize("num_classes", [2, 50, 500])
def test_a_collector_keeps_what_predictions_hold_and_no_more(num_classes: int) -> None:
    collector = PredictionCollector()
    collector.update(torch.randn(40, num_classes), torch.zeros(40, dtype=torch.int64))
    for tensor in collector._batches[0]:
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def collect(labels: list[int], confidence: list[float], batches: Batches | None = None) -> Predictions:
    """Predictions of class 1 of two with some confidence, in two batches."""
    collector = PredictionCollector(batches)
    logits = torch.tensor(confidence).logit()
    for rows in (slice(None, 2), slice(2, None)):
        collector.update(logits[rows], torch.tensor(labels)[rows])
    return collector.compute()


def test_mistakes_come_most_confident_first_and_ties_in_the_order_of_the_set() -> None:
    predictions = collect([0, 1, 0, 0, 1, 0], [0.75, 0.875, 0.9375, 0.75, 0.625, 0.25])
    mistakes = predictions.mistakes()
    assert [(each.position, each.label, each.prediction) for each in mistakes] == [(2, 0, 1), (0, 0, 1), (3, 0, 1)]
    assert [each.probability for each in mistakes] == pytest.approx([0.9375, 0.75, 0.75])
    assert [each.true_probability for each in mistakes] == pytest.approx([0.0625, 0.25, 0.25])
    assert predictions.num_mistakes == 3
    assert predictions.mistakes(2) == mistakes[:2]
    assert predictions.mistakes(0) == []
    assert list(predictions.iter_mistakes()) == mistakes


def test_mistakes_do_not_depend_on_how_many_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = predict(3)
    expected = predictions.mistakes()
    assert len(expected) > 5
    monkeypatch.setattr("fcnet.evaluation.predictions._MISTAKES_AT_ONCE", 2)
    assert predictions.mistakes() == expected


def test_without_mistakes_the_list_is_empty() -> None:
    predictions = collect([1, 1, 1], [0.75, 0.875, 0.9375])
    assert (predictions.mistakes(), predictions.num_mistakes) == ([], 0)


def test_a_mistake_carries_the_name_of_its_image_also_in_a_subset() -> None:
    names = [f"test/cat/{number}.png" for number in range(5)]
    batches = Batches(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64), rows=torch.tensor([4, 1, 3]), names=names)
    predictions = collect([0, 1, 0], [0.75, 0.75, 0.875], batches)
    assert predictions.names is not None
    assert list(predictions.names) == ["test/cat/4.png", "test/cat/1.png", "test/cat/3.png"]
    assert [each.image for each in predictions.mistakes()] == ["test/cat/3.png", "test/cat/4.png"]


def test_without_names_a_mistake_carries_the_index_of_its_image_in_the_split() -> None:
    batches = Batches(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64), rows=torch.tensor([4, 1, 3]))
    predictions = collect([0, 1, 0], [0.75, 0.75, 0.875], batches)
    assert predictions.names is None
    assert [each.image for each in predictions.mistakes()] == [3, 4]
    assert [each.image for each in collect([0, 1, 0], [0.75, 0.75, 0.875]).mistakes()] == [2, 0]


def test_predictions_must_be_one_for_each_image_of_the_set() -> None:
    batches = Batches(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(UserError, match=r"^expected one prediction for each of the 5 images, got 3$"):
        collect([0, 1, 0], [0.75, 0.75, 0.875], batches)


def test_a_mistake_is_written_with_class_names_and_six_digits() -> None:
    mistake = Mistake(3, "a/1.png", 2, 0, 1 / 3, 1e-9 / 3)
    figures = {"true_class": "cat", "predicted_class": "ant", "probability": 0.333333, "true_probability": 3.33333e-10}
    assert mistake.to_dict(["ant", "bee", "cat"]) == {"path": "a/1.png", **figures}
    assert mistake._replace(image=7).to_dict(["ant", "bee", "cat"]) == {"index": 7, **figures}


@given(st.lists(st.text(max_size=4)), st.integers(1, 5), st.data())
def test_packed_names_are_the_names_of_the_rows(names: list[str], at_once: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(names) - 1)) if names else st.just([]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcnet.evaluation.predictions._NAMES_AT_ONCE", at_once)
        assert list(ImageNames(*pack_names(names, np.array(rows, dtype=np.int64)))) == [names[row] for row in rows]
