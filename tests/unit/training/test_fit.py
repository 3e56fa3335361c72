"""Tests of fcnet.training.fit: what each kind of data gives, and one true sentence for each wrong call."""

# ruff: noqa: E501 - the table holds whole sentences

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import RandomHorizontalFlip, ToTensor

import fcnet
from fcnet import MLP, GradientDescent, UserError, iter_fit
from fcnet.data.batches import Batches, split_validation
from fcnet.evaluation import evaluate
from fcnet.training.loop import Training
from tests.helpers import assert_identical, write_image_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

fit: Any = fcnet.fit  # without types, to call them wrongly
replace: Any = dataclasses.replace
KINDS = "a pair (x, y) of arrays or tensors, a Dataset, a DataLoader or an fcnet.data.batches.Batches"
X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
WITH_NAN = X.index_fill(0, torch.tensor([7]), float("nan"))


class Items(Dataset[Any]):
    """A dataset of given items, without ``targets``."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    """A dataset without items by index and without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(X[0], 0)])


class CountedStream(Stream):
    """A stream that tells its length."""

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[Any]:
        return zip(X, Y, strict=True)


def make_model(num_classes: int = 3) -> MLP:
    return MLP(4, (5,), num_classes, generator=torch.Generator().manual_seed(0))


def pairs() -> Items:
    return Items([(x, int(y)) for x, y in zip(X, Y, strict=True)])


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# --- kinds of data -----------------------------------------------------------------------------------------------

SAME_EXAMPLES: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (X, Y),
    "a list of two": lambda: [X, Y],
    "NumPy arrays": lambda: (X.numpy(), Y.numpy()),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "lists of tensors": lambda: (list(X), list(Y)),
    "float64 and int32": lambda: (X.numpy().astype(np.float64), Y.numpy().astype(np.int32)),
    "big-endian": lambda: (X.numpy().astype(">f4"), Y.numpy().astype(">i8")),
    "read-only": lambda: (np.frombuffer(X.numpy().tobytes(), np.float32).reshape(12, 4), Y.numpy()),
    "reversed views": lambda: (X.numpy()[::-1].copy()[::-1], Y.numpy()[::-1].copy()[::-1]),
    "objects": lambda: (X.numpy().astype(object), Y.tolist()),
    "labels in a column": lambda: (X, Y[:, None]),
    "whole floats": lambda: (X, Y.float()),
    "uint8 labels": lambda: (X, Y.to(torch.uint8)),
    "more axes": lambda: (X.view(12, 2, 2), Y),
    "needs a gradient": lambda: (X.clone().requires_grad_(), Y),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Subset of a TensorDataset": lambda: Subset(TensorDataset(X.flip(0), Y.flip(0)), list(range(12))[::-1]),
    "Dataset": pairs,
    "Subset of a Dataset": lambda: Subset(pairs(), list(range(12))),
    "Batches": lambda: Batches(X, Y, batch_size=5),
}


@pytest.mark.parametrize("kind", SAME_EXAMPLES)
def test_every_kind_of_data_trains_as_the_same_tensors_do(kind: str) -> None:
    expected, model = make_model(), make_model()
    algorithm = GradientDescent(torch.optim.AdamW(fcnet.optim.parameter_groups(expected, 0.01), lr=0.1), epochs=2)
    list(Training(expected, Batches(X, Y, batch_size=5), algorithm, seed=3).advance())
    data, size = SAME_EXAMPLES[kind](), None if kind == "Batches" else 5
    history = fit(model, data, epochs=2, lr=0.1, batch_size=size, seed=3, validation=data)
    assert_identical(weights(model), weights(expected))
    assert history[-1].validation_accuracy == evaluate(expected, (X, Y)).accuracy == evaluate(model, data).accuracy


def test_the_default_algorithm_is_ten_epochs_of_adamw() -> None:
    expected, model = make_model(), make_model()
    algorithm = GradientDescent(torch.optim.AdamW(fcnet.optim.parameter_groups(expected, 0.01), lr=1e-3), epochs=10)
    fit(expected, (X, Y), algorithm)
    assert len(fit(model, (X, Y))) == 10
    assert_identical(weights(model), weights(expected))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.bool, torch.float16, torch.bfloat16])
