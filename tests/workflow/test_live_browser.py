"""The live demo in a browser: real clicks and strokes, compared with PyTorch on the same pixels."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import fcnet.functional as F
from fcnet.data.decoding.image_decoding import decode_image
from fcnet.models.layers import ACTIVATIONS
from fcnet.report import live_demo, quantize
from fcnet.report.live_demo import live_section
from fcnet.report.render import render
from tests.helpers import image_bytes, random_classifier, random_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from fcnet.experiment.image_classifier import ImageClassifier

pytestmark = pytest.mark.browser

SHAPE = (1, 8, 8)


class DemoPage:
    """An open page with live demos; records console messages and requests."""

    def __init__(self, browser: Browser, folder: Path, page: str, **context: Any) -> None:
        file = folder / "page.html"
        file.write_text(page, encoding="utf-8")
        self.page: Page = browser.new_context(**context).new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.hint_was_shown = False
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.evaluate(
            """() => {
              window.computed = [];
              document.querySelectorAll(".live").forEach((live, index) => {
                live.addEventListener("fcnet-computed", (event) => {
                  window.computed[index] = event.detail.layers.map(({ z, a }) => [[...z], [...a]]);
                });
              });
            }"""
        )

    def close(self) -> None:
        assert self.messages == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert sum(url.startswith("file:") for url in self.requests) == 1
        self.page.context.close()

    def part(self, name: str) -> Any:
        """Finds a part of the demo by its ``data-live`` name."""
        return self.page.locator(f"[data-live={name}]")

    def pick(self, index: int) -> None:
        self.page.locator("[data-live=thumbnails] button").nth(index).click()

    def pixels(self, channels: int) -> Tensor:
        """The pixels on the canvas, uint8 (1, C, H, W)."""
        self.settle()
        width, height, data = self.page.evaluate(
            """() => {
              const canvas = document.querySelector("[data-live=canvas]");
              const { width, height } = canvas;
              const copy = new OffscreenCanvas(width, height).getContext("2d");
              copy.drawImage(canvas, 0, 0);
              return [width, height, [...copy.getImageData(0, 0, width, height).data]];
            }"""
        )
        return torch.tensor(data, dtype=torch.uint8).view(1, height, width, 4).permute(0, 3, 1, 2)[:, :channels]

    def open_image(self, file: Path) -> None:
        self.part("file").set_input_files(file)
        self.wait_for("source", f"Your image, {file.name}")

    def wait_for(self, name: str, text: str) -> None:
        """Waits until a part of the demo has a text."""
        has_text = "([name, text]) => document.querySelector(`[data-live=${name}]`).textContent === text"
        self.page.wait_for_function(has_text, arg=[name, text], timeout=10_000)

    def settle(self) -> None:
        """Waits until the next frame is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def probabilities(self, index: int = 0) -> Tensor:
        """The probabilities of one of the demos, (1, C)."""
        self.settle()
        text = self.page.locator(".live").nth(index).get_attribute("data-probabilities")
        return torch.tensor(json.loads(text or "[]"))[None]

    def layers(self, index: int) -> list[list[Tensor]]:
        """z and a of each layer of one of the demos, (1, n[l])."""
        computed = self.page.evaluate("() => window.computed")[index]
        return [[torch.tensor(values)[None] for values in pair] for pair in computed]

    def screen_position(self, element: Any, across: float, down: float) -> tuple[float, float]:
        """Converts a position on an element, as fractions of its width and height, to screen pixels."""
        element.scroll_into_view_if_needed()
        box = element.bounding_box()
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    def drop(self, element: Any, *files: Path, text: str = "") -> None:
        """Drags files, or a text, over an element and drops them, as the browser itself does."""
        items = [{"mimeType": "text/plain", "data": text}] if text else []
        data = {"items": items, "files": [str(file) for file in files], "dragOperationsMask": 1}
        x, y = self.screen_position(element, 0.5, 0.5)
        session = self.page.context.new_cdp_session(self.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            if kind == "drop":
                self.hint_was_shown = self.page.locator(".live-drop-hint").is_visible()
            session.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})
        session.detach()

    def stroke(self, *points: tuple[float, float]) -> None:
        """Draws from point to point, each given as fractions of the canvas's width and height."""
        positions = [self.screen_position(self.part("canvas"), *point) for point in points]
        mouse = self.page.mouse
        mouse.move(*positions[0])
        mouse.down()
        for position in positions[1:]:
            mouse.move(*position, steps=4)
        mouse.up()


