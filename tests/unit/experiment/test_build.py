"""Rules of fcnet.experiment.build."""

from __future__ import annotations

import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from fcnet.config import schema
from fcnet.data import sources
from fcnet.data.batches import Augmentation
from fcnet.data.sources import Source, synthetic
from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.data.transforms.whitening import Whitening, fit_whitening
from fcnet.experiment import build
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.losses import CrossEntropy, ScoreLoss
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.optim import schedules
from fcnet.optim.optimizers import LBFGS, Muon
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fcnet.data.transforms.augment import Transform

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))


def configured(data: dict[str, Any] | None = None, **sections: dict[str, Any]) -> schema.Config:
    """100 training images of 4 classes, 25 each, unless told otherwise."""
    small = {"source": "synthetic", "shape": (1, 6, 5), "train_size": 100, "test_size": 30, "num_classes": 4}
    return schema.Config.model_validate({"data": small | (data or {}), **sections})


def built(data: dict[str, Any] | None = None, **sections: dict[str, Any]) -> build.Experiment:
    return build.build(configured(data, **sections), CPU)


def folder_of_images(path: Path, classes: dict[str, int], *, size: tuple[int, int] = (5, 6)) -> Path:
    """Two images a class in each split, all of one level of grey."""
    for split in ("train", "test"):
        for name, level in classes.items():
            (path / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = np.full((size[1], size[0]), level, dtype=np.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{number}.png")
    return path


def make_classifier(classes: tuple[str, ...], shape: tuple[int, int, int] = (1, 6, 5)) -> ImageClassifier:
    model = LogisticRegression(30, len(classes))
    return ImageClassifier(model, classes=classes, shape=shape, mean=torch.tensor([0.25]), std=torch.tensor([0.5]))


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.1, 4 * 2), (0.5, 4 * 12), (0.99, 4 * 24)])
def test_the_same_share_of_every_class_is_kept_aside(share: float, kept: int) -> None:
    training = built({"validation": share}).training
    assert training.batches.num_images == 100 - kept
    if training.validation is None:
        assert kept == 0
        return
    held = training.validation.rows
    assert training.validation.labels[held].bincount().tolist() == [kept // 4] * 4
    assert sorted([*training.batches.rows.tolist(), *held.tolist()]) == list(range(100))


def test_pixels_are_normalised_by_the_images_trained_on_alone() -> None:
    experiment = built({"validation": 0.5, "shape": (3, 6, 5)})
    batches = experiment.training.batches
    pixels = batches.images[batches.rows].double() / 255
    assert_close(experiment.classifier.mean, pixels.mean((0, 2, 3)).float())
    assert_close(experiment.classifier.std, pixels.std((0, 2, 3), correction=0).float())
    images = torch.cat([batch.images for batch in batches]).double()
    assert_close(images.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-6)  # rounding of float32
    assert_close(images.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=0, atol=1e-6)


def test_the_test_and_validation_images_are_normalised_as_those_trained_on() -> None:
    experiment = built({"augment": {"flip": True, "shift": 1}})
    validation = experiment.training.validation
    assert validation is not None
    mean, std = experiment.classifier.mean, experiment.classifier.std
    for batches in (validation, experiment.test):
        pixels = batches.images[batches.rows]
        assert_close(torch.cat([batch.images for batch in batches]), (pixels / 255 - mean) / std)
        assert batches.augmentation == Augmentation()


def test_two_classes_by_name_make_a_binary_problem() -> None:
    experiment = built({"classes": ("3", "1"), "validation": 0.2})
    batches, test = experiment.training.batches, experiment.test
    assert (batches.num_images, test.num_images) == (2 * 20, 7 + 8)
    assert experiment.training.validation is not None
    rows = [*batches.rows.tolist(), *experiment.training.validation.rows.tolist()]
    assert sorted(rows) == [row for row in range(100) if row % 4 in (1, 3)]
    all_labels = torch.arange(100) % 4
    for split, names in ((batches, all_labels[batches.rows]), (test, (torch.arange(30) % 4)[test.rows])):
        assert split.labels[split.rows].tolist() == [{3: 0, 1: 1}[int(name)] for name in names]
    assert experiment.classifier.classes == ("3", "1")
    assert experiment.classifier(torch.zeros(2, 1, 6, 5, dtype=torch.uint8)).shape == (2,)


def test_without_names_all_classes_count() -> None:
    experiment = built()
    assert experiment.classifier.classes == ("0", "1", "2", "3")
    assert experiment.test.labels.tolist() == [place % 4 for place in range(30)]


def test_names_that_are_no_classes_are_refused() -> None:
    with pytest.raises(UserError) as error:
        built({"classes": ("0", "cat", "dog")})
    assert str(error.value) == "data.classes must be among 0, 1, 2, 3, got cat, dog"


@pytest.mark.parametrize("name", ["shift", "cutout"])
@pytest.mark.parametrize("pixels", [5, 6])
def test_a_change_as_large_as_the_images_is_refused(name: str, pixels: int) -> None:
    assert built({"augment": {name: 4}}).training.batches.augmentation.transforms
    with pytest.raises(UserError) as error:
        built({"augment": {name: pixels}})
    assert str(error.value) == f"data.augment.{name} must be less than the images' 6×5 pixels, got {pixels}"


def test_training_images_are_changed_as_asked() -> None:
    assert built().training.batches.augmentation == Augmentation()
    flip, shift = built({"augment": {"flip": True, "shift": 2}}).training.batches.augmentation.transforms
    assert isinstance(flip, Flip)
    assert isinstance(shift, Shift)
    assert shift == Shift(2)


def test_changes_come_in_one_order_whatever_the_order_in_the_configuration() -> None:
    augment = {"cutmix": 0.5, "cutout": 3, "color_jitter": 0.4, "scale": 0.3, "rotate": 15.0, "shift": 2, "flip": True}
    batches = built({"augment": augment}).training.batches
    transforms = (Flip(), Shift(2), Affine(15.0, 0.3), ColorJitter(0.4), Cutout(3))
    assert batches.augmentation == Augmentation(transforms, MixupCutmix(0.0, 0.5))
    assert batches.num_classes == 4


@pytest.mark.parametrize(
    ("augment", "expected"),
    [({"rotate": 15.0}, (Affine(15.0, 0.0),)), ({"scale": 0.3}, (Affine(0.0, 0.3),)), ({"mixup": 0.2}, ())],
)
def test_what_is_not_asked_for_is_not_there(augment: dict[str, Any], expected: tuple[Transform, ...]) -> None:
    batches = built({"augment": augment}).training.batches
    assert batches.augmentation == Augmentation(expected, MixupCutmix(0.2) if "mixup" in augment else None)


@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
def test_training_alone_is_mixed_and_balanced(balance: str) -> None:
    experiment = built({"augment": {"mixup": 1.0}, "balance": balance})
    training, validation = experiment.training, experiment.training.validation
    assert validation is not None
    assert training.batches.balance == balance
    for batches in (validation, experiment.test):
        assert (batches.balance, batches.augmentation.mixing) == ("none", None)


def test_the_network_is_the_one_described() -> None:
    model = {"hidden": (7, 7), "activation": "sigmoid", "normalization": "batch", "dropout": 0.25, "residual": True}
    experiment = built(model=model)
    expected = MLP(30, (7, 7), 4, activation="sigmoid", normalization="batch", dropout=0.25, residual=True)
    assert experiment.classifier.model.arguments == expected.arguments
    assert experiment.classifier.model is experiment.training.model


def test_logistic_regression_has_none_of_the_settings_of_an_mlp() -> None:
    model = built(
        model={"kind": "logistic", "hidden": (7, 7), "normalization": "batch", "dropout": 0.5}
    ).classifier.model
    assert isinstance(model, LogisticRegression)
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(4, 30), (4,)]


