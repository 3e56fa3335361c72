"""Tests of fcnet.report.live_demo: the data in the section, its texts, and the models that have none."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from fcnet.config.schema import Config
from fcnet.data.batches import Batches
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import MLP
from fcnet.report import live_demo, quantize
from fcnet.report.live_demo import live_section, live_sections
from fcnet.report.run_data import RunData

if TYPE_CHECKING:
    from fcnet.report.render import PageSection

IMAGES = torch.randint(0, 256, (30, 1, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 3


def make_classifier(
    classes: tuple[str, ...] = ("a", "b", "c"), hidden: tuple[int, ...] = (5,), **arguments: Any
) -> ImageClassifier:
    model = MLP(12, hidden, len(classes), generator=torch.Generator().manual_seed(0), **arguments)
    return ImageClassifier(
        model, classes=classes, shape=(1, 3, 4), mean=torch.full((1,), 0.4), std=torch.full((1,), 0.3)
    )


class _Blocks(HTMLParser):
    """The contents of the data blocks, by name, and the names of all elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.blocks: dict[str, str] = {}
        self.tags: list[str] = []
        self._name: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._name = dict(attrs)["data-live"] if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._name is not None:
            self.blocks[self._name] = data
            self._name = None


def make_section(classifier: ImageClassifier, images: Tensor = IMAGES, labels: Tensor = LABELS) -> PageSection:
    section = live_section(classifier, images, labels)
    assert section is not None
    return section


def read_blocks(section: PageSection) -> dict[str, str]:
    return _Blocks(str(section.html)).blocks


def read_metadata(classifier: ImageClassifier, images: Tensor = IMAGES, labels: Tensor = LABELS) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(read_blocks(make_section(classifier, images, labels))["metadata"])
    return metadata


def test_the_section_contains_the_images_their_labels_and_the_predictions() -> None:
    classifier = make_classifier()
    assert base64.b64decode(read_blocks(make_section(classifier))["images"]) == IMAGES.numpy().tobytes()
    metadata = read_metadata(classifier)
    assert metadata["labels"] == LABELS.tolist()
    assert metadata["predicted"] == classifier.predict_proba(IMAGES).argmax(1).tolist()


def test_scale_and_offset_normalise_the_pixels() -> None:
    metadata = read_metadata(make_classifier())
    pixels = torch.arange(256) / 255
    scaled = torch.arange(256) * metadata["scale"][0] + metadata["offset"][0]
    torch.testing.assert_close(scaled, (pixels - 0.4) / 0.3, rtol=1e-5, atol=1e-5)


def test_a_class_name_cannot_end_its_block() -> None:
    names = ("</script><img>", "<!--<script>", "a & 'b' \"c\" \u2028 ü")
    assert read_metadata(make_classifier(names))["classes"] == list(names)
    assert "img" not in _Blocks(str(make_section(make_classifier(names)).html)).tags


def test_every_model_has_the_same_script_and_style() -> None:
    first, second = make_section(make_classifier()), make_section(make_classifier(("x", "y"), ()), labels=LABELS % 2)
    assert (first.script, first.style) == (second.script, second.style)


def test_a_model_that_the_browser_cannot_run_has_no_section(monkeypatch: pytest.MonkeyPatch) -> None:
    two_channels = ImageClassifier(
        MLP(8, (), 3), classes=("a", "b", "c"), shape=(2, 2, 2), mean=torch.zeros(2), std=torch.ones(2)
    )
    images, labels = torch.zeros(1, 2, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)
    assert live_section(two_channels, images, labels) is None
    other_model = make_classifier()
    other_model.model = torch.nn.Linear(12, 3)  # type: ignore[assignment]
    assert live_section(other_model, IMAGES, LABELS) is None
    monkeypatch.setattr(quantize, "MAX_BYTES", {"int8": 74})
    assert live_section(make_classifier(), IMAGES, LABELS) is None  # it has 12 · 5 + 5 · 3 weights


def test_the_section_states_how_far_the_packed_model_is_from_the_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "MAX_BYTES", {"int8": 1000})
    classifier = make_classifier()
    pattern = r"rounded to 255 levels in each row of a matrix \(int8\) \(0\.1 kB\).* by at most ([\d.]+), "
    match = re.search(pattern, make_section(classifier).html, re.S)
    assert match is not None
    rounded = make_classifier()
    for layer in rounded.model.dense_layers():
        scale = layer.weight.data.abs().amax(1, keepdim=True) / 127
        layer.weight.data = (layer.weight.data / scale).round() * scale
    difference = (rounded.predict_proba(IMAGES) - classifier.predict_proba(IMAGES)).abs().max().item()
    assert difference <= float(match[1]) < 2.5 * difference


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "1·10⁻⁷"),
        (3e-9, "1·10⁻⁷"),
        (4.01e-7, "5·10⁻⁷"),
        (2e-4, "0.0002"),
        (0.00031, "0.0004"),
        (0.12, "0.2"),
        (0.95, "1.0"),
    ],
)
def test_a_difference_is_rounded_up(value: float, text: str) -> None:
    assert live_demo._round_up(value) == text