class Opener:
    """Opens pages; at the end, checks that none logged a message or made a request."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self.folder, self.pages = browser, folder, list[DemoPage]()

    def __call__(
        self, classifier: ImageClassifier | list[ImageClassifier], images: Tensor, labels: Tensor, **context: Any
    ) -> DemoPage:
        classifiers = classifier if isinstance(classifier, list) else [classifier]
        sections = [made for each in classifiers if (made := live_section(each, images, labels)) is not None]
        assert len(sections) == len(classifiers)
        self.pages.append(DemoPage(self.browser, self.folder, render("base.html.j2", sections=sections), **context))
        return self.pages[-1]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(browser, tmp_path)
    yield opener
    for page in opener.pages:
        page.close()


def assert_same_probabilities(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected.detach(), rtol=0.0, atol=1e-4)


def make_images(count: int, shape: tuple[int, int, int] = SHAPE) -> tuple[Tensor, Tensor]:
    """Random images, and labels of two classes in turn."""
    return random_images(count, shape), torch.arange(count) % 2


def trace(classifier: ImageClassifier, images: Tensor) -> list[Any]:
    x = (images / 255 - classifier.mean[:, None, None]) / classifier.std[:, None, None]
    return classifier.model.trace(x if classifier.whitening is None else classifier.whitening(x))


def test_two_hundred_test_images_have_pytorchs_probabilities(show: Opener) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.tensor(digits.images[-200:] * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.tensor(digits.target[-200:])
    classifier = random_classifier(SHAPE, 10, hidden=(64, 32), normalization="batch")
    page = show(classifier, images, labels)
    shown = []
    for index in range(200):
        page.pick(index)
        shown.append(page.probabilities())
    assert_same_probabilities(torch.cat(shown), classifier.predict_proba(images))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_every_layer_computes_pytorchs_z_and_a(show: Opener, activation: Any, normalization: Any) -> None:
    classifiers = [
        random_classifier(
            SHAPE,
            num_classes,
            hidden=(9, 9),
            activation=activation,
            normalization=normalization,
            residual=residual,
            whiten=whiten,
        )
        for residual, num_classes, whiten in itertools.product((False, True), (2, 3), (0, 9))
    ]
    images, labels = make_images(2)
    page = show(classifiers, images, labels)
    for index, classifier in enumerate(classifiers):
        page.page.locator(".live").nth(index).locator("[data-live=thumbnails] button").nth(1).click()
        expected = trace(classifier, images[1:])
        for (z, a), layer in zip(page.layers(index)[-len(expected) :], expected, strict=True):
            torch.testing.assert_close(z, layer.z, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(a, z if layer is expected[-1] else layer.a, rtol=1e-5, atol=1e-4)
        assert_same_probabilities(page.probabilities(index), classifier.predict_proba(images[1:]))


def test_activations_are_exact_far_from_zero(show: Opener) -> None:
    z = torch.linspace(-9, 9, 400)
    classifiers = [random_classifier(SHAPE, hidden=(400,), activation=activation) for activation in ACTIVATIONS]
    for classifier in classifiers:
        first = classifier.model.dense_layers()[0]
        first.weight.data.zero_()
        first.bias.data.copy_(z)  # type: ignore[union-attr]
    page = show(classifiers, *make_images(1))
    for index, activation in enumerate(ACTIVATIONS):
        page.page.locator("[data-live=restore]").nth(index).click()
        a = page.layers(index)[0][1][0].double()
        torch.testing.assert_close(a, ACTIVATIONS[activation](z.double()), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_logistic_regression_runs(show: Opener, num_classes: int) -> None:
    classifier, (images, labels) = random_classifier(SHAPE, num_classes, hidden=()), make_images(2)
    page = show(classifier, images, labels)
    assert_same_probabilities(page.probabilities(), classifier.predict_proba(images[:1]))


@pytest.mark.parametrize("dtype_name", ["float16", "int8"])
def test_the_browser_runs_the_packed_model(show: Opener, monkeypatch: pytest.MonkeyPatch, dtype_name: str) -> None:
    monkeypatch.setattr(quantize, "MAX_BYTES", {dtype_name: 10**6})
    classifier, (images, labels) = random_classifier(SHAPE, normalization="layer"), make_images(3)
    page = show(classifier, images, labels)
    page.pick(2)
    a = ((images[2:] / 255 - classifier.mean) / classifier.std).flatten(1)
    pack = quantize.PackedWeights(dtype_name)
    for layer in quantize.fuse_layers(classifier):
        pack.add(layer)
        a = pack.layers[-1](a)
    assert_same_probabilities(page.probabilities(), F.softmax(a, 1))


def test_the_probabilities_follow_every_stroke(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE, hidden=(9, 9)), make_images(3)
    page = show(classifier, images, labels)
    page.pick(1)
    assert page.pixels(1).equal(images[1:2])
    before = page.probabilities()
    for points in ([(0.1, 0.2), (0.9, 0.5)], [(0.5, 0.5)], [(0.9, 0.9), (0.1, 0.9), (0.1, 0.1)]):
        page.stroke(*points)
        drawn = page.pixels(1)
        after = page.probabilities()
        assert (after - before).abs().max() > 1e-3
        assert_same_probabilities(after, classifier.predict_proba(drawn))
        before = after


def test_a_stroke_has_the_selected_brush_size_and_grey_level(show: Opener) -> None:
    classifier, (images, labels) = random_classifier((1, 16, 16)), make_images(1, (1, 16, 16))
    page = show(classifier, images * 0, labels)
    page.part("brush").fill("3")
    page.part("grey").fill("100")
    page.stroke((0.0, 8.5 / 16), (1.0, 8.5 / 16))
    drawn = page.pixels(1)[0, 0]
    assert drawn[7:10].unique().tolist() == [100]
    drawn[7:10] = 0
    assert not drawn.any()


def test_a_colour_is_drawn_in_all_channels(show: Opener) -> None:
    classifier, (images, labels) = random_classifier((3, 6, 5)), make_images(2, (3, 6, 5))
    page = show(classifier, images, labels)
    page.part("colour").fill("#10a0ff")
    page.part("brush").fill("1.5")
    page.stroke((0.5, 3.5 / 6))
    drawn = page.pixels(3)
    assert drawn[0, :, 3, 2].tolist() == [0x10, 0xA0, 0xFF]
    assert_same_probabilities(page.probabilities(), classifier.predict_proba(drawn))


def test_the_tools_erase_undo_restore_clear_and_invert(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE), make_images(2)
    images[:, :, [0, -1]] = 0
    images[:, :, :, [0, -1]] = 0
    page = show(classifier, images, labels)
    page.part("erase").click()
    assert page.part("erase").get_attribute("aria-pressed") == "true"
    page.stroke((4.5 / 8, 0.1), (4.5 / 8, 0.9))
    erased = page.pixels(1)
    assert erased[0, 0, :, 4].tolist() == [0] * 8
    page.part("undo").click()
    assert page.pixels(1).equal(images[:1])
    assert page.part("undo").is_disabled()
    page.part("invert").click()
    assert page.pixels(1).equal(255 - images[:1])
    page.part("clear").click()
    assert not page.pixels(1).any()
    page.part("undo").click()
    page.part("restore").click()
    assert page.pixels(1).equal(images[:1])
    assert_same_probabilities(page.probabilities(), classifier.predict_proba(images[:1]))


def test_the_keyboard_draws_pixels_and_selects_images(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE), make_images(3)
    page = show(classifier, images, labels)
    page.part("brush").fill("1")
    page.part("grey").fill("9")
    page.part("canvas").focus()
    press = page.page.keyboard.press
    for _ in range(9):
        press("ArrowLeft")
        press("ArrowUp")
    press("Space")
    press("Shift+ArrowRight")
    press("ArrowDown")
    assert page.pixels(1)[0, 0, 0, :2].tolist() == [9, 9]
    assert page.part("position").inner_text() == f"Row 2, column 2: {page.pixels(1)[0, 0, 1, 1]}"
    press("Control+z")
    assert page.pixels(1)[0, 0, 0, :2].tolist() == [9, images[0, 0, 0, 1]]
    page.page.locator("[data-live=thumbnails] button").first.focus()
    press("End")
    press("ArrowLeft")
    press("Enter")
    assert page.pixels(1).equal(images[1:2])
    assert page.part("source").inner_text() == "Test image 1 (2 of 3)"


def test_the_summary_names_the_two_most_probable_classes_and_the_true_class(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE), make_images(2)
    page = show(classifier, images, labels)
    page.pick(1)
    probabilities, order = classifier.predict_proba(images[1:])[0].sort(descending=True)
    expected = ", then ".join(f"class {order[rank]} ({probabilities[rank]:.1%})" for rank in (0, 1))
    page.wait_for("summary", f"Prediction: {expected}. True class: class 1.")
    best = page.page.locator("[data-live=probabilities] .live-best .live-number").inner_text()
    assert best == f"{probabilities[0]:.1%}"


def test_the_slider_scales_the_logits_of_a_softmax(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE), make_images(1)
    page = show(classifier, images, labels)
    logits = classifier(images)
    page.part("softmax-slider").focus()
    for _ in range(30):
        page.page.keyboard.press("ArrowRight")
    assert page.part("softmax-value").inner_text() == "2.00"
    assert_same_probabilities(page.probabilities(), F.softmax(10**0.3 * logits, 1))
    page.page.mouse.click(*page.screen_position(page.part("softmax-slider"), 0.005, 0.5))
    assert_same_probabilities(page.probabilities(), F.softmax(0.1 * logits, 1))
    page.part("softmax-reset").click()
    assert_same_probabilities(page.probabilities(), F.softmax(logits, 1))


def test_the_slider_scales_every_sigmoid(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE, 2, activation="sigmoid"), make_images(1)
    page = show(classifier, images, labels)
    initial_curve = page.page.locator("[data-live=sigmoid-plot] polyline").nth(1).get_attribute("points")
    page.part("sigmoid-slider").fill("0.6")
    a = ((images / 255 - classifier.mean) / classifier.std).flatten(1)
    for layer in classifier.model.dense_layers():
        a = F.scaled_sigmoid(layer.preactivation(a), 10**0.6)
    assert_same_probabilities(page.probabilities(), torch.cat([1 - a, a], 1))
    curve = page.page.locator("[data-live=sigmoid-plot] polyline").nth(1).get_attribute("points")
    assert curve != initial_curve
    assert page.page.locator("[data-live=sigmoid-plot] circle").count() == 8 + 8 + 1


def gradient_image(size: tuple[int, int], mode: str) -> Image.Image:
    """An image with smooth gradients in all channels."""
    columns, rows = torch.arange(size[0]) * 255 // size[0], torch.arange(size[1])[:, None] * 255 // size[1]
    planes = [(columns + 0 * rows), (0 * columns + rows), (columns + rows) // 2, 255 - (columns + rows) // 4]
    count = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    return Image.fromarray(torch.stack(planes[:count], 2).squeeze(2).to(torch.uint8).numpy(), mode)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_opened_image_is_cropped_and_resized_as_in_training(show: Opener, tmp_path: Path, channels: int) -> None:
    shape = (channels, 6, 7)
    classifier, (images, labels) = random_classifier(shape), make_images(1, shape)
    page = show(classifier, images, labels)
    sizes = [(7, 6), (50, 40), (33, 90), (3, 4), (1, 1)]
    for number, (mode, size) in enumerate(itertools.product(("L", "RGB", "RGBA"), sizes)):
        file = tmp_path / f"mine-{number}.png"
        file.write_bytes(image_bytes(gradient_image(size, mode)))
        page.open_image(file)
        expected = torch.from_numpy(decode_image(file, channels, file.name, (6, 7)))[None]
        pixels = page.pixels(channels)
        rounding = 0 if size == (7, 6) and mode != "RGBA" else 1
        assert (pixels.int() - expected.int()).abs().max() <= rounding, (mode, size)
        assert_same_probabilities(page.probabilities(), classifier.predict_proba(pixels))


def test_an_opened_image_follows_its_exif_orientation(show: Opener, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = gradient_image((40, 24), "RGB")
    (tmp_path / "mine.jpg").write_bytes(image_bytes(image, "JPEG", exif=exif, quality=95))
    classifier, (images, labels) = random_classifier((3, 10, 6)), make_images(1, (3, 10, 6))
    page = show(classifier, images, labels)
    page.open_image(tmp_path / "mine.jpg")
    expected = torch.from_numpy(decode_image(tmp_path / "mine.jpg", 3, "mine.jpg", (10, 6)))
    assert (page.pixels(3)[0].int() - expected.int()).abs().max() <= 4  # two JPEG decoders


def write_image(file: Path, image: Image.Image) -> Path:
    file.write_bytes(image_bytes(image))
    return file


def test_a_file_that_is_dropped_anywhere_is_opened(show: Opener, tmp_path: Path) -> None:
    classifier, (images, labels) = random_classifier(SHAPE), make_images(1)
    page = show([classifier, random_classifier(SHAPE, 5)], images, labels)
    file = write_image(tmp_path / "mine.png", gradient_image((8, 8), "L"))
    page.drop(page.page.locator("h2").first, file)
    page.wait_for("source", "Your image, mine.png")
    assert page.hint_was_shown
    assert not page.page.locator(".live-drop-hint").is_visible()
    assert page.pixels(1)[0, 0, 0].tolist() == [0, 31, 63, 95, 127, 159, 191, 223]
    assert page.part("source").all_inner_texts() == ["Your image, mine.png", "Test image 0 (1 of 1)"]
    page.page.evaluate("() => document.querySelector('main').insertAdjacentHTML('afterbegin', '<h1>Report</h1>')")
    page.drop(page.page.locator("h1"), file)  # of no demo: all open it
    page.page.wait_for_function(
        "() => [...document.querySelectorAll('[data-live=source]')].every((it) => it.textContent.startsWith('Your'))"
    )


def test_what_cannot_be_opened_is_said_and_leaves_the_image(
    show: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_demo, "_MAX_PIXELS", 2000)
    classifier, (images, labels) = random_classifier(SHAPE), make_images(1)
    page = show(classifier, images, labels)
    names = {"no.png": b"not an image", "notes.txt": b"a\n", "empty.png": b""}
    files = {name: tmp_path / name for name in names}
    for name, content in names.items():
        files[name].write_bytes(content)
    huge = write_image(tmp_path / "huge.png", gradient_image((50, 41), "L"))
    kept = ". The image below is still the one before."
    for dropped, message in (
        ([files["no.png"]], f"no.png is damaged, or not an image that this browser can read{kept}"),
        ([files["notes.txt"]], f"notes.txt is not an image, but text/plain{kept}"),
        ([files["empty.png"]], f"empty.png is empty{kept}"),
        ([tmp_path], f"{tmp_path.name} is a folder; drop an image file."),
        ([huge], f"huge.png must have at most 0.002 megapixels, and has 50 × 41 pixels{kept}"),
    ):
        page.drop(page.part("canvas"), *dropped)
        page.wait_for("message", message)
        assert page.pixels(1).equal(images)
        assert page.part("source").inner_text() == "Test image 0 (1 of 1)"
    page.drop(page.part("canvas"), text="https://example.invalid/")
    assert not page.hint_was_shown
    mine = write_image(tmp_path / "mine.png", gradient_image((8, 8), "L"))
    page.drop(page.part("canvas"), files["notes.txt"], mine)
    page.wait_for("message", "One image at a time: this is mine.png, one of 2 files.")
    assert page.part("source").inner_text() == "Your image, mine.png"
    page.pick(0)
    assert not page.part("message").is_visible()


def test_an_image_in_strips_is_read_as_a_whole(show: Opener, tmp_path: Path) -> None:
    classifier, (images, labels) = random_classifier((3, 6, 5)), make_images(1, (3, 6, 5))
    page = show(classifier, images, labels)
    file = write_image(tmp_path / "tall.png", gradient_image((1900, 2300), "RGB"))  # more than a strip of 4 million
    page.open_image(file)
    expected = torch.from_numpy(decode_image(file, 3, file.name, (6, 5)))
    assert (page.pixels(3)[0].int() - expected.int()).abs().max() <= 1


def digit_images(background: int, ink: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Images of random strokes that rarely touch the border."""
    images = torch.full((20, *shape), background, dtype=torch.uint8)
    images[:, :, 2:6, 2:6] = torch.where(random_images(20, (1, 4, 4)) > 127, ink, background).to(torch.uint8)
    return images