def test_numbers_of_other_dtypes_are_used_as_they_are(dtype: torch.dtype) -> None:
    expected, model = make_model(), make_model()
    x = (3 * X).to(dtype)
    fit(expected, (x.float(), Y))
    fit(model, (x, Y))
    assert_identical(weights(model), weights(expected))


@pytest.mark.parametrize("shape", [(12, 4), (12, 2, 2), (12, 1, 2, 2)])
def test_uint8_values_are_pixels_and_divided_by_255(shape: tuple[int, ...]) -> None:
    expected, model = make_model(), make_model()
    pixels = torch.arange(48).mul(5).to(torch.uint8)
    fit(expected, (pixels.view(12, 4).float() / 255, Y))
    fit(model, (pixels.view(shape).numpy(), Y))
    assert_close(weights(model), weights(expected), rtol=1e-4, atol=1e-6)  # one rounds a product, one a quotient


def test_data_takes_the_dtype_of_the_model() -> None:
    model = make_model().double()
    fit(model, (X, Y), validation=(X.numpy(), Y))
    assert model.layers[0].weight.dtype == torch.float64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    write_image_folder(
        tmp_path, ("cat", "dog"), {"train": 6}, lambda *_: draws.integers(256, size=(3, 2, 3), dtype=np.uint8)
    )
    return tmp_path / "train"


