"""The figures command: augmentation grids and the lecture's figures."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.testing import assert_close

from fcnet.config.toml import load_config
from fcnet.experiment.build import preview
from fcnet.figures import __main__ as figures
from fcnet.figures.style import LIGHT
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


def test_augment_draws_a_grid_of_all_augmentations_and_one_of_each(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "grids"
    assert figures.main([str(folder), "--augment", str(config)]) == 0
    kinds = ("", "-flip", "-rotate", "-mixup")
    expected = [folder / f"augment{kind}-{theme}.png" for kind in kinds for theme in ("light", "dark")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in expected]
    assert sorted(folder.iterdir()) == sorted(expected)
    grids = []
    for path in expected:
        with Image.open(path) as image:
            image.load()
            grids.append(image.tobytes())
    assert len(set(grids)) == 8


def test_mixed_images_have_their_labels_with_the_weights_of_the_loss(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def draw(columns: list[Tensor], **arguments: Any) -> Figure:
        seen.append(arguments | {"columns": columns})
        return Figure(figsize=(1.0, 1.0))

    monkeypatch.setattr(figures, "image_grid", draw)
    monkeypatch.setattr(figures, "THEMES", (LIGHT,))
    figures.main([str(tmp_path), "--augment", str(config)])
    together, flipped, rotated, mixed = seen
    assert flipped["captions"] == rotated["captions"] == ()
    _, classes, kinds = preview(load_config(config))
    (plain,) = kinds["mixup"]
    (sample,) = kinds["mixup"].epoch(0, 0, shuffle=False)
    assert together["captions"][0] == [f"{classes[label]}: 100%" for label in plain.labels]
    for caption, weights in zip(mixed["captions"][1], sample.target, strict=True):
        lines = dict(line.removesuffix("%").split(": ") for line in caption.split("\n"))
        expected = {classes[label]: weight for label, weight in enumerate(weights.tolist()) if weight >= 0.005}
        assert lines.keys() == expected.keys()
        assert all(abs(float(lines[name]) - 100 * weight) <= 0.5 for name, weight in expected.items())
    assert any("\n" in caption for caption in mixed["captions"][1])


def test_set_overrides_the_configuration_and_grids_replace_older_ones(config: Path, tmp_path: Path) -> None:
    assert figures.main([str(tmp_path), "--augment", str(config)]) == 0
    before = (tmp_path / "augment-light.png").read_bytes()
    flags = ["--set", "data.augment={ flip = true }", "--set", "seed=3"]
    assert figures.main([str(tmp_path), "--augment", str(config), *flags]) == 0
    assert (tmp_path / "augment-light.png").read_bytes() != before


@pytest.mark.parametrize(
    ("classes", "labels"), [((), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]), (("3", "1"), [3] * 5 + [1] * 5)]
)
def test_grids_show_unwhitened_training_images_of_each_class(
    classes: tuple[str, ...], labels: list[int], config: Path
) -> None:
    names, _, kinds = preview(load_config(config, [f"data.classes={list(classes)}", "data.validation=0.2"]))
    assert names == [str(label) for label in labels]
    assert list(kinds) == ["", "flip", "rotate", "mixup"]
    for batches in kinds.values():
        (batch,) = batches
        assert batch.images.shape == (len(labels), 3, 8, 8)
        pixels = batches.images[batches.rows]
        assert_close(batch.images, pixels / 255)
        assert len(batches) == 1
    (flipped,) = kinds["flip"].epoch(0, 0, shuffle=False)
    (plain,) = kinds["flip"]
    mirrored = (flipped.images == plain.images.flip(-1)).flatten(1).all(1)
    unchanged = (flipped.images == plain.images).flatten(1).all(1)
    assert bool((mirrored | unchanged).all())
    assert 0 < int(mirrored.sum()) < len(labels)


def test_each_row_shows_one_image_first_unchanged(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[list[Tensor]] = []

    def record(columns: list[Tensor], **names: object) -> Figure:
        grids.append(columns)
        return Figure(figsize=(1.0, 1.0))

    monkeypatch.setattr(figures, "image_grid", record)
    figures.main([str(tmp_path), "--augment", str(config), "--set", "data.augment={ flip = true }"])
    for first, *others in grids:
        assert len(others) == 7
        for row, original in enumerate(first):
            assert all(
                torch.equal(other[row], original) or torch.equal(other[row], original.flip(-1)) for other in others
            )
            assert any(not torch.equal(other[row], original) for other in others)


def test_a_grid_shows_at_most_ten_classes(config: Path) -> None:
    names, *_ = preview(load_config(config, ["data.num_classes=60"]))
    assert names == [str(label) for label in range(10)]


def test_drawing_does_not_change_torchs_random_state(config: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    figures.main([str(tmp_path), "--augment", str(config)])
    assert torch.equal(torch.get_rng_state(), before)


# --- the lecture's figures ----------------------------------------------------------------------------------------

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
class LectureFigures:
    """The figures as drawn by this process and by another one."""

    here: dict[str, bytes]
    there: dict[str, bytes]
    printed: str
    random_state_unchanged: bool


@pytest.fixture(scope="module")
def lecture_figures(tmp_path_factory: pytest.TempPathFactory) -> LectureFigures:
    folder = tmp_path_factory.mktemp("lecture")
    here, there = folder / "here", folder / "there"
    other_settings = {"FCNET_CACHE": str(folder / "cache"), "PYTHONHASHSEED": "1", "MPLCONFIGDIR": str(folder)}
    (folder / "matplotlibrc").write_text("font.size: 30\n")
    command = [sys.executable, "-W", "error", "-m", "fcnet.figures", str(there)]
    with (
        subprocess.Popen(command, env=os.environ | other_settings, stdout=subprocess.PIPE, text=True) as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("FCNET_CACHE", str(folder / "cache"))
        before = torch.get_rng_state()
        figures.main([str(here)])
        unchanged = torch.equal(torch.get_rng_state(), before)
        printed, _ = other.communicate(timeout=300)
    files = [{path.name: path.read_bytes() for path in place.iterdir()} for place in (here, there)]
    return LectureFigures(files[0], files[1], printed.replace(f"{there}{os.sep}", ""), unchanged)


def test_every_lecture_figure_is_written_in_both_themes_and_formats(lecture_figures: LectureFigures) -> None:
    assert sorted(lecture_figures.here) == sorted(LECTURE)
    assert lecture_figures.printed.splitlines() == LECTURE
    assert lecture_figures.random_state_unchanged


def test_figures_are_reproducible_across_processes_hash_seeds_and_matplotlib_settings(
    lecture_figures: LectureFigures,
) -> None:
    assert [name for name in LECTURE if lecture_figures.here[name] != lecture_figures.there[name]] == []
    assert len(set(lecture_figures.here.values())) == len(LECTURE)


@pytest.mark.parametrize("name", LECTURE)
def test_a_figure_is_complete_and_self_contained(name: str, lecture_figures: LectureFigures) -> None:
    data = lecture_figures.here[name]
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
    assert not tags & {"script", "text", "foreignObject"}  # text is drawn as outlines, without fonts
    links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert b"<dc:date" not in data
    assert re.search(rb"url\((?!#)", data) is None


def test_an_unwritable_folder_is_refused_before_the_figures_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root can write everywhere
    monkeypatch.setattr(figures, "lecture_figures", lambda: pytest.fail("the figures were computed"))
    with pytest.raises(UserError, match=rf"^DIR must be a writable folder, got {tmp_path}$"):
        figures.main([str(tmp_path)])
    assert not list(tmp_path.iterdir())
