"""The network in the page: the section in which a browser computes with its weights."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fcnet.data.batches import normalize
from fcnet.models.batch_norm import eval_mode
from fcnet.models.mlp import MLP, logits_to_probabilities
from fcnet.report.quantize import PackedWeights, choose_dtype, fuse_layers
from fcnet.report.render import STATIC, PageSection, render_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fcnet.experiment.image_classifier import ImageClassifier
    from fcnet.report.run_data import RunData

TITLE = "Try the network"
"""What a section is called where there is one."""

_SCRIPTS = ("live_network.js", "live_image.js", "live_charts.js", "live.js")
_MAX_IMAGES = 200
_MAX_IMAGE_BYTES = 700_000
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def live_sections(runs: Sequence[RunData], names: Sequence[str]) -> list[PageSection]:
    """One section for each run whose network and test images are at hand and small enough.

    Args:
        runs: what was found of each.
        names: what each is called beside the others.
    """
    made = []
    for run, name in zip(runs, names, strict=True):
        if run.classifier is None or run.test is None:
            continue
        count = min(_MAX_IMAGES, _MAX_IMAGE_BYTES // math.prod(run.classifier.shape), run.test.num_images)
        places = torch.linspace(0, run.test.num_images - 1, count).round().long()  # evenly, whatever the order
        images = [pixels for place in places.tolist() if (pixels := run.pixels(place)) is not None]
        if images:
            labels = run.test.labels[run.test.rows[places].to(run.test.labels.device)]
            made.append(
                live_section(run.classifier, torch.stack(images), labels, f"Try {name}" if len(runs) > 1 else TITLE)
            )
    return [each for each in made if each is not None]


def live_section(classifier: ImageClassifier, images: Tensor, labels: Tensor, title: str = TITLE) -> PageSection | None:
    """The section in which a network runs in the browser.

    The reader picks one of the images, or brings a picture, draws on it, and sees every layer's activations and the
    probabilities follow; a slider scales the sigmoids, another the logits of a softmax.

    Args:
        classifier: a finished network.
        images: test images to pick from, uint8 (K, channels, height, width).
        labels: their classes, int64 (K,).
        title: what the section is called.

    Returns:
        The section; None where the network is too large (`fcnet.report.quantize.MAX_BYTES`), is not finite, is none of
        fcnet's models, or takes images that have neither one channel nor three.

    Example:
        >>> from fcnet.experiment.image_classifier import ImageClassifier
        >>> half = torch.full((1,), 0.5)
        >>> classifier = ImageClassifier(MLP(4, (3,), 2), classes=("cat", "dog"), shape=(1, 2, 2), mean=half, std=half)
        >>> made = live_section(classifier, torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.zeros(5, dtype=torch.long))
        >>> made is not None and "The page carries the weights as they are, in float32" in made.html
        True
    """
    if classifier.shape[0] not in (1, 3) or not isinstance(classifier.model, MLP):
        return None
    fused = fuse_layers(classifier)
    dtype_name = choose_dtype(fused)
    if dtype_name is None:
        return None
    pack = PackedWeights(dtype_name)
    layers = [pack.add(layer) for layer in fused]
    images, labels = images.cpu(), labels.cpu()
    full, packed = _probabilities_before_and_after(classifier, pack, images)
    predicted = full.argmax(1) if len(full) else labels
    html = render_template(
        "live.html.j2",
        title=title,
        metadata={
            "classes": classifier.classes,
            "shape": classifier.shape,
            **_normalization(classifier),
            "background": _background(images),
            "layers": layers,
            "labels": labels.tolist(),
            "predicted": predicted.tolist(),
        },
        tensors=base64.b64encode(pack.content).decode(),
        images=base64.b64encode(images.numpy().tobytes()).decode(),
        num_wrong=int((predicted != labels).sum()),
        height=classifier.shape[1],
        width=classifier.shape[2],
        sliders=_sliders(classifier),
        exactness=_describe_precision(pack, full, packed),
    )
    script = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return PageSection(html, script, (STATIC / "live.css").read_text(encoding="utf-8"))


@torch.no_grad()
def _probabilities_before_and_after(
    classifier: ImageClassifier, pack: PackedWeights, images: Tensor
) -> tuple[Tensor, Tensor]:
    """The probabilities (K, C) of the full network and of the packed one."""
    with eval_mode(classifier):
        full = classifier.predict_proba(images.to(classifier.mean.device)).cpu()
    a = normalize(images, classifier.mean.cpu(), classifier.std.cpu()).flatten(1)
    for step in pack.layers:
        a = step(a)
    return full, logits_to_probabilities(a.squeeze(1) if len(classifier.classes) == 2 else a)


def _describe_precision(pack: PackedWeights, full: Tensor, packed: Tensor) -> str:
    """How the weights are carried, and what that changes on the images."""
    descriptions = {
        "float32": "as they are, in float32",
        "float16": "rounded to float16",
        "int8": "rounded to 255 levels in each row of a matrix",
    }
    size = f"{pack.num_bytes / 1e6:.1f} MB" if pack.num_bytes >= 1e5 else f"{pack.num_bytes / 1e3:.1f} kB"
    carried = f"The page carries the weights {descriptions[pack.dtype_name]} ({size})."
    if not len(full):
        return carried
    difference = (full - packed).abs().max().item()
    same = int((full.argmax(1) == packed.argmax(1)).sum())
    return (
        f"{carried} On the {len(full):,} images above, its probabilities differ from the full network's by at most "
        f"{_round_up(difference)}, and it names the same class for {same:,} of them."
    )


def _round_up(value: float) -> str:
    """A small number to one digit that is not below it, 10⁻⁷ at least: 0.0003, 4·10⁻⁷."""
    exponent = max(math.floor(math.log10(value)), -7) if value > 0.0 else -7
    digit = max(math.ceil(value / 10.0**exponent), 1)
    if exponent >= -4:
        return f"{digit * 10.0**exponent:.{-exponent}f}"
    return f"{digit}·10{str(exponent).translate(_SUPERSCRIPTS)}"


def _normalization(classifier: ImageClassifier) -> dict[str, list[float]]:
    """What each channel's pixels of 0 to 255 are multiplied by, and what is added."""
    mean, std = classifier.mean.double().cpu(), classifier.std.double().cpu()
    return {"scale": (1.0 / (255.0 * std)).tolist(), "offset": (-mean / std).tolist()}


