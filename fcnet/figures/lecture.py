"""The lecture's figures by name, with the data of each computed by the package itself."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import torch

from fcnet.figures import curves, formulas, images, networks, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.figure import Figure

TITLES = {
    "sigmoid": "The scaled sigmoids s(cu)",
    "saturation": "The derivative of the sigmoid and its bound",
    "activations": "Activation functions and their derivatives",
    "losses": "Losses of a score",
    "links": "From a score to a probability",
    "neuron": "A neuron",
    "network": "A feedforward network of three layers",
    "forward-pass": "The forward pass of one digit",
    "samples": "Training images of each class",
    "weights": "The weights of softmax regression on digits",
    "between": "Score and probability along a line between two images",
    "generalisation": "The gap between test and training risk",
    "descent": "Gradient descent with three batch sizes",
}
"""The title of each figure, by its name, in the order of the lecture."""


def lecture_figures() -> dict[str, Callable[[], Figure]]:
    """Computes the data of every figure and returns functions that draw them.

    Call the functions inside `fcnet.figures.style.use_theme`. The results are reproducible on one type of machine: the
    training uses a single thread and a fixed seed.

    Returns:
        A drawing function for each figure, by the figure's name.

    Raises:
        UserError: the cache folder is unusable.
    """
    with _single_thread():
        digits = trained.Digits.load()
        classes = digits.store.classes
        image, layers, label = trained.forward_pass(digits)
        generalisation = trained.generalisation(digits)
        rows = generalisation.model.dense_layers()[0].weight.detach()
        names = ("3", "8")
        line = trained.interpolation(digits, names)
        lr = 0.05
        descent = trained.descent(digits, lr)
    draw_functions: dict[str, Callable[[], Figure]] = {
        "sigmoid": partial(curves.scaled_sigmoids, formulas.scaled_sigmoids()),
        "saturation": partial(curves.saturation, *formulas.saturation()),
        "activations": partial(curves.activations, formulas.activations()),
        "losses": partial(curves.losses, formulas.losses()),
        "links": partial(curves.links, formulas.links()),
        "neuron": networks.neuron,
        "network": partial(networks.network, (4, 5, 4, 3)),
        "forward-pass": partial(images.forward_pass, image, layers, classes, label),
        "samples": partial(images.samples, trained.samples(digits), classes),
        "weights": partial(images.weights, rows.view(-1, *digits.store.shape[1:]), classes),
        "between": partial(images.interpolation, **line, names=names),
        "generalisation": partial(curves.generalisation, *generalisation[:3]),
        "descent": partial(curves.descent, descent, lr),
    }
    return {name: partial(_draw_titled, title, draw_functions[name]) for name, title in TITLES.items()}


def _draw_titled(title: str, draw: Callable[[], Figure]) -> Figure:
    figure = draw()
    figure.suptitle(title, fontsize=12)
    return figure


@contextlib.contextmanager
def _single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
