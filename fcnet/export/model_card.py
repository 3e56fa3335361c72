"""Model cards in the Hugging Face format: description, usage, training data, evaluation and limitations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fcnet.export.formats import input_name
from fcnet.runtime.formatting import format_count, format_percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fcnet.config.schema import Config, Data
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
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open({image})).convert("{mode}")
{fit}pixels = np.asarray(image).reshape(1, {height}, {width}, {channels}).transpose(0, 3, 1, 2)  # uint8 (1, C, H, W)
"""
_READ_FEATURES_TEMPLATE = """\

features = np.load("FEATURES.npy")[:1].astype("float32")  # (1, {num_features})
"""
_IMPORTS_TEMPLATE = """\
import json

import numpy as np
import {runtime}
"""
_RUN_TEMPLATES = {
    ".pt2": """\
metadata = {{"fcnet.json": ""}}
model = torch.export.load({file}, extra_files=metadata).module()
probabilities = model(torch.tensor({input}))[0].tolist()
classes = json.loads(metadata["fcnet.json"])["classes"]
""",
    ".onnx": """\
session = onnxruntime.InferenceSession({file})
probabilities = session.run(["probabilities"], {{"{input}": {input}}})[0][0].tolist()
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
""",
}
_RUNTIMES = {".pt2": "torch", ".onnx": "onnxruntime"}


@dataclass(frozen=True)
class ModelCard:
    """The data of a model card.

    Attributes:
        name: the model's name.
        checksum: the checksum of the model's files, which identifies the model.
        classifier: the trained model.
        config: the configuration of its training.
        summary: the contents of ``summary.json``.
        license: a licence identifier of the Hugging Face hub, such as ``"mit"``; empty: the card names no licence.
    """

    name: str
    checksum: str
    classifier: ImageClassifier
    config: Config
    summary: dict[str, Any]
    license: str = ""

    def to_markdown(self, files: Sequence[str], opsets: Mapping[str, int] | None = None) -> str:
        """Returns the card as Markdown for exported files in the same folder, given by name, and the opsets of ONNX."""
        sections = [
            f"# {escape_markdown(self.name)}",
            _describe_model(self),
            "## Usage",
            *_usage(self, files, opsets or {}),
            "## Training data",
            _training_data(self),
            "## Evaluation",
            *_results(self),
            "## Limitations",
            _limitations(self),
        ]
        return _front_matter(self, files) + "\n" + "\n\n".join(sections) + "\n"


def _front_matter(card: ModelCard, files: Sequence[str]) -> str:
    """Returns the YAML block at the top of the card, which the hub reads."""
    suffixes = sorted({PurePath(name).suffix for name in files}, reverse=True)
    libraries = [_LIBRARIES[suffix] for suffix in suffixes]
    summary, data = card.summary, card.config.data
    task = "tabular-classification" if card.classifier.takes_features else "image-classification"
    kind = "mlp" if card.config.model.kind == "mlp" else "logistic-regression"
    lines = [
        f"library_name: {libraries[0]}",
        f"pipeline_tag: {task}",
        "tags:",
        *(f"- {tag}" for tag in (task, "fcnet", kind, *libraries)),
        "metrics:",
        "- accuracy",
        "model-index:",
        f"- name: {yaml_quote(card.name)}",
        "  results:",
        "  - task:",
        f"      type: {task}",
        "    dataset:",
        f"      name: {yaml_quote(_dataset_name(data))}",
        f"      type: {yaml_quote(_HUB_DATASETS.get(data.source, data.source))}",
        "      split: test",
        "    metrics:",
        "    - type: accuracy",
        f"      value: {summary['test_accuracy']!r}",
        "      name: test accuracy",
    ]
    if summary["test_accuracy"] is None:
        lines = lines[: lines.index("model-index:")]
    if data.source in _HUB_DATASETS:
        lines = ["datasets:", f"- {_HUB_DATASETS[data.source]}", *lines]
    if card.license:
        lines = [f"license: {yaml_quote(card.license)}", *lines]
    return "".join(f"{line}\n" for line in ("---", *lines, "---"))


