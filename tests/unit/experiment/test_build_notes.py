"""Tests of the notes before training: each is there when it is true, and only then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fcnet.config import schema
from fcnet.data.batches import Batches
from fcnet.evaluation.classification import evaluate
from fcnet.experiment.build import build
from fcnet.experiment.build_notes import batch_norm_notes, schedule_notes
from fcnet.metrics import class_metrics
from fcnet.runtime.errors import UserError
from tests.helpers import write_image
from tests.unit.experiment.helpers import build_experiment

if TYPE_CHECKING:
    from pathlib import Path

    from fcnet.experiment.build import Experiment

pytestmark = pytest.mark.usefixtures("isolated_cache")
CPU = torch.device("cpu")


def draw(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(256, size=(count, 5, 4), dtype=np.uint8)


def write_arrays(path: Path, **changes: Any) -> schema.Data:
    """Writes 20 training, 6 validation and 6 test images of two classes."""
    arrays: dict[str, Any] = {"classes": np.array(["cat", "dog"])}
    for number, (split, count) in enumerate({"train": 20, "validation": 6, "test": 6}.items()):
        arrays |= {f"x_{split}": draw(count, number), f"y_{split}": np.arange(count) % 2}
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return schema.Data(source="arrays", path=str(path))


def build_data(data: schema.Data, **sections: Any) -> Experiment:
    return build(schema.Config(data=data, **sections), CPU)


OWN = "validation: the data's own 6 images"


def test_a_validation_split_of_its_own_serves_settings_that_need_one(tmp_path: Path) -> None:
    data = write_arrays(tmp_path / "own.npz").model_copy(update={"validation": 0.0})
    train = schema.Train(patience=3, select="validation_loss")
    validation = build_data(data, train=train).training.validation
    assert validation is not None
    assert validation.num_images == 6
    without = write_arrays(tmp_path / "none.npz", x_validation=None, y_validation=None)
    for share, rule in (
        (0.0, "data.validation must be greater than 0 if {}, got 0.0"),
        (0.01, "data.validation must hold out one or more images if {}, got none with 0.01"),
    ):
        with pytest.raises(UserError) as error:
            build_data(without.model_copy(update={"validation": share}), train=train)
        needs = ("train.patience is set", "train.select is validation_loss")
        assert error.value.args == tuple(rule.format(need) for need in needs)
    elsewhere = write_arrays(tmp_path / "three.npz", y_train=np.arange(20) % 3, y_validation=np.full(6, 2),
                             classes=np.array(["cat", "dog", "eel"]))  # fmt: skip
    with pytest.raises(
        UserError, match=r"^the validation split must have an image of these classes if train.patience "
    ):
        build_data(elsewhere.model_copy(update={"classes": ("cat", "dog")}), train=schema.Train(patience=3))


def test_data_with_a_validation_split_of_its_own_is_validated_on_it(tmp_path: Path) -> None:
    experiment = build_data(write_arrays(tmp_path / "x.npz"))
    training, validation = experiment.training, experiment.training.validation
    assert training.batches.num_images == 20
    assert validation is not None
    assert torch.equal(validation.images[:, 0], torch.from_numpy(draw(6, 1)))
    assert validation.preprocessing is training.batches.preprocessing
    assert experiment.notes == (OWN,)


def test_classes_are_selected_from_an_own_validation_split(tmp_path: Path) -> None:
    data = write_arrays(tmp_path / "x.npz", y_validation=np.array([0, 1, 1, 1, 0, 1]))
    validation = build_data(data.model_copy(update={"classes": ("dog", "cat")})).training.validation
    assert validation is not None
    assert validation.labels[validation.rows].tolist() == [1, 0, 0, 0, 1, 0]


def test_a_share_of_zero_leaves_an_own_validation_split_in_use(tmp_path: Path) -> None:
    data = write_arrays(tmp_path / "x.npz").model_copy(update={"validation": 0.0})
    assert build_data(data).notes == (OWN,)


def test_without_a_validation_split_a_share_of_the_training_images_is_held_out(tmp_path: Path) -> None:
    experiment = build_data(write_arrays(tmp_path / "x.npz", x_validation=None, y_validation=None))
    assert experiment.training.validation is not None
    assert experiment.training.validation.images is experiment.training.batches.images
    assert experiment.notes == ()


def test_a_class_that_is_absent_from_a_split_is_named_once(tmp_path: Path) -> None:
    data = write_arrays(tmp_path / "x.npz", y_validation=np.zeros(6, int), y_test=np.ones(6, int))
    absent = "1 of 2 classes has no validation image: dog", "1 of 2 classes has no test image: cat"
    assert build_data(data).notes == (*absent, OWN)


def write_pets(folder: Path) -> schema.Data:
    """Writes 6 training images and 2 test images of two classes; the test images are training images, too."""
    for split, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number, pixels in enumerate(draw(count, label)):
                write_image(folder / split / name / f"{number}.png", pixels)
    return schema.Data(source="images", path=str(folder), skip_broken=True)


def test_a_class_whose_test_images_are_all_broken_is_named_and_has_no_figures(tmp_path: Path) -> None:
    data = write_pets(tmp_path / "pets")
    for number in range(2):
        (tmp_path / "pets" / "test" / "dog" / f"{number}.png").write_bytes(b"")
    experiment = build_data(data)
    assert experiment.notes[0].startswith("skipped 2 broken of 16 images: test/dog/0.png, test/dog/1.png; ")
    assert experiment.notes[1] == "1 of 2 classes has no test image: dog"
    metrics = class_metrics(evaluate(experiment.training.model, experiment.test).confusion)
    assert (metrics[1].count, metrics[1].recall) == (0, None)


def test_copies_of_training_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    test, validation = draw(6, 2), draw(6, 1)
    test[[1, 3, 4, 5]] = draw(20)[[7, 7, 0, 19]]
    validation[2] = draw(20)[11]
    notes = build_data(write_arrays(tmp_path / "x.npz", x_test=test, x_validation=validation)).notes
    end = "; accuracy on copies says nothing about new images"
    assert notes == (
        OWN,
        f"1 of 6 validation images is a copy of a training image, pixel for pixel: image 2{end}",
        f"4 of 6 test images are copies of training images, pixel for pixel: image 1, image 3, image 4, …{end}",
    )


def test_copies_and_skipped_images_are_named_by_their_paths_also_when_the_store_is_opened_again(tmp_path: Path) -> None:
    data = write_pets(tmp_path / "pets")
    (tmp_path / "pets" / "test" / "dog" / "0.png").write_bytes(b"")
    first, second = (build_data(data).notes for _ in range(2))
    assert first == second
    assert first[0].startswith("skipped 1 broken of 16 images: test/dog/0.png; ")
    assert first[1].startswith(
        "3 of 3 test images are copies of training images, pixel for pixel: "
        "test/cat/0.png, test/cat/1.png, test/dog/1.png; "
    )


@pytest.mark.parametrize(
    ("optimizer", "note"),
    [
        ({"warmup_epochs": 4.5}, ""),
        ({"warmup_epochs": 5.0}, "the learning rate rises until {end}, because optimizer.warmup_epochs = 5"),
        ({"warmup_epochs": 5.0, "name": "lbfgs"}, ""),
        ({"schedule": "steps", "milestones": (2.0, 4.5)}, ""),
        ({"schedule": "steps", "milestones": (2.0, 5.0)}, "optimizer.milestones 5 has no effect: {end}"),
        ({"schedule": "steps", "milestones": (6.0, 7.5)}, "optimizer.milestones 6, 7.5 have no effect: {end}"),
        ({"schedule": "cosine", "milestones": (6.0,)}, ""),
    ],
)
def test_a_schedule_beyond_the_end_of_training_is_named(optimizer: dict[str, Any], note: str) -> None:
    batch_size: Literal["all", 8] = "all" if optimizer.get("name") == "lbfgs" else 8
    config = schema.Config(optimizer=schema.Optimizer(**optimizer), train=schema.Train(epochs=5, batch_size=batch_size))
    expected = [note.format(end="training ends after 5 epochs (train.epochs)")] if note else []
    assert list(schedule_notes(config)) == expected


def test_a_photo_that_keeps_its_size_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for level, name in enumerate(("cat", "dog")):
            pixels = np.full((2, 1000), 40 * level + 3 * (split == "test"), np.uint8)
            write_image(tmp_path / "pets" / split / name / "0.png", pixels)
    data = schema.Data(source="images", path=str(tmp_path / "pets"))
    assert build_data(data).notes == (
        (
            "images have 1,000×2 pixels, and each unit of the first layer 2,000 weights; data.size = [64, 64] resizes "
            "the images"
        ),
    )
    assert build_data(data.model_copy(update={"size": (2, 1000)})).notes == ()


@pytest.mark.parametrize(
    ("num_images", "batch_size", "accumulate", "note"),
    [
        (128, 64, 8, ""),
        (128, 64, 10, ("batch normalization sees only 6 images at a time, whose mean and variance are noise; lower "
         "train.accumulate or raise train.batch_size")),
        (9, 3, 1, ("batch normalization sees only 3 images at a time, whose mean and variance are noise; raise "
         "train.batch_size")),
        (129, 64, 1, ("the last batch of an epoch has 1 image, and batch normalization learns nothing from one image; "
         "change train.batch_size (64)")),
        (133, 64, 4, ("the last batch of an epoch has 5 images in 4 parts, and batch normalization learns nothing from "
         "one image; change train.batch_size (64)")),
        (136, 64, 4, ""),
    ],
)  # fmt: skip
def test_batch_normalization_of_few_images_is_named(
    num_images: int, batch_size: int, accumulate: int, note: str
) -> None:
    train = schema.Train(batch_size=batch_size, accumulate=accumulate)
    assert list(batch_norm_notes(train, num_images, batch_size)) == ([note] if note else [])


def test_the_parts_named_by_the_note_are_those_of_a_batch() -> None:
    (batch,) = Batches(torch.rand(133, 2), torch.zeros(133, dtype=torch.int64), batch_size=133)
    assert {len(part.labels) for part in batch.split(20)} == {6, 7}


def test_networks_without_batch_normalization_take_batches_of_any_size() -> None:
    assert build_experiment(train={"batch_size": 1}).notes == ()


@pytest.mark.parametrize(("precision", "is_noted"), [("tf32", True), ("float32", False), ("bfloat16", False)])
def test_tf32_on_a_cpu_is_said_to_be_float32(
    precision: Literal["tf32", "float32", "bfloat16"], is_noted: bool, tmp_path: Path
) -> None:
    data = write_arrays(tmp_path / "own.npz")
    notes = build_data(data, train=schema.Train(precision=precision)).notes
    assert ('train.precision = "tf32" is float32 on the device cpu: TF32 needs an NVIDIA GPU' in notes) is is_noted
