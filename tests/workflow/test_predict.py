"""The command predict: unusual images, folders, archives, and its output formats."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import select
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import fcnet
from fcnet import predict, train
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import LogisticRegression
from tests.helpers import command_output, image_bytes, make_png, run_command
from tests.processes import call_redirected

if TYPE_CHECKING:
    import numpy.typing as npt

    from tests.processes import WarmServer

    Pixels = npt.NDArray[np.uint8]

CLASSES = ("cat", "köttur", "path", "猫")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.2)
SIDE = 16
# Four blocks of colour, all different, so that a mirrored or rotated image differs from the original.
BLOCKS = np.array([[[250, 10, 30], [20, 240, 60]], [[60, 60, 200], [255, 255, 255]]], dtype=np.uint8)
COLOURS = BLOCKS.repeat(8, 0).repeat(8, 1)


# --- a classifier with known answers -----------------------------------------------------------------------------


def write_classifier(folder: Path, *, resize: bool = False) -> Path:
    """Writes a run folder with a random classifier of 16×16 colour images."""
    draws = torch.Generator().manual_seed(5)
    model = LogisticRegression(3 * SIDE * SIDE, len(CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=draws))
    classifier = ImageClassifier(
        model,
        classes=CLASSES,
        shape=(3, SIDE, SIDE),
        mean=torch.tensor(MEAN),
        std=torch.tensor(STD),
        resize=resize,
    )
    folder.mkdir()
    classifier.save(folder / "model", {})
    return folder


def probabilities(run: Path, pixels: Pixels) -> npt.NDArray[np.float64]:
    """Returns the class probabilities of one image (H, W, 3), by the formula in float64."""
    state = {name: tensor.double().numpy() for name, tensor in fcnet.load(run).model.state_dict().items()}
    x = ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1).ravel()
    scores = state["layers.0.weight"] @ x + state["layers.0.bias"]
    exponentials = np.exp(scores - scores.max())
    return np.asarray(exponentials / exponentials.sum())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "run")


@pytest.fixture
def resizing(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "resizing", resize=True)


# --- unusual images ---------------------------------------------------------------------------------------------


def colours(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(COLOURS).convert(mode)


def with_alpha(levels: tuple[int, int, int, int]) -> Image.Image:
    image = colours("RGBA")
    alpha = np.array(levels, dtype=np.uint8).reshape(2, 2).repeat(8, 0).repeat(8, 1)
    image.putalpha(Image.fromarray(alpha))
    return image


def over_white(levels: tuple[int, int, int, int], pixels: Pixels = COLOURS) -> Pixels:
    opacity = np.array(levels).reshape(2, 2, 1).repeat(8, 0).repeat(8, 1) / 255
    return np.rint(pixels * opacity + 255 * (1 - opacity)).astype(np.uint8)


def palette_with_transparency() -> tuple[bytes, Pixels]:
    indices = np.arange(4, dtype=np.uint8).reshape(2, 2).repeat(8, 0).repeat(8, 1)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([int(value) for value in BLOCKS.ravel()])
    expected = COLOURS.copy()
    expected[:8, 8:] = 255
    return image_bytes(image, "PNG", transparency=1), expected


def with_orientation(form: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image_bytes(colours(), form, exif=exif, **options)


def animated(form: str, **options: Any) -> bytes:
    return image_bytes(
        colours(), form, save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE), (1, 2, 3))], **options
    )


GREY = np.stack([np.rint(COLOURS @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)] * 3, axis=2)
BITS = np.where(GREY > 127, 255, 0).astype(np.uint8)
INKS = np.stack([255 - np.array(colours("CMYK"))[..., channel] for channel in range(3)], axis=2)
ALPHA = (255, 128, 0, 64)
NO_IMAGE = r"must be an image \(JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP\), got something else"
SIZE = "must be 16×16 pixels like the training images, got "
JPEG = {"quality": 100, "subsampling": 0}


@dataclass(frozen=True)
class UnusualImage:
    """An image file.

    Attributes:
        kind: a name for the test.
        content: the file's bytes.
        expected: the pixels that the classifier must see, or a pattern of the error.
    """

    kind: str
    content: bytes
    expected: Pixels | str


UNUSUAL = [
    UnusualImage("grey PNG", image_bytes(colours("L"), "PNG"), GREY),
    UnusualImage("grey JPEG", image_bytes(colours("L"), "JPEG", **JPEG), GREY),
    UnusualImage("JPEG", image_bytes(colours(), "JPEG", **JPEG), COLOURS),
    UnusualImage("progressive JPEG", image_bytes(colours(), "JPEG", progressive=True, **JPEG), COLOURS),
    UnusualImage("BMP", image_bytes(colours(), "BMP"), COLOURS),
    UnusualImage("PPM", image_bytes(colours(), "PPM"), COLOURS),
    UnusualImage("PGM", image_bytes(colours("L"), "PPM"), GREY),
    UnusualImage("WebP", image_bytes(colours(), "WEBP", lossless=True), COLOURS),
    UnusualImage("TIFF", image_bytes(colours(), "TIFF", compression="tiff_lzw"), COLOURS),
    UnusualImage("GIF", image_bytes(colours().quantize(8), "GIF"), COLOURS),
    UnusualImage("one bit", image_bytes(Image.fromarray(BITS[..., 0]).convert("1"), "PNG"), BITS),
    UnusualImage("palette", image_bytes(colours().quantize(8), "PNG"), COLOURS),
    UnusualImage("palette with a transparent colour", *palette_with_transparency()),
    UnusualImage("alpha", image_bytes(with_alpha(ALPHA), "PNG"), over_white(ALPHA)),
    UnusualImage("WebP with alpha",
        image_bytes(with_alpha(ALPHA), "WEBP", lossless=True, exact=True), over_white(ALPHA)),
    UnusualImage("grey and alpha", image_bytes(with_alpha(ALPHA).convert("LA"), "PNG"), over_white(ALPHA, GREY)),
    UnusualImage("CMYK JPEG", image_bytes(colours("CMYK"), "JPEG", **JPEG), INKS),
    UnusualImage("CMYK TIFF", image_bytes(colours("CMYK"), "TIFF"), INKS),
    UnusualImage("rotated right by EXIF", with_orientation("JPEG", 6, **JPEG), np.rot90(COLOURS, -1)),
    UnusualImage("upside down by EXIF", with_orientation("PNG", 3), np.rot90(COLOURS, 2)),
    UnusualImage("mirrored by EXIF", with_orientation("WEBP", 2, lossless=True), COLOURS[:, ::-1]),
    UnusualImage("animated GIF", animated("GIF"), COLOURS),
    UnusualImage("animated PNG", animated("PNG"), COLOURS),
    UnusualImage("animated WebP", animated("WEBP", lossless=True), COLOURS),
    UnusualImage("grey of 16 bits", image_bytes(Image.fromarray(GREY[..., 0].astype(np.uint16) * 256), "PNG"),
        "must have 8 bits a channel, got Pillow's mode I;16"),
    UnusualImage("colour of 16 bits", make_png((SIDE, SIDE), 16, 2, (b"\0" + bytes(6 * SIDE)) * SIDE),
        "must have 8 bits a channel, got Pillow's mode RGB;16B"),
    UnusualImage("TIFF of floats", image_bytes(Image.fromarray(GREY[..., 0].astype(np.float32)), "TIFF"),
        "must have 8 bits a channel, got Pillow's mode F"),
    UnusualImage("one pixel", image_bytes(Image.new("RGB", (1, 1)), "PNG"), f"{SIZE}1×1; .*"),
    UnusualImage("wrong size", image_bytes(Image.new("RGB", (17, 16)), "PNG"), f"{SIZE}17×16; .*"),
    UnusualImage("huge",
        make_png((100_000, 100_000), 8, 0, b"\0"), r"is too large to decode: Image size \(1\d* pixels\) .*"),
    UnusualImage("cut PNG", image_bytes(Image.effect_noise((SIDE, SIDE), 90), "PNG")[:200],
        "must be a whole image, got: image file is truncated.*"),
    UnusualImage("cut JPEG", image_bytes(Image.effect_noise((SIDE, SIDE), 90), "JPEG")[:400],
        "must be a whole image, got: image file is truncated.*"),
    UnusualImage("empty", b"", NO_IMAGE),
    UnusualImage("text", b"not an image\n", NO_IMAGE),
    UnusualImage("SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='16' height='16'/>", NO_IMAGE),
]  # fmt: skip


def test_unusual_images_are_of_many_kinds() -> None:
    assert len({image.kind for image in UNUSUAL}) == len(UNUSUAL) >= 30


@pytest.mark.parametrize("given_as", ["file", "folder", "archive"])
@pytest.mark.parametrize("image", UNUSUAL, ids=lambda image: image.kind)
def test_an_unusual_image_is_decoded_as_in_training_or_refused_by_name(
    image: UnusualImage, given_as: str, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unusual"
    folder.mkdir()
    file = folder / "image.png"  # whatever its format
    file.write_bytes(image.content)
    archive_file = tmp_path / "unusual.tar"
    with tarfile.open(archive_file, "w") as archive:
        archive.add(file, "image.png")
    argument = {"file": file, "folder": folder, "archive": archive_file}[given_as]
    name = {"file": file, "folder": file, "archive": archive_file / "image.png"}[given_as]
    code, out, err = run_command(predict.main, run, argument, "--json", "--probabilities")
    rows = json.loads(out)
    if isinstance(image.expected, str):
        assert (code, rows) == (2, [])
        assert re.fullmatch(f"{re.escape(str(name))} {image.expected}\n", err), err
        return
    assert (code, err) == (0, "")
    (row,) = rows
    assert row["path"] == str(name)
    expected = probabilities(run, image.expected)
    tolerance = 0.02 if image.content[:2] == b"\xff\xd8" else 2e-3  # JPEG rounds; elsewhere one level
    assert list(row["probabilities"]) == list(CLASSES)
    np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=tolerance)
    assert row["probability"] == max(row["probabilities"].values())


def test_the_classifier_distinguishes_the_unusual_images(run: Path) -> None:
    decoded = [image.expected for image in UNUSUAL if not isinstance(image.expected, str)]
    distinct = {pixels.tobytes(): probabilities(run, pixels) for pixels in decoded}
    rows = list(distinct.values())
    gaps = [np.abs(one - other).max() for index, one in enumerate(rows) for other in rows[:index]]
    assert len(rows) >= 9
    assert min(gaps) > 0.02


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), np.full((SIDE, SIDE, 3), 200, dtype=np.uint8)),
        ((3000, 2000), np.full((SIDE, SIDE, 3), 200, dtype=np.uint8)),
        ((16, 16), COLOURS),
        ((32, 32), COLOURS),
        ((48, 16), COLOURS),
        ((16, 80), COLOURS),
    ],
    ids=str,
)
def test_a_classifier_trained_on_resized_images_takes_images_of_every_size(
    size: tuple[int, int],
    expected: Pixels,
    resizing: Path,
    tmp_path: Path,
) -> None:
    width, height = size
    if expected is COLOURS:  # the centre, with borders to be cropped
        image = Image.new("RGB", size, (123, 45, 67))
        side = min(size)
        middle = colours().resize((side, side), Image.Resampling.NEAREST)
        image.paste(middle, ((width - side) // 2, (height - side) // 2))
    else:
        image = Image.new("RGB", size, (200, 200, 200))
    image.save(tmp_path / "image.png")
    code, out, err = run_command(predict.main, resizing, tmp_path / "image.png", "--json", "--probabilities")
    assert (code, err) == (0, "")
    found = list(json.loads(out)[0]["probabilities"].values())
    np.testing.assert_allclose(found, probabilities(resizing, expected), atol=0.01)  # the filter rings at edges


# --- many images ------------------------------------------------------------------------------------------------


def test_broken_images_do_not_affect_the_others(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.png").write_bytes(b"broken" if number % 10 == 3 else image_bytes(colours(), "PNG"))
    code, out, err = run_command(predict.main, run, folder, "--batch-size", 4)
    assert code == 2
    assert [line.split(": ")[0] for line in out.splitlines()] == [
        f"{folder}/{number:02}.png" for number in range(30) if number % 10 != 3
    ]
    assert [line.split(" must")[0] for line in err.splitlines()] == [
        *(f"{folder}/{number:02}.png" for number in (3, 13, 23)),
        "3 of 30 could not be predicted",
    ]


def test_images_are_predicted_in_order_and_missing_ones_reported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.png", "in/a/z.PNG", "in/a/deep/x.jpeg", "in/.hidden.png", "in/notes.txt", "one"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(image_bytes(colours(), "PNG"))
    Path("empty").mkdir()
    with tarfile.open("all.tar.gz", "w:gz") as archive:
        archive.add("in/b.png", "./d/b.png")
        archive.add("in/notes.txt", "notes.txt")
        archive.add("in/a/z.PNG", "z.PNG")
    code, out, err = run_command(predict.main, run, "one", "in", "gone", "all.tar.gz", "empty", "./one")
    assert code == 2
    assert [line.split(": ")[0] for line in out.splitlines()] == [
        *("one", "in/a/deep/x.jpeg", "in/a/z.PNG", "in/b.png", "all.tar.gz/d/b.png", "all.tar.gz/z.PNG", "./one")
    ]
    assert err.splitlines() == [
        "gone: no such file",
        "empty must hold an image, found none",
        "note: not used: 2 files without an image suffix (all.tar.gz/notes.txt, in/notes.txt)",
        "2 of 9 could not be predicted",
    ]


def test_files_that_are_no_images_are_counted_and_change_neither_the_list_nor_the_exit_code(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/notes.txt", "in/raw.heic", "in/b/c.csv", "in/b/d.md", "in/Thumbs.db", "in/._a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(image_bytes(colours(), "PNG"))
    with zipfile.ZipFile("all.zip", "w") as archive:
        archive.write("in/a.png")
        archive.write("in/notes.txt")
    code, out, err = run_command(predict.main, run, "in", "all.zip", "--json")
    assert code == 0
    assert [row["path"] for row in json.loads(out)] == ["in/a.png", "all.zip/in/a.png"]
    names = "all.zip/in/notes.txt, in/b/c.csv, in/b/d.md, …"
    assert err == f"note: not used: 5 files without an image suffix ({names})\n"


# Delays the second image until a file exists.
WAITING_PREDICT = """
import sys, time
from pathlib import Path
from fcnet import cli, predict

