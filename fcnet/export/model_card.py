"""A model card in the Hugging Face form: what a network is, how good, how to run it, and its limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fcnet.config.schema import Config, Data, Model
    from fcnet.experiment.image_classifier import ImageClassifier

_HUB_DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
_ACTIVATIONS = {
    "identity": "no activation",
    "sigmoid": "sigmoid",
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "elu": "ELU",
    "gelu": "GELU",
}
_LIBRARIES = {".pt2": "pytorch", ".onnx": "onnx"}
_READ_TEMPLATE = """\
import json

import numpy as np
{imports}
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open({image})).convert("{mode}")
{fit}pixels = np.asarray(image).reshape(1, {height}, {width}, {channels}).transpose(0, 3, 1, 2)  # uint8 (1, C, H, W)
"""
_RUN_TEMPLATES = {
    ".pt2": """\
metadata = {{"fcnet.json": ""}}
classifier = torch.export.load({file}, extra_files=metadata).module()
probabilities = classifier(torch.tensor(pixels))[0].tolist()
classes = json.loads(metadata["fcnet.json"])["classes"]
""",
    ".onnx": """\
session = onnxruntime.InferenceSession({file})
probabilities = session.run(["probabilities"], {{"pixels": pixels}})[0][0].tolist()
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
""",
}
_RUNTIMES = {".pt2": "torch", ".onnx": "onnxruntime"}


@dataclass(frozen=True)
class ModelCard:
    """What a model card is made of.

    Attributes:
        name: what the network is called.
        identity: of the network's files.
        classifier: the network itself.
        config: how it was trained.
        summary: how that went, as the run folder keeps it.
        license: its identifier on the Hugging Face hub, such as ``"mit"``; empty: not known, and not said.
    """

    name: str
    checksum: str
    classifier: ImageClassifier
    config: Config
    summary: dict[str, Any]
    license: str = ""

    def to_markdown(self, files: Sequence[str]) -> str:
        """The card of some exported files, by their names beside it."""
        return _front_matter(self, files) + _body(self, files)


def _front_matter(card: ModelCard, files: Sequence[str]) -> str:
    """The part that the hub reads: YAML between two lines of dashes."""
    libraries = [_LIBRARIES[ending] for ending in _suffixes(files)]
    summary, data = card.summary, card.config.data
    kind = "mlp" if card.config.model.kind == "mlp" else "logistic-regression"
    lines = [
        f"library_name: {libraries[0]}",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("image-classification", "fcnet", kind, *libraries)),
        "metrics:",
        "- accuracy",
        "model-index:",
        f"- name: {yaml_quote(card.name)}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      name: {yaml_quote(_dataset_name(data))}",
        f"      type: {yaml_quote(_HUB_DATASETS.get(data.source, data.source))}",
        "      split: test",
        "    metrics:",
        "    - type: accuracy",
        f"      value: {summary['test_accuracy']!r}",
        "      name: test accuracy",
    ]
    if data.source in _HUB_DATASETS:
        lines = ["datasets:", f"- {_HUB_DATASETS[data.source]}", *lines]
    if card.license:
        lines = [f"license: {yaml_quote(card.license)}", *lines]
    return "".join(f"{line}\n" for line in ("---", *lines, "---"))


def _body(card: ModelCard, files: Sequence[str]) -> str:
    """The part that people read: Markdown."""
    parts = [
        f"# {escape_markdown(card.name)}",
        _describe_model(card),
        "## How to use it",
        *_usage(card, files),
        "## What it was trained on",
        _training_data(card),
        "## How good it is",
        *_results(card),
        "## Limits",
        _limitations(card),
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def yaml_quote(text: str) -> str:
    """A text as a YAML string on one line."""
    marked = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in marked) + '"'


def escape_markdown(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>#|&~])", r"\\\1", _escape_unprintable(text))


def inline_code(text: str) -> str:
    """A text as code within a line."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    inside = _escape_unprintable(text)
    return f"{fence} {inside} {fence}" if len(fence) > 1 else f"{fence}{inside}{fence}"


def _escape_unprintable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _suffixes(files: Iterable[str]) -> list[str]:
    return sorted({PurePath(name).suffix for name in files}, reverse=True)


def _dataset_name(data: Data) -> str:
    known = {
        "digits": "scikit-learn's handwritten digits",
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "synthetic": "synthetic images",
    }
    return known.get(data.source) or PurePath(data.path).name or data.source