def yaml_quote(text: str) -> str:
    """Quotes a text as a YAML string on one line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def escape_markdown(text: str) -> str:
    """Escapes a text so that Markdown shows it literally, on one line."""
    return re.sub(r"([\\`*_\[\]<>#|&~])", r"\\\1", _escape_unprintable(text))


def inline_code(text: str) -> str:
    """Formats a text as inline code, with a fence longer than any run of backticks in it."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    code = _escape_unprintable(text)
    return f"{fence} {code} {fence}" if len(fence) > 1 else f"{fence}{code}{fence}"


def _escape_unprintable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _dataset_name(data: Data) -> str:
    names = {
        "digits": "scikit-learn's handwritten digits",
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "synthetic": "synthetic images",
    }
    return names.get(data.source) or PurePath(data.path).name or data.source


def _describe_model(card: ModelCard) -> str:
    model, settings, summary = card.classifier.model, card.config.model, card.summary
    kind = "Logistic regression"
    if len(model.widths) > 2:
        properties = [_ACTIVATIONS[settings.activation]]
        if settings.normalization != "none":
            properties.append(f"{settings.normalization} normalisation")
        if settings.dropout:
            properties.append(f"dropout {settings.dropout}")
        if settings.residual:
            properties.append("residual connections")
        kind = f"A fully connected feedforward network ({', '.join(properties)})"
    widths = "-".join(map(str, model.widths))
    whitened = "" if card.classifier.whitening is None else f", reduced to {model.in_features} principal components,"
    fcnet, torch = (escape_markdown(summary[name]) for name in ("fcnet", "torch"))
    return (
        f"{kind} with layers {widths} and {summary['parameters']:,} parameters. It classifies "
        f"{_describe_inputs(card.classifier)}{whitened} into "
        f"{len(card.classifier.classes)} classes. Trained with fcnet {fcnet} and torch {torch}, exported with fcnet "
        f"{version('fcnet')}."
    )


def _usage(card: ModelCard, files: Sequence[str], opsets: Mapping[str, int]) -> list[str]:
    classifier = card.classifier
    names = ", ".join(inline_code(name) for name in files)
    one = len(files) == 1
    paragraphs = [
        f"{names} {'takes' if one else 'each take'} {describe_tensor(classifier)} for "
        f"any B, and {'returns' if one else 'return'} class probabilities, float32 (B, {len(classifier.classes)}). "
        f"Normalisation is part of the {'file' if one else 'files'}. "
        "Classes, in the order of the outputs: " + ", ".join(map(inline_code, classifier.classes)) + "."
    ]
    for name in files:
        suffix = PurePath(name).suffix
        program = _IMPORTS_TEMPLATE.format(runtime=_RUNTIMES[suffix]) + _read_program(classifier)
        program += _RUN_TEMPLATES[suffix].format(
            input=input_name(classifier), file=repr(name) if '"' in name else f'"{name}"'
        )
        program += "best = max(range(len(classes)), key=probabilities.__getitem__)\n"
        program += "print(classes[best], probabilities[best])\n"
        needs = f"{_RUNTIMES[suffix]} (opset {opsets[name]})" if name in opsets else _RUNTIMES[suffix]
        others = " and numpy" if classifier.takes_features else ", numpy and pillow"
        paragraphs += [f"With {needs}{others}:", f"```python\n{program}```"]
    return paragraphs


def describe_tensor(classifier: ImageClassifier) -> str:
    """Returns the dtype, the range and the shape of the inputs of an exported file."""
    shape = ", ".join(map(str, classifier.shape))
    kind = "float32 features" if classifier.takes_features else "uint8 pixels from 0 to 255"
    return f"{kind}, (B, {shape})"


def _describe_inputs(classifier: ImageClassifier) -> str:
    if classifier.takes_features:
        return f"vectors of {format_count(classifier.shape[0], 'feature')}"
    channels, height, width = classifier.shape
    return f"{'grey' if channels == 1 else 'RGB'} images of {height} × {width} pixels"


def _read_program(classifier: ImageClassifier) -> str:
    """Returns the lines of a program that read one input."""
    if classifier.takes_features:
        return _READ_FEATURES_TEMPLATE.format(num_features=classifier.shape[0])
    channels, height, width = classifier.shape
    fit = f"image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.BICUBIC)\n" if classifier.resize else ""
    return _READ_TEMPLATE.format(
        image='"IMAGE.png"',
        mode="L" if channels == 1 else "RGB",
        fit=fit,
        channels=channels,
        height=height,
        width=width,
    )