@pytest.mark.parametrize(
    ("background", "own", "usual"), [(0, "dark on light", "light on dark"), (255, "light on dark", "dark on light")]
)
def test_a_drawing_of_the_other_polarity_is_inverted(
    show: Opener, tmp_path: Path, background: int, own: str, usual: str
) -> None:
    classifier, images = random_classifier(SHAPE), digit_images(background, 255 - background)
    page = show(classifier, images[:10], torch.zeros(10, dtype=torch.long))
    opposite = 255 - images[10:11]
    page.open_image(write_image(tmp_path / "mine.png", Image.fromarray(opposite[0, 0].numpy())))
    assert page.part("polarity-text").inner_text() == (
        f"mine.png is {own}. The test images are {usual}, so it is shown inverted."
    )
    assert page.pixels(1).equal(255 - opposite)
    assert_same_probabilities(page.probabilities(), classifier.predict_proba(255 - opposite))
    for shown, said, button in ((opposite, "but", "Invert the image"), (255 - opposite, "so", "Do not invert")):
        page.part("flip").click()
        assert page.pixels(1).equal(shown)
        assert f", {said} " in page.part("polarity-text").inner_text()
        assert page.part("flip").inner_text() == button
    page.part("undo").click()
    assert not page.part("polarity").is_visible()
    page.open_image(write_image(tmp_path / "usual.png", Image.fromarray(images[11, 0].numpy())))
    assert not page.part("polarity").is_visible()
    assert page.pixels(1).equal(images[11:12])