find = predict.iter_images

def wait_for_second(*arguments):
    for number, entry in enumerate(find(*arguments)):
        while number == 1 and not Path("go").exists():
            time.sleep(0.01)
        yield entry

predict.iter_images = wait_for_second
cli.run_command(predict.main)
"""


def test_predictions_are_printed_batch_by_batch_and_end_with_a_closed_pipe(run: Path, tmp_path: Path) -> None:
    """The first batch is printed while the second waits for its image."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(image_bytes(colours(), "PNG"))
    paths = map(str, (run, tmp_path / "a.png", tmp_path / "b.png"))
    command = [sys.executable, "-c", WAITING_PREDICT, *paths, "--batch-size", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(fcnet.__file__).parents[1]), "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        readable, _, _ = select.select([process.stdout], [], [], 60)
        if not readable:
            process.kill()
        assert process.stdout.readline().startswith(f"{tmp_path}/a.png: ".encode())
        process.stdout.close()
        (tmp_path / "go").touch()
        assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")


# --- output formats ---------------------------------------------------------------------------------------------


@pytest.fixture
def image_files(tmp_path: Path) -> list[str]:
    """Two images, one with a name that CSV and JSON must quote."""
    (tmp_path / "a.png").write_bytes(image_bytes(colours(), "PNG"))
    (tmp_path / 'b,"ü".png').write_bytes(image_bytes(Image.fromarray(np.rot90(COLOURS).copy()), "PNG"))
    return [str(tmp_path / "a.png"), str(tmp_path / 'b,"ü".png')]


