"""The live demo: a section of the report in which the model runs in the reader's browser."""

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
from fcnet.runtime.formatting import format_count
from fcnet.runtime.terminal import shorten_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fcnet.experiment.image_classifier import ImageClassifier
    from fcnet.report.run_data import RunData

TITLE = "Live demo"
"""The heading of the section if the report covers one run."""

_SCRIPTS = ("live_network.js", "live_image.js", "live_files.js", "live_charts.js", "live.js")
_MAX_IMAGES = 200
_MAX_IMAGE_BYTES = 700_000
_MAX_PIXELS = 100_000_000
"""Pixels at most of an image file that the page opens: more would take the memory of the browser's tab."""
_MAX_NAME_LENGTH = 40
_MANY_CLASSES = 1000
_MAX_HTML_BYTES = 4_700_000
"""The largest section of a model with many classes, whose names add to the weights: the page stays below 5 MB."""
_DARK, _BORDER_SHARE, _TONE_SHARE = 64, 0.6, 0.75
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def live_sections(runs: Sequence[RunData], names: Sequence[str]) -> list[PageSection]:
    """Returns a live demo of each run that has a model, test images and few enough weights.

    Args:
        runs: the runs of the report.
        names: a unique name for each run.
    """
    sections = []
    for run, name in zip(runs, names, strict=True):
        if run.classifier is None or run.test is None or run.classifier.takes_features:
            continue
        count = min(_MAX_IMAGES, _MAX_IMAGE_BYTES // math.prod(run.classifier.shape), run.test.num_images)
        # Evenly spaced, because a test set may be sorted by class.
        indices = torch.linspace(0, run.test.num_images - 1, count).round().long()
        images = [pixels for index in indices.tolist() if (pixels := run.pixels(index)) is not None]
        image_names = [run.image_path(index) or run.image_number(index).capitalize() for index in indices.tolist()]
        if images:
            labels = run.test.labels[run.test.rows[indices].to(run.test.labels.device)]
            title = f"{TITLE}: {name}" if len(runs) > 1 else TITLE
            sections.append(live_section(run.classifier, torch.stack(images), labels, title, image_names))
    return [section for section in sections if section is not None]


def live_section(
    classifier: ImageClassifier,
    images: Tensor,
    labels: Tensor,
    title: str = TITLE,
    image_names: Sequence[str] | None = None,
) -> PageSection | None:
    """Returns a section that runs a model in the browser.

    The reader selects a test image or opens an image file, draws on it, and sees the activations of every layer and
    the class probabilities update. Sliders scale the argument of the sigmoids and the logits of the softmax.

    Args:
        classifier: the trained model.
        images: test images to select from, uint8 (K, channels, height, width).
        labels: their classes, int64 (K,).
        title: the section's heading.
        image_names: what to call each image; None for ``Test image 0`` and so on.

    Returns:
        The section; None if the model is too large (`fcnet.report.quantize.MAX_BYTES`, and less with more than 1,000
        classes), has non-finite weights, is not an `fcnet.models.mlp.MLP`, or takes features, or images with other than
        1 or 3 channels.

    Example:
        >>> from fcnet.experiment.image_classifier import ImageClassifier
        >>> half = torch.full((1,), 0.5)
        >>> classifier = ImageClassifier(MLP(4, (3,), 2), classes=("cat", "dog"), shape=(1, 2, 2), mean=half, std=half)
        >>> images, labels = torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
        >>> section = live_section(classifier, images, labels)
        >>> section is not None and "The page contains the weights in float32" in section.html
        True
    """
    if classifier.takes_features or classifier.shape[0] not in (1, 3) or not isinstance(classifier.model, MLP):
        return None
    fused = fuse_layers(classifier)
    dtype_name = choose_dtype(fused)
    if dtype_name is None:
        return None
    pack = PackedWeights(dtype_name)
    layers = [pack.add(layer) for layer in fused]
    images, labels = images.cpu(), labels.cpu()
    full, packed = _full_and_packed_probabilities(classifier, pack, images)
    predicted = full.argmax(1) if len(full) else labels
    mean, std = classifier.mean.cpu().double(), classifier.std.cpu().double()
    html = render_template(
        "live.html.j2",
        title=title,
        metadata={
            "classes": classifier.classes,
            "short_names": shorten_names(classifier.classes, _MAX_NAME_LENGTH),
            "shape": classifier.shape,
            # (pixel / 255 - mean) / std as one multiplication and one addition
            "scale": (1.0 / (255.0 * std)).tolist(),
            "offset": (-mean / std).tolist(),
            "background": _background(images),
            "tone": _background_tone(images),
            "max_pixels": _MAX_PIXELS,
            "layers": layers,
            "labels": labels.tolist(),
            "predicted": predicted.tolist(),
            "names": image_names or [f"Test image {index}" for index in range(len(images))],
        },
        tensors=base64.b64encode(pack.content).decode(),
        images=base64.b64encode(images.numpy().tobytes()).decode(),
        num_images=len(images),
        num_wrong=int((predicted != labels).sum()),
        height=classifier.shape[1],
        width=classifier.shape[2],
        sliders=_sliders(classifier),
        exactness=_describe_precision(pack, full, packed),
    )
    if len(classifier.classes) > _MANY_CLASSES and len(html.encode()) > _MAX_HTML_BYTES:
        return None
    script = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return PageSection(html, script, (STATIC / "live.css").read_text(encoding="utf-8"))


@torch.no_grad()
def _full_and_packed_probabilities(
    classifier: ImageClassifier, pack: PackedWeights, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the class probabilities (K, C) of the model and of its packed copy."""
    with eval_mode(classifier):
        full = classifier.predict_proba(images.to(classifier.mean.device)).cpu()
    a = normalize(images, classifier.mean.cpu(), classifier.std.cpu()).flatten(1)
    for layer in pack.layers:
        a = layer(a)
    return full, logits_to_probabilities(a.squeeze(1) if len(classifier.classes) == 2 else a)


def _describe_precision(pack: PackedWeights, full: Tensor, packed: Tensor) -> str:
    """Describes the format of the weights and its effect on the predictions."""
    formats = {
        "float32": "in float32",
        "float16": "rounded to float16",
        "int8": "rounded to 255 levels in each row of a matrix (int8)",
    }
    size = f"{pack.num_bytes / 1e6:.1f} MB" if pack.num_bytes >= 1e5 else f"{pack.num_bytes / 1e3:.1f} kB"
    text = f"The page contains the weights {formats[pack.dtype_name]} ({size})."
    if not len(full):
        return text
    difference = (full - packed).abs().max().item()
    same = int((full.argmax(1) == packed.argmax(1)).sum())
    return (
        f"{text} On the {format_count(len(full), 'test image')} above, its probabilities differ from those of the "
        f"trained model by at most {_round_up(difference)}, and its predictions agree on {same:,} of {len(full):,}."
    )


def _round_up(value: float) -> str:
    """Rounds up to one significant digit, and to at least 10⁻⁷: 0.0003, 4·10⁻⁷."""
    exponent = max(math.floor(math.log10(value)), -7) if value > 0.0 else -7
    digit = max(math.ceil(value / 10.0**exponent), 1)
    if exponent >= -4:
        return f"{digit * 10.0**exponent:.{-exponent}f}"
    return f"{digit}·10{str(exponent).translate(_SUPERSCRIPTS)}"


def _background(images: Tensor) -> list[int]:
    """Returns the background colour: each channel's median over the images' border pixels; black without images."""
    if not len(images):
        return [0] * images.shape[1]
    return _border(images).transpose(0, 1).flatten(1).median(1).values.tolist()


def _background_tone(images: Tensor) -> str | None:
    """Returns ``dark`` or ``light`` if most images have such a background, as scanned digits do; else None.

    An image has one if most pixels along its border are nearly black, or nearly white. ``live_files.js`` looks at the
    reader's image in the same way.
    """
    if not len(images):
        return None
    border = _border(images).double().mean(1)  # (K, pixels), grey
    for tone, is_tone in (("dark", border < _DARK), ("light", border > 255 - _DARK)):
        if (is_tone.double().mean(1) >= _BORDER_SHARE).double().mean() >= _TONE_SHARE:
            return tone
    return None


def _border(images: Tensor) -> Tensor:
    """Returns the pixels along the border of images (K, channels, height, width), each once: (K, channels, pixels)."""
    is_border = torch.ones(images.shape[2:], dtype=torch.bool)
    is_border[1:-1, 1:-1] = False
    return images[:, :, is_border]


@dataclass(frozen=True)
class _Slider:
    kind: str
    title: str
    label: str
    description: str
    plot_description: str


def _sliders(classifier: ImageClassifier) -> list[_Slider]:
    """Returns a slider for the model's sigmoids and one for its softmax, whichever it has."""
    hidden = any(layer.activation == "sigmoid" for layer in classifier.model.dense_layers())
    output = len(classifier.classes) == 2
    where = " and ".join(["in the hidden layers"] * hidden + ["at the output"] * output)
    sigmoid = _Slider(
        "sigmoid",
        "Sigmoid scale",
        "c",
        f"Replaces each sigmoid s(u) {where} by s(c u). As c grows, s(c u) approaches a step at 0. Each dot is a unit.",
        "s(c u) against u, with a dot for each unit's u, and s(u) as a dashed line",
    )
    softmax = _Slider(
        "softmax",
        "Logit scale (inverse temperature)",
        "Scale",
        "Multiplies the logits before the softmax. The ranking of the classes stays the same; a larger scale, or lower "
        "temperature, moves the probabilities towards 0 and 1.",
        "Probabilities of the four most probable classes against the scale of the logits",
    )
    return [sigmoid] * (hidden or output) + [softmax] * (not output)
