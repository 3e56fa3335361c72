"""The network in a browser: real clicks and strokes, and PyTorch's answer for the very same pixels."""

from __future__ import annotations

import io
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import fcnet.functional as F
from fcnet.data.decoding.image_decoding import decode_image
from fcnet.data.transforms.whitening import Whitening
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.batch_norm import BatchNorm
from fcnet.models.layers import ACTIVATIONS
from fcnet.models.mlp import MLP
from fcnet.report import quantize
from fcnet.report.live_demo import live_section
from fcnet.report.render import render

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


class Opened:
    """A page that is open, and what was said and asked for since."""

    def __init__(self, browser: Browser, folder: Path, page: str, **context: Any) -> None:
        file = folder / "page.html"
        file.write_text(page, encoding="utf-8")
        self.page: Page = browser.new_context(**context).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.page.evaluate(
            """() => {
              window.seen = [];
              document.querySelectorAll(".live").forEach((live, place) => {
                live.addEventListener("fcnet-computed", (event) => {
                  window.seen[place] = event.detail.layers.map(({ z, a }) => [[...z], [...a]]);
                });
              });
            }"""
        )

    def close(self) -> None:
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))] == []
        assert sum(url.startswith("file:") for url in self.asked) == 1
        self.page.context.close()

    def at(self, name: str) -> Any:
        return self.page.locator(f"[data-live={name}]")

    def pick(self, place: int) -> None:
        self.page.locator("[data-live=thumbnails] button").nth(place).click()

    def pixels(self, channels: int) -> Tensor:
        """What the board shows, uint8 (1, C, H, W)."""
        self.settle()
        width, height, data = self.page.evaluate(
            """() => {
              const board = document.querySelector("[data-live=canvas]");
              const { width, height } = board;
              const copy = new OffscreenCanvas(width, height).getContext("2d");
              copy.drawImage(board, 0, 0);
              return [width, height, [...copy.getImageData(0, 0, width, height).data]];
            }"""
        )
        return torch.tensor(data, dtype=torch.uint8).view(1, height, width, 4).permute(0, 3, 1, 2)[:, :channels]

    def choose(self, file: Path) -> None:
        self.at("file").set_input_files(file)
        self.wait_for("source", f"Your picture, {file.name}")

    def wait_for(self, name: str, text: str) -> None:
        """Until a part of the section says a text."""
        said = "([name, text]) => document.querySelector(`[data-live=${name}]`).textContent === text"
        self.page.wait_for_function(said, arg=[name, text], timeout=10_000)

    def settle(self) -> None:
        """Waits until what is to be drawn before the next frame is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def probabilities(self, place: int = 0) -> Tensor:
        """What one of the sections says, (1, C)."""
        self.settle()
        said = self.page.locator(".live").nth(place).get_attribute("data-probabilities")
        return torch.tensor(json.loads(said or "[]"))[None]

    def layers(self, place: int) -> list[list[Tensor]]:
        """z and a of each layer of one of the sections, (1, n[l])."""
        seen = self.page.evaluate("() => window.seen")[place]
        return [[torch.tensor(values)[None] for values in pair] for pair in seen]

    def spot(self, element: Any, across: float, down: float) -> tuple[float, float]:
        """A place on an element, in shares of its width and height, as one on the screen."""
        element.scroll_into_view_if_needed()
        box = element.bounding_box()
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    def stroke(self, *points: tuple[float, float]) -> None:
        """Draws from one point to the next, each a share of the board's width and height."""
        spots = [self.spot(self.at("canvas"), *point) for point in points]
        mouse = self.page.mouse
        mouse.move(*spots[0])
        mouse.down()
        for spot in spots[1:]:
            mouse.move(*spot, steps=4)
        mouse.up()


