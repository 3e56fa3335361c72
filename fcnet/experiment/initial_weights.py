"""Starts a training from the weights of another run's model, ``model.init_from``.

The weights belong to inputs that are normalized, and whitened, as in that run, so these come along. A run keeps a copy
of what it started from with its checkpoints: it resumes without the other run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fcnet.config.values import shorten_value
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.experiment.run_folder import Run
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_metadata
from fcnet.runtime.formatting import format_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from fcnet.config import schema
    from fcnet.models.mlp import MLP

_ORIGIN = "init_from"


@dataclass(frozen=True)
class InitialWeights:
    """The trained model that a training starts from.

    Attributes:
        classifier: the model, on the CPU.
        run: the path of its run.
        checksum: the checksum of its ``model.json``, which covers its weights.
    """

    classifier: ImageClassifier
    run: str
    checksum: str

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights come from, as ``model.json`` and ``summary.json`` say it."""
        return {"run": self.run, "checksum": self.checksum}

    def save(self, run: Run) -> None:
        """Keeps a copy in the folder of the run that starts from these weights, unless it has one."""
        if not _has_copy(run):
            self.classifier.save(run.checkpoints.initial, {_ORIGIN: self.origin})

    def check_fit(self, config: schema.Config, shape: Sequence[int]) -> None:
        """Checks that the weights fit a configuration and images of a shape, in all but the classes.

        Raises:
            UserError: they do not; the message names the first difference.
        """
        for name, trained, configured in self._properties(config, shape):
            if trained != configured:
                raise UserError(f"{name} must be {trained} to start from the weights of {self.run}, got {configured}")

    def _properties(self, config: schema.Config, shape: Sequence[int]) -> Iterator[tuple[str, str, str]]:
        """Yields the name of each property that must fit, its value in the trained model, and the configured one."""
        classifier, section = self.classifier, config.model
        arguments = classifier.model.arguments
        noun = "features" if classifier.takes_features else "images"
        yield f"the shape of the {noun}", _format_shape(classifier.shape), _format_shape(shape)
        components = 0 if classifier.whitening is None else len(classifier.whitening.bias)
        yield "data.whiten", str(components), str(config.data.whiten)
        if section.kind == "logistic":
            yield "model.kind", '"mlp"' if arguments["hidden"] else '"logistic"', '"logistic"'
            return
        for name in ("hidden", "activation", "normalization", "residual") if section.hidden else ("hidden",):
            yield f"model.{name}", shorten_value(arguments[name]), shorten_value(getattr(section, name))

    @torch.no_grad()
    def copy_to(self, model: MLP, classes: Sequence[str]) -> str:
        """Copies the weights into a model that fits; returns a line that says what happened.

        The last layer is copied if the classes have the same names, each row to the class of its name. Otherwise it
        starts from zeros.

        Raises:
            UserError: the last layer is the only one, and would not be copied.
        """
        before = self.classifier.classes
        state = self.classifier.model.state_dict()
        head = {name: x for name, x in state.items() if name.startswith(f"layers.{len(model.layers) - 1}.")}
        if set(before) == set(classes):
            order = [before.index(name) for name in classes]
            state |= {name: _reorder(x, order) for name, x in head.items()}
            last = "copied" if before == tuple(classes) else "copied, in the order of the classes here"
        elif len(head) == len(state):
            raise UserError(f"model.init_from: nothing to start from, {self.run} has no hidden layer and other classes")
        else:
            # Random weights of the usual size, on features that are trained, are sure of the wrong classes at first:
            # the first epochs would change the features to mend that.
            own = model.state_dict()
            state |= {name: torch.zeros_like(own[name]) for name in head}
            last = f"new, for {len(classes)} classes instead of {len(before)}"
            if len(before) == len(classes):
                last = f"new, for other classes than {format_names(before, limit=3)}"
        model.load_state_dict(state)
        inputs = "normalized" if self.classifier.whitening is None else "normalized and whitened"
        return f"starts from the weights of {self.run}; last layer {last}; inputs {inputs} as there"


def load_initial_weights(config: schema.Config, run: Run | None = None) -> InitialWeights | None:
    """Loads the weights that a training starts from.

    Args:
        config: the configuration of the training.
        run: its run folder, if there is one. A copy in it is preferred, so that the other run may be gone.

    Returns:
        The weights; None if the configuration names no run to start from.

    Raises:
        UserError: ``model.init_from`` is not a finished run, or its model is damaged.
    """
    if not config.model.init_from:
        return None
    if run is not None and _has_copy(run):
        origin = read_metadata(run.checkpoints.initial)[_ORIGIN]
        return InitialWeights(ImageClassifier.load(run.checkpoints.initial), origin["run"], origin["checksum"])
    folder = Path(config.model.init_from)
    source = Run(folder)
    if not source.started:
        what = "holds no run" if folder.is_dir() else "no such folder"
        raise UserError(f"model.init_from must be the folder of a finished run, got {folder}: {what}")
    if not source.finished:
        raise UserError(f"model.init_from must be a finished run, and {folder} is not finished; resume it first")
    classifier = ImageClassifier.load(folder / "model")
    return InitialWeights(classifier, str(folder), str(read_metadata(folder / "model")["checksum"]))


def _has_copy(run: Run) -> bool:
    return run.checkpoints.initial.with_suffix(".json").is_file()


def _format_shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _reorder(rows: Tensor, order: Sequence[int]) -> Tensor:
    """Returns the rows, one a class, in another order. One output node is the logit of the second of two classes."""
    if len(order) == 2:
        return rows if order == [0, 1] else -rows
    return rows[list(order)]