def test_the_first_weights_follow_from_the_seed_alone() -> None:
    def weights(seed: int) -> Tensor:
        model = build.make_model(schema.Config(seed=seed), 30, 4)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    first = weights(1)
    torch.manual_seed(99)
    assert_close(weights(1), first, rtol=0, atol=0)
    assert not torch.equal(weights(2), first)


@pytest.mark.parametrize(
    ("section", "kind", "settings"),
    [
        ({"name": "sgd", "momentum": 0.5, "nesterov": True}, torch.optim.SGD, {"momentum": 0.5, "nesterov": True}),
        ({"name": "adamw", "beta1": 0.8, "beta2": 0.9}, torch.optim.AdamW, {"betas": (0.8, 0.9)}),
    ],
)
def test_matrices_alone_decay(
    section: dict[str, Any], kind: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    experiment = built(optimizer={"lr": 0.25, "weight_decay": 0.125, **section}, model={"normalization": "batch"})
    optimizer = experiment.training.algorithm.optimizer
    assert type(optimizer) is kind
    for group in optimizer.param_groups:
        assert {key: group[key] for key in settings} == settings
        assert group["lr"] == 0.25
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in experiment.classifier.parameters()] == [
        0.125 if p.ndim == 2 else 0.0 for p in experiment.classifier.parameters()
    ]


