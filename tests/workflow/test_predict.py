"""What ``predict`` finds, says and refuses: odd pictures, folders, archives, pipes, and the forms of its answers."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import select
import struct
import subprocess
import sys
import tarfile
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import fcnet
from fcnet import cli, predict
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.mlp import LogisticRegression

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

CLASSES = ("cat", "köttur", "path", "猫")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.2)
SIDE = 16
# Four blocks of colour, no two alike and none where a mirror or a turn would put another.
BLOCKS = np.array([[[250, 10, 30], [20, 240, 60]], [[60, 60, 200], [255, 255, 255]]], dtype=np.uint8)
COLOURS = BLOCKS.repeat(8, 0).repeat(8, 1)


# --- a network whose answers are known --------------------------------------------------------------------------


def saved_network(folder: Path, *, resize: bool = False) -> Path:
    """A run's folder with a network of drawn weights for 16×16 pixels in colour."""
    draws = torch.Generator().manual_seed(5)
    model = LogisticRegression(3 * SIDE * SIDE, len(CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=draws))
    network = ImageClassifier(
        model,
        classes=CLASSES,
        shape=(3, SIDE, SIDE),
        mean=torch.tensor(MEAN),
        std=torch.tensor(STD),
        resize=resize,
    )
    folder.mkdir()
    network.save(folder / "model", {})
    return folder


def probabilities(run: Path, pixels: Pixels) -> npt.NDArray[np.float64]:
    """Those of one image (H, W, 3), by the formula in float64."""
    state = {name: tensor.double().numpy() for name, tensor in fcnet.load(run).model.state_dict().items()}
    x = ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1).ravel()
    scores = state["layers.0.weight"] @ x + state["layers.0.bias"]
    shares = np.exp(scores - scores.max())
    return np.asarray(shares / shares.sum())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_network(tmp_path / "run")


@pytest.fixture
def resizing(tmp_path: Path) -> Path:
    return saved_network(tmp_path / "resizing", resize=True)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Runs the command in this process: its exit code, and what it said on both outputs."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as leaving:
            cli.run_command(predict.main)
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    return run


# --- odd pictures -----------------------------------------------------------------------------------------------


def saved(image: Image.Image, form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def colours(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(COLOURS).convert(mode)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(size: tuple[int, int], depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG by its specification: ``kind`` 0 grey, 2 colour."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_alpha(levels: tuple[int, int, int, int]) -> Image.Image:
    image = colours("RGBA")
    alpha = np.array(levels, dtype=np.uint8).reshape(2, 2).repeat(8, 0).repeat(8, 1)
    image.putalpha(Image.fromarray(alpha))
    return image


def over_white(levels: tuple[int, int, int, int], pixels: Pixels = COLOURS) -> Pixels:
    share = np.array(levels).reshape(2, 2, 1).repeat(8, 0).repeat(8, 1) / 255
    return np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)


def see_through_palette() -> tuple[bytes, Pixels]:
    places = np.arange(4, dtype=np.uint8).reshape(2, 2).repeat(8, 0).repeat(8, 1)
    image = Image.fromarray(places).convert("P")
    image.putpalette([int(value) for value in BLOCKS.ravel()])
    expected = COLOURS.copy()
    expected[:8, 8:] = 255
    return saved(image, "PNG", transparency=1), expected


def turned(form: str, orientation: int, **how: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(colours(), form, exif=exif, **how)


def animated(form: str, **how: Any) -> bytes:
    return saved(colours(), form, save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE), (1, 2, 3))], **how)


GREY = np.stack([np.rint(COLOURS @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)] * 3, axis=2)
BITS = np.where(GREY > 127, 255, 0).astype(np.uint8)
INKS = np.stack([255 - np.array(colours("CMYK"))[..., channel] for channel in range(3)], axis=2)
ALPHA = (255, 128, 0, 64)
NO_IMAGE = r"must be an image \(JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP\), got something else"
SIZE = r"must be an image of 3×16×16 \(channels, height, width\), got "
JPEG = {"quality": 100, "subsampling": 0}


@dataclass(frozen=True)
class Odd:
    """One picture: what is odd about it, the file, and its pixels as they are to be seen or what is said of it."""

    kind: str
    content: bytes
    expected: Pixels | str


