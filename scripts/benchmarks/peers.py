"""The same training with plain PyTorch loops and with other libraries, each as its own documentation shows it.

Images are normalized beforehand, except for the usual `DataLoader` loop, which transforms them one by one as
torchvision datasets do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import warnings
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.cases import CLASSES, LR, MEAN, MOMENTUM, STD, Case, Contender, Data
from fcnet.runtime.hardware import num_processors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NUM_LOADED_IMAGES = 12_800
"""The images per call of the `DataLoader` loop, whose time per image is constant."""


class DecodedImages(Dataset[tuple[Tensor, int]]):
    """Images in memory, transformed one by one, as in torchvision's CIFAR10."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        from torchvision import transforms

        self.pixels = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def sequential(case: Case) -> nn.Sequential:
    """Builds the network of a case as `nn.Sequential`."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in itertools.pairwise(case.widths):
        layers += [nn.Linear(before, width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def dataloader_loop(case: Case, data: Data, workers: int) -> Contender:
    """Returns the usual training loop of tutorials."""
    model = sequential(case).to(data.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    dataset = DecodedImages(data.pixels[:NUM_LOADED_IMAGES], data.labels[:NUM_LOADED_IMAGES])
    loader = DataLoader(
        dataset,
        batch_size=case.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=data.device.type == "cuda",
    )

    def train() -> None:
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images.to(data.device)), labels.to(data.device))
            loss.backward()
            optimizer.step()
            total += loss.item()

    name = f"DataLoader, {workers} workers"
    return Contender(name, train, len(dataset), lambda: model.parameters(), num_processors())


def resident_loop(case: Case, data: Data, mode: str | None = None, dtype: torch.dtype = torch.float32) -> Contender:
    """Returns a loop over normalized images that are resident on the device.

    Args:
        case: the network.
        data: the images.
        mode: the mode of `torch.compile` for network and loss; None for eager mode.
        dtype: the dtype of images and weights. With float32, the precision of the case is that of autocast; otherwise
            everything is in this dtype, as in airbench.
    """
    device = data.device
    images, targets = data.images.to(device, dtype), data.labels.to(device)
    model = sequential(case).to(device, dtype)
    optimizers = _optimizers(case, model)
    cast = case.precision if dtype == torch.float32 else torch.float32

    def risk(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cast != torch.float32):
            return nn.functional.cross_entropy(model(images), labels)

    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(risk, mode=mode) if mode else risk

    def train() -> None:
        total = torch.zeros((), device=device)
        for rows in torch.randperm(len(images), device=device).split(case.batch_size):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = compiled(images[rows], targets[rows])
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            total += loss.detach()
        total.item()

    name = "resident tensors"
    if mode:
        name += f", torch.compile {mode}"
    if dtype != torch.float32:
        name += ", " + str(dtype).removeprefix("torch.")
    return Contender(name, train, len(images), lambda: model.parameters(), num_processors())


def _optimizers(case: Case, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Builds torch's optimizers for a case; torch's Muon takes only matrices."""
    if case.optimizer == "sgd":
        return [torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)]
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [torch.optim.Muon(matrices, lr=LR), torch.optim.AdamW(vectors, lr=LR)]


def mlp_classifier(case: Case, data: Data) -> Contender:
    """Returns scikit-learn's MLP."""
    from sklearn.neural_network import MLPClassifier

    x, y = data.images.numpy(), data.labels.numpy()
    model = MLPClassifier(
        case.hidden,
        solver="sgd",
        batch_size=case.batch_size,
        learning_rate_init=LR,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        alpha=0.0,
    )
    return Contender(
        "MLPClassifier",
        lambda: model.partial_fit(x, y, classes=range(CLASSES)),
        len(x),
        lambda: [*getattr(model, "coefs_", ()), *getattr(model, "intercepts_", ())],
        num_processors(),
    )


def sgd_classifier(_: Case, data: Data) -> Contender:
    """Returns scikit-learn's linear model with stochastic gradient descent."""
    from sklearn.linear_model import SGDClassifier

    x, y = data.images.numpy(), data.labels.numpy()
    model = SGDClassifier(loss="log_loss", alpha=0.0, learning_rate="constant", eta0=LR)
    return Contender(
        "SGDClassifier",
        lambda: model.partial_fit(x, y, classes=range(CLASSES)),
        len(x),
        lambda: [model.coef_, model.intercept_],
        num_processors(),
        "one-versus-rest, one image per step, no momentum",
    )