def test_an_image_is_as_it_is_where_polarity_is_not_known(show: Opener, tmp_path: Path) -> None:
    classifier, (images, labels) = random_classifier(SHAPE), make_images(9)
    page = show(classifier, images, labels)
    drawing = digit_images(255, 0)[:1]
    page.open_image(write_image(tmp_path / "mine.png", Image.fromarray(drawing[0, 0].numpy())))
    assert page.pixels(1).equal(drawing)
    assert not page.part("polarity").is_visible()


def test_a_colour_image_of_the_other_polarity_is_inverted_on_request(show: Opener, tmp_path: Path) -> None:
    shape = (3, 8, 8)
    classifier, images = random_classifier(shape), digit_images(0, 255, shape)
    page = show(classifier, images, torch.zeros(20, dtype=torch.long))
    drawing = 255 - images[:1]
    page.open_image(write_image(tmp_path / "mine.png", Image.fromarray(drawing[0].permute(1, 2, 0).numpy())))
    assert page.pixels(3).equal(drawing)
    page.part("flip").click()
    assert page.pixels(3).equal(images[:1])


def test_a_changed_image_has_no_true_class(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE), make_images(2)
    page = show(classifier, images, labels)
    claim = "True class: class 1."
    page.pick(1)
    assert page.part("summary").inner_text().endswith(claim)
    position = page.screen_position(page.part("canvas"), 0.5, 0.5)
    page.page.mouse.move(*position)
    page.page.mouse.down()  # the stroke goes on
    page.settle()
    assert "True" not in page.part("summary").inner_text()
    assert page.part("source").inner_text() == "Test image 1 (2 of 2), edited"
    page.page.mouse.up()
    page.part("undo").click()
    assert page.part("summary").inner_text().endswith(claim)
    for change, source in (("invert", "Test image 1 (2 of 2), edited"), ("clear", "Your drawing")):
        page.part(change).click()
        assert "True" not in page.part("summary").inner_text()
        assert page.part("source").inner_text() == source
        page.part("restore").click()
        assert page.part("summary").inner_text().endswith(claim)
        assert page.part("source").inner_text() == "Test image 1 (2 of 2)"
    page.wait_for("announcement", page.part("summary").inner_text())