def _describe_model(card: ModelCard) -> str:
    model = card.classifier.model
    widths = "-".join(map(str, model.widths))
    kind = _describe_architecture(card.config.model) if len(model.widths) > 2 else "Logistic regression"
    channels, height, width = card.classifier.shape
    seen = "" if card.classifier.whitening is None else f", as their {model.in_features} principal components,"
    return (
        f"{kind}, layers {widths}, {card.summary['parameters']:,} parameters. It takes images of {height} × {width} "
        f"pixels ({'grey' if channels == 1 else 'RGB'}){seen} and tells {len(card.classifier.classes)} classes apart. "
        f"Trained with fcnet {escape_markdown(card.summary['fcnet'])} and torch {escape_markdown(card.summary['torch'])}, exported by "
        f"fcnet {version('fcnet')}."
    )


def _describe_architecture(model: Model) -> str:
    extras = [
        _ACTIVATIONS[model.activation],
        *([f"{model.normalization} normalisation"] if model.normalization != "none" else []),
        *([f"dropout {model.dropout}"] if model.dropout else []),
        *(["residual connections"] if model.residual else []),
    ]
    return f"A dense feedforward network ({', '.join(extras)})"


def _usage(card: ModelCard, files: Sequence[str]) -> list[str]:
    classifier = card.classifier
    channels, height, width = classifier.shape
    names = ", ".join(inline_code(name) for name in files)
    said = [
        f"{names} {'takes' if len(files) == 1 else 'each take'} uint8 pixels of 0 to 255, (B, {channels}, {height}, "
        f"{width}) with any B, and {'gives' if len(files) == 1 else 'give'} probabilities, float32 "
        f"(B, {len(classifier.classes)}). What the pixels were normalised by is inside. "
        "The classes, in the order of the outputs: " + ", ".join(map(inline_code, classifier.classes)) + "."
    ]
    fit = f"image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.BICUBIC)\n" if classifier.resize else ""
    for name in files:
        ending = PurePath(name).suffix
        program = (_READ_TEMPLATE + _RUN_TEMPLATES[ending]).format(
            imports={".pt2": "import torch", ".onnx": "import onnxruntime"}[ending],
            image='"IMAGE.png"',
            mode="L" if channels == 1 else "RGB",
            fit=fit,
            channels=channels,
            height=height,
            width=width,
            file=repr(name) if '"' in name else f'"{name}"',
        )
        program += "best = max(range(len(classes)), key=probabilities.__getitem__)\n"
        program += "print(classes[best], probabilities[best])\n"
        said += [f"With {_RUNTIMES[ending]}, numpy and pillow:", f"```python\n{program}```"]
    return said


def _training_data(card: ModelCard) -> str:
    data, train, optimizer, summary = card.config.data, card.config.train, card.config.optimizer, card.summary
    changes = [name if value is True else f"{name} {value}" for name, value in data.augment if value]
    changed = f" Training images were changed at random: {', '.join(changes)}." if changes else ""
    return (
        f"On {escape_markdown(_dataset_name(data))}: {summary['train_images']:,} images to train on, "
        f"{summary['validation_images']:,} kept aside to choose by and {summary['test_images']:,} to test on.{changed} "
        f"{summary['epochs']} epochs of {inline_code(optimizer.name)} with a learning rate of {optimizer.lr:g} "
        f"({optimizer.schedule}), batches of {train.batch_size} and the loss {inline_code(train.loss)}, "
        f"{summary['train_seconds']:.1f} s on {escape_markdown(summary['device'])}."
    )


def _results(card: ModelCard) -> list[str]:
    summary = card.summary
    low, high = summary["test_interval"]
    rows = [
        "| figure | value |",
        "| --- | --- |",
        f"| test accuracy | {summary['test_accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}) |",
        f"| test loss (cross-entropy) | {_format_loss(summary['test_loss'])} |",
        f"| test images | {summary['test_images']:,} |",
    ]
    if summary["validation_accuracy"] is not None:
        rows.append(f"| validation accuracy | {summary['validation_accuracy']:.2%} |")
    return [
        "\n".join(rows),
        "The test images were looked at once, when training had ended. One run, not a mean of several.",
    ]


def _format_loss(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4f}"


def _limitations(card: ModelCard) -> str:
    height, width = card.classifier.shape[1:]
    known = f"It knows the {len(card.classifier.classes)} classes above and nothing else: whatever a picture shows, its"
    others = "Other cameras, sizes, crops or colours make it worse, by how much nobody has measured here."
    said = [
        f"{known} probabilities add up to 1.",
        f"The figures hold for images like those it was trained on. {others}",
        f"Images must be {height} × {width} pixels. In training, transparent ones were laid over white.",
        *(f"Noted in training: {escape_markdown(remark)}." for remark in card.summary["warnings"]),
    ]
    return "\n".join(f"- {line}" for line in said)
