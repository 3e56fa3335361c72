"""Tests of fcnet.report.example_images."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fcnet.config.schema import Config
from fcnet.data.batches import Batches
from fcnet.evaluation.predictions import PredictionCollector
from fcnet.report.example_images import examples_section, find_top_losses, weight_images
from fcnet.report.run_data import RunData
from tests.helpers import random_classifier, random_images
from tests.unit.report.helpers import SHAPE, make_run

LOGITS = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
LABELS = [0, 0, 0, 2]


def test_mistakes_have_the_highest_loss_first() -> None:
    # Confident in a wrong class, with more or less left for the true one, class 0.
    logits = torch.tensor([[0.0, 5.0, 4.9], [0.0, 5.0, 0.0], [9.0, 0.0, 0.0], [0.0, 5.5, 0.0], [-200.0, 0.0, 0.0]])
    run = make_run(logits, [0] * 5)
    assert run.predictions is not None
    losses = torch.nn.functional.cross_entropy(logits.double(), torch.zeros(5, dtype=torch.int64), reduction="none")
    expected = [position for position in losses.argsort(descending=True).tolist() if position != 2]
    assert find_top_losses(run.predictions, 9) == expected
    assert find_top_losses(run.predictions, 2) == expected[:2]
    section = examples_section(run)
    assert section is not None
    shown = [image.lines[2] for image in section.top_losses]
    assert shown[0] == "loss above 100"
    assert shown[1:] == [f"loss {losses[position]:.3g}" for position in expected[1:]]


def test_captions_name_the_prediction_and_the_true_class_or_the_runner_up() -> None:
    run = make_run(LOGITS, LABELS)
    section = examples_section(run)
    assert section is not None
    probabilities = LOGITS.softmax(1)
    (mistake,) = section.top_losses
    assert mistake.lines == [
        f"predicted class 1: {probabilities[1, 1]:.1%}",
        f"true class class 0: {probabilities[1, 0]:.1%}",
        f"loss {-math.log(probabilities[1, 0]):.3g}",
        "test image 1",
    ]
    assert mistake.alt == "test image 1, class 0, predicted as class 1"
    assert mistake.uri is not None
    least_confident = section.uncertain_correct[0]
    assert least_confident.lines[:2] == [
        f"predicted class 2: {probabilities[3, 2]:.1%}", f"next class 0: {probabilities[3, 0]:.1%}"
    ]  # fmt: skip


def test_without_images_the_captions_remain() -> None:
    section = examples_section(make_run(LOGITS, LABELS, with_images=False))
    assert section is not None
    assert [image.uri for image in section.top_losses] == [None]
    assert section.top_losses[0].lines[3] == "test image 1"


ALL_WRONG = torch.tensor([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0]])


def test_a_caption_has_the_path_of_its_image_in_place_of_its_number() -> None:
    names = ["test/a/<0>.png", "test/\x1b[2J\udcff.png", f"test/b/{'x' * 2000}/1.png"]
    section = examples_section(make_run(ALL_WRONG, [1, 1, 1], names=names))
    assert section is not None
    first, second, third = section.top_losses
    assert (first.path, first.short_path) == (names[0], names[0])
    assert second.path == r"test/\x1b[2J\udcff.png"
    assert third.path is not None
    assert third.short_path is not None
    assert (len(third.path), len(third.short_path)) == (1024, 60)
    assert all(path.startswith("test/b/x") and path.endswith("x/1.png") for path in (third.path, third.short_path))
    assert [len(image.lines) for image in section.top_losses] == [3, 3, 3]


@pytest.mark.parametrize("names", [None, [f"test/{number}.png" for number in range(13)]])
def test_a_note_counts_the_mistakes_and_names_the_list_of_all(
    names: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    below = " Paths are relative to my/pets." if names else ""
    for count in (3, 13):
        run = make_run(ALL_WRONG[:1].repeat(count, 1), [1] * count, names=names and names[:count])
        section = examples_section(run)
        assert section is not None
        assert section.note == f"{min(count, 12)} of {count} mistakes, highest loss first.{below}"
    Path("run").mkdir()
    Path("run/mistakes.csv").touch()
    section = examples_section(run)
    assert section is not None
    assert section.note.endswith(
        f" The file mistakes.csv in the run folder lists all of them, most confident first.{below}"
    )


def test_an_image_without_a_path_has_the_number_of_its_row_in_the_test_split() -> None:
    test = Batches(random_images(9, SHAPE), torch.zeros(9, dtype=torch.int64), rows=torch.tensor([8, 3, 5]))
    collector = PredictionCollector(test)
    collector.update(ALL_WRONG, torch.tensor([1, 1, 1]))
    classifier = random_classifier(SHAPE, 2)
    run = RunData("run", Path("run"), Config(), [], {}, classifier=classifier, predictions=collector.compute())
    section = examples_section(run)
    assert section is not None
    assert [image.lines[3] for image in section.top_losses] == ["test image 8", "test image 3", "test image 5"]
    assert section.top_losses[0].alt.startswith("test image 8, ")


def test_a_run_without_predictions_has_no_images() -> None:
    assert examples_section(RunData("run", Path("run"), Config(), [], {})) is None
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
