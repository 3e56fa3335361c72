"""Tests of fcnet.experiment.evaluation_data: which images of other data a model is judged on, and what is said."""

from __future__ import annotations

import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from fcnet.config import schema
from fcnet.data import sources
from fcnet.data.sources import Source, synthetic
from fcnet.data.store.store import open_store
from fcnet.experiment.evaluation_data import EvaluationData, OwnData, open_evaluation_data
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import LogisticRegression
from fcnet.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("isolated_cache")

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
CAT_AND_DOG = {"cat": 10, "dog": 20}


def write_classes(folder: Path, levels: dict[str, int], count: int = 2, **options: Any) -> Path:
    """Writes ``CLASS/NUMBER.png``, each class in one level of grey."""
    for name, level in levels.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = Image.new(options.get("mode", "L"), options.get("size", (5, 6)), options.get("color", level))
            image.save(folder / name / f"{number}.png")
    return folder


def make_classifier(classes: tuple[str, ...] = ("cat", "dog"), channels: int = 1) -> ImageClassifier:
    mean, std = torch.full((channels,), 0.25), torch.full((channels,), 0.5)
    model = LogisticRegression(30 * channels, len(classes))
    return ImageClassifier(model, classes=classes, shape=(channels, 6, 5), mean=mean, std=std)


def judge(
    path: Path, classifier: ImageClassifier | None = None, source: Any = "images", **own: Any
) -> tuple[list[float], list[int], tuple[str, ...]]:
    """Returns the level of the first pixel of each image, its label, and the notes."""
    opened = open_other(path, classifier or make_classifier(), source, **own)
    (batch,) = opened.batches
    levels = ((batch.images[:, 0, 0, 0] * 0.5 + 0.25) * 255).round()
    return levels.tolist(), batch.labels.tolist(), opened.notes


def open_other(path: Path, classifier: ImageClassifier, source: Any = "images", **own: Any) -> EvaluationData:
    data = OwnData(schema.Data(source=source, path="its own"), own.get("fingerprint", ""), own.get("num_images", 0))
    return open_evaluation_data(data, classifier, path, device=CPU)


def test_every_image_of_class_folders_is_judged(tmp_path: Path) -> None:
    path = write_classes(tmp_path, CAT_AND_DOG, count=10)
    assert judge(path) == ([10.0] * 10 + [20.0] * 10, [0] * 10 + [1] * 10, ())


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_only_test_images_are_judged_where_there_are_splits(tmp_path: Path, form: str) -> None:
    path = tmp_path / "pets"
    write_classes(path / "train", {"cat": 1, "dog": 2})
    write_classes(path / "Test", CAT_AND_DOG)
    write_classes(path / "val", {"cat": 3, "dog": 4})
    write_classes(path / "extra", {"cow": 5})
    if form == "archive":
        with tarfile.open(tmp_path / "pets.tar.gz", "w:gz") as archive:
            archive.add(path, "pets")
        path = tmp_path / "pets.tar.gz"
    note = "not used: 1 folder beside the splits (extra), 2 splits not judged (train, val)"
    assert judge(path) == ([10.0, 10.0, 20.0, 20.0], [0, 0, 1, 1], (note,))


def test_a_test_split_alone_is_enough(tmp_path: Path) -> None:
    write_classes(tmp_path / "test", CAT_AND_DOG)
    assert judge(tmp_path) == ([10.0, 10.0, 20.0, 20.0], [0, 0, 1, 1], ())


