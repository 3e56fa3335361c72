"""Each mistake that a newcomer makes costs exit code 2 and one line, which says what to type instead."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcnet import cache, evaluate, predict, train
from fcnet.config.presets import list_presets
from fcnet.config.toml import dump_config, load_config
from fcnet.export import __main__ as export
from fcnet.figures import __main__ as figures
from fcnet.report import __main__ as report
from fcnet.sweep import __main__ as sweep
from tests.helpers import read_tree, run_command, write_image

COMMANDS = {
    "cache": cache.main,
    "evaluate": evaluate.main,
    "export": export.main,
    "figures": figures.main,
    "predict": predict.main,
    "report": report.main,
    "sweep": sweep.main,
    "train": train.main,
}
PRESETS = ", ".join(list_presets())
OPTIMIZERS = '"sgd", "adam", "adamw", "muon", "lbfgs"'
ACTIVATIONS = '"identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"'
NO_DEVICE = "--device must be auto, cpu, cuda or another device of torch, got"


def key(given: str, meant: str) -> str:
    """Returns the line for an unknown key."""
    return f"{given.partition('=')[0]} (--set {given}) is not a known key; the nearest is {meant}"


# The command line, and its line on standard error; {here} is the working folder and ~ any text.
MISTAKES = {
    # the command alone, and what it is to train
    "train": (
        "CONFIG is missing: python -m fcnet.train digits trains the preset digits, "
        "python -m fcnet.train --list lists all"
    ),
    "train digit": f"CONFIG must be a file or one of {PRESETS}, got digit; the nearest is digits",
    "train digits.toml": f"CONFIG must be a file or one of {PRESETS}, got digits.toml; the nearest is digits",
    "train --config Digits": f"--config must be a file or one of {PRESETS}, got Digits; the nearest is digits",
    "train digits --config images": "CONFIG is given twice, as digits and as --config images; leave one out",
    "train digits images": "unexpected argument images; see python -m fcnet.train --help",
    "train digits resume": "unexpected argument resume; write --resume",
    "train photos": (
        "CONFIG must be a file or a preset, got the folder photos; "
        "for images in it, take the preset images with --set data.path=photos"
    ),
    "train runs/digits": (
        "CONFIG must be a file or a preset, got the folder runs/digits of a run; "
        "write runs/digits/config.toml to train the same again, or --resume runs/digits to continue it"
    ),
    "train digits --out runs/digits": (
        "--out: runs/digits already holds a run; --resume continues it, another folder begins a new one"
    ),
    "train digits --out photos": "--out: photos is not empty and holds no run; name a new or an empty folder",
    "train --resume": "--resume needs a run folder: python -m fcnet.train --resume runs/NAME",
    "train --resume digits": (
        "--resume needs a run folder, got digits: a preset, not a folder; the nearest is runs/digits"
    ),
    "train --resume runs/digit": (
        "--resume needs a run folder, got runs/digit: no such folder; the nearest is runs/digits"
    ),
    "train --resume photos": "--resume needs a run folder, got photos: it holds no config.toml",
    "train --resume --out runs/gone": "--resume needs a run folder, got runs/gone: no such folder",
    "train --resume runs/a --out runs/b": "--resume runs/a and --out runs/b must name the same folder; leave one out",
    # flags of other programs
    "train digits --epochs 5": "unknown flag --epochs 5; write --set train.epochs=5",
    "train digits --epochs=5": "unknown flag --epochs 5; write --set train.epochs=5",
    "train digits --lr 0.1": "unknown flag --lr 0.1; write --set optimizer.lr=0.1",
    "train digits -lr 0.1": "unknown flag -lr 0.1; write --set optimizer.lr=0.1",
    "train digits --learning-rate 1e-2": "unknown flag --learning-rate 1e-2; write --set optimizer.lr=0.01",
    "train digits --batch-size 32": "unknown flag --batch-size 32; write --set train.batch_size=32",
    "train digits --hidden 512,256": "unknown flag --hidden 512,256; write --set 'model.hidden=[512, 256]'",
    "train digits --layers 3": "unknown flag --layers 3; write --set 'model.hidden=[3]'",
    "train digits --optimizer Adam": "unknown flag --optimizer Adam; write --set optimizer.name=adam",
    "train digits --dropout 0.5": "unknown flag --dropout 0.5; write --set model.dropout=0.5",
    "train digits --seed 3": "unknown flag --seed 3; write --set seed=3",
    "train digits --data-path photos": "unknown flag --data-path photos; write --set data.path=photos",
    "train digits --residual": "unknown flag --residual; write --set model.residual=true",
    "train digits --gpu": "unknown flag --gpu; write --device cuda",
    "train digits --gpu 1": "unknown flag --gpu 1; write --device cuda:1",
    "train digits --cuda": "unknown flag --cuda; write --device cuda",
    "train digits --no-cuda": "unknown flag --no-cuda; write --device cpu",
    "train digits --output-dir runs/x": "unknown flag --output-dir runs/x; write --out runs/x",
    "train digits --continue": "unknown flag --continue; write --resume",
    "train digits --dev cpu": "unknown flag --dev cpu; write --device cpu",
    "train digits --verbose": "unknown flag --verbose; see python -m fcnet.train --help",
    "train digits --set": "--set needs a value: --set KEY=VALUE",
    "train digits --list=all": "--list takes no value, got 'all'",
    "train digits --device gpu": f"{NO_DEVICE} 'gpu'; write --device cuda",
    "train digits --device GPU:1": f"{NO_DEVICE} 'GPU:1'; write --device cuda:1",
    "train digits --device CPU": f"{NO_DEVICE} 'CPU'; write --device cpu",
    "train digits --device tpu": f"{NO_DEVICE} 'tpu'",
    # --set
    "train digits lr=0.1": "unexpected argument lr=0.1; write --set optimizer.lr=0.1",
    "train digits --set train.epochs 5": (
        "--set takes one word KEY=VALUE, got train.epochs 5; write --set train.epochs=5"
    ),
    "train digits --set train.epochs = 5": (
        "--set takes one word KEY=VALUE, got train.epochs = 5; write --set train.epochs=5"
    ),
    "train digits --set train.epochs= 5": (
        "--set takes one word KEY=VALUE, got train.epochs= 5; write --set train.epochs=5"
    ),
    "train digits --set model.hidden=[256, 128]": (
        "--set takes one word KEY=VALUE, got model.hidden=[256, 128]; write --set 'model.hidden=[256, 128]'"
    ),
    "train digits --set learning_rate=0.1": key("learning_rate=0.1", "optimizer.lr"),
    "train digits --set optimizer.learning_rate=0.1": key("optimizer.learning_rate=0.1", "optimizer.lr"),
    "train digits --set lr=0.1": key("lr=0.1", "optimizer.lr"),
    "train digits --set wd=0.1": key("wd=0.1", "optimizer.weight_decay"),
    "train digits --set epochs=3": key("epochs=3", "train.epochs"),
    "train digits --set train.num_epochs=3": key("train.num_epochs=3", "train.epochs"),
    "train digits --set batch=3": key("batch=3", "train.batch_size"),
    "train digits --set bs=3": key("bs=3", "train.batch_size"),
    "train digits --set train.optimizer=adam": key("train.optimizer=adam", "optimizer.name"),
    "train digits --set model.layers=3": key("model.layers=3", "model.hidden"),
    "train digits --set model.act=relu": key("model.act=relu", "model.activation"),
    "train digits --set model.dropout_rate=0.1": key("model.dropout_rate=0.1", "model.dropout"),
    "train digits --set train.seed=1": key("train.seed=1", "seed"),
    "train digits --set data.flip=true": key("data.flip=true", "data.augment.flip"),
    "train digits --set model.hidden=512": (
        "model.hidden (--set model.hidden=512) must be a list, got 512; write --set 'model.hidden=[512]'"
    ),
    "train digits --set model.hidden=512,256": (
        "--set model.hidden=512,256: the value must be TOML, got 512,256; write --set 'model.hidden=[512, 256]'"
    ),
    "train digits --set model.residual=True": (
        'model.residual (--set model.residual=True) must be true or false, got "True"; write --set model.residual=true'
    ),
    "train digits --set train.epochs=3.0": (
        "train.epochs (--set train.epochs=3.0) must be an integer, got 3.0; write --set train.epochs=3"
    ),
    "train digits --set optimizer.lr=.01": (
        'optimizer.lr (--set optimizer.lr=.01) must be a number, got ".01"; write --set optimizer.lr=0.01'
    ),
    "train digits --set optimizer.lr=0,01": (
        "--set optimizer.lr=0,01: the value must be TOML, got 0,01; write --set optimizer.lr=0.01"
    ),
    "train digits --set data.validation=10": (
        "data.validation (--set data.validation=10) must be less than 1.0, got 10; write 0.1 for 10%"
    ),
    "train digits --set data.validation=10%": (
        'data.validation (--set data.validation=10%) must be a number, got "10%"; write --set data.validation=0.1'
    ),
    "train digits --set data.path=3": (
        "data.path (--set data.path=3) must be a string, got 3; write --set 'data.path=\"3\"'"
    ),
    "train digits --set data.classes=[cat,dog]": (
        "--set data.classes=[cat,dog]: the value must be TOML, got [cat,dog]; "
        'write --set \'data.classes=["cat", "dog"]\''
    ),
    "train digits --set optimizer=adam": (
        'optimizer (--set optimizer=adam) must be a section, got "adam"; write --set optimizer.name=adam'
    ),
    "train digits --set optimizer.name=adma": (
        f'optimizer.name (--set optimizer.name=adma) must be one of {OPTIMIZERS}, got "adma"; the nearest is "adam"'
    ),
    "train digits --set model.activation=ReLU": (
        f'model.activation (--set model.activation=ReLU) must be one of {ACTIVATIONS}, got "ReLU"; '
        'the nearest is "relu"'
    ),
    "train digits --set model.activation=tanh": (
        f'model.activation (--set model.activation=tanh) must be one of {ACTIVATIONS}, got "tanh"'
    ),
    "train digits --set data.source=imagefolder": (
        'data.source (--set data.source=imagefolder) must be one of "digits", ~, got "imagefolder"; '
        'the nearest is "images"'
    ),
    # data
    "train images --set data.path=photo": "{here}/photo: no such file or folder",
    "train cifar10_mlp --set data.path=photos.tar": (
        "data.path must be a folder with CIFAR-10, or to download it to, got the file {here}/photos.tar; "
        "an archive of images needs data.source=images"
    ),
    # the other commands
    "evaluate": "RUN is missing: python -m fcnet.evaluate RUN",
    "evaluate digits": "RUN must be a run folder, got digits: a preset, not a folder; the nearest is runs/digits",
    "evaluate runs/digit": "RUN must be a run folder, got runs/digit: no such folder; the nearest is runs/digits",
    "evaluate mine.toml": "RUN must be a run folder, got mine.toml: a file",
    "evaluate runs/digits": "runs/digits holds no trained model: model.json is missing; "
    "its training is not finished, python -m fcnet.train --resume runs/digits continues it",
    "evaluate runs/digits --json": "unknown flag --json; see python -m fcnet.evaluate --help",
    "predict runs/digits": "IMAGE is missing: python -m fcnet.predict RUN IMAGE",
    "predict digit.png runs/digits": "RUN must be a run folder, got digit.png: a file",
    "predict runs/digits digit.png --top three": "--top must be an integer, got 'three'",
    "predict runs/digits digit.png --json --csv": "--csv and --json exclude each other; leave one out",
    "report": "RUN is missing: python -m fcnet.report RUN",
    "report runs/none": "RUN must be a run folder, got runs/none: no such folder",
    "figures": "DIR is missing: python -m fcnet.figures DIR",
    "figures mine.toml": "DIR must be a folder, got the file mine.toml",
    "export runs/digits": "FILE is missing: python -m fcnet.export RUN FILE",
    "export runs/digits digits.pt": "FILE must end in .pt2 or .onnx, got digits.pt",
    "cache clean": "unexpected argument clean; write --clean",
    "sweep digits": "give either --grid KEY=[…] or --search KEY=LOW..HIGH; --search takes lists as well",
    "sweep digits --search optimizer.lr=1e-4..1e-1": "--search and --trials N must be given together",
    "sweep digits --grid optimizer.lr=[0.1] --prune best": ("--prune must be one of none, median, halving, got 'best'"),
}


@pytest.fixture
def files(working_folder: Path) -> None:
    """A photo in a folder, an archive that is none, a configuration and a run that has just begun."""
    Image.new("L", (8, 8)).save("digit.png")
    write_image("photos/cat.png", np.zeros((8, 8), dtype=np.uint8))
    Path("photos.tar").write_bytes(b"")
    Path("mine.toml").write_text("seed = 1\n")
    Path("runs/digits").mkdir(parents=True)
    Path("runs/digits/config.toml").write_text(dump_config(load_config(list_presets()["digits"])))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_costs_one_line_that_says_what_to_type(command: str) -> None:
    before = read_tree()
    name, *arguments = shlex.split(command)
    code, out, err = run_command(COMMANDS[name], *arguments)
    line = re.escape(MISTAKES[command].replace("{here}", str(Path.cwd()))).replace(r"\~", ".*")
    assert re.fullmatch(f"{line}\n", err), err
    assert (code, out) == (2, "")
    assert read_tree() == before


def test_mistakes_of_many_kinds_are_tested() -> None:
    assert len(MISTAKES) >= 60


SETTINGS = [
    command
    for command, line in MISTAKES.items()
    if re.search("; write --(set|out|device cpu)", line) and "residual" not in command
]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("command", SETTINGS)
def test_what_a_line_says_to_write_is_accepted(command: str) -> None:
    name, config, *_ = shlex.split(command)
    remedy = shlex.split(MISTAKES[command].rpartition("; write ")[2])
    code, _, err = run_command(COMMANDS[name], config, *remedy, "--print-config")
    assert (code, err) == (0, "")