ODD = [
    Odd("grey PNG", saved(colours("L"), "PNG"), GREY),
    Odd("grey JPEG", saved(colours("L"), "JPEG", **JPEG), GREY),
    Odd("JPEG", saved(colours(), "JPEG", **JPEG), COLOURS),
    Odd("progressive JPEG", saved(colours(), "JPEG", progressive=True, **JPEG), COLOURS),
    Odd("BMP", saved(colours(), "BMP"), COLOURS),
    Odd("PPM", saved(colours(), "PPM"), COLOURS),
    Odd("PGM", saved(colours("L"), "PPM"), GREY),
    Odd("WebP", saved(colours(), "WEBP", lossless=True), COLOURS),
    Odd("TIFF", saved(colours(), "TIFF", compression="tiff_lzw"), COLOURS),
    Odd("GIF", saved(colours().quantize(8), "GIF"), COLOURS),
    Odd("one bit", saved(Image.fromarray(BITS[..., 0]).convert("1"), "PNG"), BITS),
    Odd("palette", saved(colours().quantize(8), "PNG"), COLOURS),
    Odd("palette with a transparent colour", *see_through_palette()),
    Odd("alpha", saved(with_alpha(ALPHA), "PNG"), over_white(ALPHA)),
    Odd("WebP with alpha", saved(with_alpha(ALPHA), "WEBP", lossless=True, exact=True), over_white(ALPHA)),
    Odd("grey and alpha", saved(with_alpha(ALPHA).convert("LA"), "PNG"), over_white(ALPHA, GREY)),
    Odd("CMYK JPEG", saved(colours("CMYK"), "JPEG", **JPEG), INKS),
    Odd("CMYK TIFF", saved(colours("CMYK"), "TIFF"), INKS),
    Odd("turned right by EXIF", turned("JPEG", 6, **JPEG), np.rot90(COLOURS, -1)),
    Odd("turned over by EXIF", turned("PNG", 3), np.rot90(COLOURS, 2)),
    Odd("mirrored by EXIF", turned("WEBP", 2, lossless=True), COLOURS[:, ::-1]),
    Odd("animated GIF", animated("GIF"), COLOURS),
    Odd("animated PNG", animated("PNG"), COLOURS),
    Odd("animated WebP", animated("WEBP", lossless=True), COLOURS),
    Odd("grey of 16 bits", saved(Image.fromarray(GREY[..., 0].astype(np.uint16) * 256), "PNG"),
        "must have 8 bits a channel, got Pillow's mode I;16"),
    Odd("colour of 16 bits", png((SIDE, SIDE), 16, 2, (b"\0" + bytes(6 * SIDE)) * SIDE),
        "must have 8 bits a channel, got Pillow's mode RGB;16B"),
    Odd("TIFF of floats", saved(Image.fromarray(GREY[..., 0].astype(np.float32)), "TIFF"),
        "must have 8 bits a channel, got Pillow's mode F"),
    Odd("one pixel", saved(Image.new("RGB", (1, 1)), "PNG"), f"{SIZE}3×1×1"),
    Odd("wrong size", saved(Image.new("RGB", (17, 16)), "PNG"), f"{SIZE}3×16×17"),
    Odd("huge", png((100_000, 100_000), 8, 0, b"\0"), r"must be a whole image, got: Image size \(1\d* pixels\) .*"),
    Odd("cut PNG", saved(Image.effect_noise((SIDE, SIDE), 90), "PNG")[:200],
        "must be a whole image, got: image file is truncated.*"),
    Odd("cut JPEG", saved(Image.effect_noise((SIDE, SIDE), 90), "JPEG")[:400],
        "must be a whole image, got: image file is truncated.*"),
    Odd("empty", b"", NO_IMAGE),
    Odd("text", b"not a picture\n", NO_IMAGE),
    Odd("SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='16' height='16'/>", NO_IMAGE),
]  # fmt: skip


def test_odd_pictures_are_of_many_kinds() -> None:
    assert len({odd.kind for odd in ODD}) == len(ODD) >= 30


