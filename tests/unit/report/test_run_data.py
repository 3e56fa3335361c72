"""Rules of fcnet.report.run_data and fcnet.report.comparison."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from fcnet.config.schema import Config, Data, Train
from fcnet.data.batches import Batches, Preprocessing, normalize
from fcnet.data.transforms.whitening import Whitening
from fcnet.evaluation.predictions import Predictions
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.metrics import mcnemar_test
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.report.comparison import compare_settings, paired_tests
from fcnet.report.run_data import (
    RunData,
    find_confident_mistakes,
    find_uncertain_correct,
    first_layer_weights,
    read_run_data,
)
from fcnet.runtime.errors import UserError

PIXELS = torch.randint(0, 256, (40, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def said(sure: list[float], hits: list[bool], labels: list[int] | None = None) -> Predictions:
    labels = labels or [0] * len(sure)
    called = [label if hit else 1 - label for label, hit in zip(labels, hits, strict=True)]
    probabilities = torch.tensor(sure)
    classes = torch.tensor([[first, 1 - first] for first in called])
    both = torch.stack([probabilities, 1 - probabilities], 1)
    return Predictions(torch.tensor(labels), classes, both, probabilities)


def run(predictions: Predictions | None = None, data: str = "data", config: Config | None = None) -> RunData:
    half = torch.full((3,), 0.5)
    classifier = ImageClassifier(MLP(12, (), 2), classes=("a", "b"), shape=(3, 2, 2), mean=half, std=half)
    return RunData("run", Path("run"), config or Config(), [], {"data": data}, (), classifier, predictions)


def network(model: MLP, whitening: Whitening | None = None) -> ImageClassifier:
    half = torch.full((3,), 0.5)
    classes = tuple(str(place) for place in range(model.num_classes))
    return ImageClassifier(model, classes=classes, shape=(3, 2, 2), mean=half, std=half, whitening=whitening)


def test_mistakes_are_the_surest_first_and_hits_the_least_sure() -> None:
    predictions = said([0.9, 0.6, 0.8, 0.7, 0.9], [False, True, False, True, True])
    assert find_confident_mistakes(predictions, 5) == [0, 2]
    assert find_confident_mistakes(predictions, 1) == [0]
    assert find_uncertain_correct(predictions, 2) == [1, 3]


def test_the_weights_through_a_whitening_are_of_pixels() -> None:
    """Of two images the difference in a unit's z is that of its picture's products with them."""
    whitening = Whitening(5, 12)
    whitening.weight.normal_(generator=torch.Generator().manual_seed(1))
    net = network(MLP(5, (4,), 3, generator=torch.Generator().manual_seed(2)), whitening)
    numbers, shown = first_layer_weights(net, None, 4)
    x = normalize(PIXELS[:2], net.mean, net.std)
    z = net.model.dense_layers()[0].preactivation(whitening(x))
    products = torch.einsum("nchw,uchw->nu", x, shown)
    assert_close(products[1] - products[0], z[1, numbers] - z[0, numbers], rtol=1e-4, atol=1e-4)


def test_a_unit_that_never_changes_matters_least() -> None:
    net = network(MLP(12, (4,), 3, generator=torch.Generator().manual_seed(2)))
    with torch.no_grad():
        net.model.dense_layers()[0].bias[1] = -1e6  # type: ignore[index]
    test = Batches(PIXELS, torch.zeros(40, dtype=torch.int64), preprocessing=Preprocessing(net.mean, net.std))
    numbers, _ = first_layer_weights(net, test, 4)
    assert numbers[-1] == 1
    assert len(first_layer_weights(net, test, 2)[0]) == 2


@pytest.mark.parametrize("num_classes", [2, 5])
def test_without_a_hidden_layer_the_weights_are_in_the_order_of_the_classes(num_classes: int) -> None:
    net = network(LogisticRegression(12, num_classes))
    numbers, shown = first_layer_weights(net, None, 10)
    assert numbers == list(range(1 if num_classes == 2 else 5))
    assert_close(shown.flatten(1), net.model.dense_layers()[0].weight.detach())


def test_a_pair_is_tested_on_what_one_alone_gets_right() -> None:
    first = run(said([0.9] * 6, [True, True, True, True, False, True]))
    second = run(said([0.9] * 6, [True, False, False, False, True, True]))
    third = run(said([0.9] * 6, [True] * 6))
    found = paired_tests([first, second, third])
    counts = [(pair.first, pair.second, pair.only_first, pair.only_second) for pair in found]
    assert counts == [(0, 1, 3, 1), (0, 2, 0, 1), (1, 2, 0, 3)]
    assert [pair.p for pair in found] == [mcnemar_test(3, 1), mcnemar_test(0, 1), mcnemar_test(0, 3)]
    assert found[2].adjusted_p == pytest.approx(3 * mcnemar_test(0, 3))
    (alone,) = paired_tests([first, second])
    assert alone.adjusted_p == alone.p


def test_runs_on_other_images_are_not_paired() -> None:
    predictions = said([0.9] * 2, [True, True])
    assert len(paired_tests([run(predictions), run(predictions)])) == 1
    assert not paired_tests([run(predictions), run(predictions, data="other")])
    assert not paired_tests([run(predictions), run(None)])
    assert not paired_tests([run(predictions), run(said([0.9] * 2, [True, True], labels=[0, 1]))])
    assert not paired_tests(
        [run(predictions), dataclasses.replace(run(predictions), classifier=network(MLP(12, (), 3)))]
    )


def test_settings_say_where_runs_differ() -> None:
    rows = compare_settings([run(), run(config=Config(seed=3, data=Data(validation=0.2), train=Train(epochs=15)))])
    assert {row[0]: row[1] for row in rows if row[2]} == {"seed": ["0", "3"], "data.validation": ["0.1", "0.2"]}
    assert ("model.hidden", ["[128]", "[128]"], False) in rows
    assert not any(differs for _, _, differs in compare_settings([run()]))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^RUN must be a run's folder, got .*nothing$"):
        read_run_data(tmp_path / "nothing")
