"""torchvision's classification models as backbones: their classifier is removed, their preprocessing is kept."""

from __future__ import annotations

import difflib
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from fcnet.data.decoding.image_decoding import ShorterSide
from fcnet.embed.backbone import NETWORK_ERRORS, Backbone, ImagePreprocessing
from fcnet.runtime.errors import UserError, first_line
from fcnet.runtime.files import sha256
from fcnet.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

RANDOM = "random"
"""The value of ``--weights`` for random weights."""
_NUM_CLASSES = 1000  # of ImageNet, for which torchvision builds its models
_HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")
_OLD_DENSENET_KEY = re.compile(r"\.(norm|conv)\.([12])\.")
_LOAD_ERRORS = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


def torchvision_backbone(
    name: str, weights: str | None = None, *, size: int | None = None, device: torch.device | str = "cpu"
) -> Backbone:
    """Returns a classification model of torchvision without its classifier.

    Args:
        name: the name of the model, such as ``resnet18``.
        weights: the name of one of torchvision's weights, such as ``IMAGENET1K_V1``; the file of a state dict, from
            `torch.save` or safetensors, whose classifier may have any number of classes; or ``random``. None for
            torchvision's default, which is downloaded into torch's folder of models unless it is there.
        size: H and W of the network's input; None for the model's own.
        device: the device of the network.

    Returns:
        The backbone. Its preprocessing is that of the weights; a file that torchvision does not know, and random
        weights, have that of the default weights.

    Raises:
        UserError: torchvision has no such model or weights, a file does not fit the model, or the download failed.

    Example:
        >>> backbone = torchvision_backbone("resnet18", "random", size=32)
        >>> backbone.num_features, backbone.description["weights"]
        (512, 'random, seed 0')
    """
    chosen = _choose_weights(name, weights)
    preset = chosen.entry.transforms()
    crop, shorter = preset.crop_size[0], preset.resize_size[0]
    side = size or crop
    model = _build(name, side)
    if chosen.file is not None:
        _load_weights(model, chosen.file, name)
    replace_classifier(model)
    preprocessing = ImagePreprocessing(
        3,
        ShorterSide(round(shorter * side / crop), side, side, preset.interpolation.name),
        tuple(preset.mean),
        tuple(preset.std),
    )
    description = {"name": f"torchvision:{name}", "weights": chosen.title, "sha256": chosen.checksum}
    network = model.eval().requires_grad_(requires_grad=False).to(device)
    return Backbone(network, preprocessing, description, device=device)


def replace_classifier(model: nn.Module) -> None:
    """Replaces the classifier, the last linear layer or convolution, by the identity. The model changes.

    What comes before it stays: the pooling, and the hidden layers of a classifier of several layers, such as VGG's.

    Raises:
        UserError: the model has no classifier.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1000))
        >>> replace_classifier(model)
        >>> model[-1]
        Identity()
    """
    name, _ = find_classifier(model)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())


def find_classifier(model: nn.Module) -> tuple[str, nn.Module]:
    """Returns the name of the last linear layer or convolution, and the layer.

    Raises:
        UserError: it does not have the outputs of a classifier for ImageNet.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    name, layer = layers[-1] if layers else ("", model)
    if getattr(layer, "out_features", getattr(layer, "out_channels", None)) != _NUM_CLASSES:
        raise UserError(f"a model must end in a classifier of {_NUM_CLASSES:,} classes, got {type(layer).__name__}")
    return name, layer


class _Weights(NamedTuple):
    """Weights of a model.

    Attributes:
        entry: torchvision's entry, which has the preprocessing.
        title: what the weights are, for people.
        file: the file of the weights; None for random ones.
        checksum: the SHA-256 of the file.
    """

    entry: Any
    title: str
    file: Path | None = None
    checksum: str | None = None


def _choose_weights(name: str, weights: str | None) -> _Weights:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"the nearest is torchvision:{close[0]}" if close else f"such as torchvision:{known[0]}"
        raise UserError(f"--backbone must be a classification model of torchvision, got torchvision:{name}; {hint}")
    entries = models.get_model_weights(name)
    if weights == RANDOM:
        return _Weights(entries.DEFAULT, f"{RANDOM}, seed 0")
    if weights is None or weights in entries.__members__:
        entry = entries.DEFAULT if weights is None else entries[weights]
        file = _download(entry, name)
        return _Weights(entry, str(entry), file, sha256(file))
    file = Path(weights)
    if not file.is_file():
        names = ", ".join(entry.name for entry in entries)
        raise UserError(f"--weights must be a file, {RANDOM} or one of {names}, got {weights}")
    checksum = sha256(file)
    for entry in entries:
        if checksum.startswith(_published_hash(entry)):
            return _Weights(entry, str(entry), file, checksum)
    return _Weights(entries.DEFAULT, file.name, file, checksum)


def _published_hash(entry: Any) -> str:  # noqa: ANN401 - torchvision has no types
    """Returns the start of the SHA-256 of published weights, which their name ends with."""
    found = _HASH.search(entry.url)
    assert found, entry.url
    return found[1]


def _download(entry: Any, name: str) -> Path:  # noqa: ANN401 - torchvision has no types
    """Returns the file of published weights where torch keeps such files, and downloads it if it is not there."""
    file = Path(torch.hub.get_dir(), "checkpoints", entry.url.rpartition("/")[2])
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(entry.url, str(file), _published_hash(entry), progress=False)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise UserError(
                f"torchvision:{name}: its weights cannot be downloaded from {entry.url} "
                f"({' '.join(str(reason).split())}); --weights FILE takes a copy, --weights {RANDOM} takes none"
            ) from None
    if not sha256(file).startswith(_published_hash(entry)):
        raise UserError(f"{file} is damaged: its SHA-256 must begin with {_published_hash(entry)}; remove it")
    return file


def _build(name: str, side: int) -> nn.Module:
    """Builds a model with random weights, always the same ones."""
    from torchvision import models

    # The size of a vision transformer's input belongs to its weights.
    options = {"image_size": side} if name.startswith("vit_") else {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Inception warns of the time that its initialisation takes
        torch.manual_seed(derive_seed(0, "backbone"))
        try:
            model: nn.Module = models.get_model(name, weights=None, **options)
        except NETWORK_ERRORS as error:
            raise UserError(f"torchvision:{name} must take images of {side}×{side} pixels, got: {error}") from None
    return model


def _load_weights(model: nn.Module, file: Path, name: str) -> None:
    """Loads a state dict, but for the classifier."""
    head = f"{find_classifier(model)[0]}."
    state = {key: value for key, value in _read_state(file).items() if not key.startswith(head)}
    state |= {key: value for key, value in model.state_dict().items() if key.startswith(head)}
    if hasattr(model, "transform_input"):
        # Inception's and GoogLeNet's published weights take another normalisation, which the model makes itself.
        setattr(model, "transform_input", True)  # noqa: B010 - a module declares no plain attributes
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        _, *lines = str(error).splitlines()
        raise UserError(f"{file} must hold the weights of torchvision:{name}, got: {lines[0].strip()}") from None


def _read_state(file: Path) -> Mapping[str, Any]:
    """Reads a state dict without running code from the file."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except _LOAD_ERRORS as error:
        rule = "must be a state dict from torch.save or safetensors"
        raise UserError(f"{file} {rule}, got: {first_line(error)}") from None
    for key in ("state_dict", "model"):  # as programs that train save it, beside their other state
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{file} must be a state dict from torch.save or safetensors, got something else")
    return {_OLD_DENSENET_KEY.sub(r".\1\2.", key.removeprefix("module.")): value for key, value in state.items()}