def logistic_regression(_: Case, data: Data) -> Contender:
    """Returns scikit-learn's linear model with L-BFGS."""
    from sklearn.linear_model import LogisticRegression

    x, y = data.images.numpy(), data.labels.numpy()
    model = LogisticRegression(C=float("inf"), max_iter=1, warm_start=True)
    return Contender(
        "LogisticRegression",
        lambda: model.fit(x, y),
        len(x),
        lambda: [model.coef_, model.intercept_],
        num_processors(),
        "one iteration of L-BFGS, one or two passes over all images",
    )


def skorch(case: Case, data: Data) -> Contender:
    """Returns skorch's wrapper of a module."""
    from skorch import NeuralNetClassifier

    x, y = data.images.numpy(), data.labels.numpy()
    net = NeuralNetClassifier(
        sequential(case),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=MOMENTUM,
        lr=LR,
        batch_size=case.batch_size,
        max_epochs=1,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        device=str(data.device),
    )
    return Contender(
        "skorch", lambda: net.partial_fit(x, y), len(x), lambda: net.module_.parameters(), num_processors()
    )


def lightning(case: Case, data: Data) -> Contender:
    """Returns Lightning's trainer with a `DataLoader` over tensors."""
    import lightning

    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = sequential(case)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            images, labels = batch
            return nn.functional.cross_entropy(self.model(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR, momentum=MOMENTUM)

    module = Module()
    loader = DataLoader(TensorDataset(data.images, data.labels), batch_size=case.batch_size, shuffle=True)

    def train() -> None:
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="gpu" if data.device.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)

    return Contender("Lightning", train, len(data.labels), lambda: module.parameters(), num_processors())


def keras(case: Case, data: Data) -> Contender:
    """Returns Keras with the torch backend."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    x, y = data.images.numpy(), data.labels.numpy()
    device = "gpu" if data.device.type == "cuda" else "cpu"
    with keras.device(device):
        layers = [keras.layers.Dense(width, activation="relu") for width in case.hidden]
        model = keras.Sequential([keras.Input((x.shape[1],)), *layers, keras.layers.Dense(CLASSES)])
        model.compile(
            optimizer=keras.optimizers.SGD(LR, momentum=MOMENTUM),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    def train() -> None:
        with keras.device(device):
            model.fit(x, y, batch_size=case.batch_size, epochs=1, verbose=0)

    return Contender(
        "Keras", train, len(x), lambda: [weight.value for weight in model.trainable_weights], num_processors()
    )


def peer_factories(case: Case, data: Data) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Yields the peers for a case and device: the package each needs, and a function that builds the contender."""
    if data.device.type == "cuda":
        yield "torch", lambda: resident_loop(case, data, "default")
        yield "torch", lambda: resident_loop(case, data, "max-autotune")
        if case.precision != torch.float32:
            yield "torch", lambda: resident_loop(case, data, "max-autotune", case.precision)
    yield "torch", lambda: resident_loop(case, data)
    if case.precision != torch.float32:
        return
    for workers in (0, 2):
        yield "torchvision", lambda workers=workers: dataloader_loop(case, data, workers)  # type: ignore[misc]
    yield "skorch", lambda: skorch(case, data)
    yield "lightning", lambda: lightning(case, data)
    yield "keras", lambda: keras(case, data)
    if data.device.type == "cpu":
        yield "sklearn", lambda: mlp_classifier(case, data)
        if not case.hidden:
            yield "sklearn", lambda: sgd_classifier(case, data)
            yield "sklearn", lambda: logistic_regression(case, data)


def missing_packages(case: Case, data: Data) -> list[str]:
    """Lists the packages of the peers that are not installed."""
    return sorted({package for package, _ in peer_factories(case, data) if importlib.util.find_spec(package) is None})


def peers(case: Case, data: Data) -> list[Contender]:
    """Builds the peers whose packages are installed."""
    absent = missing_packages(case, data)
    if data.device.type == "cuda":
        torch.compiler.reset()  # otherwise it stops compiling after several networks
    with suppress_warnings():
        return [make() for package, make in peer_factories(case, data) if package not in absent]


@contextlib.contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppresses the warnings of other libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