@pytest.mark.parametrize("transform", [None, ToTensor(), lambda image: np.asarray(image).transpose(2, 0, 1)])
def test_an_image_folder_trains_with_and_without_to_tensor(folder: Path, transform: Any) -> None:
    dataset = ImageFolder(str(folder), transform)
    x = torch.stack([ToTensor()(image) for image, _ in ImageFolder(str(folder))])
    expected, model = (MLP(18, (5,), 2, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    fit(expected, (x, dataset.targets), batch_size=4)
    fit(model, dataset, batch_size=4)
    assert_close(weights(model), weights(expected), rtol=1e-4, atol=1e-6)


def test_random_transforms_depend_on_the_seed_alone_and_differ_between_epochs(folder: Path) -> None:
    seen: list[Tensor] = []

    def flip(image: Image.Image) -> Tensor:
        seen.append(ToTensor()(RandomHorizontalFlip()(image)))
        return seen[-1]

    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        seen.clear()
        fit(MLP(18, (), 2, generator=torch.Generator()), ImageFolder(str(folder), flip), epochs=2, seed=5)
        assert torch.equal(torch.get_rng_state(), before)
        runs.append(torch.stack(seen))
    assert torch.equal(*runs)
    first, second = runs[0][-24:].split(12)
    assert sorted(image.sum().item() for image in first) == pytest.approx(
        sorted(image.sum().item() for image in second)
    )
    assert sorted(image[..., 0].sum().item() for image in first) != sorted(
        image[..., 0].sum().item() for image in second
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_data_loader_is_iterated_as_it_is(stream: bool) -> None:
    expected, model = make_model(), make_model()
    dataset: Any = CountedStream() if stream else TensorDataset(X, Y)
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    loader = DataLoader(dataset, batch_size=5, shuffle=not stream, drop_last=not stream)
    for x, y in itertools.chain.from_iterable(loader for _ in range(3)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(expected(x), y).backward()
        optimizer.step()
    torch.manual_seed(7)
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=3)
    history = fit(model, loader, algorithm)
    assert_close(weights(model), weights(expected), rtol=1e-5, atol=1e-6)  # by hand and by autograd
    assert history[-1].step == (9 if stream else 6)


def test_a_loader_may_mix_classes() -> None:
    soft = nn.functional.one_hot(Y, 3).float()
    expected, model = make_model(), make_model()
    fit(expected, DataLoader(TensorDataset(X, Y), 5))
    fit(model, DataLoader(TensorDataset(X, soft), 5, collate_fn=torch.utils.data.default_collate))
    assert_close(weights(model), weights(expected), rtol=1e-4, atol=1e-5)


# --- validation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tensors", "TensorDataset", "Dataset", "Batches"])
def test_a_share_is_held_out_of_each_class_and_depends_on_the_seed(kind: str) -> None:
    expected, model = make_model(), make_model()
    rows, held_out = split_validation(Y, 0.25, 3)
    assert Y[held_out].bincount().tolist() == [1, 1, 1]
    size = None if kind == "Batches" else 5
    theirs = fit(expected, (X[rows], Y[rows]), batch_size=5, seed=3, validation=(X[held_out], Y[held_out]))
    ours = fit(model, SAME_EXAMPLES[kind](), batch_size=size, seed=3, validation=0.25)
    assert_identical(weights(model), weights(expected))
    assert [record.validation_loss for record in ours] == [record.validation_loss for record in theirs]


# --- fit and iter_fit --------------------------------------------------------------------------------------------


def test_the_model_ends_in_evaluation_mode_and_is_in_it_at_each_record() -> None:
    model = MLP(4, (5,), 3, normalization="batch", dropout=0.5)
    assert [model.training for _ in iter_fit(model, (X, Y), epochs=2)] == [False, False]
    fit(model, (X, Y))
    assert not model.training


def test_iter_fit_raises_at_the_call_and_trains_as_fit_does() -> None:
    with pytest.raises(UserError, match=r"^epochs must be"):
        iter_fit(make_model(), (X, Y), epochs=0)
    ours, theirs = make_model(), make_model()
    records = list(iter_fit(ours, (X, Y)))
    history = fit(theirs, (X, Y))
    assert [record.train_loss for record in records] == [record.train_loss for record in history]
    assert_identical(weights(ours), weights(theirs))


@pytest.mark.parametrize("module", [nn.Linear(4, 3), nn.Sequential(nn.LazyLinear(3))])
def test_a_wrong_call_trains_nothing(module: nn.Module) -> None:
    before = weights(make_model())
    model = make_model()
    with pytest.raises(UserError):
        fit(model, (X, Y + 1))
    assert_identical(weights(model), before)
    assert len(fit(module, (X, Y), epochs=1)) == 1


def test_progress_shows_a_bar_with_the_figures_and_nothing_shows_without_it() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
        fit(make_model(), (X, Y), epochs=2)
        assert err.getvalue() == ""
        history = fit(make_model(), (X, Y), epochs=2, validation=(X, Y), progress=True)
    last = err.getvalue().rstrip().rpartition("\r")[2]
    assert out.getvalue() == ""
    assert "2/2" in last
    assert f"epoch 2/2, loss {history[-1].train_loss:.4f}, accuracy {history[-1].train_accuracy:.1%}" in last
    assert f"validation {history[-1].validation_accuracy:.1%}]" in last


# --- wrong calls -------------------------------------------------------------------------------------------------

MODEL = make_model()
SGD = torch.optim.SGD(MODEL.parameters(), lr=0.1)
ALGORITHM = GradientDescent(SGD, epochs=1)
WRONG: dict[str, Callable[[], object]] = {
    "algorithm must be an fcnet.GradientDescent, got a Tensor; x and y are one argument: fcnet.fit(model, (x, y))": lambda: (
        fit(MODEL, X, Y)
    ),
    "algorithm must be an fcnet.GradientDescent, got a ndarray; x and y are one argument: fcnet.fit(model, (x, y))": lambda: (
        fit(MODEL, X.numpy(), Y.numpy())
    ),
    f"data must be {KINDS}, got one Tensor (12, 4); its labels are missing": lambda: fit(MODEL, X),
    f"data must be {KINDS}, got one ndarray (12, 4); its labels are missing": lambda: fit(MODEL, X.numpy()),
    "model must be a torch.nn.Module such as fcnet.MLP(64, (32,), 10), got the class MLP; make an instance of it": lambda: (
        fit(MLP, (X, Y))
    ),
    "model must be a torch.nn.Module such as fcnet.MLP(64, (32,), 10), got tuple": lambda: fit((X, Y), MODEL),
    "model must be a torch.nn.Module such as fcnet.MLP(64, (32,), 10), got str": lambda: fit("mlp", (X, Y)),
    "epochs must be a whole number of at least 1, got 5.0": lambda: fit(MODEL, (X, Y), epochs=5.0),
    "epochs must be a whole number of at least 1, got 0": lambda: fit(MODEL, (X, Y), epochs=0),
    "epochs must be a whole number of at least 1, got True": lambda: fit(MODEL, (X, Y), epochs=True),
    "epochs must be a whole number of at least 1, got '5'": lambda: fit(MODEL, (X, Y), epochs="5"),
    "lr must be a number greater than 0, got '0.1'": lambda: fit(MODEL, (X, Y), lr="0.1"),
    "lr must be a number greater than 0, got -1": lambda: fit(MODEL, (X, Y), lr=-1),
    "lr must be a number greater than 0, got nan": lambda: fit(MODEL, (X, Y), lr=float("nan")),
    "batch_size must be a whole number of at least 1, got 0": lambda: fit(MODEL, (X, Y), batch_size=0),
    "seed must be a whole number, got 0.5": lambda: fit(MODEL, (X, Y), seed=0.5),
    "epochs=5 must be left out, because the algorithm has its own": lambda: fit(MODEL, (X, Y), ALGORITHM, epochs=5),
    "lr=0.1 must be left out, because the algorithm has its own": lambda: fit(MODEL, (X, Y), ALGORITHM, lr=0.1),
    "algorithm must be an fcnet.GradientDescent, got the optimizer SGD; pass fcnet.GradientDescent(optimizer, epochs=10)": lambda: (
        fit(MODEL, (X, Y), SGD)
    ),
    "algorithm must be an fcnet.GradientDescent, got 10; pass epochs=10": lambda: fit(MODEL, (X, Y), 10),
    "algorithm must be an fcnet.GradientDescent, got the class GradientDescent": lambda: fit(
        MODEL, (X, Y), GradientDescent
    ),
    "algorithm must be an fcnet.GradientDescent, got 'adam'": lambda: fit(MODEL, (X, Y), "adam"),
    "algorithm must train the parameters of model, got an optimizer of others; make it with model.parameters()": lambda: (
        fit(MLP(4, (5,), 3), (X, Y), ALGORITHM)
    ),
    "model must have a parameter with requires_grad=True to train, got none": lambda: fit(
        MLP(4, (5,), 3).requires_grad_(False), (X, Y)
    ),
    "loss must return the sum of a batch, got the mean; set reduction='sum' (fcnet.losses.CrossEntropy() is such a loss)": lambda: (
        fit(MODEL, (X, Y), replace(ALGORITHM, loss=nn.CrossEntropyLoss()))
    ),
    "loss must return the sum of a batch as a scalar tensor, got the shape (2,); fcnet.losses.CrossEntropy() is such a loss": lambda: (
        fit(MODEL, (X, Y), replace(ALGORITHM, loss=nn.CrossEntropyLoss(reduction="none")))
    ),
    "loss must take logits (2, 3) and int64 labels (2,), got the error: Target size (torch.Size([1])) must be the same as input size (torch.Size([1, 3])); fcnet.losses.CrossEntropy() is such a loss": lambda: (
        fit(MODEL, (X, Y), replace(ALGORITHM, loss=nn.BCEWithLogitsLoss()))
    ),
    "loss must be a function such as fcnet.losses.CrossEntropy(), got <class 'torch.nn.modules.loss.CrossEntropyLoss'>": lambda: (
        fit(MODEL, (X, Y), replace(ALGORITHM, loss=nn.CrossEntropyLoss))
    ),
    "loss must be a function such as fcnet.losses.CrossEntropy(), got 'cross_entropy'": lambda: fit(
        MODEL, (X, Y), replace(ALGORITHM, loss="cross_entropy")
    ),
    "data: x must have in_features=4 values for each example, got 3 in the shape (N, 3)": lambda: fit(
        MODEL, (X[:, :3], Y)
    ),
    "data: x must have in_features=4 values for each example, got 2 in the shape (N, 1, 2)": lambda: fit(
        MODEL, (X.view(12, 2, 2)[:, :1], Y)
    ),
    "data: Linear must take x of the shape (N, 4), got the error: mat1 and mat2 shapes cannot be multiplied (1x4 and 3x3)": lambda: (
        fit(nn.Linear(3, 3), (X, Y))
    ),
    "Linear must return logits (B,) for two classes, or (B, C), got (B, 1); end it with torch.nn.Flatten(0)": lambda: (
        fit(nn.Linear(4, 1), (X, Y % 2))
    ),
    "Sequential must return logits (B,) or (B, C), got the shape (1, 2, 3) for one example": lambda: fit(
        nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3)), (X, Y)
    ),
    "data: x must have a row for each example, (N, …), got the shape (12,); reshape(-1, 1) makes a column of one feature": lambda: (
        fit(MODEL, (X[:, 0], Y))
    ),
    "data: x and y must have the same number of rows, got 12 and 5": lambda: fit(MODEL, (X, Y[:5])),
    "data: x must hold at least one example and one feature, got the shape (0, 4)": lambda: fit(MODEL, (X[:0], Y[:0])),
    "data: x must hold finite numbers, got NaN in row 7": lambda: fit(MODEL, (WITH_NAN, Y)),
    "data: x must hold numbers, got the text 'a'": lambda: fit(MODEL, ([["a", "b"]], [0])),
    "data: x must have rows of one shape, got rows that differ": lambda: fit(MODEL, ([[1, 2], [3]], [0, 1])),
    "data: x must have rows of one shape, got (4,) and (2,)": lambda: fit(MODEL, ([X[0], X[0, :2]], [0, 1])),
    "data: y must hold one class index for each example, (N,), got the shape (12, 3); for one-hot rows pass y.argmax(1)": lambda: (
        fit(MODEL, (X, nn.functional.one_hot(Y, 3)))
    ),
    "data: y must hold numbers, got the text 'cat'; np.unique(y, return_inverse=True)[1] makes class indices": lambda: (
        fit(MODEL, (X, ["cat"] * 12))
    ),
    "data: y must hold class indices, which are whole numbers, got 0.5 in row 0": lambda: fit(MODEL, (X, Y + 0.5)),
    "data: y must hold class indices, which are whole numbers, got nan in row 0": lambda: fit(
        MODEL, (X, [float("nan")] * 12)
    ),
    "data: y must hold classes from 0 to 2, got 3 in row 2; for labels that begin at 1 pass y - 1": lambda: fit(
        MODEL, (X, Y + 1)
    ),
    "data: y must hold classes from 0 to 1, got -1 in row 0; for the classes -1 and 1 pass (y + 1) // 2": lambda: fit(
        MLP(4, (), 2), (X, Y % 2 * 2 - 1)
    ),
    "data: y must hold classes from 0 to 2, got 3 in row 1; this model has 3 classes": lambda: fit(MODEL, (X, Y * 3)),
    "data: y must hold classes from 0 to 2, got -1 in row 0; np.unique(y, return_inverse=True)[1] makes class indices": lambda: (
        fit(MODEL, (X, Y - 1))
    ),
    "data: x must be a dense tensor, got a sparse one; pass its to_dense()": lambda: fit(MODEL, (X.to_sparse(), Y)),
    "data: x must be an array of real numbers, got complex64": lambda: fit(MODEL, (X.numpy() * 1j, Y)),
    f"data must be {KINDS}, got a NoneType": lambda: fit(MODEL, None),
    f"data must be {KINDS}, got the text 'pets'; torchvision.datasets.ImageFolder reads a folder of images": lambda: (
        fit(MODEL, "pets")
    ),
    f"data must be {KINDS}, got a dict; pass (data[…], data[…]) with its keys x, y": lambda: fit(
        MODEL, {"x": X, "y": Y}
    ),
    f"data must be {KINDS}, got a list of 12; pass tuple(zip(*pairs)) for a list of (x, y) pairs": lambda: fit(
        MODEL, list(zip(X, Y, strict=True))
    ),
    f"data must be {KINDS}, got a tuple of 4": lambda: fit(MODEL, (X, X, Y, Y)),
    f"data must be {KINDS}, got a generator": lambda: fit(MODEL, (pair for pair in [(X, Y)])),
    "data must be a TensorDataset of two tensors, x and y, got 3": lambda: fit(MODEL, TensorDataset(X, X, Y)),
    "data must be a TensorDataset of two tensors, x and y, got 1": lambda: fit(MODEL, TensorDataset(X)),
    "data must be a dataset with items by index, got the IterableDataset Stream; wrap it in a DataLoader": lambda: fit(
        MODEL, Stream()
    ),
    "data: the DataLoader has no length; give Stream a method __len__": lambda: fit(MODEL, DataLoader(Stream())),
    "data[0] must be a pair (x, y), got a dict with the keys image, label": lambda: fit(
        MODEL, Items([{"image": X[0], "label": 0}])
    ),
    "data[1] must have the shape of data[0], (4,), got (3,); resize images in the dataset's transform": lambda: fit(
        MODEL, Items([(X[0], 0), (X[0, :3], 0)]), seed=1
    ),
    "data: y must hold classes from 0 to 2, got 7 in row 1; this model has 3 classes": lambda: fit(
        MODEL, Items([(X[0], 0), (X[0], 7)])
    ),
    "data[0] must be an L or RGB image, got the mode RGBA; convert it in the transform": lambda: fit(
        MODEL, Items([(Image.new("RGBA", (2, 2)), 0)])
    ),
    "data must hold at least one example, got 0": lambda: fit(MODEL, Items([])),
    "data: x must be an array or a tensor, got a TensorDataset": lambda: fit(
        MODEL, (TensorDataset(X, Y), TensorDataset(X, Y))
    ),
    "data: the DataLoader must make tensors of a batch; for PIL images give the dataset transform=torchvision.transforms.ToTensor() (default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found <class 'PIL.Image.Image'>)": lambda: (
        fit(MODEL, DataLoader(Items([(Image.new("RGB", (2, 2)), 0)])))
    ),
    "data, batch 0 must be a pair (x, y), got a dict with the keys a, b": lambda: fit(
        MODEL, DataLoader(Items([{"a": X[0], "b": 0}]))
    ),
    "batch_size=3 must be left out, because data has its own batch size": lambda: fit(
        MODEL, DataLoader(TensorDataset(X, Y)), batch_size=3
    ),
    "data, batch 2: y must hold classes from 0 to 2, got 3 in row 0; this model has 3 classes": lambda: fit(
        MODEL, DataLoader(TensorDataset(X, Y + 1))
    ),
    "validation=0.1 must be data, because a DataLoader cannot be split; pass another DataLoader": lambda: fit(
        MODEL, DataLoader(TensorDataset(X, Y)), validation=0.1
    ),
    f"validation must be {KINDS}, or a share such as 0.1, got the text '0.1'; torchvision.datasets.ImageFolder reads a folder of images": lambda: (
        fit(MODEL, (X, Y), validation="0.1")
    ),
    "validation must be data, or a share between 0 and 1 such as 0.1, got 20": lambda: fit(
        MODEL, (X, Y), validation=20
    ),
    "validation must be data, or a share between 0 and 1 such as 0.1, got True": lambda: fit(
        MODEL, (X, Y), validation=True
    ),
    "validation=0.01 must leave out at least one of 12 examples, got none; pass a larger share": lambda: fit(
        MODEL, (X, Y), validation=0.01
    ),
    "validation: x must have in_features=4 values for each example, got 2 in the shape (N, 2)": lambda: fit(
        MODEL, (X, Y), validation=(X[:, :2], Y)
    ),
    "validation: y must hold classes from 0 to 2, got 3 in row 2; for labels that begin at 1 pass y - 1": lambda: fit(
        MODEL, (X, Y), validation=(X, Y + 1)
    ),
    f"validation must be {KINDS}, or a share such as 0.1, got one Tensor (12, 4); its labels are missing": lambda: fit(
        MODEL, (X, Y), validation=X
    ),
    "patience must be 0 without a validation set, got 3": lambda: fit(MODEL, (X, Y), replace(ALGORITHM, patience=3)),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_call_is_one_sentence_before_training_begins(message: str) -> None:
    with pytest.raises(UserError) as error:
        WRONG[message]()
    assert str(error.value).replace("addmm: ", "") == message  # torch 2.15 names the operation in its own errors
    assert "\n" not in message


def test_numbers_of_numpy_train_as_pythons_own() -> None:
    data = (torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), [0, 1, 2, 0, 1, 2])
    losses = []
    for integer, real in ((int, float), (np.int64, np.float64)):
        model = fcnet.MLP(4, (5,), 3, generator=torch.Generator().manual_seed(0))
        options: dict[str, Any] = {"epochs": integer(2), "batch_size": integer(4), "seed": integer(1), "lr": real(0.1)}
        losses.append([record.train_loss for record in fcnet.fit(model, data, **options)])
    assert losses[0] == losses[1]


def test_the_batch_size_is_that_of_validation_data_too() -> None:
    sizes: list[int] = []
    model = fcnet.LogisticRegression(4, 3)
    model.register_forward_hook(lambda module, _, logits: None if module.training else sizes.append(len(logits)))
    data = (torch.rand(6, 4), [0, 1, 2, 0, 1, 2])
    fcnet.fit(model, data, validation=data, batch_size=4, epochs=1)
    assert sizes == [4, 2]
