"""Tests of fcnet.report.evaluation_sections."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fcnet.config.schema import Config
from fcnet.data.batches import Batches
from fcnet.evaluation.predictions import PredictionCollector
from fcnet.metrics import wilson_interval
from fcnet.report.evaluation_sections import evaluation_section, weight_images
from fcnet.report.run_data import RunData
from fcnet.runtime.formatting import format_percent
from tests.helpers import random_classifier, random_images

SHAPE = (1, 2, 2)


def make_run(
    logits: torch.Tensor, labels: list[int], *, with_images: bool = True, names: list[str] | None = None
) -> RunData:
    """A run whose model predicts the given logits (N, C) for N test images."""
    test = Batches(random_images(len(labels), SHAPE), torch.tensor(labels), names=names)
    collector = PredictionCollector(test)
    collector.update(logits, torch.tensor(labels))
    classifier = random_classifier(SHAPE, logits.shape[1])
    predictions = collector.compute()
    return RunData(
        "run",
        Path("run"),
        Config.model_validate({"data": {"path": "my/pets"}}),
        [],
        {},
        classifier=classifier,
        predictions=predictions,
        test=test if with_images else None,
    )


LOGITS = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
LABELS = [0, 0, 0, 2]


def test_the_confusion_matrix_has_counts_and_shares_of_each_true_class() -> None:
    section = evaluation_section(make_run(LOGITS, LABELS))
    assert section is not None
    assert section.matrix == [
        ("class 0", [(2, 2 / 3), (1, 1 / 3), (0, 0.0)]),
        ("class 1", [(0, 0.0), (0, 0.0), (0, 0.0)]),
        ("class 2", [(0, 0.0), (0, 0.0), (1, 1.0)]),
    ]
    assert section.long_names
    assert section.confusions == [("class 0", "class 1", "1", "33.33%")]


def test_per_class_metrics_have_the_interval_of_the_recall_and_dashes_where_undefined() -> None:
    section = evaluation_section(make_run(LOGITS, LABELS))
    assert section is not None
    low, high = map(format_percent, wilson_interval(2, 3))
    assert section.per_class[0] == ("class 0", "3", "100.00%", "66.67%", "80.00%", f"{low} to {high}")
    assert section.per_class[1][:4] == ("class 1", "0", "0.00%", "–")


def test_the_calibration_error_is_the_mean_distance_between_confidence_and_accuracy() -> None:
    logit = torch.tensor(3.0).log()  # probability 0.75 of two classes
    logits = torch.stack([logit.expand(4), torch.zeros(4)], 1)
    section = evaluation_section(make_run(logits, [0, 0, 0, 1]))
    assert section is not None
    assert section.calibration_error == "0.00%"
    assert section.calibration.rows[0][:2] == ("75.00%", "75.00%")
    section = evaluation_section(make_run(logits, [0, 0, 1, 1]))
    assert section is not None
    assert section.calibration_error == "25.00%"


def test_captions_name_the_prediction_and_the_true_class_or_the_runner_up() -> None:
    run = make_run(LOGITS, LABELS)
    section = evaluation_section(run)
    assert section is not None
    probabilities = LOGITS.softmax(1)
    (mistake,) = section.mistakes
    assert mistake.lines == [
        f"predicted class 1: {probabilities[1, 1]:.1%}",
        f"true class class 0: {probabilities[1, 0]:.1%}",
        "test image 1",
    ]
    assert mistake.alt == "test image 1, class 0, predicted as class 1"
    assert mistake.uri is not None
    least_confident = section.uncertain_correct[0]
    assert least_confident.lines[:2] == [
        f"predicted class 2: {probabilities[3, 2]:.1%}", f"next class 0: {probabilities[3, 0]:.1%}"
    ]  # fmt: skip


def test_without_images_the_captions_remain() -> None:
    section = evaluation_section(make_run(LOGITS, LABELS, with_images=False))
    assert section is not None
    assert [image.uri for image in section.mistakes] == [None]
    assert section.mistakes[0].lines[2] == "test image 1"


ALL_WRONG = torch.tensor([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0]])


def test_a_caption_has_the_path_of_its_image_in_place_of_its_number() -> None:
    names = ["test/a/<0>.png", "test/\x1b[2J\udcff.png", f"test/b/{'x' * 2000}/1.png"]
    section = evaluation_section(make_run(ALL_WRONG, [1, 1, 1], names=names))
    assert section is not None
    first, second, third = section.mistakes
    assert (first.path, first.short_path) == (names[0], names[0])
    assert second.path == r"test/\x1b[2J\udcff.png"
    assert third.path is not None
    assert third.short_path is not None
    assert (len(third.path), len(third.short_path)) == (1024, 60)
    assert all(path.startswith("test/b/x") and path.endswith("x/1.png") for path in (third.path, third.short_path))
    assert [len(image.lines) for image in section.mistakes] == [2, 2, 2]


@pytest.mark.parametrize("names", [None, [f"test/{number}.png" for number in range(13)]])
def test_a_note_counts_the_mistakes_and_names_the_list_of_all(
    names: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    below = " Paths are relative to my/pets." if names else ""
    for count in (3, 13):
        run = make_run(ALL_WRONG[:1].repeat(count, 1), [1] * count, names=names and names[:count])
        section = evaluation_section(run)
        assert section is not None
        assert section.mistakes_note == f"{min(count, 12)} of {count} mistakes, most confident first.{below}"
    Path("run").mkdir()
    Path("run/mistakes.csv").touch()
    section = evaluation_section(run)
    assert section is not None
    assert section.mistakes_note.endswith(f" The file mistakes.csv in the run folder lists all of them.{below}")


def test_an_image_without_a_path_has_the_number_of_its_row_in_the_test_split() -> None:
    test = Batches(random_images(9, SHAPE), torch.zeros(9, dtype=torch.int64), rows=torch.tensor([8, 3, 5]))
    collector = PredictionCollector(test)
    collector.update(ALL_WRONG, torch.tensor([1, 1, 1]))
    classifier = random_classifier(SHAPE, 2)
    run = RunData("run", Path("run"), Config(), [], {}, classifier=classifier, predictions=collector.compute())
    section = evaluation_section(run)
    assert section is not None
    assert [image.lines[2] for image in section.mistakes] == ["test image 8", "test image 3", "test image 5"]
    assert section.mistakes[0].alt.startswith("test image 8, ")


def test_more_than_thirty_classes_have_no_matrix() -> None:
    for num_classes, shown in ((30, True), (31, False)):
        section = evaluation_section(make_run(torch.eye(num_classes), list(range(num_classes))))
        assert section is not None
        assert bool(section.matrix) == shown
        assert section.confusions == []


def test_a_run_without_predictions_has_no_section() -> None:
    assert evaluation_section(RunData("run", Path("run"), Config(), [], {})) is None
    assert weight_images(RunData("run", Path("run"), Config(), [], {})) == []


@pytest.mark.parametrize(
    ("num_classes", "hidden", "names"),
    [
        (3, (), ["class 0", "class 1", "class 2"]),
        (2, (), ["class 1"]),  # the single output node is that of the second class
        (3, (4,), ["unit 0", "unit 1", "unit 2", "unit 3"]),
    ],
)
def test_weight_images_carry_the_name_of_their_unit(
    num_classes: int, hidden: tuple[int, ...], names: list[str]
) -> None:
    classifier = random_classifier(SHAPE, num_classes, hidden=hidden)
    images = weight_images(RunData("run", Path("run"), Config(), [], {}, classifier=classifier))
    assert sorted(image.lines[0] for image in images) == names
    assert all(image.alt == f"weights of {image.lines[0]}" for image in images)
