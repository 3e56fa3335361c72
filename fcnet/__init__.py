"""Logistic regression and dense feedforward networks on images, with the mathematics written by hand."""

from __future__ import annotations

import sys

# `python -m fcnet.NAME` imports this package first, with "-m" in place of the program.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m").startswith("fcnet."):
    from fcnet.runtime.startup import announce, start_command

    start_command()
    announce(f"python -m {sys.orig_argv[-len(sys.argv)].removeprefix('-m')}")

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fcnet import data, diagnostics, evaluation, functional, losses, metrics, models, modules, optim
    from fcnet.experiment.image_classifier import load
    from fcnet.linear_model import LogisticPath, logistic_path
    from fcnet.models.mlp import MLP, LogisticRegression
    from fcnet.runtime.errors import NonFiniteError, UserError
    from fcnet.training.algorithm import GradientDescent
    from fcnet.training.fit import fit, iter_fit
    from fcnet.training.history import History

__all__ = [
    "MLP",
    "GradientDescent",
    "History",
    "LogisticPath",
    "LogisticRegression",
    "NonFiniteError",
    "UserError",
    "data",
    "diagnostics",
    "evaluation",
    "fit",
    "functional",
    "iter_fit",
    "load",
    "logistic_path",
    "losses",
    "metrics",
    "models",
    "modules",
    "optim",
]

# Names and modules load on first use (PEP 562), so that `import fcnet` does not wait for torch.
_HOMES = {
    "GradientDescent": "fcnet.training.algorithm",
    "History": "fcnet.training.history",
    "LogisticPath": "fcnet.linear_model",
    "LogisticRegression": "fcnet.models.mlp",
    "MLP": "fcnet.models.mlp",
    "NonFiniteError": "fcnet.runtime.errors",
    "UserError": "fcnet.runtime.errors",
    "fit": "fcnet.training.fit",
    "iter_fit": "fcnet.training.fit",
    "load": "fcnet.experiment.image_classifier",
    "logistic_path": "fcnet.linear_model",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # takes longer than the rest of this module

        return version("fcnet")
    if name not in __all__:
        raise AttributeError(f"module 'fcnet' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name) if name in _HOMES else import_module(f"fcnet.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