def _background(images: Tensor) -> list[int]:
    """The colour that stands behind: each channel's median over the images' borders; black where there are none."""
    if not len(images):
        return [0] * images.shape[1]
    sides = images[:, :, [0, -1], :], images[:, :, :, [0, -1]].transpose(2, 3)
    border = torch.cat([side.transpose(0, 1).flatten(1) for side in sides], 1)
    return border.median(1).values.tolist()


@dataclass(frozen=True)
class _Slider:
    """What a slider is called, and what it does."""

    kind: str
    title: str
    label: str
    description: str
    plot_description: str


def _sliders(classifier: ImageClassifier) -> list[_Slider]:
    """The sigmoids' scaling where there are any, else the logits' before the softmax; or both."""
    hidden = any(layer.activation == "sigmoid" for layer in classifier.model.dense_layers())
    output = len(classifier.classes) == 2
    where = " and ".join(["in the hidden layers"] * hidden + ["at the output"] * output)
    sigmoid = _Slider(
        "sigmoid",
        "Scaling of the sigmoid",
        "c",
        f"Each sigmoid s(u) {where} becomes s(c u): the larger c, the more it is a step at 0. The dots are the units.",
        "s(c u) against u, with a dot for each unit's u, and s(u) dashed",
    )
    softmax = _Slider(
        "softmax",
        "Scale of the logits",
        "Scale",
        "The logits are multiplied by it before the softmax, and 1 / scale is called the temperature: the order of the "
        "classes stays, their probabilities part or draw together.",
        "Probabilities of the four foremost classes against the scale of the logits",
    )
    return [sigmoid] * (hidden or output) + [softmax] * (not output)
