"""What every part is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fcnet.config.presets import list_presets
from fcnet.config.toml import load_config
from fcnet.experiment.build import build

if TYPE_CHECKING:
    from pathlib import Path

    from fcnet.experiment.build import Experiment

_QUICK = ("model.hidden=[64,32]", "train.batch_size=100", "train.epochs=3", "optimizer.warmup_epochs=0")
_CIFAR_NAMES = ("cifar-10-batches-py", "cifar-10-python.tar.gz")


@dataclass(frozen=True)
class Settings:
    """The settings of all parts.

    Attributes:
        device: the device to measure.
        data: images to train on, CIFAR-10 or a folder or archive of images; None for synthetic ones.
        out: the folder for runs and results.
        quick: whether networks and batches are small, to try the script itself.
    """

    device: torch.device
    data: Path | None
    out: Path
    quick: bool = False

    def changes(self, *more: str) -> list[str]:
        """Returns what to change in the preset ``cifar10_gpu``, as ``--set`` takes it."""
        size = 500 if self.quick else 50_000
        source = ["data.source=synthetic", f"data.train_size={size}", "data.test_size=200"]
        if self.data is not None:
            is_cifar = any((self.data / name).exists() for name in _CIFAR_NAMES)
            source = [f"data.source={'cifar10' if is_cifar else 'images'}", f"data.path={self.data}"]
        return [*source, *(_QUICK if self.quick else ()), *more]

    def build(self, *more: str) -> Experiment:
        """Builds the experiment of the preset ``cifar10_gpu`` with some changes."""
        return build(load_config(list_presets()["cifar10_gpu"], self.changes(*more)), self.device)


@dataclass(frozen=True)
class Result:
    """The result of a part.

    Attributes:
        figures: values that JSON knows, by name.
        text: lines for a reader, such as a table.
    """

    figures: dict[str, Any]
    text: str = field(default="")


def no_gpu(settings: Settings) -> str | None:
    """Returns why nothing can be measured on the device, or None."""
    if settings.device.type != "cuda" or torch.cuda.is_available():
        return None
    built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
    return f"no CUDA device; {built or f'torch {torch.__version__} is built without CUDA'}"


def not_cuda(settings: Settings) -> str | None:
    """Returns why a part for CUDA alone cannot run, or None."""
    return no_gpu(settings) or (None if settings.device.type == "cuda" else f"not on {settings.device}")


def no_second_gpu(settings: Settings) -> str | None:
    """Returns why a part for two GPUs cannot run, or None."""
    count = torch.cuda.device_count()
    return not_cuda(settings) or (None if count > 1 else f"needs two CUDA devices, got {count}")
