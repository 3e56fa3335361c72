"""Images as callers have them: each form gives the same pixels, and what is no list of images is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import fcnet
from fcnet.evaluation import evaluate
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.runtime.errors import UserError

H, W = 5, 6
COLOUR = np.random.default_rng(0).integers(0, 256, (4, H, W, 3)).astype(np.uint8)
GREY = COLOUR[..., 0].copy()


def make_classifier(channels: int, *, resize: bool = False) -> ImageClassifier:
    generator = torch.Generator().manual_seed(0)
    model = fcnet.MLP(channels * H * W, (7,), 3, generator=generator)
    half = torch.full((channels,), 0.5)
    shape = (channels, H, W)
    return ImageClassifier(model, classes="abc", shape=shape, mean=half, std=half, resize=resize).eval()


def truth(classifier: ImageClassifier, planes: np.ndarray[Any, Any]) -> list[tuple[float, ...]]:
    """The probabilities of uint8 images (N, C, H, W)."""
    return [tuple(row) for row in classifier.predict_proba(torch.from_numpy(planes)).tolist()]


def forms(images: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The same images, (N, H, W) or (N, H, W, C), in the forms that callers have."""
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return {
        "list of arrays": list(images),
        "tuple of arrays": tuple(images),
        "stack": images,
        "stack with channels first": planes,
        "list with channels first": list(planes),
        "stack with channels last": images if images.ndim == 4 else images[..., None],
        "Fortran order": np.asfortranarray(images),
        "reversed twice": images[:, ::-1][:, ::-1],
        "read-only": np.broadcast_to(images, images.shape),
        "PIL images": [Image.fromarray(image) for image in images],
        "tensors": torch.from_numpy(planes.copy()),
        "generator": (image for image in images),
        "object array": np.array([None, *images], dtype=object)[1:],
        "scalars of NumPy's float": [image.astype(np.uint8) for image in images.astype(np.float64)],
    }


@pytest.mark.parametrize("form", forms(GREY))
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_each_form_of_the_same_images_gives_the_same_predictions(images: np.ndarray[Any, Any], form: str) -> None:
    classifier = make_classifier(1 if images.ndim == 3 else 3)
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    found = [prediction.probabilities for prediction in classifier.predict_images(forms(images)[form])]
    assert found == truth(classifier, np.ascontiguousarray(planes))


def test_arrays_get_the_channels_of_the_classifier_as_files_do(tmp_path: Path) -> None:
    alpha = np.concatenate([COLOUR, np.full((4, H, W, 1), 100, np.uint8)], 3)
    for images in (GREY, COLOUR, alpha):
        files = [tmp_path / f"{number}.png" for number in range(4)]
        for file, image in zip(files, images, strict=True):
            Image.fromarray(image).save(file)
        for channels in (1, 3):
            classifier = make_classifier(channels)
            assert classifier.predict_images(images) == classifier.predict_images(files)


def test_arrays_of_another_size_are_resized_where_training_resized_files() -> None:
    large = np.random.default_rng(1).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    classifier = make_classifier(3, resize=True)
    expected = classifier.predict_images([Image.fromarray(large)])
    assert classifier.predict_images([large]) == classifier.predict_images(large[None]) == expected
    assert classifier.predict_images([large.transpose(2, 0, 1)]) == expected
    with pytest.raises(
        UserError, match=r"^images\[0\] must be 6×5 pixels like the training images, got 20×12; a model"
    ):
        make_classifier(3).predict_images([large])


def test_an_array_of_paths_is_a_list_of_paths(tmp_path: Path) -> None:
    Image.fromarray(COLOUR[0]).save(tmp_path / "a.png")
    classifier = make_classifier(3)
    assert classifier.predict_images(np.array([str(tmp_path / "a.png")])) == classifier.predict_images(COLOUR[:1])


def test_the_bytes_of_a_file_are_an_image() -> None:
    file = io.BytesIO()
    Image.fromarray(COLOUR[0]).save(file, "PNG")
    classifier = make_classifier(3)
    assert classifier.predict_images([file.getvalue()]) == classifier.predict_images(COLOUR[:1])


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ("digit.png", "the path 'digit.png'; pass ['digit.png']"),
        (Path("digit.png"), "the path 'digit.png'; pass ['digit.png']"),
        (COLOUR[0], "one image, an array of the shape (5, 6, 3); pass [image]"),
        (COLOUR[0].transpose(2, 0, 1), "one image, an array of the shape (3, 5, 6); pass [image]"),
        (GREY[0], "one image, an array of the shape (5, 6); pass [image]"),
        (torch.zeros(3, H, W, dtype=torch.uint8), "one image, a tensor of the shape (3, 5, 6); pass [image]"),
        (np.uint8(3), "np.uint8(3)"),
        (Image.new("RGB", (W, H)), "one image of the type Image; pass [image]"),
        (io.BytesIO(b"x"), "one image of the type BytesIO; pass [image]"),
        (b"x", "one image of the type bytes; pass [image]"),
        (None, "None"),
        (7, "7"),
        ({"a.png": GREY[0]}, "a dict; pass its values"),
    ],
)
def test_one_image_or_no_images_are_refused_with_what_to_pass(images: Any, found: str) -> None:
    with pytest.raises(UserError) as error:
        make_classifier(3).predict_images(images)
    assert str(error.value) == f"images must be a list of images, got {found}"