def test_a_folder_without_test_images_is_refused_with_what_to_give(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", CAT_AND_DOG)
    write_classes(tmp_path / "val", CAT_AND_DOG)
    with pytest.raises(UserError) as error:
        judge(tmp_path)
    assert str(error.value) == (
        f"expected test/CLASS/… in {tmp_path}, found train, val; give {tmp_path}/val to use its images"
    )
    assert judge(tmp_path / "val")[1] == [0, 0, 1, 1]


def test_classes_are_matched_by_name_and_what_does_not_match_is_said(tmp_path: Path) -> None:
    path = write_classes(tmp_path, {"cat": 10, "cow": 15, "eel": 17, "cafe\u0301": 30})
    levels, labels, notes = judge(path, make_classifier(("caf\u00e9", "dog", "cat")))
    assert (levels, labels) == ([30.0, 30.0, 10.0, 10.0], [0, 0, 2, 2])
    assert notes == (
        "4 images of classes that the model lacks are left out: cow, eel",
        "1 of 3 classes of the model has no image: dog",
    )


def test_a_single_class_of_the_model_is_enough(tmp_path: Path) -> None:
    path = write_classes(tmp_path, {"dog": 20})
    assert judge(path) == ([20.0, 20.0], [1, 1], ("1 of 2 classes of the model has no image: cat",))


def test_data_without_a_class_of_the_model_is_refused(tmp_path: Path) -> None:
    path = write_classes(tmp_path, {"cow": 1, "eel": 2})
    with pytest.raises(UserError) as error:
        judge(path)
    assert str(error.value) == f"{path} must hold images of the model's classes (cat, dog), found only cow, eel"


def test_images_are_converted_to_the_models_channels_and_size_and_that_is_said(tmp_path: Path) -> None:
    path = write_classes(tmp_path / "red", {"cat": 0}, mode="RGB", color=(200, 0, 0))
    write_classes(path, {"dog": 20}, size=(10, 12))
    levels, _, notes = judge(path)
    assert levels == [200 * 299 // 1000 + 1.0, 200 * 299 // 1000 + 1.0, 20.0, 20.0]
    assert notes == ("2 of 4 images are converted to grey", "2 of 4 images are scaled and cropped to 5×6 pixels")
    batch = next(iter(open_other(write_classes(tmp_path / "grey", CAT_AND_DOG), make_classifier(channels=3)).batches))
    assert batch.images.shape == (4, 3, 6, 5)
    assert_close(batch.images[:, 0], batch.images[:, 2])


def test_a_turned_photo_of_the_models_size_is_not_counted_as_scaled(tmp_path: Path) -> None:
    path = write_classes(tmp_path, CAT_AND_DOG)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    Image.new("L", (6, 5), 10).save(path / "cat" / "turned.png", exif=orientation)
    assert judge(path)[2] == ()


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    path = write_classes(tmp_path, CAT_AND_DOG)
    (path / "cow").mkdir()
    (path / "notes.txt").touch()
    (path / "cat" / "Thumbs.db").touch()
    assert judge(path)[2] == (
        "not used: 1 file without an image suffix (notes.txt), 1 class folder without an image (cow)",
    )


def test_the_models_own_folder_is_judged_on_its_test_images_alone(tmp_path: Path) -> None:
    path = write_classes(tmp_path / "pets", CAT_AND_DOG, count=10)
    own = open_store(sources.images(path))
    note = "these are the images that the model was trained on: only the test images of the run are judged"
    expected = ([10.0, 10.0, 20.0, 20.0], [0, 0, 1, 1], (note,))
    for num_images in (20, None):
        assert judge(path, fingerprint=own.fingerprint, num_images=num_images) == expected
    write_classes(tmp_path / "moved", CAT_AND_DOG, count=10)
    assert judge(tmp_path / "moved", fingerprint=own.fingerprint, num_images=20) == expected
    assert len(judge(path, fingerprint="another", num_images=20)[0]) == 20


def test_arrays_may_hold_a_test_split_alone_of_another_shape(tmp_path: Path) -> None:
    pixels = np.zeros((3, 12, 10, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    np.savez(tmp_path / "x.npz", x_test=pixels, y_test=np.array([1, 0, 1]), classes=np.array(["cat", "dog"]), ids=[1])
    assert judge(tmp_path / "x.npz", source="digits") == (
        [60.0] * 3,
        [1, 0, 1],
        (
            "not used: 1 array of another name (ids)",
            "3 of 3 images are converted to grey",
            "3 of 3 images are scaled and cropped to 5×6 pixels",
        ),
    )
    np.savez(tmp_path / "y.npz", x=pixels, y=np.array([1, 0, 1]))
    with pytest.raises(UserError) as error:
        judge(tmp_path / "y.npz")
    assert str(error.value) == f"{tmp_path}/y.npz must hold x_test and y_test, found x, y"


@pytest.mark.parametrize("source", ["digits", "synthetic", "images", "cifar10", "arrays"])
def test_other_data_may_be_arrays_or_images_whatever_the_model_was_trained_on(source: Any, tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "images", CAT_AND_DOG)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(folder, ".")
    packed = tmp_path / "all"  # a zip archive, whatever its name
    with zipfile.ZipFile(packed, "w") as zipped:
        for path in folder.rglob("*.*"):
            zipped.write(path, path.relative_to(folder))
    pixels, labels = np.full((4, 6, 5), 10, dtype=np.uint8), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "x.npz", x_test=pixels, y_test=labels, classes=np.array(["cat", "dog"]))
    for path in (folder, tmp_path / "all.tar.gz", packed, tmp_path / "x.npz"):
        assert len(judge(path, source=source)[0]) == 4


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_a_model_trained_on_cifar_can_be_tested_on_another_copy_of_it(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def open_source(path: Path, *, download: bool) -> Source:
        assert not download
        opened.append(path)
        return synthetic((1, 6, 5), 4, 7, 2)

    (tmp_path / "cifar-files").mkdir()
    monkeypatch.setattr(sources, source, open_source)
    assert len(judge(tmp_path, make_classifier(("0", "1")), source)[0]) == 7
    assert opened == [tmp_path]