def test_the_background_is_the_median_of_the_images_borders() -> None:
    images = torch.full((4, 1, 3, 4), 200, dtype=torch.uint8)
    images[:, :, 1, 1:3] = 7
    assert read_metadata(make_classifier(), images, LABELS[:4])["background"] == [200]


def draw(background: int, ink: int, count: int = 20) -> Tensor:
    """Images of 5 × 5 pixels with a cross that touches the upper and the lower border."""
    images = torch.full((count, 1, 5, 5), background, dtype=torch.uint8)
    images[:, :, :, 2] = ink
    return images


@pytest.mark.parametrize(
    ("images", "tone"),
    [
        (draw(0, 255), "dark"),
        (draw(255, 0), "light"),
        (draw(63, 255), "dark"),
        (draw(64, 255), None),
        (draw(192, 0), "light"),
        (draw(191, 0), None),
        (torch.cat([draw(0, 255, 15), draw(255, 0, 5)]), "dark"),
        (torch.cat([draw(0, 255, 14), draw(255, 0, 6)]), None),
        (draw(0, 255, 0), None),
        (draw(0, 255).expand(-1, 3, -1, -1), "dark"),
    ],
)
def test_images_have_a_tone_if_most_have_such_a_background(images: Tensor, tone: str | None) -> None:
    assert live_demo._background_tone(images) == tone


def test_long_names_are_cut_and_stay_different() -> None:
    names = [f"{'long ' * 20}{number}" for number in range(3)]
    metadata = read_metadata(make_classifier(tuple(names)))
    assert metadata["classes"] == names
    assert len(set(metadata["short_names"])) == 3
    assert max(map(len, metadata["short_names"])) == 40


def test_a_section_without_images_has_a_black_background() -> None:
    metadata = read_metadata(make_classifier(), IMAGES[:0], LABELS[:0])
    assert (metadata["background"], metadata["labels"], metadata["predicted"]) == ([0], [], [])


@pytest.mark.parametrize(
    ("num_wrong", "text"),
    [(0, "classifies all of them correctly"), (1, "the one image that"), (7, "the 7 images that")],
)
def test_the_section_counts_misclassified_images(num_wrong: int, text: str) -> None:
    classifier = make_classifier()
    labels = classifier.predict_proba(IMAGES).argmax(1)
    labels[:num_wrong] = (labels[:num_wrong] + 1) % 3
    assert text in make_section(classifier, labels=labels).html


def make_run(
    classifier: ImageClassifier | None, images: Tensor = IMAGES, labels: Tensor = LABELS, rows: Tensor | None = None
) -> RunData:
    test = Batches(images, labels, rows=rows)
    return RunData("run", Path("run"), Config(), [], {}, classifier=classifier, test=test)


def test_each_run_with_a_model_has_its_own_section() -> None:
    other_model = make_classifier()
    other_model.model = torch.nn.Linear(12, 3)  # type: ignore[assignment]
    runs = [make_run(make_classifier()), make_run(None), make_run(other_model), make_run(make_classifier())]
    sections = live_sections(runs, ["a", "b", "c", "<d>"])
    headings = [re.findall("<h2>(.*)</h2>", section.html) for section in sections]
    assert headings == [["Live demo: a"], ["Live demo: &lt;d&gt;"]]
    assert "<h2>Live demo</h2>" in live_sections([make_run(make_classifier())], ["a"])[0].html


def test_the_images_are_evenly_spaced_over_the_test_set() -> None:
    images = torch.arange(1000).div(4, rounding_mode="floor").to(torch.uint8)[:, None, None, None].repeat(1, 1, 3, 4)
    labels, rows = torch.arange(1000) % 3, torch.arange(1, 1000)
    (section,) = live_sections([make_run(make_classifier(), images, labels, rows)], ["a"])
    blocks = read_blocks(section)
    shown = torch.frombuffer(bytearray(base64.b64decode(blocks["images"])), dtype=torch.uint8).view(200, 12)[:, 0]
    indices = torch.tensor([round(number * 998 / 199) for number in range(200)])
    assert shown.equal(images[rows[indices], 0, 0, 0])
    assert json.loads(blocks["metadata"])["labels"] == labels[rows[indices]].tolist()


def test_a_model_in_training_mode_is_shown_in_evaluation_mode_and_stays_in_training_mode() -> None:
    classifier = make_classifier(dropout=0.5, normalization="batch").train()
    predicted = read_metadata(classifier)["predicted"]
    assert classifier.training
    assert predicted == classifier.eval().predict_proba(IMAGES).argmax(1).tolist()


@pytest.mark.parametrize(
    ("classifier", "titles"),
    [
        (make_classifier(), ["Logit scale (inverse temperature)"]),
        (make_classifier(activation="sigmoid"), ["Sigmoid scale", "Logit scale (inverse temperature)"]),
        (make_classifier(("a", "b")), ["Sigmoid scale"]),
    ],
)
def test_sigmoids_and_the_softmax_have_a_slider_each(classifier: ImageClassifier, titles: list[str]) -> None:
    section = make_section(classifier, labels=LABELS % 2)
    assert re.findall(r"<h3>([^<]* scale.*?)</h3>", section.html) == titles
