"""Tests of fcnet.evaluation.corruption_robustness."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

from fcnet.data.batches import Batches, Preprocessing
from fcnet.data.transforms.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.corruption_robustness import CorruptedBatches, Robustness, evaluate_corrupted, example_images
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import MLP
from fcnet.runtime.seeds import generator

PIXELS = torch.randint(0, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(50) % 3
MEAN, STD = torch.tensor([0.5, 0.4, 0.6]), torch.tensor([0.3, 0.2, 0.25])


def make_classifier(seed: int = 0) -> ImageClassifier:
    model = MLP(90, (7,), 3, normalization="batch", generator=torch.Generator().manual_seed(seed))
    return ImageClassifier(model, classes=("a", "b", "c"), shape=(3, 6, 5), mean=MEAN, std=STD).eval()


def make_batches(rows: torch.Tensor | None = None) -> Batches:
    return Batches(PIXELS, LABELS, rows=rows, batch_size=20, preprocessing=Preprocessing(MEAN, STD))


def test_the_clean_evaluation_agrees_with_evaluate() -> None:
    classifier = make_classifier()
    expected = evaluate(classifier.model, make_batches())
    result = evaluate_corrupted(classifier, make_batches()).clean
    assert result.confusion == expected.confusion
    assert_close(result.loss, expected.loss)


def test_each_evaluation_is_of_the_corrupted_pixels() -> None:
    classifier, rows = make_classifier(), torch.arange(3, 48)
    result = evaluate_corrupted(classifier, make_batches(rows), seed=7)
    assert list(result.corrupted) == list(CORRUPTIONS)
    for kind in CORRUPTIONS:
        for severity in SEVERITIES:
            parts = [
                corrupt(PIXELS[part], kind, severity, generator(7, "corruption", kind, number))
                for number, part in enumerate(rows.split(20))
            ]
            probabilities = classifier.predict_proba(torch.cat(parts))
            expected = (probabilities.argmax(1) == LABELS[rows]).sum().item()
            assert result.corrupted[kind][severity - 1].num_correct == expected
            assert result.corrupted[kind][severity - 1].count == 45


def test_corruptions_depend_on_the_seed_and_not_on_the_classifier() -> None:
    images = torch.cat([batch.images for batch in CorruptedBatches(make_batches(), "noise", 2)])
    again = torch.cat([batch.images for batch in CorruptedBatches(make_batches(), "noise", 2)])
    other = torch.cat([batch.images for batch in CorruptedBatches(make_batches(), "noise", 2, seed=1)])
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert not torch.equal(images[:20].int() - PIXELS[:20], images[20:40].int() - PIXELS[20:40])
    assert evaluate_corrupted(make_classifier(), make_batches()) == evaluate_corrupted(
        make_classifier(), make_batches()
    )


def test_means_are_over_severities_and_then_over_kinds() -> None:
    result = evaluate_corrupted(make_classifier(), make_batches())
    table = torch.tensor([[each.accuracy for each in row] for row in result.corrupted.values()], dtype=torch.float64)
    assert [result.mean(kind) for kind in CORRUPTIONS] == pytest.approx(table.mean(1).tolist())
    assert result.mean_accuracy == pytest.approx(table.mean().item())


def test_to_dict_is_complete_and_json() -> None:
    result = evaluate_corrupted(make_classifier(), make_batches())
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (content["images"], content["seed"], content["mean_accuracy"]) == (50, 0, result.mean_accuracy)
    assert content["clean"]["accuracy"] == result.clean.accuracy
    for kind, row in content["corruptions"].items():
        assert [each["severity"] for each in row["severities"]] == list(SEVERITIES)
        assert tuple(each["value"] for each in row["severities"]) == CORRUPTIONS[kind].values
        assert [each["accuracy"] for each in row["severities"]] == [each.accuracy for each in result.corrupted[kind]]
        assert [tuple(each["interval"]) for each in row["severities"]] == [
            each.interval for each in result.corrupted[kind]
        ]
        assert row["value_meaning"] == CORRUPTIONS[kind].meaning


def test_a_nonfinite_loss_is_none_in_to_dict() -> None:
    result = evaluate_corrupted(make_classifier(), make_batches())
    clean = type(result.clean)(float("inf"), result.clean.confusion)
    assert Robustness(clean, result.corrupted, 0).to_dict()["clean"]["loss"] is None


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_example_images_are_those_that_were_evaluated(kind: str) -> None:
    rows = torch.arange(4, 30)
    examples = example_images(make_batches(rows), kind, seed=2)
    assert torch.equal(examples[0], PIXELS[4])
    for severity in SEVERITIES:
        first = next(iter(CorruptedBatches(make_batches(rows), kind, severity, seed=2)))
        assert torch.equal(examples[severity], first.images[0])