@pytest.mark.parametrize(
    ("section", "factors"),
    [
        ({"schedule": "constant"}, [1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "cosine"}, [1.0, 0.75, 0.5, 0.0]),
        ({"schedule": "linear"}, [1.0, 2 / 3, 0.5, 0.0]),
        ({"schedule": "constant", "warmup_epochs": 0.75}, [0.25, 1.0, 1.0, 1.0]),
        ({"schedule": "cosine", "warmup_epochs": 0.75}, [0.25, 0.75, 0.5, 0.0]),
    ],
)
def test_the_schedule_goes_over_all_steps_of_the_training(section: dict[str, Any], factors: list[float]) -> None:
    train = {"epochs": 3, "batch_size": 23}  # 92 images: 4 steps an epoch, 12 in all
    training = built(optimizer=section, train=train).training
    assert training.num_steps == 12
    assert [training.algorithm.schedule(step) for step in (0, 4, 6, 12)] == pytest.approx(factors)


@pytest.mark.parametrize("loss", ["logistic", "hinge", "quadratic"])
def test_a_loss_of_a_score_is_for_two_classes(loss: str) -> None:
    two = built({"classes": ("3", "1")}, train={"loss": loss, "label_smoothing": 0.1})
    assert two.training.algorithm.loss == ScoreLoss(loss, 0.1)
    for classes in ((), ("0", "1", "2")):
        with pytest.raises(UserError) as error:
            built({"classes": classes}, train={"loss": loss})
        assert str(error.value) == f"train.loss must be cross_entropy for {len(classes) or 4} classes, got {loss}"


def test_the_rest_of_the_training_is_as_configured() -> None:
    train = {"epochs": 7, "label_smoothing": 0.1, "precision": "bfloat16", "batch_size": 9, "threads": 5}
    experiment = built(train=train, optimizer={"clip_norm": 0.5})
    algorithm = experiment.training.algorithm
    assert algorithm.clip_norm == 0.5
    assert (algorithm.epochs, algorithm.loss, algorithm.precision) == (7, CrossEntropy(0.1), torch.bfloat16)
    assert (experiment.training.batches.batch_size, experiment.threads) == (9, 5)
    assert built().training.algorithm.precision == torch.float32