def test_a_folder_is_refused_with_the_function_that_finds_its_images(tmp_path: Path) -> None:
    search = f"fcnet.data.sources.image_paths.iter_images(['{tmp_path}'])"
    with pytest.raises(UserError) as error:
        make_classifier(3).predict_images(tmp_path)  # type: ignore[arg-type]
    assert str(error.value) == f"images must be a list of images, got the folder '{tmp_path}'; pass {search}"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GREY[0] / 255, 'must be uint8, got float64; for values from 0 to 1 pass (x * 255).round().astype("uint8")'),
        (GREY[0] * 1.0, 'must be uint8, got float64; for values from 0 to 255 pass x.round().astype("uint8")'),
        (GREY[0].astype(int), 'must be uint8, got int64; for values from 0 to 255 pass x.astype("uint8")'),
        (GREY[0] > 9, 'must be uint8, got bool; for a mask pass x.astype("uint8") * 255'),
        (GREY[0] - 300.0, "must be uint8, got float64; its values are from"),
        (
            torch.rand(3, H, W),
            "must be uint8, got torch.float32; for values from 0 to 1 pass (x * 255).round().to(torch",
        ),
        (
            np.zeros((1, 1, H, W), np.uint8),
            "must be an array (H, W), (H, W, C) or (C, H, W), got the shape (1, 1, 5, 6)",
        ),
        (np.zeros((0, 4), np.uint8), "must be an array (H, W), (H, W, C) or (C, H, W), got the shape (0, 4)"),
        (torch.zeros(H, W, 3), "must have the shape (3, 5, 6) (C, H, W), got (5, 6, 3); permute(2, 0, 1) moves the"),
        (
            (GREY[0], 1),
            "must be a path, a PIL image, or a uint8 array or tensor, got a tuple; for pairs (image, label)",
        ),
        (None, "must be a path, a PIL image, or a uint8 array or tensor, got a NoneType"),
    ],
)
def test_an_item_that_is_no_image_is_refused_with_its_index(image: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_classifier(3).predict_images([COLOUR[0], image])
    assert str(error.value).startswith(f"images[1] {message}")


def test_a_classifier_trains_and_is_evaluated_on_pixels() -> None:
    y = [0, 1, 2, 0]
    planes = COLOUR.transpose(0, 3, 1, 2)
    for data in ((planes, y), TensorDataset(torch.from_numpy(planes.copy()), torch.tensor(y))):
        classifier = make_classifier(3)
        before = evaluate(classifier, data)
        assert before.loss == pytest.approx(
            -sum(np.log(row[label]) for row, label in zip(truth(classifier, planes.copy()), y, strict=True)) / 4
        )
        history = fcnet.fit(classifier, data, epochs=30, lr=0.01)
        assert history[-1].train_loss < before.loss / 2
        assert evaluate(classifier, data).accuracy == 1.0
    with pytest.raises(UserError) as error:
        evaluate(make_classifier(3), (planes / 255, y))
    expected = 'got float64 (4, 3, 5, 6); for values from 0 to 1 pass (x * 255).round().astype("uint8")'
    assert str(error.value) == f"data: x must be uint8 images (N, C, H, W) for this model, {expected}"
    with pytest.raises(
        UserError, match=r"^expected uint8 images \(B, 3, 5, 6\), got torch.uint8 \(1, 5, 6, 3\); pass x.p"
    ):
        evaluate(make_classifier(3), (COLOUR, y))


def test_a_batch_of_another_kind_is_refused_with_what_to_pass() -> None:
    classifier = make_classifier(3)
    for x, found in (
        (COLOUR, " as a tensor, got a ndarray; predict_images takes arrays, files and PIL images"),
        (torch.zeros(3, H, W, dtype=torch.uint8), ", got torch.uint8 (3, 5, 6); pass x[None] for one image"),
        (torch.rand(2, 3, H, W), ", got torch.float32 (2, 3, 5, 6); for values from 0 to 1 pass (x * 255).round().to("),
    ):
        with pytest.raises(UserError) as error:
            classifier.predict_proba(x)  # type: ignore[arg-type]
        assert str(error.value).startswith(f"expected uint8 images (B, 3, 5, 6){found}")