@pytest.mark.parametrize("top", [1, 2, 4])
@pytest.mark.parametrize("every", [False, True])
def test_all_output_formats_agree(top: int, every: bool, run: Path, image_files: list[str]) -> None:
    expected = fcnet.load(run).predict_images(image_files)
    ranked = [sorted(zip(CLASSES, each.probabilities, strict=True), key=lambda row: -row[1])[:top] for each in expected]
    flags = ["--top", str(top), *(["--probabilities"] if every else [])]
    _, out, _ = run_command(predict.main, run, *image_files, *flags)
    for line, path, rows, each in zip(out.splitlines(), image_files, ranked, expected, strict=True):
        best = ", ".join(f"{name} ({p:.1%})" for name, p in rows)
        others = ", ".join(f"{name} {p:.1%}" for name, p in zip(CLASSES, each.probabilities, strict=True))
        assert line == f"{path}: {best}" + (f"; {others}" if every else "")

    _, out, _ = run_command(predict.main, run, *image_files, *flags, "--json")
    assert json.loads(out) == [
        {"path": path, "class": each.class_name, "probability": each.probability}
        | ({"top": [{"class": name, "probability": p} for name, p in rows]} if top > 1 else {})
        | ({"probabilities": dict(zip(CLASSES, each.probabilities, strict=True))} if every else {})
        for path, rows, each in zip(image_files, ranked, expected, strict=True)
    ]

    _, out, _ = run_command(predict.main, run, *image_files, *flags, "--csv")
    head, *lines = csv.reader(io.StringIO(out))
    more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("class", "probability")]
    assert head == ["path", "class", "probability", *more, *([f"p_{name}" for name in CLASSES] if every else [])]
    assert len(set(head)) == len(head)
    for cells, path, rows, each in zip(lines, image_files, ranked, expected, strict=True):
        values = [value for row in rows for value in row] + (list(each.probabilities) if every else [])
        assert cells == [path, *map(str, values)]


