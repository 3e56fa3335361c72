"""Tests of fcnet.experiment.build_data."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from fcnet.config import schema
from fcnet.data.batches import Augmentation
from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.data.transforms.whitening import Whitening, fit_whitening
from fcnet.experiment import build
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.losses import ScoreLoss
from fcnet.models.mlp import LogisticRegression
from fcnet.runtime.errors import UserError
from tests.unit.experiment.helpers import build_experiment, make_config

pytestmark = pytest.mark.usefixtures("isolated_cache")

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CPU = torch.device("cpu")


def write_image_folder(path: Path, classes: dict[str, int], *, size: tuple[int, int] = (5, 6)) -> Path:
    """Two images per class and split; the images of a class have one gray level, in training one more."""
    for split in ("train", "test"):
        for name, level in classes.items():
            (path / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = np.full((size[1], size[0]), level + (split == "train"), dtype=np.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{number}.png")
    return path


def make_classifier(classes: tuple[str, ...], shape: tuple[int, int, int] = (1, 6, 5)) -> ImageClassifier:
    model = LogisticRegression(30, len(classes))
    return ImageClassifier(model, classes=classes, shape=shape, mean=torch.tensor([0.25]), std=torch.tensor([0.5]))


@pytest.mark.parametrize(("fraction", "num_held_out"), [(0.0, 0), (0.1, 4 * 2), (0.5, 4 * 12), (0.99, 4 * 24)])
def test_the_same_fraction_of_every_class_is_held_out(fraction: float, num_held_out: int) -> None:
    training = build_experiment({"validation": fraction}).training
    assert training.batches.num_images == 100 - num_held_out
    if training.validation is None:
        assert num_held_out == 0
        return
    held_out = training.validation.rows
    assert training.validation.labels[held_out].bincount().tolist() == [num_held_out // 4] * 4
    assert sorted([*training.batches.rows.tolist(), *held_out.tolist()]) == list(range(100))


def test_unknown_class_names_are_refused() -> None:
    with pytest.raises(UserError) as error:
        build_experiment({"classes": ("0", "cat", "dog")})
    assert str(error.value) == "data.classes must be among 0, 1, 2, 3, got cat, dog"


@pytest.mark.parametrize("name", ["shift", "cutout"])
@pytest.mark.parametrize("pixels", [5, 6])
def test_a_shift_or_cutout_as_large_as_the_images_is_refused(name: str, pixels: int) -> None:
    assert build_experiment({"augment": {name: 4}}).training.batches.augmentation.transforms
    with pytest.raises(UserError) as error:
        build_experiment({"augment": {name: pixels}})
    assert str(error.value) == f"data.augment.{name} must be less than the size of the images, 6×5 pixels, got {pixels}"


def test_training_images_are_augmented_as_configured() -> None:
    assert build_experiment().training.batches.augmentation == Augmentation()
    flip, shift = build_experiment({"augment": {"flip": True, "shift": 2}}).training.batches.augmentation.transforms
    assert isinstance(flip, Flip)
    assert isinstance(shift, Shift)
    assert shift == Shift(2)


def test_augmentations_have_a_fixed_order() -> None:
    augment = {"cutmix": 0.5, "cutout": 3, "color_jitter": 0.4, "scale": 0.3, "rotate": 15.0, "shift": 2, "flip": True}
    batches = build_experiment({"augment": augment}).training.batches
    transforms = (Flip(), Shift(2), Affine(15.0, 0.3), ColorJitter(0.4), Cutout(3))
    assert batches.augmentation == Augmentation(transforms, MixupCutmix(0.0, 0.5))
    assert batches.num_classes == 4


@pytest.mark.parametrize(
    ("augment", "expected"),
    [({"rotate": 15.0}, (Affine(15.0, 0.0),)), ({"scale": 0.3}, (Affine(0.0, 0.3),)), ({"mixup": 0.2}, ())],
)
def test_only_configured_augmentations_are_built(augment: dict[str, Any], expected: tuple[Any, ...]) -> None:
    batches = build_experiment({"augment": augment}).training.batches
    assert batches.augmentation == Augmentation(expected, MixupCutmix(0.2) if "mixup" in augment else None)


@pytest.mark.parametrize("loss", ["logistic", "hinge", "quadratic"])
def test_score_losses_need_two_classes(loss: str) -> None:
    two = build_experiment({"classes": ("3", "1")}, train={"loss": loss, "label_smoothing": 0.1})
    assert two.training.algorithm.loss == ScoreLoss(loss, 0.1)
    for classes in ((), ("0", "1", "2")):
        with pytest.raises(UserError) as error:
            build_experiment({"classes": classes}, train={"loss": loss})
        assert str(error.value) == f"train.loss must be cross_entropy for {len(classes) or 4} classes, got {loss}"


def test_the_own_test_set_is_that_of_the_experiment() -> None:
    experiment = build_experiment({"classes": ("3", "1")})
    again = build.own_test_data(make_config().data, experiment.fingerprint, experiment.classifier, CPU)
    assert again.rows.tolist() == experiment.test.rows.tolist()
    for ours, theirs in zip(again, experiment.test, strict=True):
        assert_close(ours.images, theirs.images)
        assert ours.labels.tolist() == theirs.labels.tolist()


@pytest.mark.parametrize(("fraction", "num_test"), [(0.2, 2 * 2), (0.5, 2 * 5)])
def test_a_folder_without_splits_is_split_independently_of_the_seed(
    tmp_path: Path, fraction: float, num_test: int
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "one" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (5, 6), number).save(tmp_path / "one" / name / f"{number}.png")
    data = schema.Data(source="images", path=str(tmp_path / "one"), test=fraction)
    first, second = (build.build(schema.Config(seed=seed, data=data), CPU) for seed in (0, 1))
    assert first.test.num_images == num_test
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.test.images, second.test.images)


def test_a_test_split_without_the_classes_of_the_model_is_refused() -> None:
    experiment = build_experiment({"test_size": 2})
    with pytest.raises(UserError, match=r"^the test split must hold at least one image of these classes, got 0$"):
        build.own_test_data(experiment.config.data, experiment.fingerprint, make_classifier(("2", "3")), CPU)


def test_data_that_is_not_in_the_cache_is_not_built(tmp_path: Path) -> None:
    data = make_config().data
    with pytest.raises(UserError) as error:
        build.own_test_data(data, "0" * 64, make_classifier(("0", "1")), CPU)
    assert str(error.value) == f"the images that the model was trained on are not in the cache ({tmp_path / 'cache'})"
    assert not (tmp_path / "cache").exists()


def test_the_digits_are_always_there(tmp_path: Path) -> None:
    experiment = build.build(schema.Config(), CPU)
    shutil.rmtree(tmp_path / "cache")
    again = build.own_test_data(schema.Data(), experiment.fingerprint, experiment.classifier, CPU)
    assert again.num_images == 360
    with pytest.raises(UserError, match="are not in the cache"):
        build.own_test_data(schema.Data(), "0" * 64, experiment.classifier, CPU)


def test_broken_images_are_skipped_counted_and_named_if_configured(tmp_path: Path) -> None:
    path = write_image_folder(tmp_path / "images", {"a": 0, "b": 9})
    for number in range(4, 8):
        (path / "train" / "b" / f"{number}.png").write_bytes(b"")
    data = {"source": "images", "path": str(path), "validation": 0.0}
    with pytest.raises(UserError, match=r"^train/b/4\.png in .* must be an image"):
        build_experiment(data)
    experiment = build_experiment(data | {"skip_broken": True})
    assert experiment.training.batches.num_images == 4
    store_file = next((tmp_path / "cache").glob("images-*/store.json"))
    (note,) = experiment.notes
    assert note == (
        "skipped 4 broken of 12 images: train/b/4.png, train/b/5.png, train/b/6.png, …; "
        f"the full list is in {store_file}"
    )
    reason = "must be an image (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP), got something else"
    assert json.loads(store_file.read_text())["skipped"] == [
        [f"train/b/{number}.png", reason] for number in range(4, 8)
    ]


def test_images_of_several_sizes_are_resized_if_configured(tmp_path: Path) -> None:
    path = write_image_folder(tmp_path / "images", {"a": 0, "b": 9})
    Image.new("L", (50, 20), 7).save(path / "test" / "a" / "1.png")
    data = {"source": "images", "path": str(path), "validation": 0.0}
    with pytest.raises(
        UserError, match=r"must be 5×6 pixels like train/a/0\.png, got 50×20; data\.size resizes all images$"
    ):
        build_experiment(data)
    experiment = build_experiment(data | {"size": (7, 3)})
    assert experiment.classifier.shape == (1, 7, 3)
    assert experiment.classifier.resize
    assert experiment.test.images[1].unique().tolist() == [7]
    assert build_experiment(data | {"size": (7, 4)}).fingerprint != experiment.fingerprint
    assert not build_experiment({"size": (7, 3)}).classifier.resize


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ((9, 5, 8), None),
        ((10, 8, 5), "classes are imbalanced: 10 images of 0, 5 of 2; "),
        ((3, 4000, 2000), "classes are imbalanced: 4,000 images of 1, 3 of 0; "),
    ],
)
def test_classes_are_imbalanced_from_a_ratio_of_two(sizes: tuple[int, ...], line: str | None, tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), sizes)
    pixels = np.zeros((len(labels), 1, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=labels, x_test=255 - pixels[:3], y_test=np.arange(3))
    data = {"source": "arrays", "path": str(tmp_path / "x.npz"), "validation": 0.0}
    notes = build_experiment(data).notes
    assert notes == (() if line is None else (f'{line}try data.balance = "weights" or "sampling"',))


def test_imbalance_counts_only_the_classes_and_images_of_the_training(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), (8, 8, 2))
    pixels = np.zeros((len(labels), 1, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=labels, x_test=255 - pixels[:3], y_test=np.arange(3))
    data = {"source": "arrays", "path": str(tmp_path / "x.npz"), "validation": 0.5}
    assert build_experiment(data).notes[0].startswith("classes are imbalanced: 4 images of 0, 1 of 2; ")
    assert build_experiment(data | {"classes": ("1", "0")}).notes == ()


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_balanced_classes_get_no_note(balance: str, tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), (8, 8, 2))
    pixels = np.zeros((len(labels), 1, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=labels, x_test=255 - pixels[:3], y_test=np.arange(3))
    assert build_experiment({"source": "arrays", "path": str(tmp_path / "x.npz"), "balance": balance}).notes == ()


def fitted_whitening(data: dict[str, Any]) -> dict[str, Tensor]:
    whitening = build_experiment(data).classifier.whitening
    assert whitening is not None
    return whitening.state_dict()


def test_whitening_is_cached_by_rows_and_components(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = fitted_whitening({"whiten": 7})
    found: list[int] = []

    def counted(parts: Iterable[Tensor], num_components: int) -> Whitening:
        found.append(num_components)
        return fit_whitening(parts, num_components)

    monkeypatch.setattr("fcnet.experiment.build_data.fit_whitening", counted)
    assert_close(fitted_whitening({"whiten": 7}), first, rtol=0, atol=0)
    assert found == []
    others = [fitted_whitening({"whiten": 8}), fitted_whitening({"whiten": 7, "validation": 0.5})]
    assert found == [8, 7]
    assert not torch.equal(others[1]["weight"], first["weight"])


def test_a_damaged_whitening_is_fitted_again(tmp_path: Path) -> None:
    first = fitted_whitening({"whiten": 7})
    (file,) = (tmp_path / "cache").glob("*/whitening-*.safetensors")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert_close(fitted_whitening({"whiten": 7}), first, rtol=0, atol=0)
    assert file.read_bytes() != data