def read_logits(page: DemoPage) -> list[tuple[str, float, float]]:
    """The name, the number and the length of each logit's bar, as a fraction of its half, negative to the left."""
    page.settle()
    rows: list[tuple[str, float, float]] = page.page.evaluate(
        """() => [...document.querySelectorAll(".live-logits li")].map((row) => {
          const [name, bar, number] = row.children;
          const [whole, part] = [bar, bar.firstChild].map((each) => each.getBoundingClientRect());
          const middle = whole.left + whole.width / 2;
          const end = part.left < middle - 1.5 ? part.left : part.right;
          return [name.innerText, Number(number.innerText.replace("−", "-")), (2 * (end - middle)) / (whole.width - 2)];
        })"""
    )
    return rows


@pytest.mark.parametrize("num_classes", [3, 12, 100])
@pytest.mark.parametrize("width", [360, 1280])
def test_each_logit_bar_has_its_classs_name(show: Opener, num_classes: int, width: int) -> None:
    classifier, (images, labels) = random_classifier(SHAPE, num_classes), make_images(1)
    classifier.classes = tuple(f"n{number:08} of a long name that ends in {number}" for number in range(num_classes))
    page = show(classifier, images, labels, viewport={"width": width, "height": 740})
    logits = classifier(images)[0]
    largest = logits.abs().max()
    expected = list(range(num_classes)) if num_classes <= 12 else logits.argsort(descending=True)[:12].tolist()
    rows = read_logits(page)
    assert [name.split()[0] for name, _, _ in rows] == [f"n{label:08}" for label in expected]
    for (_, number, length), label in zip(rows, expected, strict=True):
        assert number == pytest.approx(logits[label].item(), rel=5e-3)
        assert length == pytest.approx((logits[label] / largest).item(), abs=0.03)
    assert page.page.evaluate("() => document.documentElement.scrollWidth") == width
    page.page.locator(".live-layer").last.locator("summary").click()
    page.page.wait_for_function("() => [...document.querySelectorAll('.live-values')].at(-1).textContent")
    listed = page.page.locator(".live-layer").last.locator(".live-values").inner_text().split(" · ")
    assert len(listed) == num_classes
    assert listed[-1].startswith(f"{classifier.classes[-1]}: ")