@pytest.mark.parametrize("how", ["file", "folder", "archive", "input"])
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.kind)
def test_an_odd_picture_is_seen_as_in_training_or_refused_by_name(
    odd: Odd, how: str, run: Path, tmp_path: Path, said: Callable[..., tuple[object, str, str]]
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    file = folder / "picture.png"  # which most of them are not
    file.write_bytes(odd.content)
    packed = tmp_path / "odd.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(file, "picture.png")
    argument = {"file": file, "folder": folder, "archive": packed, "input": Path("-")}[how]
    name = {"file": file, "folder": file, "archive": packed / "picture.png", "input": Path("-")}[how]
    code, out, err = said(run, argument, "--json", "--probabilities", stdin=odd.content)
    rows = json.loads(out)
    if isinstance(odd.expected, str):
        assert (code, rows) == (2, [])
        assert re.fullmatch(f"{re.escape(str(name))} {odd.expected}\n", err), err
        return
    assert (code, err) == (0, "")
    (row,) = rows
    assert row["path"] == str(name)
    expected = probabilities(run, odd.expected)
    near = 0.02 if odd.content[:2] == b"\xff\xd8" else 2e-3  # what JPEG rounds; elsewhere a level of luma or alpha
    assert list(row["probabilities"]) == list(CLASSES)
    np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=near)
    assert row["probability"] == max(row["probabilities"].values())


