"""Rules of fcnet.evaluation.corruption_robustness."""

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


def batches(rows: torch.Tensor | None = None) -> Batches:
    return Batches(PIXELS, LABELS, rows=rows, batch_size=20, preprocessing=Preprocessing(MEAN, STD))


def test_what_is_not_damaged_is_evaluated_as_ever() -> None:
    net = make_classifier()
    expected = evaluate(net.model, batches())
    seen = evaluate_corrupted(net, batches()).clean
    assert seen.confusion == expected.confusion
    assert_close(seen.loss, expected.loss)


def test_each_figure_is_that_of_the_damaged_pixels() -> None:
    net, rows = make_classifier(), torch.arange(3, 48)
    seen = evaluate_corrupted(net, batches(rows), seed=7)
    assert list(seen.corrupted) == list(CORRUPTIONS)
    for kind in CORRUPTIONS:
        for severity in SEVERITIES:
            parts = [
                corrupt(PIXELS[part], kind, severity, generator(7, "corruption", kind, number))
                for number, part in enumerate(rows.split(20))
            ]
            probabilities = net.predict_proba(torch.cat(parts))
            hits = (probabilities.argmax(1) == LABELS[rows]).sum().item()
            assert seen.corrupted[kind][severity - 1].num_correct == hits
            assert seen.corrupted[kind][severity - 1].count == 45


def test_the_damage_is_the_same_for_every_network_and_another_for_another_seed() -> None:
    images = torch.cat([batch.images for batch in CorruptedBatches(batches(), "noise", 2)])
    again = torch.cat([batch.images for batch in CorruptedBatches(batches(), "noise", 2)])
    other = torch.cat([batch.images for batch in CorruptedBatches(batches(), "noise", 2, seed=1)])
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert not torch.equal(images[:20].int() - PIXELS[:20], images[20:40].int() - PIXELS[20:40])
    assert evaluate_corrupted(make_classifier(), batches()) == evaluate_corrupted(make_classifier(), batches())


def test_means_are_over_strengths_and_then_over_kinds() -> None:
    seen = evaluate_corrupted(make_classifier(), batches())
    table = torch.tensor([[each.accuracy for each in row] for row in seen.corrupted.values()], dtype=torch.float64)
    assert [seen.mean(kind) for kind in CORRUPTIONS] == pytest.approx(table.mean(1).tolist())
    assert seen.mean_accuracy == pytest.approx(table.mean().item())


def test_the_facts_hold_all_of_it_in_json() -> None:
    seen = evaluate_corrupted(make_classifier(), batches())
    facts = json.loads(json.dumps(seen.to_dict(), allow_nan=False))
    assert (facts["images"], facts["seed"], facts["mean_accuracy"]) == (50, 0, seen.mean_accuracy)
    assert facts["clean"]["accuracy"] == seen.clean.accuracy
    for kind, row in facts["corruptions"].items():
        assert [each["severity"] for each in row["severities"]] == list(SEVERITIES)
        assert tuple(each["value"] for each in row["severities"]) == CORRUPTIONS[kind].values
        assert [each["accuracy"] for each in row["severities"]] == [each.accuracy for each in seen.corrupted[kind]]
        assert [tuple(each["interval"]) for each in row["severities"]] == [
            each.interval for each in seen.corrupted[kind]
        ]
        assert row["value_meaning"] == CORRUPTIONS[kind].meaning


def test_a_loss_that_is_no_number_is_null_in_the_facts() -> None:
    seen = evaluate_corrupted(make_classifier(), batches())
    clean = type(seen.clean)(float("inf"), seen.clean.confusion)
    assert Robustness(clean, seen.corrupted, 0).to_dict()["clean"]["loss"] is None


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_sample_is_the_first_image_as_it_was_evaluated(kind: str) -> None:
    rows = torch.arange(4, 30)
    shown = example_images(batches(rows), kind, seed=2)
    assert torch.equal(shown[0], PIXELS[4])
    for severity in SEVERITIES:
        first = next(iter(CorruptedBatches(batches(rows), kind, severity, seed=2)))
        assert torch.equal(shown[severity], first.images[0])
