"""Every user error is one line on standard error and exit code 2, and leaves nothing half-written behind."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from dataclasses import replace as replaced
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from fcnet import cache, evaluate, predict, train
from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import run_experiment
from fcnet.export import __main__ as export
from fcnet.figures import __main__ as figures
from fcnet.report import __main__ as report
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.training.backpropagation import make_gradient_fn
from tests.helpers import (
    CommandResult,
    flip_bit,
    read_tree,
    run_command,
    run_python,
    run_result,
    set_flags,
    write_image_folder,
)
from tests.unit.data.sources.hostile_archives import ZipEntry, zip_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.experiment.build import Experiment

# 37 training images in 5 steps an epoch. The widths differ from each other and from the input's.
CONFIG = """\
seed = 1
[data]
source = "synthetic"
shape = [1, 4, 4]
train_size = 40
test_size = 12
num_classes = 3
[model]
hidden = [6, 5]
[train]
epochs = 2
batch_size = 8
"""
pytestmark = pytest.mark.usefixtures("working_folder")
COMMANDS = {
    "cache": cache.main,
    "export": export.main,
    "train": train.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
    "report": report.main,
    "figures": figures.main,
}
OTHER_DATA = "run was trained on other data than this (data.path: {here}/pets)"
NAME_PLACE = "--set data.path=PATH names another place"
STORE = {"store.json"} | {
    f"{split}_{part}.bin"
    for split in ("train", "validation", "test")
    for part in ("pixels", "labels", "moments", "names", "name_ends")
}
IMAGE = "pets/test/cat/0.png"
PRINTED_MODEL = r"[\d,]+ training, .*; run\n(\d+ of \d+ test images are copies of training images, .*\n)?"

TOO_FAST = ("optimizer.name='sgd'", "optimizer.lr=1e12")
ON_PETS = ("data.source=images", "data.path=pets", "train.batch_size=3")


# --- files that exist before the command ------------------------------------------------------------------------


def write(name: str, content: str | bytes) -> None:
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def draw_image(name: str, size: tuple[int, int] = (4, 4), mode: str = "L", value: int = 0) -> None:
    """Writes an image of one colour."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(name)


def pets(folder: str = "pets", classes: tuple[str, ...] = ("cat", "dog"), size: tuple[int, int] = (4, 4)) -> None:
    """Writes a folder of grey images, six of each class for training and for testing."""
    write_image_folder(
        folder,
        classes,
        {"train": 6, "test": 6},
        lambda label, number: np.full(size[::-1], 40 * number + 20 * label, dtype=np.uint8),
    )


def pack_pets(name: str) -> None:
    """Writes an archive of a folder of pets."""
    pets("inside")
    with tarfile.open(name, "w:gz") as archive:
        archive.add("inside", ".")
    shutil.rmtree("inside")


def zip_pets(name: str) -> None:
    pets("inside")
    shutil.make_archive(name.removesuffix(".zip"), "zip", "inside")
    shutil.rmtree("inside")


def truncate(name: str, kept: float = 0.5) -> None:
    """Truncates a file."""
    content = Path(name).read_bytes()
    write(name, content[: int(len(content) * kept)])


def replace(name: str, old: str, new: str) -> None:
    text = Path(name).read_text()
    assert text.count(old) == 1
    write(name, text.replace(old, new))


def make_run(steps: int, *changes: str) -> Run:
    """Makes a run that saves after each step and is killed after a number of them, if it has not ended before."""
    settings = load_config(Path("made.toml"), changes)
    run = Run.create(Path("run"), "run", dump_config(settings))
    for _ in itertools.islice(run_experiment(build(settings, torch.device("cpu")), run, save_seconds=0.0), steps):
        pass
    return run


def interrupted(*changes: str) -> None:
    assert not make_run(7, *changes).finished


def finished(*changes: str) -> None:
    assert make_run(1000, *changes).finished


def diverged() -> None:
    """Makes a run that saves after each step and ends at NaN or inf."""
    with pytest.raises(NonFiniteError):
        make_run(1000, *TOO_FAST)


def interrupted_on_pets() -> None:
    pets()
    interrupted(*ON_PETS)


def finished_on_pets() -> None:
    pets()
    finished(*ON_PETS)


def rewrite(name: str, old: str, new: str) -> None:
    """Replaces a text in a file, which holds it once."""
    content = Path(name).read_text(encoding="utf-8")
    assert content.count(old) == 1
    write(name, content.replace(old, new))


def setups(*setups: Callable[[], object]) -> Callable[[], object]:
    """Returns a setup that runs several setups in order."""
    return lambda: [setup() for setup in setups]


def damage_checkpoints(how: Callable[[str], object], ending: str) -> None:
    for file in Path("run/checkpoints").glob(f"*.{ending}"):
        how(str(file))