@pytest.mark.parametrize(
    ("hidden", "ranks", "threads"), [(8, 1, 1), (8, 2, 1), (2000, 1, 6), (2000, 2, 3), (2000, 4, 1), (2000, 9, 1)]
)
def test_small_steps_take_one_thread_and_large_ones_share_the_processors(
    hidden: int, ranks: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert build.choose_threads(MLP(100, (hidden,), 10), 128) == threads


def test_torchruns_word_on_threads_is_not_taken_for_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for ranks, threads in ((1, 1), (2, 3)):
        monkeypatch.setattr(distributed, "world_size", lambda ranks=ranks: ranks)
        assert build.choose_threads(MLP(100, (2000,), 10), 128) == threads


@pytest.mark.parametrize(("pixels", "threads"), [(8 * 8, 1), (3 * 32 * 32, 3)])
def test_threads_share_images_that_are_large(pixels: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.experiment.build_training.num_threads", lambda: 3)
    assert build.choose_threads(MLP(pixels, (), 10), 128) == threads


def test_what_is_trained_on_what_is_said_in_one_line() -> None:
    said = built({"classes": ("0", "1"), "validation": 0.2}, model={"hidden": (7,)}, train={"threads": 2}).describe()
    assert said == (
        "40 training, 10 validation and 16 test images in 2 classes; layers 30-7-1, 225 parameters; cpu, 2 threads"
    )


def test_a_networks_own_test_split_is_the_one_it_was_trained_beside() -> None:
    experiment = built({"classes": ("3", "1")})
    again = build.test_data(configured().data, experiment.classifier, path=None, device=CPU)
    assert again.rows.tolist() == experiment.test.rows.tolist()
    for ours, theirs in zip(again, experiment.test, strict=True):
        assert_close(ours.images, theirs.images)
        assert ours.labels.tolist() == theirs.labels.tolist()


def test_other_data_is_labelled_by_the_names_of_its_classes(tmp_path: Path) -> None:
    path = folder_of_images(tmp_path / "other", {"cat": 10, "dog": 20, "zebra": 30})
    data = schema.Data(source="images", path=str(tmp_path / "its own"))
    (batch,) = build.test_data(data, make_classifier(("zebra", "cat")), path=path, device=CPU)
    levels = (batch.images[:, 0, 0, 0] * 0.5 + 0.25) * 255
    assert_close(levels, torch.tensor([10.0, 10.0, 30.0, 30.0]))
    assert batch.labels.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("share", "kept"), [(0.2, 2 * 2), (0.5, 2 * 5)])
def test_of_one_folder_the_configured_share_is_for_testing_whatever_the_seed(
    tmp_path: Path, share: float, kept: int
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "one" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (5, 6), number).save(tmp_path / "one" / name / f"{number}.png")
    data = schema.Data(source="images", path=str(tmp_path / "one"), test=share)
    first, second = (build.build(schema.Config(seed=seed, data=data), CPU) for seed in (0, 1))
    assert first.test.num_images == kept
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.test.images, second.test.images)


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_a_network_trained_on_cifar_may_be_given_another_copy_of_it(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def opened(path: Path) -> Source:
        asked.append(path)
        return synthetic((1, 6, 5), 4, 7, 2)

    monkeypatch.setattr(sources, source, opened)
    batches = build.test_data(
        schema.Data(source=source, path="own"), make_classifier(("0", "1")), path=tmp_path / "copy", device=CPU
    )
    assert batches.num_images == 7
    assert asked == [tmp_path / "copy"]


def refuse_data(data: schema.Data, net: ImageClassifier, path: Path | None) -> str:
    with pytest.raises(UserError) as error:
        build.test_data(data, net, path=path, device=CPU)
    return str(error.value)


def test_other_data_that_does_not_fit_the_network_is_refused(tmp_path: Path) -> None:
    data = schema.Data(source="images", path=str(tmp_path))
    large = folder_of_images(tmp_path / "large", {"cat": 1, "dog": 2}, size=(6, 7))
    assert refuse_data(data, make_classifier(("cat", "dog")), large) == (
        f"{large} must hold images of shape (1, 6, 5) for this network, got (1, 7, 6)"
    )
    cows = folder_of_images(tmp_path / "cows", {"cat": 1, "cow": 2})
    assert refuse_data(data, make_classifier(("cat", "dog")), cows) == (
        "the classes of the test split must be among cat, cow, got dog"
    )


@pytest.mark.parametrize("source", ["digits", "synthetic", "images", "cifar10", "arrays"])
def test_other_data_is_a_file_of_arrays_or_images_whatever_the_network_was_trained_on(
    source: Any, tmp_path: Path
) -> None:
    images = folder_of_images(tmp_path / "images", {"cat": 10, "dog": 20})
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(images, ".")
    pixels = np.full((4, 6, 5), 10, dtype=np.uint8)
    labels = np.array([0, 1, 0, 1])
    np.savez(
        tmp_path / "x.npz",
        x_train=pixels,
        y_train=labels,
        x_test=pixels,
        y_test=labels,
        classes=np.array(["cat", "dog"]),
    )
    data = schema.Data(source=source, path="own")
    counts = [
        build.test_data(data, make_classifier(("cat", "dog")), path=path, device=CPU).num_images
        for path in (images, tmp_path / "all.tar.gz", tmp_path / "x.npz")
    ]
    assert counts == [4, 4, 4]


def test_a_test_split_without_the_networks_classes_is_refused() -> None:
    data = configured({"test_size": 2}).data
    assert refuse_data(data, make_classifier(("2", "3")), None) == "the test split must hold at least one image, got 0"


def test_broken_pictures_are_skipped_counted_and_named_where_asked_for(tmp_path: Path) -> None:
    path = folder_of_images(tmp_path / "pictures", {"a": 0, "b": 9})
    for number in range(4, 8):
        (path / "train" / "b" / f"{number}.png").write_bytes(b"")
    data = {"source": "images", "path": str(path), "validation": 0.0}
    with pytest.raises(UserError, match=r"^train/b/4\.png in .* must be an image"):
        built(data)
    experiment = built(data | {"skip_broken": True})
    assert experiment.training.batches.num_images == 4
    about = next((tmp_path / "cache").glob("images-*/store.json"))
    (remark,) = experiment.notes
    assert remark == (
        "skipped 4 broken of 12 images: train/b/4.png, train/b/5.png, train/b/6.png, …; "
        f"all of them, and why, are in {about}"
    )
    reason = "must be an image (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP), got something else"
    assert json.loads(about.read_text())["skipped"] == [[f"train/b/{number}.png", reason] for number in range(4, 8)]


def test_pictures_of_several_sizes_are_resized_where_asked_for(tmp_path: Path) -> None:
    path = folder_of_images(tmp_path / "pictures", {"a": 0, "b": 9})
    Image.new("L", (50, 20), 7).save(path / "test" / "a" / "1.png")
    data = {"source": "images", "path": str(path), "validation": 0.0}
    with pytest.raises(
        UserError, match=r"must be 5×6 pixels like train/a/0\.png, got 50×20; data\.size resizes all images$"
    ):
        built(data)
    experiment = built(data | {"size": (7, 3)})
    assert experiment.classifier.shape == (1, 7, 3)
    assert experiment.classifier.resize
    assert experiment.test.images[1].unique().tolist() == [7]
    assert built(data | {"size": (7, 4)}).fingerprint != experiment.fingerprint
    assert built(data | {"size": (7, 3), "skip_broken": True}).fingerprint != experiment.fingerprint
    assert not built({"size": (7, 3)}).classifier.resize


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ((9, 5, 8), None),
        ((10, 8, 5), "classes are uneven: 10 of 0, 5 of 2; "),
        ((3, 4000, 2000), "classes are uneven: 4,000 of 1, 3 of 0; "),
    ],
)
def test_classes_are_uneven_from_twice_the_images_on(sizes: tuple[int, ...], line: str | None, tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), sizes)
    pixels = np.zeros((len(labels), 1, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=labels, x_test=pixels[:3], y_test=np.arange(3))
    data = {"source": "arrays", "path": str(tmp_path / "x.npz"), "validation": 0.0}
    remarks = built(data).notes
    assert remarks == (() if line is None else (f'{line}data.balance = "weights" or "sampling" evens them out',))


def test_evenness_is_that_of_the_classes_and_images_trained_on(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), (8, 8, 2))
    pixels = np.zeros((len(labels), 1, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=labels, x_test=pixels[:3], y_test=np.arange(3))
    data = {"source": "arrays", "path": str(tmp_path / "x.npz"), "validation": 0.5}
    assert built(data).notes[0].startswith("classes are uneven: 4 of 0, 1 of 2; ")
    assert built(data | {"classes": ("1", "0")}).notes == ()


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_classes_that_are_evened_out_are_not_remarked_on(balance: str, tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), (8, 8, 2))
    pixels = np.zeros((len(labels), 1, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=labels, x_test=pixels[:3], y_test=np.arange(3))
    assert built({"source": "arrays", "path": str(tmp_path / "x.npz"), "balance": balance}).notes == ()


def whitening(data: dict[str, Any]) -> dict[str, Tensor]:
    found = built(data).classifier.whitening
    assert found is not None
    return found.state_dict()


def test_a_whitening_is_found_once_for_the_same_rows_and_components(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = whitening({"whiten": 7})
    found: list[int] = []

    def counted(parts: Iterable[Tensor], num_components: int) -> Whitening:
        found.append(num_components)
        return fit_whitening(parts, num_components)

    monkeypatch.setattr("fcnet.experiment.build_data.fit_whitening", counted)
    assert_close(whitening({"whiten": 7}), first, rtol=0, atol=0)
    assert found == []
    others = [whitening({"whiten": 8}), whitening({"whiten": 7, "validation": 0.5})]
    assert found == [8, 7]
    assert not torch.equal(others[1]["weight"], first["weight"])


def test_a_damaged_whitening_is_not_believed(tmp_path: Path) -> None:
    first = whitening({"whiten": 7})
    (file,) = (tmp_path / "cache").glob("*/whitening-*.safetensors")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert_close(whitening({"whiten": 7}), first, rtol=0, atol=0)
    assert file.read_bytes() != data


def test_lbfgs_has_no_use_for_a_rate_or_a_schedule() -> None:
    section = {"name": "lbfgs", "lr": 0.3, "schedule": "cosine", "warmup_epochs": 2.0}
    algorithm = built(optimizer=section, train={"batch_size": "all", "epochs": 5}).training.algorithm
    assert [group["lr"] for group in algorithm.optimizer.param_groups] == [1.0]
    assert [algorithm.schedule(step) for step in range(5)] == [1.0] * 5


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({"schedule": "one_cycle"}, schedules.one_cycle(12)),
        ({"schedule": "steps", "milestones": (0.5, 2.0), "gamma": 0.3}, schedules.multi_step([2, 6], 0.3)),
        ({"schedule": "linear", "warmup_epochs": 1.0}, schedules.add_warmup(schedules.linear(12), 3)),
    ],
    ids=["one_cycle", "steps", "linear"],
)
def test_a_schedule_counts_in_epochs(schedule: dict[str, Any], factors: schedules.Schedule) -> None:
    """92 training images in batches of 31: three steps an epoch, four epochs."""
    found = built(optimizer=schedule, train={"batch_size": 31, "epochs": 4}).training.algorithm.schedule
    assert [found(step) for step in range(12)] == [factors(step) for step in range(12)]


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("muon", Muon), ("lbfgs", LBFGS)])
def test_the_optimizer_is_the_configured_one(name: str, kind: type[torch.optim.Optimizer]) -> None:
    sections = {"name": name, "weight_decay": 0.2, "momentum": 0.7, "beta1": 0.6, "beta2": 0.8, "lr": 0.04}
    algorithm = built(
        optimizer=sections, train={"batch_size": "all", "accumulate": 3, "ema_decay": 0.5, "patience": 2}
    ).training.algorithm
    assert type(algorithm.optimizer) is kind
    if name != "lbfgs":
        first = algorithm.optimizer.param_groups[0]
        assert (first["lr"], first["weight_decay"], tuple(first["betas"])) == (0.04, 0.2, (0.6, 0.8))
        assert first.get("momentum", 0.7) == 0.7
    assert (algorithm.accumulate, algorithm.ema_decay, algorithm.patience) == (3, 0.5, 2)


def test_a_batch_of_all_is_the_whole_training_set() -> None:
    batches = built(train={"batch_size": "all"}).training.batches
    assert (batches.batch_size, len(batches)) == (92, 1)


def test_the_initialisation_is_the_configured_one() -> None:
    he, lecun = (
        built(model={"initialization": name}).training.model.get_parameter("layers.0.weight")
        for name in ("he", "lecun")
    )
    assert_close(he, lecun * 2**0.5)