class Opener:
    """Opens pages, and at the end checks that none complained or asked for anything."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self.folder, self.pages = browser, folder, list[Opened]()

    def __call__(
        self, classifier: ImageClassifier | list[ImageClassifier], images: Tensor, labels: Tensor, **context: Any
    ) -> Opened:
        networks = classifier if isinstance(classifier, list) else [classifier]
        sections = [part for each in networks if (part := live_section(each, images, labels)) is not None]
        assert len(sections) == len(networks)
        self.pages.append(Opened(self.browser, self.folder, render("base.html.j2", sections=sections), **context))
        return self.pages[-1]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(browser, tmp_path)
    yield opener
    for page in opener.pages:
        page.close()


def same(found: Tensor, expected: Tensor) -> None:
    """Probabilities as near to each other as is promised."""
    torch.testing.assert_close(found, expected.detach(), rtol=0.0, atol=1e-4)


def random_classifier(
    *, classes: int = 3, shape: tuple[int, int, int] = (1, 8, 8), **arguments: Any
) -> ImageClassifier:
    """A network in which nothing is left as it began."""
    generator = torch.Generator().manual_seed(0)
    pixels, whiten = shape[0] * shape[1] * shape[2], arguments.pop("whiten", 0)
    model = MLP(whiten or pixels, arguments.pop("hidden", (9, 9)), classes, generator=generator, **arguments)
    for values in [*model.parameters(), *model.buffers()]:
        values.data.add_(torch.randn(values.shape, generator=generator) * 0.3)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.running_var.abs_().add_(0.1)
    whitening = None
    if whiten:
        whitening = Whitening(whiten, pixels)
        whitening.weight.copy_(torch.randn(whiten, pixels, generator=generator) / pixels**0.5)
        whitening.bias.copy_(torch.randn(whiten, generator=generator))
    mean, std = torch.rand(shape[0], generator=generator), torch.rand(shape[0], generator=generator) + 0.2
    names = [f"class {place}" for place in range(classes)]
    return ImageClassifier(model, classes=names, shape=shape, mean=mean, std=std, whitening=whitening).eval()


def random_images(count: int, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % 2


def trace(classifier: ImageClassifier, images: Tensor) -> list[Any]:
    x = (images / 255 - classifier.mean[:, None, None]) / classifier.std[:, None, None]
    return classifier.model.trace(x if classifier.whitening is None else classifier.whitening(x))


def test_two_hundred_test_images_get_pytorchs_probabilities(show: Opener) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.tensor(digits.images[-200:] * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.tensor(digits.target[-200:])
    classifier = random_classifier(classes=10, hidden=(64, 32), normalization="batch")
    page = show(classifier, images, labels)
    found = []
    for place in range(200):
        page.pick(place)
        found.append(page.probabilities())
    same(torch.cat(found), classifier.predict_proba(images))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_every_layer_computes_what_pytorchs_does(show: Opener, activation: Any, normalization: Any) -> None:
    networks = [
        random_classifier(
            activation=activation, normalization=normalization, residual=residual, classes=classes, whiten=whiten
        )
        for residual, classes, whiten in itertools.product((False, True), (2, 3), (0, 9))
    ]
    images, labels = random_images(2)
    page = show(networks, images, labels)
    for place, classifier in enumerate(networks):
        page.page.locator(".live").nth(place).locator("[data-live=thumbnails] button").nth(1).click()
        expected = trace(classifier, images[1:])
        for (z, a), layer in zip(page.layers(place)[-len(expected) :], expected, strict=True):
            torch.testing.assert_close(z, layer.z, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(a, z if layer is expected[-1] else layer.a, rtol=1e-5, atol=1e-4)
        same(page.probabilities(place), classifier.predict_proba(images[1:]))


def test_activations_are_exact_far_from_zero(show: Opener) -> None:
    z = torch.linspace(-9, 9, 400)
    networks = [random_classifier(hidden=(400,), activation=activation) for activation in ACTIVATIONS]
    for classifier in networks:
        first = classifier.model.dense_layers()[0]
        first.weight.data.zero_()
        first.bias.data.copy_(z)  # type: ignore[union-attr]
    page = show(networks, *random_images(1))
    for place, activation in enumerate(ACTIVATIONS):
        page.page.locator("[data-live=restore]").nth(place).click()
        a = page.layers(place)[0][1][0].double()
        torch.testing.assert_close(a, ACTIVATIONS[activation](z.double()), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_runs(show: Opener, classes: int) -> None:
    classifier, (images, labels) = random_classifier(classes=classes, hidden=()), random_images(2)
    page = show(classifier, images, labels)
    same(page.probabilities(), classifier.predict_proba(images[:1]))


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_a_packed_network_is_the_one_that_was_compared(
    show: Opener, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(quantize, "MAX_BYTES", {form: 10**6})
    classifier, (images, labels) = random_classifier(normalization="layer"), random_images(3)
    page = show(classifier, images, labels)
    page.pick(2)
    a = ((images[2:] / 255 - classifier.mean) / classifier.std).flatten(1)
    pack = quantize.PackedWeights(form)
    for step in quantize.fuse_layers(classifier):
        pack.add(step)
        a = pack.layers[-1](a)
    same(page.probabilities(), F.softmax(a, 1))


def test_every_stroke_changes_the_probabilities_to_pytorchs(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(), random_images(3)
    page = show(classifier, images, labels)
    page.pick(1)
    assert page.pixels(1).equal(images[1:2])
    before = page.probabilities()
    for points in ([(0.1, 0.2), (0.9, 0.5)], [(0.5, 0.5)], [(0.9, 0.9), (0.1, 0.9), (0.1, 0.1)]):
        page.stroke(*points)
        drawn = page.pixels(1)
        after = page.probabilities()
        assert (after - before).abs().max() > 1e-3
        same(after, classifier.predict_proba(drawn))
        before = after


def test_a_stroke_is_of_the_brush_and_the_grey_that_were_set(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(shape=(1, 16, 16)), random_images(1, (1, 16, 16))
    page = show(classifier, images * 0, labels)
    page.at("brush").fill("3")
    page.at("grey").fill("100")
    page.stroke((0.0, 8.5 / 16), (1.0, 8.5 / 16))
    drawn = page.pixels(1)[0, 0]
    assert drawn[7:10].unique().tolist() == [100]
    drawn[7:10] = 0
    assert not drawn.any()


def test_colours_are_drawn_in_all_channels(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(shape=(3, 6, 5)), random_images(2, (3, 6, 5))
    page = show(classifier, images, labels)
    page.at("colour").fill("#10a0ff")
    page.at("brush").fill("1.5")
    page.stroke((0.5, 3.5 / 6))
    drawn = page.pixels(3)
    assert drawn[0, :, 3, 2].tolist() == [0x10, 0xA0, 0xFF]
    same(page.probabilities(), classifier.predict_proba(drawn))


def test_erasing_undoing_restoring_clearing_and_inverting(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(), random_images(2)
    images[:, :, [0, -1]] = 0
    images[:, :, :, [0, -1]] = 0
    page = show(classifier, images, labels)
    page.at("erase").click()
    assert page.at("erase").get_attribute("aria-pressed") == "true"
    page.stroke((4.5 / 8, 0.1), (4.5 / 8, 0.9))
    erased = page.pixels(1)
    assert erased[0, 0, :, 4].tolist() == [0] * 8
    page.at("undo").click()
    assert page.pixels(1).equal(images[:1])
    assert page.at("undo").is_disabled()
    page.at("invert").click()
    assert page.pixels(1).equal(255 - images[:1])
    page.at("clear").click()
    assert not page.pixels(1).any()
    page.at("undo").click()
    page.at("restore").click()
    assert page.pixels(1).equal(images[:1])
    same(page.probabilities(), classifier.predict_proba(images[:1]))


def test_the_keyboard_draws_cell_by_cell_and_picks_images(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(), random_images(3)
    page = show(classifier, images, labels)
    page.at("brush").fill("1")
    page.at("grey").fill("9")
    page.at("canvas").focus()
    press = page.page.keyboard.press
    for _ in range(9):
        press("ArrowLeft")
        press("ArrowUp")
    press("Space")
    press("Shift+ArrowRight")
    press("ArrowDown")
    assert page.pixels(1)[0, 0, 0, :2].tolist() == [9, 9]
    assert page.at("position").inner_text() == f"Row 2, column 2: {page.pixels(1)[0, 0, 1, 1]}"
    press("Control+z")
    assert page.pixels(1)[0, 0, 0, :2].tolist() == [9, images[0, 0, 0, 1]]
    page.page.locator("[data-live=thumbnails] button").first.focus()
    press("End")
    press("ArrowLeft")
    press("Enter")
    assert page.pixels(1).equal(images[1:2])
    assert page.at("source").inner_text() == "Test image 2 of 3"


def test_the_summary_says_the_foremost_classes_and_the_truth(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(), random_images(2)
    page = show(classifier, images, labels)
    page.pick(1)
    shares, order = classifier.predict_proba(images[1:])[0].sort(descending=True)
    expected = ", then ".join(f"class {order[rank]} ({100 * shares[rank]:.1f} %)" for rank in (0, 1))
    page.wait_for("summary", f"Most probable: {expected}. The test image's class is class 1.")
    best = page.page.locator(".live-best .live-probability").inner_text()
    assert best == f"{100 * shares[0]:.1f} %"


def test_the_slider_scales_the_logits_of_a_softmax(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(), random_images(1)
    page = show(classifier, images, labels)
    logits = classifier(images)
    page.at("softmax-slider").focus()
    for _ in range(30):
        page.page.keyboard.press("ArrowRight")
    assert page.at("softmax-value").inner_text() == "2.00"
    same(page.probabilities(), F.softmax(10**0.3 * logits, 1))
    page.page.mouse.click(*page.spot(page.at("softmax-slider"), 0.005, 0.5))
    same(page.probabilities(), F.softmax(0.1 * logits, 1))
    page.at("softmax-reset").click()
    same(page.probabilities(), F.softmax(logits, 1))


def test_the_slider_scales_every_sigmoid(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(activation="sigmoid", classes=2), random_images(1)
    page = show(classifier, images, labels)
    plain = page.page.locator("[data-live=sigmoid-plot] polyline").nth(1).get_attribute("points")
    page.at("sigmoid-slider").fill("0.6")
    a = ((images / 255 - classifier.mean) / classifier.std).flatten(1)
    for layer in classifier.model.dense_layers():
        a = F.scaled_sigmoid(layer.preactivation(a), 10**0.6)
    same(page.probabilities(), torch.cat([1 - a, a], 1))
    curve = page.page.locator("[data-live=sigmoid-plot] polyline").nth(1).get_attribute("points")
    assert curve != plain
    assert page.page.locator("[data-live=sigmoid-plot] circle").count() == 9 + 9 + 1


def picture(size: tuple[int, int], mode: str, **options: Any) -> bytes:
    """A smooth picture as a PNG, or a JPEG turned by EXIF."""
    columns, rows = torch.arange(size[0]) * 255 // size[0], torch.arange(size[1])[:, None] * 255 // size[1]
    planes = [(columns + 0 * rows), (0 * columns + rows), (columns + rows) // 2, 255 - (columns + rows) // 4]
    count = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    image = Image.fromarray(torch.stack(planes[:count], 2).squeeze(2).to(torch.uint8).numpy(), mode)
    file = io.BytesIO()
    image.save(file, **({"format": "PNG"} | options))
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_ones_own_is_made_what_training_makes_of_it(show: Opener, tmp_path: Path, channels: int) -> None:
    shape = (channels, 6, 7)
    classifier, (images, labels) = random_classifier(shape=shape), random_images(1, shape)
    page = show(classifier, images, labels)
    sizes = [(7, 6), (50, 40), (33, 90), (3, 4), (1, 1)]
    for place, (mode, size) in enumerate(itertools.product(("L", "RGB", "RGBA"), sizes)):
        file = tmp_path / f"mine-{place}.png"
        file.write_bytes(picture(size, mode))
        page.choose(file)
        expected = torch.from_numpy(decode_image(file, channels, file.name, (6, 7)))[None]
        found = page.pixels(channels)
        rounding = 0 if size == (7, 6) and mode != "RGBA" else 1
        assert (found.int() - expected.int()).abs().max() <= rounding, (mode, size)
        same(page.probabilities(), classifier.predict_proba(found))


def test_a_photograph_stands_upright(show: Opener, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = picture((40, 24), "RGB", format="JPEG", exif=exif, quality=95)
    (tmp_path / "mine.jpg").write_bytes(content)
    classifier, (images, labels) = random_classifier(shape=(3, 10, 6)), random_images(1, (3, 10, 6))
    page = show(classifier, images, labels)
    page.choose(tmp_path / "mine.jpg")
    expected = torch.from_numpy(decode_image(tmp_path / "mine.jpg", 3, "mine.jpg", (10, 6)))
    assert (page.pixels(3)[0].int() - expected.int()).abs().max() <= 4  # two JPEG decoders


def test_a_picture_can_be_dropped_and_what_is_none_is_said(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(), random_images(1)
    page = show(classifier, images, labels)
    for name, content, said in (
        ("mine.png", picture((8, 8), "L"), "Your picture, mine.png"),
        ("no.png", b"no picture", "no.png is no picture that this browser can read"),
    ):
        dropped = page.page.evaluate_handle(
            """([name, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
              return data;
            }""",
            [name, list(content)],
        )
        page.at("canvas").dispatch_event("drop", {"dataTransfer": dropped})
        page.wait_for("source", said)
    assert page.pixels(1)[0, 0, 0].tolist() == [0, 31, 63, 95, 127, 159, 191, 223]


def test_a_finger_draws(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(), random_images(1)
    page = show(classifier, images * 0, labels, has_touch=True, viewport={"width": 360, "height": 740})
    page.page.touchscreen.tap(*page.spot(page.at("canvas"), 0.5, 0.5))
    drawn = page.pixels(1)
    assert drawn.any()
    same(page.probabilities(), classifier.predict_proba(drawn))


@pytest.mark.parametrize("classes", [3, 200])
def test_a_telephones_width_is_enough(show: Opener, classes: int) -> None:
    classifier, (images, labels) = (
        random_classifier(classes=classes, hidden=(300, 20), activation="sigmoid"),
        random_images(40),
    )
    page = show(classifier, images, labels, viewport={"width": 360, "height": 740})
    assert page.page.evaluate("() => document.documentElement.scrollWidth") == 360
    assert page.page.locator(".live-probabilities li").count() == min(classes, 12)


@pytest.mark.parametrize(("scheme", "paper"), [("light", [255, 255, 255]), ("dark", [20, 24, 29])])
def test_maps_of_units_have_the_pages_colours(show: Opener, scheme: str, paper: list[int]) -> None:
    classifier, (images, labels) = random_classifier(hidden=(200,)), random_images(1)
    page = show(classifier, images, labels, color_scheme=scheme)
    idle = int((trace(classifier, images)[0].a[0] == 0).nonzero()[0])
    columns = page.page.evaluate("() => document.querySelector('.live-map').width")
    seen = page.page.evaluate(
        "([x, y]) => [...document.querySelector('.live-map').getContext('2d').getImageData(x, y, 1, 1).data]",
        [idle % columns, idle // columns],
    )
    assert seen == [*paper, 255]


def test_units_say_their_values(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(hidden=(12, 200), activation="elu"), random_images(1)
    page = show(classifier, images, labels)
    for place, columns, rows, unit in ((0, 12, 1, 7), (1, 20, 10, 143)):
        layer = page.page.locator(".live-layer").nth(place)
        value = trace(classifier, images)[place].a[0, unit].item()
        chart = layer.locator(".live-bars, .live-map")
        page.page.mouse.move(*page.spot(chart, (unit % columns + 0.5) / columns, (unit // columns + 0.5) / rows))
        page.settle()
        said = layer.locator(".live-note").inner_text().split(": ")
        assert said[0] == f"unit {unit + 1}"
        assert float(said[1].replace("−", "-")) == pytest.approx(value, rel=5e-3)
        layer.locator("summary").click()
        page.settle()
        assert f"{unit + 1}: {said[1]} · " in layer.locator(".live-values").inner_text()


def test_without_script_the_section_says_what_it_needs(browser: Browser, tmp_path: Path) -> None:
    made = live_section(random_classifier(), *random_images(2))
    assert made is not None
    (tmp_path / "still.html").write_text(render("base.html.j2", sections=[made]), encoding="utf-8")
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((tmp_path / "still.html").as_uri())
    assert "JavaScript" in page.locator("[data-live=no-script]").inner_text()
    assert not page.locator("[data-live=app]").is_visible()
    page.context.close()
