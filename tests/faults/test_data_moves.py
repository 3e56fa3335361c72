"""A run resumes on data that lie elsewhere or were written again, and says what it was trained on if they differ."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tarfile
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fcnet import train
from fcnet.config.toml import dump_config, load_config
from fcnet.data.sources import image_folder
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import run_experiment
from tests.faults.rounds import repeated
from tests.faults.runs import CONFIG
from tests.helpers import advance_run, run_command, run_result, set_flags, write_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fcnet.config.schema import Config

    Images: TypeAlias = dict[tuple[str, str, int], npt.NDArray[np.uint8]]

pytestmark = pytest.mark.usefixtures("isolated_cache")
CPU = torch.device("cpu")
SOURCES = {"folder": "images", "tar": "images", "npz": "arrays"}
LAST_STEP = 12


def draw_images() -> Images:
    """Draws images by split, class and number."""
    draws = np.random.default_rng(0)
    counts = {"train": 24, "test": 5}
    keys = [(split, name, i) for split in counts for name in ("ant", "bee") for i in range(counts[split])]
    return {key: draws.integers(256, size=(5, 4), dtype=np.uint8) for key in keys}


def write_data(path: Path, source: str, images: Images) -> None:
    """Writes images as a folder, a tar archive of one, or an ``.npz`` file."""
    if source == "npz":
        classes = sorted({name for _, name, _ in images})
        arrays = {"classes": np.array(classes)}
        for split in ("train", "test"):
            parts = [(classes.index(name), pixels) for (each, name, _), pixels in images.items() if each == split]
            arrays[f"y_{split}"] = np.array([label for label, _ in parts])
            arrays[f"x_{split}"] = np.stack([pixels for _, pixels in parts])
        np.savez(path, **arrays)  # type: ignore[arg-type] # its flag allow_pickle takes no array
        return
    folder = path if source == "folder" else path.with_suffix("")
    for (split, name, number), pixels in images.items():
        write_image(folder / split / name / f"{number}.png", pixels)
    if source == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(folder, ".")
        shutil.rmtree(folder)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def first_file(path: Path) -> Path:
    return path / "train" / "ant" / "3.png" if path.is_dir() else path


def copy_and_rename(path: Path) -> None:
    other = path.with_name(f"copy-{path.name}")
    copy(path, other)
    remove(path)
    other.rename(path)


def replace_by_link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere") / path.name
    elsewhere.parent.mkdir()
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


MOVES: dict[str, Callable[[Path], object]] = {
    "copied": copy_and_rename,
    "touched": lambda path: first_file(path).touch(),
    "dated": lambda path: os.utime(first_file(path), (1, 1)),
    "chmod": lambda path: first_file(path).chmod(0o600),
    "linked": replace_by_link,
    "without cache": lambda path: shutil.rmtree(os.environ["FCNET_CACHE"]),
    "another decoder": lambda path: None,
    "moved": lambda path: path.rename(path.with_name(f"moved-{path.name}")),
}


class Stage:
    """A run of some data, stopped after a step."""

    def __init__(self, folder: Path, source: str, step: int) -> None:
        folder.mkdir()
        self.source, self.path = source, folder / f"data{'' if source == 'folder' else f'.{source}'}"
        write_data(self.path, source, draw_images())
        file = folder / "config.toml"
        file.write_text(CONFIG)
        changes = [f"data.source={SOURCES[source]}", "data.validation=0", "train.epochs=2", f"data.path={self.path}"]
        self.config: Config = load_config(file, changes)
        whole = Run.create(folder / "whole", "whole", dump_config(self.config))
        advance_run(build(self.config, CPU), whole)
        self.expected = run_result(whole.path)
        self.run = Run.create(folder / "run", "run", dump_config(self.config))
        advance_run(build(self.config, CPU), self.run, until=step)

    def resume(self, *flags: str) -> str:
        """Resumes the run by the command; returns its line of error, empty for none."""
        code, _, err = run_command(train.main, "--resume", "--out", self.run.path, "--device", "cpu", *flags)
        assert code == (2 if err else 0)
        return err

    def differences(self) -> list[str]:
        """Returns in what the resumed run differs from the uninterrupted one."""
        result = run_result(self.run.path)
        # The configuration of a moved run names the new place.
        result["files"].pop("config.toml")
        expected = {**self.expected, "files": {**self.expected["files"]}}
        expected["files"].pop("config.toml")
        return [key for key in expected if expected[key] != result[key]]


@repeated(short=4, long=1000)
def test_a_run_resumes_wherever_and_whenever_its_data_were_written(
    count: int, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """The long form takes each source, each change, and a stop after each step."""
    cases = list(itertools.product(SOURCES, MOVES, range(1, LAST_STEP + 1)))
    failures = []
    chosen = random.Random(0).sample(cases, min(count, len(cases)))
    for number, (source, move, step) in enumerate(chosen):
        stage = Stage(tmp_path / str(number), source, step)
        MOVES[move](stage.path)
        found = []
        flags: list[str] = []
        if move == "moved":
            refused = stage.resume()
            found += [] if f"{stage.path}: no such file" in refused else [refused]
            flags = set_flags(f"data.path={stage.path.with_name(f'moved-{stage.path.name}')}")
        with pytest.MonkeyPatch.context() as patch:
            if move == "another decoder":
                patch.setattr(image_folder, "version", lambda _: "99.0")
            error = stage.resume(*flags)
        found += [error] if error else stage.differences()
        failures += [f"{source}, {move}, after step {step}: {found}"] if found else []
        shutil.rmtree(tmp_path / str(number))
    figures("data moved, resumed", moves=len(chosen), different=len(failures))
    assert failures == []


def change_pixels(images: Images) -> None:
    images["train", "bee", 7][2, 3] ^= 1


def swap_labels(images: Images) -> None:
    first, second = ("train", "ant", 1), ("train", "bee", 1)
    images[first], images[second] = images[second], images[first]


def rename_class(images: Images) -> None:
    for split, name, number in list(images):
        if name == "bee":
            images[split, "cow", number] = images.pop((split, name, number))


CHANGES: dict[str, tuple[Callable[[Images], object], str]] = {
    "pixels": (change_pixels, "it has as many images, but other pixels or labels"),
    "labels": (swap_labels, "it has as many images, but other pixels or labels"),
    "number": (
        lambda images: images.pop(("train", "ant", 5)),
        "it had 48 training and 10 test images, and has 47 training and 10 test images now",
    ),
    "class": (rename_class, "its classes are without bee and with cow"),
    "shape": (
        lambda images: images.update({key: pixels[:4] for key, pixels in images.items()}),
        "images had the shape 1×5×4, and have 1×4×4 now",
    ),
}


@repeated(short=3, long=1000)
def test_a_run_names_the_change_of_its_data_and_resumes_when_it_is_undone(
    count: int, tmp_path: Path, figures: Callable[..., None]
) -> None:
    cases = list(itertools.product(SOURCES, CHANGES, (1, 6, LAST_STEP)))
    failures = []
    chosen = random.Random(1).sample(cases, min(count, len(cases)))
    for number, (source, name, step) in enumerate(chosen):
        stage = Stage(tmp_path / str(number), source, step)
        change, reason = CHANGES[name]
        images = draw_images()
        change(images)
        stage.path.rename(stage.path.with_name("before"))
        write_data(stage.path, source, images)
        place = f"{stage.run.path} was trained on other data than this (data.path: {stage.path})"
        expected = f"{place}: {reason}; --set data.path=PATH names another place\n"
        refused = stage.resume()
        found = [] if refused == expected else [refused]
        remove(stage.path)
        stage.path.with_name("before").rename(stage.path)
        error = stage.resume()
        found += [error] if error else stage.differences()
        failures += [f"{source}, {name}, after step {step}: {found}"] if found else []
        shutil.rmtree(tmp_path / str(number))
    figures("data changed, refused and resumed", changes=len(chosen), wrong=len(failures))
    assert failures == []


def test_a_run_names_the_changed_setting_and_resumes_when_it_is_undone(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", "npz", 5)
    before = stage.run.config.read_bytes()
    stage.run.config.write_bytes(before.replace(b"lr = 0.01", b"lr = 0.02"))
    rule = f"optimizer.lr ({stage.run.config}) must be 0.01 as when the run began, got 0.02\n"
    assert stage.resume() == rule
    stage.run.config.write_bytes(before)
    assert stage.resume() == ""
    assert stage.differences() == []


@pytest.mark.parametrize("package", ["fcnet", "torch"])
def test_a_run_names_another_version_of_a_package_and_resumes(package: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", "npz", 5)
    tensors, metadata = stage.run.checkpoints.latest() or ({}, {})
    stage.run.checkpoints.save(5, tensors, metadata | {package: "0.0.1"})
    notes: list[str] = []
    list(run_experiment(build(stage.config, CPU), stage.run, save_seconds=1e9, note=notes.append))
    installed = torch.__version__ if package == "torch" else version(package)
    said = f"{stage.run.path} was saved by {package} 0.0.1 and continues with {package} {installed}"
    assert notes == [f"{said}; the result may not be that of one version to the last bit"]
    assert stage.differences() == []
