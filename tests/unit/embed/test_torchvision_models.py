"""torchvision's models: the classifier of the features gives the model's logits, and weights are what is said of them.

Nothing is downloaded: published weights are random ones whose checksum the test publishes.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from fcnet.embed import torchvision_models
from fcnet.embed.torchvision_models import find_classifier, replace_classifier, torchvision_backbone
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import sha256
from tests.helpers import random_images

# One small model of each family, its input and the width before its classifier.
FAMILIES = {
    "alexnet": (64, 4096),
    "convnext_tiny": (32, 768),
    "densenet121": (32, 1024),
    "efficientnet_b0": (32, 1280),
    "mnasnet0_5": (32, 1280),
    "mobilenet_v2": (32, 1280),
    "mobilenet_v3_small": (32, 1024),
    "regnet_y_400mf": (32, 440),
    "resnet18": (32, 512),
    "shufflenet_v2_x0_5": (32, 1024),
    "squeezenet1_1": (64, 512),
    "swin_t": (32, 768),
    "vgg11": (32, 4096),
    "vit_b_32": (32, 768),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_classifier_of_the_features_gives_the_logits(name: str) -> None:
    side, width = FAMILIES[name]
    with torch.random.fork_rng():
        options = {"image_size": side} if name.startswith("vit") else {}
        model = models.get_model(name, **options).eval()
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        logits = model(images)
        path, classifier = find_classifier(model)
        assert "." not in path or path.split(".")[0] in {"classifier", "heads"}
        replace_classifier(model)
        features = model(images).flatten(1)
        assert features.shape == (2, width)
        if isinstance(classifier, nn.Conv2d):  # squeezenet pools after it
            assert not torch.equal(features, logits)
        else:
            assert torch.equal(classifier(features), logits)


@pytest.mark.slow
def test_every_classification_model_ends_in_its_classifier() -> None:
    for name in models.list_models(module=models):
        # SciPy draws the weights of two models, and RegNets read the widths of their blocks: neither on "meta".
        options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
        with torch.device("cpu" if name.startswith("regnet") else "meta"):
            path, _ = find_classifier(models.get_model(name, **options))
        assert path.split(".")[0] in {"classifier", "fc", "head", "heads"}, name


def test_a_model_without_a_classifier_is_refused() -> None:
    with pytest.raises(UserError, match="a model must end in a classifier of 1,000 classes, got Linear"):
        replace_classifier(nn.Sequential(nn.Linear(4, 1000), nn.Linear(1000, 3)))
    with pytest.raises(UserError, match="got ReLU"):
        replace_classifier(nn.ReLU())


# --- weights ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A ResNet with other weights than the random ones of the backbone."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model: nn.Module = models.resnet18()
        return model.eval()


def features_of(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Returns what torchvision's own transforms and model compute before ``fc``."""
    preset = models.ResNet18_Weights.DEFAULT.transforms(crop_size=32, resize_size=32)
    found: list[torch.Tensor] = []
    hook = model.get_submodule("fc").register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.inference_mode():
        model(preset(pixels))
    hook.remove()
    return found[0]


