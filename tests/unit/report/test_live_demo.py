"""The section in which the network runs: what it says of the network, and when there is none."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

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

IMAGES = torch.randint(0, 256, (30, 1, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 3


def network(
    classes: tuple[str, ...] = ("a", "b", "c"), hidden: tuple[int, ...] = (5,), **arguments: Any
) -> ImageClassifier:
    model = MLP(12, hidden, len(classes), generator=torch.Generator().manual_seed(0), **arguments)
    return ImageClassifier(
        model, classes=classes, shape=(1, 3, 4), mean=torch.full((1,), 0.4), std=torch.full((1,), 0.3)
    )


class _Blocks(HTMLParser):
    """The contents of the data blocks, by name, and all names of elements."""

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


def blocks(net: ImageClassifier, images: Tensor = IMAGES, labels: Tensor = LABELS) -> dict[str, str]:
    made = live_section(net, images, labels)
    assert made is not None
    return _Blocks(str(made.html)).blocks


def metadata(net: ImageClassifier, images: Tensor = IMAGES, labels: Tensor = LABELS) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blocks(net, images, labels)["metadata"])
    return found


def test_the_section_carries_the_images_and_what_the_network_takes_them_for() -> None:
    net = network()
    assert base64.b64decode(blocks(net)["images"]) == IMAGES.numpy().tobytes()
    assert metadata(net)["labels"] == LABELS.tolist()
    assert metadata(net)["predicted"] == net.predict_proba(IMAGES).argmax(1).tolist()


def test_a_class_name_cannot_end_the_block_that_it_stands_in() -> None:
    names = ("</script><img>", "<!--<script>", "a & 'b' \"c\" \u2028 ü")
    assert metadata(network(names))["classes"] == list(names)
    made = live_section(network(names), IMAGES, LABELS)
    assert made is not None
    assert "img" not in _Blocks(str(made.html)).tags


def test_the_script_is_the_same_for_every_network() -> None:
    first, second = live_section(network(), IMAGES, LABELS), live_section(network(("x", "y"), ()), IMAGES, LABELS % 2)
    assert first is not None
    assert second is not None
    assert (first.script, first.style) == (second.script, second.style)


def test_there_is_no_section_for_what_a_browser_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    two = ImageClassifier(
        MLP(8, (), 3), classes=("a", "b", "c"), shape=(2, 2, 2), mean=torch.zeros(2), std=torch.ones(2)
    )
    assert live_section(two, torch.zeros(1, 2, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)) is None
    foreign = network()
    foreign.model = torch.nn.Linear(12, 3)  # type: ignore[assignment]
    assert live_section(foreign, IMAGES, LABELS) is None
    monkeypatch.setattr(quantize, "MAX_BYTES", {"int8": 74})
    assert live_section(network(), IMAGES, LABELS) is None  # it has 12 · 5 + 5 · 3 weights


def test_it_says_how_far_the_packed_network_is_from_the_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "MAX_BYTES", {"int8": 1000})
    net = network()
    made = live_section(net, IMAGES, LABELS)
    assert made is not None
    said = re.search(r"rounded to 255 levels in each row of a matrix \(0\.1 kB\).* at most ([\d.]+), ", made.html, re.S)
    assert said is not None
    rounded = network()
    for layer in rounded.model.dense_layers():
        scale = layer.weight.data.abs().amax(1, keepdim=True) / 127
        layer.weight.data = (layer.weight.data / scale).round() * scale
    difference = (rounded.predict_proba(IMAGES) - net.predict_proba(IMAGES)).abs().max().item()
    assert difference <= float(said[1]) < 2.5 * difference


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
def test_a_difference_is_never_said_smaller_than_it_is(value: float, text: str) -> None:
    assert live_demo._round_up(value) == text


def test_the_ground_is_what_stands_around_the_images() -> None:
    images = torch.full((4, 1, 3, 4), 200, dtype=torch.uint8)
    images[:, :, 1, 1:3] = 7
    assert metadata(network(), images, LABELS[:4])["background"] == [200]


def test_there_may_be_no_images() -> None:
    found = metadata(network(), IMAGES[:0], LABELS[:0])
    assert (found["background"], found["labels"], found["predicted"]) == ([0], [], [])


def found(
    net: ImageClassifier | None, images: Tensor = IMAGES, labels: Tensor = LABELS, rows: Tensor | None = None
) -> RunData:
    test = Batches(images, labels, rows=rows)
    return RunData("run", Path("run"), Config(), [], {}, classifier=net, test=test)


def test_each_run_with_a_network_at_hand_has_its_section() -> None:
    foreign = network()
    foreign.model = torch.nn.Linear(12, 3)  # type: ignore[assignment]
    made = live_sections([found(network()), found(None), found(foreign), found(network())], ["a", "b", "c", "<d>"])
    assert [re.findall("<h2>(.*)</h2>", each.html) for each in made] == [["Try a"], ["Try &lt;d&gt;"]]
    assert "<h2>Try the network</h2>" in live_sections([found(network())], ["a"])[0].html


def test_the_images_are_of_all_parts_of_the_test_set() -> None:
    images = torch.arange(1000).div(4, rounding_mode="floor").to(torch.uint8)[:, None, None, None].repeat(1, 1, 3, 4)
    labels, rows = torch.arange(1000) % 3, torch.arange(1, 1000)
    (made,) = live_sections([found(network(), images, labels, rows)], ["a"])
    carried = _Blocks(str(made.html)).blocks
    seen = torch.frombuffer(bytearray(base64.b64decode(carried["images"])), dtype=torch.uint8).view(200, 12)[:, 0]
    places = torch.tensor([round(place * 998 / 199) for place in range(200)])
    assert seen.equal(images[rows[places], 0, 0, 0])
    assert json.loads(carried["metadata"])["labels"] == labels[rows[places]].tolist()


def test_a_network_in_training_is_shown_as_it_is_in_use_and_left_in_training() -> None:
    net = network(dropout=0.5, normalization="batch").train()
    predicted = metadata(net)["predicted"]
    assert net.training
    assert predicted == net.eval().predict_proba(IMAGES).argmax(1).tolist()


@pytest.mark.parametrize(
    ("net", "titles"),
    [
        (network(), ["Scale of the logits"]),
        (network(activation="sigmoid"), ["Scaling of the sigmoid", "Scale of the logits"]),
        (network(("a", "b")), ["Scaling of the sigmoid"]),
    ],
)
def test_there_is_a_slider_for_sigmoids_and_for_a_softmax(net: ImageClassifier, titles: list[str]) -> None:
    made = live_section(net, IMAGES, LABELS % 2)
    assert made is not None
    assert re.findall(r"<h3>(Scal.*?)</h3>", made.html) == titles