# --- the errors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A command line with an error.

    Attributes:
        kind: describes the error; the test's name.
        command: the command line after ``python -m fcnet.``.
        lines: the lines on standard error; {here} stands for the working folder, and ~ for any text.
        setup: makes the files besides ``made.toml``.
        prints_model: whether the command prints the model before the error.
        trains: whether the command makes a step, and so records itself.
    """

    kind: str
    command: list[str]
    lines: list[str]
    setup: Callable[[], object] = lambda: None
    prints_model: bool = False
    trains: bool = False


def on_train(kind: str, flags: str, *lines: str, setup: Callable[[], object] = lambda: None) -> Case:
    """Returns an error of ``train --config made.toml`` with flags, separated by spaces."""
    return Case(kind, ["train", "--config", "made.toml", *flags.split()], list(lines), setup)


def on_set(kind: str, change: str, *lines: str) -> Case:
    """Returns an error of one ``--set``."""
    return Case(kind, ["train", "--config", "made.toml", "--set", change], list(lines))


def on_config(kind: str, text: str | bytes, *lines: str) -> Case:
    """Returns an error inside the configuration file ``x.toml``."""
    return Case(kind, ["train", "--config", "x.toml"], list(lines), lambda: write("x.toml", text))


def on_images(kind: str, setup: Callable[[], object], *lines: str, path: str = "pets", change: str = "seed=1") -> Case:
    """Returns an error of training on the images of ``pets``."""
    flags = ["--set", "data.source=images", "--set", f"data.path={path}", "--set", change]
    return Case(kind, ["train", "--config", "made.toml", *flags], list(lines), setup)


def arrays(**changes: Any) -> None:
    """Writes ``x.npz`` with eight grey images of 4×4 for training and four for testing; None omits an array."""
    images = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4)
    whole: dict[str, Any] = {
        "x_train": images,
        "y_train": np.arange(8) % 2,
        "x_test": images[:4],
        "y_test": np.arange(4) % 2,
    }
    np.savez("x.npz", **{name: array for name, array in (whole | changes).items() if array is not None})


def on_arrays(kind: str, setup: Callable[[], object], *lines: str) -> Case:
    """Returns an error of training on the arrays of ``x.npz``."""
    flags = ["--set", "data.source=arrays", "--set", "data.path=x.npz"]
    return Case(kind, ["train", "--config", "made.toml", *flags], list(lines), setup)


def on_resume(kind: str, setup: Callable[[], object], *lines: str, flags: str = "", prints_model: bool = True) -> Case:
    """Returns an error of resuming ``run``."""
    return Case(kind, ["train", "--resume", "--out", "run", *flags.split()], list(lines), setup, prints_model)


def on_evaluate(kind: str, flags: str, *lines: str, setup: Callable[[], object] = finished_on_pets) -> Case:
    return Case(kind, ["evaluate", *flags.split()], list(lines), setup)


def on_figures(kind: str, flags: str, *lines: str, setup: Callable[[], object] = lambda: None) -> Case:
    """Returns an error of ``figures sheets --augment made.toml`` with flags, separated by spaces."""
    return Case(kind, ["figures", "sheets", "--augment", "made.toml", *flags.split()], list(lines), setup)


def on_cache(kind: str, flags: str, *lines: str) -> Case:
    return Case(kind, ["cache", *flags.split()], list(lines))


def on_predict(kind: str, flags: str, *lines: str, setup: Callable[[], object] = finished_on_pets) -> Case:
    return Case(kind, ["predict", *flags.split()], list(lines), setup)


def on_export(kind: str, flags: str, *lines: str, setup: Callable[[], object] = finished_on_pets) -> Case:
    return Case(kind, ["export", *flags.split()], list(lines), setup)


SHIPPED = "cifar100_mlp, cifar10_gpu, cifar10_logistic, cifar10_mlp, ~images"
NO_CONFIG = (
    "CONFIG is missing: python -m fcnet.train digits trains the preset digits, python -m fcnet.train --list lists all"
)
FORMATS = "(JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP)"
LAYOUT = "expected train/CLASS/… and test/CLASS/… in {here}/pets"
SUM = "is damaged: its bytes do not match the checksum in"
RUNS = "runs must be a folder, got a file or a broken link; --out DIR names another place"
DEVICES = "--device must be auto, cpu, cuda or another device of torch"
NO_MODEL = (
    "run holds no trained model: model.json is missing; "
    "its training is not finished, python -m fcnet.train --resume run continues it"
)
# 90,000 pixels times 2³¹ units are more bytes than a process has addresses.
LARGE = "--set data.shape=[1,300,300] --set data.train_size=3 --set data.test_size=1"
HOW = "--clean needs exactly one of NAME…, --older-than DAYS and --all"
NAN_ERROR = (
    "NaN or inf in step 3 of 10, first in ~; try optimizer.lr = 3.3e+11 or 1e+11 (now 1e+12), "
    "optimizer.clip_norm = 1, optimizer.warmup_epochs = 1. "
    "Begin a new run: this one keeps its settings and would fail in the same step again"
)
DISK = "cannot write ~cache: the images need 223,338,299,184.0 GiB and ~ GiB are free; lower their number or size"

ERRORS = [
    # flags
    Case("no flag at all", ["train"], [NO_CONFIG]),
    Case("resume without a folder", ["train", "--resume"],
        ["--resume needs a run folder: python -m fcnet.train --resume runs/NAME"]),
    Case("set without config", ["train", "--set", "seed=1"], [NO_CONFIG]),
    on_resume("set and resume without config", interrupted,
        "--set seed=2: a run that continues takes another data.path or train.epochs, nothing else",
        flags="--set seed=2", prints_model=False),
    Case("flag without its value", ["train", "--config"],
        ["--config needs a value: --config CONFIG"]),
    on_train("unknown flag", "--epochs 3", "unknown flag --epochs 3; write --set train.epochs=3"),
    on_train("shortened flag", "--dev cpu", "unknown flag --dev cpu; write --device cpu"),
    on_train("superfluous argument", "more", "CONFIG is given twice, as more and as --config made.toml; leave one out"),
    on_train("unknown device", "--device gpu", f"{DEVICES}, got 'gpu'; write --device cuda"),
    on_train("device without memory", "--device meta", "device meta is not available: ~"),
    # the configuration file
    Case("config absent", ["train", "--config", "x.toml"],
        [f"--config must be a file or one of {SHIPPED}, got x.toml"]),
    Case("config of a name nearly known", ["train", "--config", "digit"],
        [f"--config must be a file or one of {SHIPPED}, got digit; the nearest is digits"]),
    Case("config of a known name in another place", ["train", "--config", "gone/images.toml"],
        [f"--config must be a file or one of {SHIPPED}, got gone/images.toml; the nearest is images"]),
    Case("config behind a link to nowhere", ["train", "--config", "x.toml"],
        [f"--config must be a file or one of {SHIPPED}, got x.toml"], lambda: Path("x.toml").symlink_to("gone")),
    Case("config is a folder", ["train", "--config", "."],
        ["--config must be a file or a preset, got the folder .; for images in it, ~ --set data.path=."]),
    on_config("config is not TOML", "seed = 1\nepochs: 3\n", "x.toml must be TOML: ~line 2~"),
    on_config("number of too many digits", "seed = " + "9" * 5000,
        "x.toml must be TOML: an integer with too many digits"),
    on_config("number of too many digits to be said", "seed = 0x" + "f" * 5000,
        "seed (x.toml:1) must be less than 9223372036854775808, got an integer with too many digits"),
    on_config("lists without an end", "x = " + "[" * 5000, "x.toml must be TOML: ~nested~"),
    on_config("long value", "seed = '" + "x" * 5000 + "'",
        f"seed (x.toml:1) must be an integer, got \"{'x' * 299}…"),
    on_config("key of two lines", '"a\\nb" = 1\n', "\"a\\nb\" (x.toml) is not a known key; known keys are seed, ~"),
    on_config("key without a letter", '"" = 1\n', "\"\" (x.toml:1) is not a known key; known keys are seed, ~"),
    on_config("seed in a section", "[train]\nseed = 1\n",
        "train.seed (x.toml:2) is not a known key; the nearest is seed"),
    on_config("path of two lines", '[data]\nsource = "images"\npath = "a\\nb"\n',
        "data.path (x.toml:3) must be one line of UTF-8 text without NUL characters, got \"a\\nb\""),
    on_config("path with a NUL", '[data]\nsource = "images"\npath = "a\\u0000b"\n',
        "data.path (x.toml:3) must be one line of UTF-8 text without NUL characters, got \"a\\u0000b\""),
    on_config("path with a NUL, and a class of two lines chosen twice",
        '[data]\npath = "\\u0000"\nclasses = ["a\\nb", "a\\nb"]\n',
        "data.path (x.toml:2) must be one line of UTF-8 text without NUL characters, got \"\\u0000\"",
        "data.classes (x.toml:3) must be empty or name two or more different classes, got [\"a\\nb\", \"a\\nb\"]",
        "data.classes (x.toml:3) must be one line of UTF-8 text without NUL characters, got [\"a\\nb\", \"a\\nb\"]"),
    Case("no TOML and a wrong set", ["train", "--config", "x.toml", "--set", "seed", "--set", "model.hidden=[1"],
        ["x.toml must be TOML: ~line 1~", "--set must be section.key=value, got seed",
        "--set model.hidden=[1: the value must be TOML, got [1; write --set 'model.hidden=[1]'"],
        lambda: write("x.toml", "seed: 1\n")),
    on_config("mistakes of several sections and between fields", "[data]\nsource = 'images'\nclasses = ['cat']\n"
        "[model]\nhidden = [3, 4]\nresidual = true\n[optimizer]\nname = 'sgd'\nnesterov = true\nmomentum = 0\n",
        "data.path (x.toml:1) must be set for the source images, got \"\"",
        "data.classes (x.toml:3) must be empty or name two or more different classes, got [\"cat\"]",
        "model.hidden (x.toml:5) must have two adjacent layers of equal width if residual is true, got [3, 4]",
        "optimizer.momentum (x.toml:10) must be greater than 0 if nesterov is true, got 0.0"),
    on_config("key given twice", "seed = 1\nseed = 2\n", "x.toml must be TOML: ~line 2~"),
    on_config("config is not UTF-8", b"# caf\xe9\n",
        "x.toml must be UTF-8 text, got another encoding; save it as UTF-8"),
    on_config("unknown section", "[trian]\nepochs = 3\n", "trian (x.toml:1) is not a known key; the nearest is train"),
    on_config("unknown key", "[train]\n\nepoch = 3\n",
        "train.epoch (x.toml:3) is not a known key; the nearest is train.epochs"),
    on_config("key of another section", "[train]\nlr = 3.0\n",
        "train.lr (x.toml:2) is not a known key; the nearest is optimizer.lr"),
    on_config("value of another type", "[train]\nepochs = '3'\n",
        "train.epochs (x.toml:2) must be an integer, got \"3\"; write 3"),
    on_config("value out of range", "[train]\nepochs = 0\n", "train.epochs (x.toml:2) must be at least 1, got 0"),
    on_config("value that is no number", "[optimizer]\nlr = nan\n", "optimizer.lr (x.toml:2) must be finite, got nan"),
    on_config("value without bound", "[optimizer]\nlr = inf\n", "optimizer.lr (x.toml:2) must be finite, got inf"),
    on_config("unknown choice", "[optimizer]\nname = 'lion'\n",
        "optimizer.name (x.toml:2) must be one of \"sgd\", \"adam\", \"adamw\", \"muon\", \"lbfgs\", got \"lion\""),
    on_config("number in place of a section", "data = 3\n", "data (x.toml:1) must be a section, got 3"),
    on_config("several mistakes at once",
        "sead = 1\n[model]\nhidden = [8, 0]\ndropout = 1\n[train]\nprecision = 'float64'\n",
        "model.hidden.1 (x.toml:3) must be at least 1, got 0",
        "model.dropout (x.toml:4) must be less than 1.0, got 1",
        "train.precision (x.toml:6) must be one of \"float32\", \"tf32\", \"bfloat16\", got \"float64\"; "
        "the nearest is \"float32\"",
        "sead (x.toml:1) is not a known key; the nearest is seed"),
    on_config("no path for images", "[data]\nsource = 'images'\n",
        "data.path (x.toml:1) must be set for the source images, got \"\""),
    on_config("no path for CIFAR-100", "[data]\nsource = 'cifar100'\n",
        "data.path (x.toml:1) must be set for the source cifar100, got \"\""),
    # --set
    on_set("empty set", "", "--set must be section.key=value, got "),
    on_set("set without a value", "seed", "--set must be section.key=value, got seed"),
    on_set("set without a key", "=3", "--set must be section.key=value, got =3"),
    on_set("set to what is not TOML", "model.hidden=[1",
        "--set model.hidden=[1: the value must be TOML, got [1; write --set 'model.hidden=[1]'"),
    on_set("set below a value", "seed.x=1", "--set seed.x=1: seed must be a section, got 1"),
    on_set("set of two lines", "seed=1\nseed=2",
        "--set must be one line of UTF-8 text without NUL characters, got \"seed=1\\nseed=2\""),
    on_set("set that ends in a carriage return", "seed=1\r",
        "--set must be one line of UTF-8 text without NUL characters, got \"seed=1\\r\""),
    on_set("set of a key that is not UTF-8", "\udcff=1",
        "--set must be one line of UTF-8 text without NUL characters, got \"\\udcff=1\""),
    on_set("set of a number of too many digits", f"seed={'9' * 5000}",
        "seed (--set seed=9~) must be an integer, got \"9~"),
    on_set("set of an unknown key", "train.epoch=1",
        "train.epoch (--set train.epoch=1) is not a known key; the nearest is train.epochs"),
    on_set("set out of range", "seed=-1", "seed (--set seed=-1) must be at least 0, got -1"),
    on_train("several wrong sets and a right one", "--set seed=x --set train.epochs=3 --set train.threads=-1",
        "seed (--set seed=x) must be an integer, got \"x\"",
        "train.threads (--set train.threads=-1) must be at least 0, got -1"),
    on_set("more threads than can be", "train.threads=2000000000",
        "train.threads (--set train.threads=2000000000) must be at most 1024, got 2000000000"),
    on_set("endless warmup", "optimizer.warmup_epochs=1e308",
        "optimizer.warmup_epochs (--set optimizer.warmup_epochs=1e308) must be at most 2147483647~, got 1e+308"),
    # settings that do not go together, or not with the data
    on_set("one class alone is chosen", "data.classes=['1']",
        "data.classes (--set data.classes=['1']) must be empty or name two or more different classes, got [\"1\"]"),
    on_set("a class is chosen twice", "data.classes=['1','1']",
        "data.classes (--set ~) must be empty or name two or more different classes, got [\"1\", \"1\"]"),
    on_set("unknown classes", "data.classes=['1','7','x']", "data.classes must be among 0, 1, 2, got 7, x"),
    on_set("shift as large as the image", "data.augment={shift=4}",
        "data.augment.shift must be less than the size of the images, 4×4 pixels, got 4"),
    on_set("cutout as large as the image", "data.augment={cutout=4}",
        "data.augment.cutout must be less than the size of the images, 4×4 pixels, got 4"),
    on_set("angle beyond half a turn", "data.augment={rotate=200}",
        "data.augment.rotate (--set data.augment={rotate=200}) must be at most 180.0, got 200"),
    on_set("mixup that is no number", "data.augment.mixup=nan",
        "data.augment.mixup (--set data.augment.mixup=nan) must be finite, got nan"),
    on_set("unknown balance", "data.balance=even",
        "data.balance (--set data.balance=even) must be one of \"none\", \"weights\", \"sampling\", got \"even\""),
    # figures
    Case("figures of settings alone", ["figures", "sheets", "--set", "seed=1"],
        ["--set needs --augment CONFIG, got --set seed=1 alone"]),
    Case("the lecture's figures into a file", ["figures", "sheets"], ["DIR must be a folder, got the file sheets"],
        lambda: write("sheets", "")),
    Case("figures without a folder", ["figures", "--augment", "made.toml"],
        ["DIR is missing: python -m fcnet.figures DIR"]),
    Case("figures of a config that is absent", ["figures", "sheets", "--augment", "x.toml"],
        [f"--augment must be a file or one of {SHIPPED}, got x.toml"]),
    on_figures("figures of no augmentation", "",
        "data.augment must enable at least one augmentation, got none in made.toml"),
    on_figures("figures of a change too large", "--set data.augment={shift=4}",
        "data.augment.shift must be less than the size of the images, 4×4 pixels, got 4"),
    on_figures("figures of an unknown class", "--set data.augment={flip=true} --set data.classes=['1','x']",
        "data.classes must be among 0, 1, 2, got x"),
    on_figures("figures into a file", "--set data.augment={flip=true}", "DIR must be a folder, got the file sheets",
        setup=lambda: write("sheets", "")),
    Case("figures inside a file",
        ["figures", "made.toml/x", "--augment", "made.toml", "--set", "data.augment.flip=true"],
        ["made.toml/x: Not a directory"]),
    on_figures("figure whose name is a folder's", "--set data.augment={flip=true}", "~: Is a directory",
        setup=lambda: Path("sheets/augment-light.png").mkdir(parents=True)),
    on_set("more components than pixels", "data.whiten=17",
        "data.whiten must be at most 16, the values of an image, got 17"),
    on_set("loss of one score for three classes", "train.loss=hinge",
        "train.loss must be cross_entropy for 3 classes, got hinge"),
    on_set("residual without equal neighbours", "model.residual=true",
        "model.hidden (made.toml:9) must have two adjacent layers of equal width if residual is true, got [6, 5]"),
    on_set("batch of a word", "train.batch_size=every",
        "train.batch_size (~) must be an integer of at least 1, or \"all\", got \"every\""),
    on_set("milestones missing", "optimizer.schedule=steps",
        "optimizer.milestones (~) must have one or more values for the schedule steps, got []"),
    on_set("milestones that fall", "optimizer.milestones=[5,3]",
        "optimizer.milestones (~) must increase, got [5.0, 3.0]"),
    on_set("line search in batches", "optimizer.name=lbfgs",
        "train.batch_size (made.toml:~) must be \"all\" for lbfgs, because its line search needs a fixed loss, "
        "got 8"),
    on_train("patience without validation", "--set train.patience=2 --set data.validation=0",
        "data.validation (--set data.validation=0) must be greater than 0 if train.patience is set, got 0.0"),
    on_set("nesterov without momentum", "optimizer={name='sgd',nesterov=true,momentum=0}",
        "optimizer.momentum (~) must be greater than 0 if nesterov is true, got 0.0"),
    on_set("fewer images than classes", "data.num_classes=41",
        "data.train_size (made.toml:5) must be at least num_classes (41), got 40"),
    on_train("classes, a shift and components that are not those of the images",
        "--set data.classes=['1','7'] --set data.augment={shift=9} --set data.whiten=99",
        "data.classes must be among 0, 1, 2, got 7",
        "data.augment.shift must be less than the size of the images, 4×4 pixels, got 9",
        "data.whiten must be at most 16, the values of an image, got 99"),
    on_train("batch normalization of one image at a time",
        "--set model.normalization=batch --set train.batch_size=8 --set train.accumulate=16",
        "train.accumulate must be at most 4 for batches of 8 images, because batch normalization learns nothing from "
        "one image, got 16"),
    on_train("network that is too large", f"{LARGE} --set model.hidden=[2147483647]",
        "out of memory: 1.9e+14 parameters need 2.9e+06 GiB and ~ GiB are free; lower model.hidden"),
    on_set("images that are too large", "data.shape=[1,2147483647,2147483647]", DISK),
    # --find-lr
    on_train("find a learning rate and resume", "--find-lr --resume", "--find-lr must be given without --resume"),
    on_train("find a learning rate for lbfgs", "--find-lr --set optimizer.name=lbfgs --set train.batch_size=all",
        "optimizer.name must not be lbfgs to find a learning rate: its line search replaces the rate"),
    # --out
    on_train("out is not empty", "--out run",
        "--out: run already holds a run; --resume continues it, another folder begins a new one",
        setup=interrupted),
    on_train("out is this folder", "--out .", "--out: . is not empty and holds no run; name a new or an empty folder"),
    on_train("out is a file", "--out made.toml", "--out must be a folder, got the file made.toml"),
    on_train("out is inside a file", "--out made.toml/run", "made.toml/run: Not a directory"),
    on_train("runs is a file", "", RUNS, setup=lambda: write("runs", "")),
    on_train("runs is a link to nowhere", "", RUNS, setup=lambda: Path("runs").symlink_to("unmounted")),
    # CIFAR
    on_train("CIFAR-100 in a file", "--set data.source=cifar100 --set data.path=made.toml",
        "data.path must be a folder with CIFAR-100, or to download it to, got the file {here}/made.toml; "
        "an archive of images needs data.source=images"),
    # images
    on_images("images absent", lambda: None,
        "{here}/pets: no such file or folder"),
    on_images("images behind a link to itself", lambda: Path("pets").symlink_to("pets"),
        "{here}/pets must be a readable folder or archive, got: Too many levels of symbolic links"),
    on_images("folder is empty", lambda: Path("pets").mkdir(),
        "expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in {here}/pets, found no images"),
    on_images("nothing is kept for testing", pets, "data.test (--set data.test=0) must be greater than 0.0, got 0",
        change="data.test=0"),
    on_images("one image of each class in one folder",
        setups(*(partial(draw_image, f"pets/{name}.png") for name in ("cat/1", "dog/1"))),
        "a class in {here}/pets must have two images, one of them for testing, found one of each"),
    on_images("a folder too high", lambda: pets("pets/all"),
        "expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in {here}/pets, found all/~.png; "
        "give {here}/pets/all, one level deeper"),
    on_images("folder without train", setups(pets, lambda: shutil.rmtree("pets/train")), f"{LAYOUT}, found test"),
    on_images("folder without test", setups(pets, lambda: shutil.rmtree("pets/test")),
        f"{LAYOUT}, found train; give {{here}}/pets/train, and a share of each class is held out for testing"),
    on_images("image beside the classes", setups(pets, lambda: draw_image("pets/train/0.png")),
        f"{LAYOUT}, found train/0.png"),
    on_images("split without an image",
        setups(pets, lambda: shutil.rmtree("pets/test"), lambda: Path("pets/test").mkdir()),
        f"{LAYOUT}, found no images in test"),
    on_images("one class alone", lambda: pets(classes=("cat",)), "classes must be two or more, got cat"),
    on_images("class in test only", setups(pets, lambda: draw_image("pets/test/eel/0.png")),
        "every class in {here}/pets must have a training image, found none of eel"),
    on_images("class whose name is not UTF-8", lambda: pets(classes=("cat", "dog\udce9")),
        "class names in {here}/pets must be UTF-8, got 'dog\\udce9'"),
    on_images("class that is not in the folder", pets, "data.classes must be among cat, dog, got eel",
        change="data.classes=['cat','eel']"),
    on_images("image that is cut short",
        setups(pets, lambda: draw_image("pets/train/cat/9.bmp"), lambda: truncate("pets/train/cat/9.bmp")),
        "train/cat/9.bmp in {here}/pets must be a whole image, got: ~"),
    on_images("text in place of an image", setups(pets, lambda: write("pets/test/dog/2.png", "no image")),
        f"test/dog/2.png in {{here}}/pets must be an image {FORMATS}, got something else"),
    on_images("image of another size", setups(pets, lambda: draw_image("pets/test/dog/2.png", (5, 4))),
        "test/dog/2.png in {here}/pets must be 4×4 pixels like train/cat/0.png, got 5×4; data.size resizes all "
        "images"),
    on_images("size of one number", lambda: None, "data.size (--set ~) must be [height, width] or empty, got [4]",
        change="data.size=[4]"),
    on_images("size of nothing", lambda: None, "data.size.1 (--set ~) must be at least 1, got 0",
        change="data.size=[4,0]"),
    on_images("class of broken images alone, which are skipped",
        setups(pets, *(partial(write, f"pets/train/cat/{number}.png", "") for number in range(6))),
        "every class must have a readable image, found none of cat in train (6 broken images are skipped; "
        f"the first: train/cat/0.png must be an image {FORMATS}, got something else)",
        change="data.skip_broken=true"),
    on_images("broken images alone, which are skipped",
        setups(pets, lambda: [file.write_bytes(b"") for file in Path("pets").rglob("*.png")]),
        "{here}/pets must hold at least one readable image, got 24 broken ones",
        change="data.skip_broken=true"),
    on_images("image of 16 bits", setups(pets, lambda: draw_image("pets/train/cat/0.png", mode="I;16")),
        "train/cat/0.png in {here}/pets must have 8 bits a channel, got Pillow's mode I;16"),
    on_images("archive that is cut short", setups(lambda: pack_pets("pets.tgz"), lambda: truncate("pets.tgz", 0.9)),
        "{here}/pets.tgz must be a folder or a whole tar or zip archive, got: Compressed file ~", path="pets.tgz"),
    on_images("archive with a changed byte", setups(lambda: pack_pets("pets.tgz"), lambda: flip_bit("pets.tgz")),
        "{here}/pets.tgz must be a folder or a whole tar or zip archive, got: ~", path="pets.tgz"),
    on_images("zip archive that is cut short", setups(lambda: zip_pets("pets.zip"), lambda: truncate("pets.zip", 0.9)),
        "{here}/pets.zip must be a folder or a whole tar or zip archive, got: a zip archive without its end, "
        "such as an unfinished download", path="pets.zip"),
    on_images("encrypted zip archive",
        lambda: Path("pets.zip").write_bytes(zip_bytes(ZipEntry(b"train/cat/1.png", bytes(13), flags=1, size=1))),
        "train/cat/1.png in {here}/pets.zip is encrypted; unpack the archive with its password to a folder",
        path="pets.zip"),
    on_images("no archive", lambda: write("pets.tar", "hello"),
        "{here}/pets.tar must be a folder or a whole tar or zip archive, got: truncated header", path="pets.tar"),
    on_images("empty file", lambda: write("pets.tar", ""),
        "{here}/pets.tar must be a folder or a whole tar or zip archive, got: empty file", path="pets.tar"),
    on_set("no folder for cifar10", "data={source='cifar10',path='made.toml'}",
        "data.path must be a folder with CIFAR-10, or to download it to, got the file {here}/made.toml; ~"),
    # arrays
    on_arrays("arrays absent", lambda: None, "{here}/x.npz: no such file"),
    on_arrays("arrays that are no archive", lambda: write("x.npz", "hello"),
        "{here}/x.npz must be a whole NumPy archive (.npz), got something else"),
    on_arrays("arrays that are cut short", setups(arrays, lambda: truncate("x.npz")),
        "{here}/x.npz must be a whole NumPy archive (.npz), got something else"),
    on_arrays("arrays without test images", lambda: arrays(x_test=None),
        "{here}/x.npz must hold x_train, y_train, x_test and y_test, found x_train, y_test, y_train"),
    on_arrays("arrays of another dtype", lambda: arrays(x_train=np.zeros((8, 4, 4))),
        "x_train in {here}/x.npz must be uint8, got float64; "
        'for values from 0 to 1, save (x_train * 255).round().astype("uint8")'),
    on_arrays("arrays of another shape", lambda: arrays(x_train=np.zeros((8, 4, 4, 2), dtype=np.uint8)),
        "x_train in {here}/x.npz must be (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, "
        "got (8, 4, 4, 2)"),
    on_arrays("arrays of two shapes", lambda: arrays(x_test=np.zeros((4, 5, 4), dtype=np.uint8)),
        "expected x_train and x_test of one shape in {here}/x.npz, got (1, 4, 4) and (1, 5, 4)"),
    on_arrays("arrays with too few labels", lambda: arrays(y_train=np.zeros(7, dtype=np.int64)),
        "expected x_train (N, …) and y_train (N,) in {here}/x.npz, got (8, 4, 4) and (7,)"),
    on_arrays("labels that are no whole numbers", lambda: arrays(y_test=np.full(4, 0.5)),
        "y_test in {here}/x.npz must be whole numbers or class names, got 0.5"),
    on_arrays("labels of classes without images", lambda: arrays(y_test=np.array([0, 1, 0, 10**9])),
        "every class in {here}/x.npz must have a training image, found none of 1000000000"),
    on_arrays("label without a class", lambda: arrays(classes=np.array(["cat", "dog"])[:1]),
        "classes in {here}/x.npz must name the 2 labels 0, 1, got 1 name"),
    on_arrays("pickled class names", lambda: arrays(classes=np.array(["cat", "dog"], dtype=object)),
        "classes in {here}/x.npz must be (C,) different strings, got object (2,)"),
    on_arrays("a class name twice", lambda: arrays(classes=np.array(["cat", "cat"])),
        "classes in {here}/x.npz must be (C,) different strings, got <U3 (2,)"),
    # going on
    on_resume("resume of nothing", lambda: None,
        "--resume needs a run folder, got run: no such folder", prints_model=False),
    on_resume("resume of a folder without a run", lambda: write("run/notes.txt", ""),
        "--out: run is not empty and holds no run; name a new or an empty folder",
        flags="--config made.toml", prints_model=False),
    on_resume("resume of a file", lambda: write("run", ""), "--out must be a folder, got the file run",
        flags="--config made.toml", prints_model=False),
    on_resume("resume with another configuration", interrupted,
        "optimizer.lr (made.toml) must be 0.001 as in run/config.toml, got 0.1",
        flags="--config made.toml --set train.epochs=3 --set optimizer.lr=0.1", prints_model=False),
    on_resume("resume of a finished run with another configuration", finished,
        "seed (made.toml) must be 1 as in run/config.toml, got 2",
        flags="--config made.toml --set seed=2", prints_model=False),
    on_resume("resume of a run whose configuration is no TOML",
        setups(interrupted, lambda: write("run/config.toml", "x")),
        "run/config.toml must be TOML: Expected '=' after a key in a key/value pair (at end of document)",
        prints_model=False),
    on_resume("resume of a run whose configuration was changed to another network",
        setups(interrupted, lambda: replace("run/config.toml", "    6,\n", "    7,\n")),
        "model.hidden (run/config.toml) must be [6, 5] as when the run began, got [7, 5]", prints_model=False),
    on_resume("resume of a run whose configuration was changed to another course",
        setups(interrupted, lambda: replace("run/config.toml", "batch_size = 8", "batch_size = 4")),
        "train.batch_size (run/config.toml) must be 8 as when the run began, got 4", prints_model=False),
    Case("resume of a run that met NaN or inf", ["train", "--resume", "--out", "run"],
        [f"{NAN_ERROR}; the checkpoint of step 2 is kept in run"], diverged, prints_model=True, trains=True),
    on_resume("both checkpoints are damaged", setups(interrupted, lambda: damage_checkpoints(flip_bit, "json")),
        f"run/checkpoints/step-0000000006.json {SUM} it"),
    on_resume("the tensors of both checkpoints are damaged",
        setups(interrupted, lambda: damage_checkpoints(flip_bit, "safetensors")),
        f"run/checkpoints/step-0000000006.safetensors {SUM} step-0000000006.json"),
    on_resume("the tensors of both checkpoints are gone",
        setups(interrupted, lambda: damage_checkpoints(os.unlink, "safetensors")),
        "run/checkpoints/step-0000000006.safetensors: no such file"),
    on_resume("damaged checksums and no checkpoint",
        setups(interrupted, lambda: shutil.rmtree("run/checkpoints"), lambda: flip_bit("run/checksums.json")),
        f"run/checksums.json {SUM} it", prints_model=False),
    *(
        on_resume(f"{damage.__name__} of {name} of a finished run", setups(finished, partial(damage, f"run/{name}")),
            f"run/{name} {SUM} checksums.json", prints_model=False)
        for name in ("metrics.jsonl", "diagnostics.jsonl", "summary.json") for damage in (truncate, flip_bit)
    ),
    on_resume("a finished run without its records", setups(finished, Path("run/metrics.jsonl").unlink),
        "run/metrics.jsonl: no such file", prints_model=False),
    on_resume("a finished run without its summary", setups(finished, Path("run/summary.json").unlink),
        "run/summary.json: no such file, but the run was finished", prints_model=False),
    on_resume("a finished run without checksums", setups(finished, Path("run/checksums.json").unlink),
        "run/checksums.json: no such file", prints_model=False),
    on_resume("image changed since the run started",
        setups(interrupted_on_pets, lambda: draw_image("pets/train/cat/0.png", value=9)),
        f"{OTHER_DATA}: it has as many images, but other pixels or labels; {NAME_PLACE}"),
    on_resume("image added since the run started",
        setups(interrupted_on_pets, lambda: draw_image("pets/test/cat/9.png", value=9)),
        f"{OTHER_DATA}: it had 12 training and 12 test images, and has 12 training and 13 test images now; "
        f"{NAME_PLACE}"),
    on_resume("images removed since the run started", setups(interrupted_on_pets, lambda: shutil.rmtree("pets")),
        "{here}/pets: no such file or folder", prints_model=False),
    # evaluate
    on_evaluate("evaluate without a run", "",
        "RUN is missing: python -m fcnet.evaluate RUN"),
    on_evaluate("evaluate an absent run", "gone", "RUN must be a run folder, got gone: no such folder"),
    on_evaluate("evaluate a file", "made.toml", "RUN must be a run folder, got made.toml: a file"),
    on_evaluate("evaluate an unfinished run", "run", NO_MODEL, setup=interrupted),
    on_evaluate("evaluate with an unknown flag", "run --json",
        "unknown flag --json; see python -m fcnet.evaluate --help"),
    on_evaluate("evaluate on an unknown device", "run --device gpu", f"{DEVICES}, got 'gpu'; write --device cuda"),
    on_evaluate("evaluate without the configuration", "run",
        "run/config.toml: no such file; it names the data that the run was trained on",
        setup=setups(finished, lambda: Path("run/config.toml").unlink())),
    on_evaluate("evaluate with a changed configuration", "run",
        "seed (run/config.toml) must be 1 as when the run began, got 2",
        setup=setups(finished, lambda: rewrite("run/config.toml", "seed = 1", "seed = 2"))),
    on_evaluate("evaluate on other data with a damaged summary", "run --data pets",
        f"run/summary.json {SUM} checksums.json",
        setup=setups(finished_on_pets, lambda: flip_bit("run/summary.json"))),
    *(
        Case(f"report on a damaged {name}", ["report", "run"], [f"run/{name} {SUM} {source}"],
            setups(finished, partial(flip_bit, f"run/{name}")))
        for name, source in (
            ("metrics.jsonl", "checksums.json"),
            ("diagnostics.jsonl", "checksums.json"),
            ("summary.json", "checksums.json"),
            ("checksums.json", "it"),
        )
    ),
    Case("report on damaged records of an unfinished run", ["report", "run"],
        [f"run/metrics.jsonl {SUM} checksums.json"], setups(interrupted, lambda: flip_bit("run/metrics.jsonl"))),
    on_evaluate("evaluate on its own data that is not in the cache", "run",
        "the images that the model was trained on are not in the cache (~); --data PATH decodes them",
        setup=setups(finished_on_pets, lambda: shutil.rmtree(os.environ["FCNET_CACHE"]))),
    on_evaluate("evaluate on absent data", "run --data gone",
        "gone: no such file or folder"),
    on_evaluate("evaluate on an absent file of arrays", "run --data gone.npz",
        "gone.npz: no such file"),
    on_evaluate("evaluate on no image", "run --data made.toml",
        "made.toml must be a folder or a whole tar or zip archive, got: ~"),
    on_evaluate("evaluate a network of made images on others", "run --data pets",
        "pets must hold images of the model's classes (0, 1, 2), found only cat, dog", setup=setups(finished, pets)),
    on_evaluate("evaluate on training images", "run --data zoo",
        "expected test/CLASS/… in zoo, found train; give zoo/train to use its images",
        setup=setups(finished_on_pets, lambda: pets("zoo"), lambda: shutil.rmtree("zoo/test"))),
    on_evaluate("evaluate on other classes", "run --data zoo",
        "zoo must hold images of the model's classes (cat, dog), found only cow, eel",
        setup=setups(finished_on_pets, lambda: pets("zoo", classes=("cow", "eel")))),
    on_evaluate("evaluate damaged weights", "run", f"run/model.safetensors {SUM} model.json",
        setup=setups(finished, lambda: flip_bit("run/model.safetensors"))),
    on_evaluate("evaluate a damaged description", "run", f"run/model.json {SUM} it",
        setup=setups(finished, lambda: flip_bit("run/model.json"))),
    # cache
    on_cache("cache with a word", "list", "unexpected argument list; see python -m fcnet.cache --help"),
    on_cache("clean nothing", "--clean", HOW),
    on_cache("clean by name and all", "--clean digits-0 --all", HOW),
    on_cache("all without clean", "--all", "--older-than and --all need --clean"),
    on_cache("age without clean", "--older-than 3", "--older-than and --all need --clean"),
    on_cache("age below 0", "--clean --older-than -1", "--older-than must be at least 0 days, got -1"),
    on_cache("clean an unknown store", "--clean x y", "--clean must name stores in ~/cache, got x, y"),
    # predict
    on_predict("predict nothing", "run",
        "IMAGE is missing: python -m fcnet.predict RUN IMAGE"),
    on_predict("predict with an absent run", f"gone {IMAGE}", "RUN must be a run folder, got gone: no such folder"),
    on_predict("predict with an unfinished run", f"run {IMAGE}", NO_MODEL, setup=interrupted_on_pets),
    on_predict("predict with an unknown flag", f"run {IMAGE} --best 5",
        "unknown flag --best 5; see python -m fcnet.predict --help"),
    on_predict("predict in two forms", f"run {IMAGE} --json --csv",
        "--csv and --json exclude each other; leave one out"),
    on_predict("predict no class", f"run {IMAGE} --top 0", "--top must be from 1 to 2, the number of classes, got 0"),
    on_predict("predict more classes than there are", f"run {IMAGE} --top 3",
        "--top must be from 1 to 2, the number of classes, got 3"),
    on_predict("predict in batches of nothing", f"run {IMAGE} --batch-size 0",
        "--batch-size must be at least 1, got 0"),
    on_predict("predict on an unknown device", f"run {IMAGE} --device gpu",
        f"{DEVICES}, got 'gpu'; write --device cuda"),
    on_predict("predict an absent image", "run gone.png",
        "gone.png: no such file"),
    on_predict("predict a folder without images", "run run",
        "run must hold an image, found only ~ files without an image suffix (run/~"),
    on_predict("predict an archive without images", "run none.tar", "none.tar must hold an image, found none",
        setup=setups(finished_on_pets, lambda: tarfile.open("none.tar", "w").close())),
    on_predict("predict a cut archive", "run pets.tar",
        "pets.tar must be a folder or a whole tar or zip archive, got: ~",
        setup=setups(finished_on_pets, lambda: pack_pets("pets.tar"), lambda: truncate("pets.tar", 0.01))),
    on_predict("predict a text", "run made.toml",
        f"made.toml must be an image {FORMATS}, got something else"),
    on_predict("predict an image of another size", "run wide.png",
        "wide.png must be 4×4 pixels like the training images, got 5×4; "
        "a model trained with data.size resizes its images",
        setup=setups(finished_on_pets, lambda: draw_image("wide.png", (5, 4)))),
    on_predict("predict with damaged weights", f"run {IMAGE} --json", f"run/model.safetensors {SUM} model.json",
        setup=setups(finished_on_pets, lambda: flip_bit("run/model.safetensors"))),
    on_predict("predict with a damaged description", f"run {IMAGE}", f"run/model.json {SUM} it",
        setup=setups(finished_on_pets, lambda: flip_bit("run/model.json"))),
    on_predict("predict without the weights", f"run {IMAGE}", "run/model.safetensors: no such file",
        setup=setups(finished_on_pets, lambda: Path("run/model.safetensors").unlink())),
    # export
    on_export("export without a file", "run",
        "FILE is missing: python -m fcnet.export RUN FILE"),
    on_export("export of an absent run", "gone x.pt2", "RUN must be a run folder, got gone: no such folder"),
    on_export("export of an unfinished run", "run x.pt2", NO_MODEL, setup=interrupted_on_pets),
    on_export("export by another ending", "run x.tflite", "FILE must end in .pt2 or .onnx, got x.tflite"),
    on_export("export without an ending", "run x", "FILE must end in .pt2 or .onnx, got x"),
    on_export("export to a folder", "run x.onnx", "FILE must be a file, got the folder x.onnx",
        setup=setups(finished_on_pets, lambda: Path("x.onnx").mkdir())),
    on_export("export with an opset that torch does not write", "run x.onnx --opset 17",
        "--opset must be an integer from 18 to 23, got 17"),
    on_export("export with an opset of another format", "run x.pt2 --opset 18",
        "--opset must be left out for a .pt2 file, got 18"),
    on_export("export into an absent folder", "run gone/x.pt2",
        "FILE must be in an existing folder, got gone/x.pt2"),
    on_export("export beside a README", "run x.pt2",
        "README.md already exists and is not an unedited model card by fcnet; export to another folder",
        setup=setups(finished_on_pets, lambda: write("README.md", "# Mine"))),
    on_export("export of damaged weights", "run x.pt2", f"run/model.safetensors {SUM} model.json",
        setup=setups(finished_on_pets, lambda: flip_bit("run/model.safetensors"))),
    on_export("export without a summary", "run x.pt2",
        "run/summary.json: no such file, but the run was finished",
        setup=setups(finished_on_pets, lambda: Path("run/summary.json").unlink())),
    on_export("export with a damaged summary", "run x.pt2", f"run/summary.json {SUM} checksums.json",
        setup=setups(finished_on_pets, lambda: flip_bit("run/summary.json"))),
]  # fmt: skip


# --- their outcome ----------------------------------------------------------------------------------------------


def unfinished_in(cache: Path) -> list[str]:
    """Returns the names of entries that are neither a complete store nor a store's lock."""
    return [
        entry.name
        for entry in (cache.iterdir() if cache.is_dir() else ())
        if not re.fullmatch(r"\.[a-z0-9]+-[0-9a-f]{16}(\.use-[0-9a-f]{32})?\.lock", entry.name)
        and not (
            re.fullmatch(r"[a-z0-9]+-[0-9a-f]{16}", entry.name) and {file.name for file in entry.iterdir()} == STORE
        )
    ]