def test_a_single_output_node_names_both_classes(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE, 2), make_images(1)
    classifier.classes = ("cat", "dog")
    page = show(classifier, images, labels)
    (name, number, length), *others = read_logits(page)
    assert (name, others) == ("dog", [])
    assert number == pytest.approx(classifier(images).item(), rel=5e-3)
    assert abs(length) == pytest.approx(1.0, abs=0.03)
    assert page.page.locator(".live-layer .live-note").last.inner_text() == "Above 0 for dog, below 0 for cat"


def test_a_second_finger_draws_nothing(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE), make_images(1)
    page = show(classifier, images * 0, labels, has_touch=True)
    points = [page.screen_position(page.part("canvas"), *point) for point in ((0.1, 0.1), (0.9, 0.9))]
    touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
    session = page.page.context.new_cdp_session(page.page)
    for kind, fingers in (("touchStart", touches[:1]), ("touchStart", touches), ("touchEnd", [])):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    drawn = page.pixels(1)[0, 0]
    assert drawn[0, 0]
    assert not drawn[4:, 4:].any()


def test_a_touch_draws(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE), make_images(1)
    page = show(classifier, images * 0, labels, has_touch=True, viewport={"width": 360, "height": 740})
    page.page.touchscreen.tap(*page.screen_position(page.part("canvas"), 0.5, 0.5))
    drawn = page.pixels(1)
    assert drawn.any()
    assert_same_probabilities(page.probabilities(), classifier.predict_proba(drawn))