def test_json_without_predictions_is_an_empty_list(run: Path) -> None:
    code, out, err = run_command(predict.main, run, "gone", "--json")
    assert (code, json.loads(out)) == (2, [])
    assert err == "gone: no such file\n"


@pytest.mark.parametrize(("out", "reason"), [("full", "No space left on device"), ("closed", "Bad file descriptor")])
def test_predictions_that_cannot_be_printed_are_one_line(
    out: str, reason: str, run: Path, image_files: list[str], warm: WarmServer
) -> None:
    ended = warm.start(call_redirected, out, "kept", "predict", str(run), *image_files).wait()
    assert (ended.code, ended.err) == (2, f"standard output: {reason}\n")


# --- after training ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("classes", ["[]", "['cat','ant']"])
def test_predictions_are_those_of_the_loaded_classifier(classes: str) -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run", "--set", f"data.classes={classes}")
    files = [f"pets/test/{name}/{number}.png" for name in ("ant", "bee", "cat") for number in (3, 1)]
    expected = fcnet.load("run").predict_images(files)
    assert len({prediction.class_name for prediction in expected}) > 1
    listed = json.loads(command_output(predict.main, "run", *files, "--json"))
    assert listed == [
        {"path": file, "class": prediction.class_name, "probability": prediction.probability}
        for file, prediction in zip(files, expected, strict=True)
    ]
    assert [list(row) for row in listed] == [["path", "class", "probability"]] * 6
    assert command_output(predict.main, "run", *files).splitlines() == [
        f"{file}: {prediction.class_name} ({prediction.probability:.1%})"
        for file, prediction in zip(files, expected, strict=True)
    ]


@pytest.mark.usefixtures("pets")
def test_a_file_name_that_is_not_utf8_is_predicted_like_any_other() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run")
    name = "k\udce4fer.png"
    Path("pets/test/bee/0.png").rename(name)
    (row,) = json.loads(command_output(predict.main, "run", name, "--json"))
    assert row["path"] == name
    assert command_output(predict.main, "run", name).startswith(r"k\udce4fer.png: ")