def run(name: str, *arguments: str) -> CommandResult:
    """Runs a command by its name."""
    return run_command(COMMANDS[name], *arguments)


def pattern(line: str, here: Path) -> str:
    """Returns the pattern of an expected line."""
    return re.escape(line.replace("{here}", str(here))).replace(r"\~", ".*")


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.kind)
def test_an_error_is_one_line_and_code_2_and_changes_no_file(case: Case, tmp_path: Path) -> None:
    write("made.toml", CONFIG)
    case.setup()
    before = read_tree()
    code, out, err = run(*case.command)
    assert re.fullmatch("\n".join(pattern(line, Path.cwd()) for line in case.lines) + "\n", err), err
    assert code == 2
    out = re.sub(r"^decoded \d+ images in [\d.]+ s\n", "", out)
    assert re.fullmatch(PRINTED_MODEL if case.prints_model else "", out), out
    after = read_tree()
    if case.trains:
        assert after.pop("run/commands.jsonl")
        after["run/checksums.json"] = before["run/checksums.json"]
    assert after == before
    assert unfinished_in(tmp_path / "cache") == []


def test_errors_of_many_kinds_are_tested() -> None:
    kinds = [case.kind for case in ERRORS]
    assert len(set(kinds)) == len(kinds) >= 130
    assert all(case.lines for case in ERRORS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_a_user_error() -> None:
    write("made.toml", CONFIG)
    code, _, err = run("train", "--config", "made.toml", "--device", "cuda")
    assert code == 2
    assert re.fullmatch(r"device cuda is not available: .*\n", err)
    assert read_tree() == {"made.toml": CONFIG.encode()}


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_without_write_permission_is_a_user_error() -> None:
    write("made.toml", CONFIG)
    Path("locked").mkdir(mode=0o500)
    code, _, err = run("train", "--config", "made.toml", "--out", "locked/run")
    assert code == 2
    assert err == "locked/run: Permission denied\n"


def test_a_cache_that_is_a_file_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    write("made.toml", CONFIG)
    monkeypatch.setenv("FCNET_CACHE", "made.toml")
    code, _, err = run("train", "--config", "made.toml")
    assert code == 2
    expected = "the cache (FCNET_CACHE) must be a writable folder with free space, got made.toml: Not a directory\n"
    assert err == expected
    assert read_tree() == {"made.toml": CONFIG.encode()}


def test_a_path_that_is_not_utf8_is_a_user_error() -> None:
    write("made.toml", CONFIG)
    refusal = re.escape('--set must be one line of UTF-8 text without NUL characters, got "data.path=x\\udcff"')
    with pytest.raises(UserError, match=f"^{refusal}$"):
        train.main(["--config", "made.toml", "--set", "data.path=x\udcff"])
    assert read_tree() == {"made.toml": CONFIG.encode()}


def test_a_path_inside_a_folder_with_a_name_that_is_not_utf8_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("k\udcff").mkdir()
    monkeypatch.chdir("k\udcff")
    write("made.toml", CONFIG)
    rule = "must be one line of UTF-8 text without NUL characters"
    refusal = rf'^data\.path \(--set data\.path=pets\) {rule}, got ".*k\\udcff/pets"$'
    with pytest.raises(UserError, match=refusal):
        train.main(["--config", "made.toml", "--set", "data.path=pets"])


def test_nan_or_inf_in_training_is_a_user_error_and_keeps_the_last_good_checkpoint() -> None:
    write("made.toml", CONFIG)
    flags = set_flags(*TOO_FAST, "train.save_seconds=0")
    for command in (["--config", "made.toml", "--out", "run", *flags], ["--resume", "--out", "run"]):
        code, _, err = run("train", *command)
        assert code == 2
        expected = pattern(f"{NAN_ERROR}; the checkpoint of step 2 is kept in run", Path.cwd())
        assert re.fullmatch(f"{expected}\n", err)
        for file in Path("run/checkpoints").glob("*.safetensors"):
            assert all(tensor.isfinite().all() for tensor in load_file(file).values())
    assert {entry.name for entry in Path("run").iterdir()} == {
        *("config.toml", "commands.jsonl", "checksums.json", "checkpoints", "diagnostics.jsonl")
    }


class OutOfMemory(nn.Module):
    """A layer without memory left: it raises an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize("error", [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1073741824 bytes."),
])  # fmt: skip
@pytest.mark.parametrize(("free_bytes", "advice"), [
    (10**9, "lower train.batch_size from 8 to 4, or raise train.accumulate"),
    (3500, "lower train.batch_size from 8 to 1, or raise train.accumulate"),
    (1000, ("lower data.shape from [1, 4, 4]: images have 4×4 pixels, "
            "or lower model.hidden (1.6e+02 parameters need 0.0 GiB)")),
])  # fmt: skip
def test_a_step_without_memory_names_the_setting_to_lower(
    error: Exception,
    free_bytes: int,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build_small(*given: Any, **options: Any) -> Experiment:
        experiment = build(*given, **options)
        experiment.classifier.model.layers[0].normalization = OutOfMemory(error)
        training = experiment.training
        training.compute_gradients = make_gradient_fn(
            training.model, training.algorithm.loss, training.algorithm.precision
        )
        return replaced(experiment, free_bytes=free_bytes)

    write("made.toml", CONFIG)
    monkeypatch.setattr(train, "build", build_small)
    code, _, err = run("train", "--config", "made.toml", "--set", "train.diagnostics_every=0")
    assert code == 2
    expected = (
        rf"out of memory: a step needs about 0\.0 GiB and {free_bytes / 2**30:.1f} GiB are free; {re.escape(advice)}\n"
    )
    assert re.fullmatch(expected, err)


@pytest.mark.parametrize(
    ("module", "function", "expected"),
    [
        (
            "fcnet.experiment.build",
            "compute_statistics",
            "reading the data; lower data.size or data.shape, or choose fewer data.classes",
        ),
        ("fcnet.experiment.build", "make_model", "building the network; lower model.hidden"),
        (
            "fcnet.evaluation.classification",
            "_count_cells",
            "evaluating the model; lower model.hidden (train.batch_size does not matter here)",
        ),
        ("fcnet.experiment.checkpoints", "write_checksummed", "saving the run; lower model.hidden"),
    ],
)
def test_a_lack_of_memory_is_named_for_what_was_being_done(
    module: str, function: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1073741824 bytes.")

    write("made.toml", CONFIG)
    monkeypatch.setattr(f"{module}.{function}", fail)
    code, _, err = run("train", "--config", "made.toml")
    assert (code, err) == (2, f"out of memory while {expected}\n")


def test_memory_that_the_system_refuses_is_a_user_error() -> None:
    """Limits the address space, so that the test fills no memory."""
    write("made.toml", CONFIG)
    program = (
        "import resource, sys; from fcnet import cli, train; from fcnet.experiment import build\n"
        "own = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (own + 2**29,) * 2)\n"
        "cli.run_command(train.main)"
    )
    changes = ["data.train_size=100000", "train.batch_size=100000", "model.hidden=[20000]", "train.threads=1"]
    process = run_python("-c", program, "--config", "made.toml", "--out", "run", *set_flags(*changes))
    expected = (
        r"out of memory: a step needs about 2\d\.\d GiB and 0\.\d GiB are free; "
        r"lower train\.batch_size from 100000 to \d+, or raise train\.accumulate\n"
    )
    assert re.fullmatch(expected, process.stderr), process.stderr
    assert process.returncode == 2


def test_a_batch_larger_than_the_training_set_is_the_training_set() -> None:
    write("made.toml", CONFIG)
    assert run("train", "--config", "made.toml", "--set", "train.batch_size=2147483647").code == 0
    assert [record["step"] for record in Run(Path("runs/made")).records()] == [1, 2]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        (
            "checkpoints/step-0000000006.json",
            f"note: run/checkpoints/step-0000000006.json {SUM} it; the run resumes from step-0000000005-2",
        ),
        ("metrics.jsonl", f"note: run/metrics.jsonl {SUM} checksums.json; it is written again"),
        ("diagnostics.jsonl", f"note: run/diagnostics.jsonl {SUM} checksums.json; it is written again"),
        ("checksums.json", f"note: run/checksums.json {SUM} it; it is written again"),
    ],
)
def test_damage_that_a_resumed_run_can_repair_is_one_note(name: str, note: str) -> None:
    write("made.toml", CONFIG)
    finished()
    expected = run_result("run")
    shutil.rmtree("run")
    interrupted()
    flip_bit(f"run/{name}")
    code, out, err = run("train", "--resume", "--out", "run")
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("note: run/")] == [note]
    assert run_result("run") == expected
    assert Run(Path("run")).finished
