"""Tests of fcnet.experiment.image_classifier."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

import fcnet
from fcnet.data.decoding.image_decoding import decode_image
from fcnet.data.sources.image_paths import ImageEntry, iter_images
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, write_checksummed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHAPE = (3, 2, 4)
SIZE = "must be 4×2 pixels like the training images"
RESIZE = "a model trained with data.size resizes its images"
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.1, 0.2, 0.7])
MODELS: dict[str, Callable[[], MLP]] = {
    "mlp": lambda: MLP(24, (5, 4), 3, activation="sigmoid"),
    "binary mlp": lambda: MLP(24, (5,), 2),
    "all": lambda: MLP(24, (6, 6), 4, normalization="batch", dropout=0.4, residual=True, activation="identity"),
    "without bias": lambda: MLP(24, (6,), 3, bias=False),
    "softmax regression": lambda: LogisticRegression(24, 3),
    "logistic regression": lambda: LogisticRegression(24),
    "logistic regression without bias": lambda: LogisticRegression(24, bias=False),
}


def make_classifier(name: str = "mlp", *, shape: tuple[int, int, int] = SHAPE) -> ImageClassifier:
    """A classifier in evaluation mode with random parameters and running statistics."""
    draws = torch.Generator().manual_seed(1)
    model = MODELS[name]()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=draws) + 0.1)
                tensor -= 0.6 * (tensor.ndim == 2)
    classes = ["cat", "köttur", "猫", "d"][: model.num_classes]
    return ImageClassifier(model, classes=classes, shape=shape, mean=MEAN[: shape[0]], std=STD[: shape[0]]).eval()


def pixels(size: int = 5, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def to_pil(image: Tensor) -> Image.Image:
    """Converts a uint8 image (C, H, W) to a PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def test_logits_are_those_of_the_model_on_normalized_pixels() -> None:
    classifier = make_classifier("softmax regression")
    state = {name: tensor.double() for name, tensor in classifier.model.state_dict().items()}
    x = (pixels().double() / 255 - MEAN.double()[:, None, None]) / STD.double()[:, None, None]
    expected = x.flatten(1) @ state["layers.0.weight"].T + state["layers.0.bias"]
    assert_close(classifier(pixels()).double(), expected, rtol=1e-5, atol=1e-5)  # sums of 24 products in float32


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_are_the_softmax_of_the_logits(name: str) -> None:
    classifier = make_classifier(name)
    logits = classifier(pixels())
    assert logits.shape == ((5,) if classifier.model.num_classes == 2 else (5, classifier.model.num_classes))
    scores = torch.stack([torch.zeros(5), logits], dim=1) if logits.ndim == 1 else logits
    found = classifier.predict_proba(pixels())
    assert_close(found, scores.softmax(1))
    assert not found.requires_grad


@pytest.mark.parametrize(
    "images", [pixels().float(), pixels()[0], pixels(shape=(3, 4, 2)), pixels().flatten(1), pixels(shape=(1, 2, 4))]
)
def test_batches_of_another_shape_or_dtype_are_refused(images: Tensor) -> None:
    for method in (make_classifier(), make_classifier().predict_proba):
        with pytest.raises(UserError) as error:
            method(images)
        came = f"{images.dtype} {tuple(images.shape)}"
        assert str(error.value).startswith(f"expected uint8 images (B, 3, 2, 4), got {came}")


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_is_the_most_probable_class(name: str) -> None:
    classifier = make_classifier(name)
    expected = classifier.predict_proba(pixels(30))
    predictions = classifier.predict_images(list(pixels(30)))
    assert len(predictions) == 30
    for prediction, row in zip(predictions, expected, strict=True):
        assert_close(torch.tensor(prediction.probabilities), row)
        assert sum(prediction.probabilities) == pytest.approx(1.0, abs=1e-6)
        assert prediction.probability == max(prediction.probabilities)
        assert prediction.class_name == classifier.classes[prediction.probabilities.index(prediction.probability)]


@pytest.mark.parametrize("name", ["mlp", "binary mlp", "softmax regression"])
def test_ties_go_to_the_first_class(name: str) -> None:
    classifier = make_classifier(name)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
    (prediction,) = classifier.predict_images([pixels()[0]])
    num_classes = classifier.model.num_classes
    assert prediction.class_name == "cat"
    assert prediction.probabilities == pytest.approx([1 / num_classes] * num_classes)
    assert classifier.model.predict(torch.zeros(1, 24)).tolist() == [0]