@pytest.mark.parametrize("num_classes", [3, 200])
def test_the_demo_fits_a_narrow_screen(show: Opener, num_classes: int) -> None:
    classifier, (images, labels) = (
        random_classifier(SHAPE, num_classes, hidden=(300, 20), activation="sigmoid"),
        make_images(40),
    )
    page = show(classifier, images, labels, viewport={"width": 360, "height": 740})
    assert page.page.evaluate("() => document.documentElement.scrollWidth") == 360
    assert page.page.locator("[data-live=probabilities] li").count() == min(num_classes, 12)


@pytest.mark.parametrize(("scheme", "paper"), [("light", [255, 255, 255]), ("dark", [20, 24, 29])])
def test_activation_maps_follow_the_colour_scheme(show: Opener, scheme: str, paper: list[int]) -> None:
    classifier, (images, labels) = random_classifier(SHAPE, hidden=(200,)), make_images(1)
    page = show(classifier, images, labels, color_scheme=scheme)
    zero_unit = int((trace(classifier, images)[0].a[0] == 0).nonzero()[0])
    columns = page.page.evaluate("() => document.querySelector('.live-map').width")
    colour = page.page.evaluate(
        "([x, y]) => [...document.querySelector('.live-map').getContext('2d').getImageData(x, y, 1, 1).data]",
        [zero_unit % columns, zero_unit // columns],
    )
    assert colour == [*paper, 255]


def test_a_unit_shows_its_value_under_the_pointer(show: Opener) -> None:
    classifier, (images, labels) = random_classifier(SHAPE, hidden=(12, 200), activation="elu"), make_images(1)
    page = show(classifier, images, labels)
    for number, columns, rows, unit in ((0, 12, 1, 7), (1, 20, 10, 143)):
        layer = page.page.locator(".live-layer").nth(number)
        value = trace(classifier, images)[number].a[0, unit].item()
        chart = layer.locator(".live-bars, .live-map")
        page.page.mouse.move(
            *page.screen_position(chart, (unit % columns + 0.5) / columns, (unit // columns + 0.5) / rows)
        )
        page.settle()
        name, text = layer.locator(".live-note").inner_text().split(": ")
        assert name == f"unit {unit + 1}"
        assert float(text.replace("−", "-")) == pytest.approx(value, rel=5e-3)
        layer.locator("summary").click()
        page.settle()
        assert f"{unit + 1}: {text} · " in layer.locator(".live-values").inner_text()


def test_without_javascript_the_section_says_that_it_needs_it(browser: Browser, tmp_path: Path) -> None:
    section = live_section(random_classifier(SHAPE), *make_images(2))
    assert section is not None
    (tmp_path / "still.html").write_text(render("base.html.j2", sections=[section]), encoding="utf-8")
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((tmp_path / "still.html").as_uri())
    assert "JavaScript" in page.locator("[data-live=no-script]").inner_text()
    assert not page.locator("[data-live=app]").is_visible()
    page.context.close()