def test_the_odd_pictures_are_told_apart_by_the_network(run: Path) -> None:
    shown = [odd.expected for odd in ODD if not isinstance(odd.expected, str)]
    distinct = {pixels.tobytes(): probabilities(run, pixels) for pixels in shown}
    rows = list(distinct.values())
    gaps = [np.abs(one - other).max() for place, one in enumerate(rows) for other in rows[:place]]
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
def test_where_training_resized_pictures_of_every_size_are_taken(
    size: tuple[int, int],
    expected: Pixels,
    resizing: Path,
    tmp_path: Path,
    said: Callable[..., tuple[object, str, str]],
) -> None:
    width, height = size
    if expected is COLOURS:  # the middle, and beside it what is to be cut off
        image = Image.new("RGB", size, (123, 45, 67))
        side = min(size)
        middle = colours().resize((side, side), Image.Resampling.NEAREST)
        image.paste(middle, ((width - side) // 2, (height - side) // 2))
    else:
        image = Image.new("RGB", size, (200, 200, 200))
    image.save(tmp_path / "picture.png")
    code, out, err = said(resizing, tmp_path / "picture.png", "--json", "--probabilities")
    assert (code, err) == (0, "")
    found = list(json.loads(out)[0]["probabilities"].values())
    np.testing.assert_allclose(found, probabilities(resizing, expected), atol=0.01)  # the filter rings at edges


# --- many of them -----------------------------------------------------------------------------------------------


def test_broken_pictures_cost_the_others_nothing(
    run: Path, tmp_path: Path, said: Callable[..., tuple[object, str, str]]
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.png").write_bytes(b"broken" if number % 10 == 3 else saved(colours(), "PNG"))
    code, out, err = said(run, folder, "--batch-size", 4)
    assert code == 2
    assert [line.split(": ")[0] for line in out.splitlines()] == [
        f"{folder}/{number:02}.png" for number in range(30) if number % 10 != 3
    ]
    assert [line.split(" must")[0] for line in err.splitlines()] == [
        *(f"{folder}/{number:02}.png" for number in (3, 13, 23)),
        "3 of 30 could not be predicted",
    ]


def test_what_is_named_is_answered_in_order_and_what_is_missing_is_said(
    run: Path, tmp_path: Path, said: Callable[..., tuple[object, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.png", "in/a/z.PNG", "in/a/deep/x.jpeg", "in/.hidden.png", "in/notes.txt", "one"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(saved(colours(), "PNG"))
    Path("empty").mkdir()
    with tarfile.open("all.tar.gz", "w:gz") as archive:
        archive.add("in/b.png", "./d/b.png")
        archive.add("in/notes.txt", "notes.txt")
        archive.add("in/a/z.PNG", "z.PNG")
    code, out, err = said(run, "one", "in", "gone", "all.tar.gz", "empty", "./one")
    assert code == 2
    assert [line.split(": ")[0] for line in out.splitlines()] == [
        *("one", "in/a/deep/x.jpeg", "in/a/z.PNG", "in/b.png", "all.tar.gz/d/b.png", "all.tar.gz/z.PNG", "./one")
    ]
    assert err.splitlines() == [
        "gone must be a whole image, got: No such file or directory",
        "empty must hold an image, found none",
        "2 of 9 could not be predicted",
    ]


@pytest.mark.parametrize("form", ["w", "w:gz", "w:xz", "w:bz2"])
def test_an_archive_through_a_pipe_is_read_like_one_that_is_named(
    form: str, run: Path, said: Callable[..., tuple[object, str, str]]
) -> None:
    file = io.BytesIO()
    content = saved(colours(), "PNG")
    with tarfile.open(fileobj=file, mode=form) as archive:  # type: ignore[call-overload]
        for name in ("b.png", "a/a.png"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    code, out, err = said(run, "-", "--csv", stdin=file.getvalue())
    assert (code, err) == (0, "")
    assert [row["path"] for row in csv.DictReader(io.StringIO(out))] == ["-/b.png", "-/a/a.png"]


def test_a_named_pipe_is_read_like_standard_input(
    run: Path, tmp_path: Path, said: Callable[..., tuple[object, str, str]]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[saved(colours(), "PNG")])
    writer.start()
    code, out, err = said(run, pipe)
    writer.join()
    assert (code, err, out.split(": ")[0]) == (0, "", str(pipe))


def test_answers_do_not_wait_for_the_last_picture_and_end_when_nobody_reads(run: Path, tmp_path: Path) -> None:
    """Of two batches the first is answered while the second's picture, a pipe nobody writes to, is waited for."""
    (tmp_path / "a.png").write_bytes(saved(colours(), "PNG"))
    os.mkfifo(tmp_path / "pipe")
    paths = map(str, (run, tmp_path / "a.png", tmp_path / "pipe"))
    command = [sys.executable, "-m", "fcnet.predict", *paths, "--batch-size", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(fcnet.__file__).parents[1]), "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        came, _, _ = select.select([process.stdout], [], [], 60)
        if not came:
            process.kill()
        assert process.stdout.readline().startswith(f"{tmp_path}/a.png: ".encode())
        process.stdout.close()
        (tmp_path / "pipe").write_bytes(saved(colours(), "PNG"))
        assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")


# --- the forms of the answers -----------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Two pictures, one of a name that CSV and JSON must quote."""
    (tmp_path / "a.png").write_bytes(saved(colours(), "PNG"))
    (tmp_path / 'b,"ü".png').write_bytes(saved(Image.fromarray(np.rot90(COLOURS).copy()), "PNG"))
    return [str(tmp_path / "a.png"), str(tmp_path / 'b,"ü".png')]


@pytest.mark.parametrize("top", [1, 2, 4])
@pytest.mark.parametrize("every", [False, True])
def test_the_forms_say_the_same(
    top: int, every: bool, run: Path, pictures: list[str], said: Callable[..., tuple[object, str, str]]
) -> None:
    expected = fcnet.load(run).predict_images(pictures)
    ranked = [sorted(zip(CLASSES, each.probabilities, strict=True), key=lambda row: -row[1])[:top] for each in expected]
    flags = ["--top", str(top), *(["--probabilities"] if every else [])]
    _, out, _ = said(run, *pictures, *flags)
    for line, path, rows, each in zip(out.splitlines(), pictures, ranked, expected, strict=True):
        best = ", ".join(f"{name} ({p:.1%})" for name, p in rows)
        others = ", ".join(f"{name} {p:.1%}" for name, p in zip(CLASSES, each.probabilities, strict=True))
        assert line == f"{path}: {best}" + (f"; {others}" if every else "")

    _, out, _ = said(run, *pictures, *flags, "--json")
    assert json.loads(out) == [
        {"path": path, "class": each.class_name, "probability": each.probability}
        | ({"top": [{"class": name, "probability": p} for name, p in rows]} if top > 1 else {})
        | ({"probabilities": dict(zip(CLASSES, each.probabilities, strict=True))} if every else {})
        for path, rows, each in zip(pictures, ranked, expected, strict=True)
    ]

    _, out, _ = said(run, *pictures, *flags, "--csv")
    head, *lines = csv.reader(io.StringIO(out))
    more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("class", "probability")]
    assert head == ["path", "class", "probability", *more, *([f"p_{name}" for name in CLASSES] if every else [])]
    assert len(set(head)) == len(head)
    for cells, path, rows, each in zip(lines, pictures, ranked, expected, strict=True):
        values = [value for row in rows for value in row] + (list(each.probabilities) if every else [])
        assert cells == [path, *map(str, values)]


def test_no_answer_at_all_is_an_empty_list(run: Path, said: Callable[..., tuple[object, str, str]]) -> None:
    code, out, err = said(run, "gone", "--json")
    assert (code, json.loads(out)) == (2, [])
    assert err == "gone must be a whole image, got: No such file or directory\n"