@pytest.mark.parametrize("channels", [1, 3])
def test_paths_open_images_and_tensors_give_the_same_predictions_in_order(channels: int, tmp_path: Path) -> None:
    shape = (channels, 4, 6 // channels)
    classifier, images = make_classifier(shape=shape), pixels(6, shape)
    expected = classifier.predict_images(list(images))
    assert len({prediction.probabilities for prediction in expected}) == 6
    for place, image in enumerate(images):
        to_pil(image).save(tmp_path / f"{place}.png")
    with Image.open(tmp_path / "2.png") as opened, (tmp_path / "4.png").open("rb") as file:
        mixed = [images[0], str(tmp_path / "1.png"), opened, tmp_path / "3.png", file, to_pil(images[5])]
        assert classifier.predict_images(mixed) == expected
    assert classifier.predict_images([tmp_path / f"{place}.png" for place in (5, 0, 5)]) == [
        expected[place] for place in (5, 0, 5)
    ]


def test_an_open_image_is_used_at_its_current_frame_and_stays_open(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (4, 2), colour) for colour in ("black", "white"))
    first.save(tmp_path / "film.gif", save_all=True, append_images=[second])
    with Image.open(tmp_path / "film.gif") as film:
        assert make_classifier().predict_images([film]) == make_classifier().predict_images([first])
        film.seek(1)
        assert make_classifier().predict_images([film]) == make_classifier().predict_images([second])


def test_no_images_give_no_predictions() -> None:
    assert make_classifier().predict_images([]) == []


def test_predictions_do_not_depend_on_the_batch_size() -> None:
    classifier = make_classifier()
    whole = classifier.predict_images(list(pixels(11)))
    for size in (1, 4, 11, 50):
        parts = classifier.predict_images(pixels(11), batch_size=size)
        assert [each.class_name for each in parts] == [each.class_name for each in whole]
        assert_close(*(torch.tensor([each.probabilities for each in predictions]) for predictions in (parts, whole)))


def test_at_most_one_batch_is_taken_from_the_iterable_at_a_time() -> None:
    taken: list[int] = []

    def images() -> Iterator[Tensor]:
        for place, image in enumerate(pixels(10)):
            taken.append(place)
            yield image

    for place, _ in enumerate(make_classifier().iter_predictions(images(), batch_size=4)):
        assert len(taken) == min(10, 4 * (place // 4 + 1))
    assert len(taken) == 10


def test_an_error_takes_the_place_of_its_image_and_the_others_are_predicted(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    classifier = make_classifier()
    first, second = pixels(2)
    file = io.BytesIO()
    to_pil(second).save(file, "PNG")
    given = [
        first,
        tmp_path / "text.png",
        ImageEntry("all.tar/x.png", file.getvalue()),
        ImageEntry("gone", UserError("no")),
    ]
    results = list(classifier.iter_predictions(given))
    assert [results[0], results[2]] == classifier.predict_images([first, second])
    assert [str(each) for each in results if isinstance(each, UserError)] == [
        f"{tmp_path / 'text.png'} {NOT_AN_IMAGE}",
        "no",
    ]


def test_image_entries_are_accepted(tmp_path: Path) -> None:
    for place, image in enumerate(pixels()):
        to_pil(image).save(tmp_path / f"{place}.png")
    assert make_classifier().predict_images(iter_images([tmp_path])) == make_classifier().predict_images(list(pixels()))


def test_a_batch_size_of_0_is_refused() -> None:
    with pytest.raises(UserError, match=r"^batch_size must be at least 1, got 0$"):
        make_classifier().iter_predictions([], batch_size=0)


def closed_image() -> Image.Image:
    image = to_pil(pixels()[0])
    image.close()
    return image


NOT_AN_IMAGE = "must be an image (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP), got something else"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            pixels()[0].float(),
            "images[1] must be uint8, got torch.float32; for values from 0 to 255 pass x.round().to(torch.uint8)",
        ),
        (pixels(), "images[1] must have the shape (3, 2, 4) (C, H, W), got (5, 3, 2, 4)"),
        (pixels()[0, :2], "images[1] must have the shape (3, 2, 4) (C, H, W), got (2, 2, 4)"),
        (Image.new("RGB", (2, 4)), f"images[1] {SIZE}, got 2×4; {RESIZE}"),
        (Image.new("I", (4, 2)), "images[1] must have 8 bits a channel, got Pillow's mode I"),
        (closed_image(), "images[1] must be a whole image, got: Operation on closed image"),
        (io.BytesIO(b"no image"), f"images[1] {NOT_AN_IMAGE}"),
    ],
)
def test_an_unsuitable_item_is_reported_with_its_index(image: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_classifier().predict_images([pixels()[0], image])
    assert str(error.value) == message


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", ": no such file"),
        ("folder", ": Is a directory"),
        ("text.png", f" {NOT_AN_IMAGE}"),
        ("cut.png", " must be a whole image, got: "),
        ("large.png", f" {SIZE}, got 8×9; {RESIZE}"),
    ],
)
def test_an_unsuitable_file_is_reported_with_its_path(name: str, message: str, as_text: bool, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (8, 9)).save(tmp_path / "large.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "large.png").read_bytes()[:45])
    path = tmp_path / name
    with pytest.raises(UserError) as error:
        make_classifier().predict_images([str(path) if as_text else path])
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_classifier_is_loaded_bit_for_bit_in_evaluation_mode(name: str, tmp_path: Path) -> None:
    classifier = make_classifier(name)
    classifier.train().save(tmp_path / "model", {"environment": {"seed": 3}})
    again = fcnet.load(tmp_path)
    assert not any(module.training for module in again.modules())
    assert type(again.model) is type(classifier.model)
    assert again.model.arguments == classifier.model.arguments
    assert (again.classes, again.shape) == (classifier.classes, classifier.shape)
    assert_close(again.state_dict(), classifier.state_dict(), rtol=0, atol=0)
    assert torch.equal(again(pixels()), classifier.eval()(pixels()))
    assert again.predict_images(list(pixels())) == classifier.predict_images(list(pixels()))
    assert again.predict_images(list(pixels())) == fcnet.load(str(tmp_path), device="cpu").predict_images(
        list(pixels())
    )


@pytest.mark.parametrize("temperature", [None, 1.25])
def test_a_temperature_is_saved_and_loaded_if_there_is_one(temperature: float | None, tmp_path: Path) -> None:
    classifier = make_classifier("logistic regression")
    classifier.temperature = temperature
    classifier.save(tmp_path / "model", {})
    assert fcnet.load(tmp_path).temperature == temperature
    assert ("temperature" in read_checksummed(tmp_path / "model")[1]) == (temperature is not None)


@pytest.mark.parametrize("l2_normalize", [False, True])
def test_vectors_are_scaled_to_unit_norm_if_the_model_was_trained_on_such(l2_normalize: bool, tmp_path: Path) -> None:
    model, mean, std = MLP(3, (), 4), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])
    made = ImageClassifier(model, classes="abcd", shape=(3,), mean=mean, std=std, l2_normalize=l2_normalize)
    made.save(tmp_path / "model", {})
    loaded = ImageClassifier.load(tmp_path / "model")
    x = torch.tensor([[3.0, 0.0, 4.0]])
    unit = torch.tensor([[0.6, 0.0, 0.8]]) if l2_normalize else x
    assert_close(loaded(x), model((unit - mean) / std))
    assert ("l2_normalize" in json.loads((tmp_path / "model.json").read_text())) == l2_normalize