def test_random_weights_are_the_same_in_each_process_and_say_so() -> None:
    state = torch.random.get_rng_state()
    first, second = (torchvision_backbone("resnet18", "random", size=32) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    pixels = random_images(2, (3, 32, 32))
    assert torch.equal(first(pixels), second(pixels))
    assert first.description["weights"] == "random, seed 0"
    assert first.description["sha256"] is None


@pytest.mark.parametrize("form", ["plain", "nested", "parallel", "safetensors", "other classes"])
def test_a_state_dict_from_a_file_is_used(resnet: nn.Module, tmp_path: Path, form: str) -> None:
    state: dict[str, Any] = resnet.state_dict()
    file = tmp_path / f"my.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "other classes":
        state = {**state, "fc.weight": torch.zeros(5, 512), "fc.bias": torch.zeros(5)}
    if form == "safetensors":
        save_file(state, file)
    else:
        prefixed = {f"module.{key}": value for key, value in state.items()}
        torch.save({"plain": state, "nested": {"model": state}, "parallel": prefixed}.get(form, state), file)
    backbone = torchvision_backbone("resnet18", str(file), size=32)
    pixels = random_images(3, (3, 32, 32))
    assert torch.equal(backbone(pixels), features_of(resnet, pixels))
    assert backbone.description["weights"] == file.name
    assert backbone.description["sha256"] == sha256(file)


def test_weights_that_torchvision_publishes_are_known_by_their_checksum(
    resnet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "renamed.pth"
    torch.save(resnet.state_dict(), file)
    publish(monkeypatch, f"https://x.invalid/resnet18-{sha256(file)[:8]}.pth")
    assert torchvision_backbone("resnet18", str(file), size=32).description["weights"] == "Weights.V1"


def publish(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Replaces the published weights of resnet18 by one entry with this address."""

    class Entry(SimpleNamespace):
        def __str__(self) -> str:
            return "Weights.V1"

    entry = Entry(name="V1", url=url, transforms=models.ResNet18_Weights.DEFAULT.transforms)

    class Entries(list[Any]):
        DEFAULT = entry
        __members__ = {"V1": entry}  # noqa: RUF012

        def __getitem__(self, name: Any) -> Any:
            return self.__members__[name]

    monkeypatch.setattr(models, "get_model_weights", lambda _: Entries([entry]))


@pytest.mark.parametrize("weights", [None, "V1"])
def test_published_weights_are_taken_from_the_folder_of_torch(
    resnet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str | None
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(resnet.state_dict(), tmp_path / "new.pth")
    checksum = sha256(tmp_path / "new.pth")
    name = f"resnet18-{checksum[:8]}.pth"
    publish(monkeypatch, f"https://x.invalid/{name}")
    (tmp_path / "new.pth").rename(tmp_path / "checkpoints" / name)
    backbone = torchvision_backbone("resnet18", weights, size=32)
    assert (backbone.description["weights"], backbone.description["sha256"]) == ("Weights.V1", checksum)
    pixels = random_images(1, (3, 32, 32))
    assert torch.equal(backbone(pixels), features_of(resnet, pixels))
    (tmp_path / "checkpoints" / name).write_bytes(b"half")
    with pytest.raises(UserError, match=f"{name} is damaged: its SHA-256 must begin with {checksum[:8]}; remove it"):
        torchvision_backbone("resnet18", weights, size=32)


def test_without_a_network_the_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def fail(*_: object, **__: object) -> None:
        raise URLError(OSError(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UserError) as caught:
        torchvision_backbone("resnet18")
    assert re.fullmatch(
        r"torchvision:resnet18: its weights cannot be downloaded from https://\S+/resnet18-\w+\.pth "
        r"\(.*Temporary failure in name resolution\); --weights FILE takes a copy, --weights random takes none",
        str(caught.value),
    )


def test_the_old_names_of_densenet_are_known(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = models.densenet121().eval()
    old = {re.sub(r"\.(norm|conv)([12])\.", r".\1.\2.", key): value for key, value in model.state_dict().items()}
    assert old.keys() != model.state_dict().keys()
    torch.save(old, tmp_path / "densenet.pth")
    backbone = torchvision_backbone("densenet121", str(tmp_path / "densenet.pth"), size=32)
    pixels = random_images(1, (3, 32, 32))
    replace_classifier(model)
    with torch.inference_mode():
        assert torch.equal(backbone(pixels), model(backbone.preprocessing.normalize(pixels)))


def test_weights_that_do_not_fit_are_refused(resnet: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save(resnet.state_dict(), file)
    with pytest.raises(UserError, match=r"x\.pth must hold the weights of torchvision:resnet34, got: Missing key"):
        torchvision_backbone("resnet34", str(file), size=32)
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"x\.pth must be a state dict from torch\.save or safetensors, got: "):
        torchvision_backbone("resnet18", str(file), size=32)
    torch.save([1, 2], file)
    with pytest.raises(UserError, match=r"x\.pth must be a state dict .*, got something else"):
        torchvision_backbone("resnet18", str(file), size=32)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


def test_a_file_of_weights_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Harmful()}, "x.pth")
    with pytest.raises(UserError, match=r"x\.pth must be a state dict"):
        torchvision_backbone("resnet18", "x.pth", size=32)
    assert not Path("harmed").exists()


def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match="got torchvision:resnet81; the nearest is torchvision:resnet18"):
        torchvision_backbone("resnet81", "random")
    with pytest.raises(UserError, match="--weights must be a file, random or one of IMAGENET1K_V1, got V3"):
        torchvision_backbone("resnet18", "V3")
    with pytest.raises(UserError, match="torchvision:vit_b_32 must take images of 33×33 pixels"):
        torchvision_backbone("vit_b_32", "random", size=33)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_b_16", "efficientnet_b1"])
def test_preprocessing_is_that_of_the_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_models, "_build", lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(1, 1000)))
    preset = models.get_model_weights(name).DEFAULT.transforms()
    preprocessing = torchvision_backbone(name, "random").preprocessing
    assert preprocessing.describe() == {
        "channels": 3,
        "height": preset.crop_size[0],
        "width": preset.crop_size[0],
        "shorter_side": preset.resize_size[0],
        "resampling": preset.interpolation.value,
        "mean": preset.mean,
        "std": preset.std,
    }


def test_another_size_keeps_the_share_that_is_cropped_away() -> None:
    described = torchvision_backbone("resnet18", "random", size=112).preprocessing.describe()
    assert (described["height"], described["shorter_side"]) == (112, 128)
