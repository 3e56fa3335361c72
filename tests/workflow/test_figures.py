"""The command that draws."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from fcnet.config.toml import load_config
from fcnet.experiment.build import preview
from fcnet.figures import __main__ as figures
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CONFIG = """
[data]
source = "synthetic"
shape = [3, 8, 8]
train_size = 60
num_classes = 4
whiten = 5
augment = { flip = true, rotate = 20, mixup = 0.4 }
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "made.toml"
    file.write_text(CONFIG)
    return file


def test_there_is_a_sheet_of_all_changes_and_one_of_each(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "sheets"
    assert figures.main([str(folder), "--augment", str(config)]) == 0
    expected = [folder / f"augment{kind}.png" for kind in ("", "-flip", "-rotate", "-mixup")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in expected]
    assert sorted(folder.iterdir()) == sorted(expected)
    sheets = []
    for path in expected:
        with Image.open(path) as image:
            image.load()
            sheets.append(image.tobytes())
    assert len(set(sheets)) == 4


def test_what_is_set_counts_and_sheets_take_the_place_of_older_ones(config: Path, tmp_path: Path) -> None:
    assert figures.main([str(tmp_path), "--augment", str(config)]) == 0
    before = (tmp_path / "augment.png").read_bytes()
    flags = ["--set", "data.augment={ flip = true }", "--set", "seed=3"]
    assert figures.main([str(tmp_path), "--augment", str(config), *flags]) == 0
    assert (tmp_path / "augment.png").read_bytes() != before


@pytest.mark.parametrize(
    ("classes", "shown"), [((), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]), (("3", "1"), [3] * 5 + [1] * 5)]
)
def test_shown_are_pixels_of_training_images_of_each_class_before_whitening(
    classes: tuple[str, ...], shown: list[int], config: Path
) -> None:
    names, kinds = preview(load_config(config, [f"data.classes={list(classes)}", "data.validation=0.2"]))
    assert names == [str(label) for label in shown]
    assert list(kinds) == ["", "flip", "rotate", "mixup"]
    for batches in kinds.values():
        (batch,) = batches
        assert batch.images.shape == (len(shown), 3, 8, 8)
        pixels = batches.images[batches.rows]
        assert_close(batch.images, pixels / 255)
        assert len(batches) == 1
    (flipped,) = kinds["flip"].epoch(0, 0, shuffle=False)
    (plain,) = kinds["flip"]
    mirrored = (flipped.images == plain.images.flip(-1)).flatten(1).all(1)
    as_it_was = (flipped.images == plain.images).flatten(1).all(1)
    assert bool((mirrored | as_it_was).all())
    assert 0 < int(mirrored.sum()) < len(shown)


def test_each_row_is_of_one_image_first_as_it_is(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets: list[list[Tensor]] = []

    def note(columns: list[Tensor], **names: object) -> bytes:
        sheets.append(columns)
        return b""

    monkeypatch.setattr(figures, "image_grid", note)
    figures.main([str(tmp_path), "--augment", str(config), "--set", "data.augment={ flip = true }"])
    for first, *others in sheets:
        assert len(others) == 7
        for row, original in enumerate(first):
            assert all(
                torch.equal(other[row], original) or torch.equal(other[row], original.flip(-1)) for other in others
            )
            assert any(not torch.equal(other[row], original) for other in others)


def test_many_classes_make_no_endless_sheet(config: Path) -> None:
    names, _ = preview(load_config(config, ["data.num_classes=60"]))
    assert names == [str(label) for label in range(10)]


def test_drawing_leaves_torchs_own_numbers_alone(config: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    figures.main([str(tmp_path), "--augment", str(config)])
    assert torch.equal(torch.get_rng_state(), before)


# --- the lecture's ----------------------------------------------------------------------------------------------

LECTURE = [
    f"{name}-{theme}.{form}"
    for name in (
        "sigmoid", "saturation", "activations", "losses", "links", "neuron", "network", "forward-pass", "samples",
        "weights", "between", "generalisation", "descent",
    )
    for theme in ("light", "dark")
    for form in ("svg", "png")
]  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """The figures as this process and another one draw them."""

    here: dict[str, bytes]
    there: dict[str, bytes]
    said: str
    generator_kept: bool


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    folder = tmp_path_factory.mktemp("lecture")
    here, there = folder / "here", folder / "there"
    elsewhere = {"FCNET_CACHE": str(folder / "cache"), "PYTHONHASHSEED": "1", "MPLCONFIGDIR": str(folder)}
    (folder / "matplotlibrc").write_text("font.size: 30\n")
    program = [sys.executable, "-W", "error", "-m", "fcnet.figures", str(there)]
    with (
        subprocess.Popen(program, env=os.environ | elsewhere, stdout=subprocess.PIPE, text=True) as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("FCNET_CACHE", str(folder / "cache"))
        before = torch.get_rng_state()
        figures.main([str(here)])
        kept = torch.equal(torch.get_rng_state(), before)
        said, _ = other.communicate(timeout=300)
    files = [{path.name: path.read_bytes() for path in place.iterdir()} for place in (here, there)]
    return Drawn(files[0], files[1], said.replace(f"{there}{os.sep}", ""), kept)


def test_every_figure_of_the_lecture_is_there_in_both_themes_and_formats(drawn: Drawn) -> None:
    assert sorted(drawn.here) == sorted(LECTURE)
    assert drawn.said.splitlines() == LECTURE
    assert drawn.generator_kept


def test_another_process_with_another_hash_seed_and_other_settings_draws_the_same_bytes(drawn: Drawn) -> None:
    assert [name for name in LECTURE if drawn.here[name] != drawn.there[name]] == []
    assert len(set(drawn.here.values())) == len(LECTURE)


@pytest.mark.parametrize("name", LECTURE)
def test_a_figure_is_whole_and_needs_nothing_from_elsewhere(name: str, drawn: Drawn) -> None:
    data = drawn.here[name]
    if name.endswith("png"):
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.width == 960
            assert set(image.info) <= {"dpi"}
            corner = image.convert("L").tobytes()[0]
        assert corner == 255 if "light" in name else corner < 40
        return
    root = ET.fromstring(data)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "text", "foreignObject"}  # letters are outlines: no font is asked for
    links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert b"<dc:date" not in data
    assert re.search(rb"url\((?!#)", data) is None


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    monkeypatch.setattr(figures, "drawings", lambda: pytest.fail("it was computed"))
    with pytest.raises(UserError, match=rf"^DIR must be a folder that can be written to, got {tmp_path}$"):
        figures.main([str(tmp_path)])
    assert not list(tmp_path.iterdir())