def test_the_saved_metadata_are_complete(tmp_path: Path) -> None:
    make_classifier("logistic regression").save(tmp_path / "model", {"environment": {"seed": 3}})
    tensors, metadata = read_checksummed(tmp_path / "model")
    assert {key: metadata[key] for key in ("kind", "classes", "shape", "environment")} == {
        "kind": "logistic",
        "classes": ["cat", "köttur"],
        "shape": [3, 2, 4],
        "environment": {"seed": 3},
    }
    assert_close(torch.tensor(metadata["mean"]), MEAN, rtol=0, atol=0)
    assert_close(torch.tensor(metadata["std"]), STD, rtol=0, atol=0)
    assert set(tensors) == {"mean", "std", "model.layers.0.weight", "model.layers.0.bias"}


def load_error(run: Path) -> str:
    with pytest.raises(UserError) as error:
        fcnet.load(run)
    return str(error.value)


def test_a_run_without_a_trained_model_is_refused(tmp_path: Path) -> None:
    assert load_error(tmp_path / "nowhere") == f"RUN must be a run folder, got {tmp_path / 'nowhere'}: no such folder"
    (tmp_path / "file").touch()
    assert load_error(tmp_path / "file") == f"RUN must be a run folder, got {tmp_path / 'file'}: a file"
    assert load_error(tmp_path) == f"{tmp_path} holds no trained model: model.json is missing"
    (tmp_path / "config.toml").touch()
    advice = f"its training is not finished, python -m fcnet.train --resume {tmp_path} continues it"
    assert load_error(tmp_path) == f"{tmp_path} holds no trained model: model.json is missing; {advice}"
    make_classifier().save(tmp_path / "model", {})
    (tmp_path / "model.safetensors").unlink()
    assert load_error(tmp_path) == f"{tmp_path / 'model.safetensors'}: no such file"


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_file_with_one_changed_bit_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make_classifier().save(tmp_path / "model", {})
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    assert load_error(tmp_path).startswith(f"{tmp_path / name} is damaged: ")


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    make_classifier().save(tmp_path / "model", {})
    tensors, metadata = read_checksummed(tmp_path / "model")
    write_checksummed(tmp_path / "model", tensors, metadata | {"format": 2})
    assert load_error(tmp_path) == f"{tmp_path / 'model.json'} must have format version 1, got 2"


def test_files_of_another_size_are_resized_if_training_resized_them(tmp_path: Path) -> None:
    large = Image.fromarray(torch.randint(256, (40, 60, 3), dtype=torch.uint8).numpy())
    large.save(tmp_path / "large.png")
    classifier = make_classifier()
    classifier.resize = True
    classifier.save(tmp_path / "model", {})
    expected = classifier.predict_images([torch.from_numpy(decode_image(tmp_path / "large.png", 3, "x", SHAPE[1:]))])
    again = ImageClassifier.load(tmp_path / "model")
    assert again.resize
    assert again.predict_images([tmp_path / "large.png"]) == again.predict_images([large]) == expected
    with pytest.raises(UserError, match=r"^images\[0\] must have the shape \(3, 2, 4\) "):
        again.predict_images([torch.zeros(3, 4, 4, dtype=torch.uint8)])