def _training_data(card: ModelCard) -> str:
    data, train, optimizer, summary = card.config.data, card.config.train, card.config.optimizer, card.summary
    augmentations = [name if value is True else f"{name} {value}" for name, value in data.augment if value]
    origin = summary.get("init_from")
    start = (
        f" Training started from the weights of the run {inline_code(PurePath(origin['run']).name)}." if origin else ""
    )
    augmented = f" Data augmentation: {', '.join(augmentations)}." if augmentations else ""
    seconds, device = summary["train_seconds"], escape_markdown(summary["device"])
    if (probe := summary.get("probe")) is not None:
        return _describe_probe(card, probe)
    return (
        f"{escape_markdown(_dataset_name(data))}: {summary['train_images']:,} training images, "
        f"{summary['validation_images']:,} held out for validation, and {summary['test_images']:,} test images."
        f"{augmented} Trained for {format_count(summary['epochs'], 'epoch')} with {inline_code(optimizer.name)}, "
        f"learning rate {optimizer.lr:g} ({optimizer.schedule} schedule), batch size {train.batch_size} and loss "
        f"{inline_code(train.loss)}, in {seconds:.1f} s on {device}.{start}"
    )


def _describe_probe(card: ModelCard, probe: Mapping[str, Any]) -> str:
    summary = card.summary
    held_out = format_count(summary["validation_images"], "held-out example")
    kind = "standardised features" if probe["standardize"] else "the features"
    return (
        f"{escape_markdown(_dataset_name(card.config.data))}: {summary['train_images']:,} training and "
        f"{summary['test_images']:,} test examples. A linear probe: the minimum of C times the summed cross-entropy "
        f"and half the squared weights of {kind}, with C = {probe['C']:g}, the "
        f"best of {format_count(len(probe['penalties']), 'value')} on {held_out}; fitted in "
        f"{summary['train_seconds']:.1f} s on {escape_markdown(summary['device'])}."
    )


def _results(card: ModelCard) -> list[str]:
    summary = card.summary
    if summary["test_accuracy"] is None:
        accuracy = format_percent(summary["validation_accuracy"])
        return [f"There was no test split. The accuracy on held-out examples, by which C was chosen, is {accuracy}."]
    low, high = map(format_percent, summary["test_interval"])
    loss = "not finite" if summary["test_loss"] is None else f"{summary['test_loss']:.4f}"
    rows = [
        "| metric | value |",
        "| --- | --- |",
        f"| test accuracy | {format_percent(summary['test_accuracy'])} (95% interval {low} to {high}) |",
        f"| test loss (cross-entropy) | {loss} |",
        f"| test images | {summary['test_images']:,} |",
    ]
    if (calibration := summary.get("calibration")) is not None and calibration["reason"] is None:
        before, after = (calibration["test"][moment]["calibration_error"] for moment in ("before", "after"))
        rows.insert(
            4,
            f"| test calibration error | {format_percent(after)} ({format_percent(before)} before temperature scaling "
            f"with T = {calibration['temperature']:.4g}) |",
        )
    if summary["validation_accuracy"] is not None:
        rows.append(f"| validation accuracy | {format_percent(summary['validation_accuracy'])} |")
    return [
        "\n".join(rows),
        "The test set was evaluated after training. The figures are from a single run, not a mean of several.",
    ]


def _limitations(card: ModelCard) -> str:
    num_classes = len(card.classifier.classes)
    noun = "vector" if card.classifier.takes_features else "image"
    inputs = f"Inputs must be {_describe_inputs(card.classifier)}, made as those of the training data."
    if not card.classifier.takes_features:
        height, width = card.classifier.shape[1:]
        inputs = f"Images must have {height} × {width} pixels. In training, transparent images were placed on white."
    limitations = [
        f"The model assigns every {noun} to one of the {num_classes} classes above, whatever it shows.",
        f"The figures hold for {noun}s like those of the test set. Other {noun}s have not been measured.",
        inputs,
        *(f"Training warning: {escape_markdown(warning)}." for warning in card.summary["warnings"]),
    ]
    return "\n".join(f"- {line}" for line in limitations)
