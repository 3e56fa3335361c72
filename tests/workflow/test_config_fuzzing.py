"""Whatever is done to a configuration, it trains or is refused in a line a mistake, and leaves no run behind."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import itertools
import shutil
import signal
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from fcnet import cli, train
from fcnet.config.presets import list_presets
from fcnet.config.schema import Config
from fcnet.experiment import runner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fcnet.experiment.build import Experiment
    from fcnet.experiment.run_folder import Run
    from fcnet.training.records import EpochRecord

    Tree = dict[str, Any]

LARGE = 2**31 - 1
CLASSES = ("airplane", "automobile", "bird")


def keys_of(tree: Tree, prefix: str = "") -> Iterator[str]:
    """The dotted keys of sections and of what is in them."""
    for name, value in tree.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")


KEYS = list(keys_of(Config().model_dump()))
NUMBERS: list[object] = [
    *(0, 1, 2, -1, 7, LARGE, LARGE + 1, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**400),
    *(0.0, -0.0, 0.5, 0.999999, 1 - 2**-53, 1.0, 3.0, -1.5, 5e-324, 1e-45, 1e-300),
    *(3e38, 1e39, 1e308, -1e308, float("inf"), float("-inf"), float("nan")),
]
WORDS: list[object] = [
    *("", " ", "x", "é", "a\nb", "a\u2028b", "\0", "\x1b[2J", "n" * 5000, "a|b|c", "{x}", "%s", "~nobody/x", "~"),
    *("pets", "pets.npz", "/", ".", "x.toml", "pets/train", "0", "cat", *CLASSES),
    *("digits", "cifar10", "images", "arrays", "synthetic", "mlp", "logistic", "sigmoid", "gelu", "relu", "identity"),
    *("leaky_relu", "elu", "none", "batch", "layer", "sgd", "adamw", "constant", "cosine", "linear", "float32"),
    *("bfloat16", "cross_entropy", "adam", "muon", "lbfgs", "one_cycle", "steps", "all", "he", "glorot", "lecun"),
    *("weights", "sampling", "cifar100", "auto"),
]
OTHERS: list[object] = [
    *(True, False, date(2026, 1, 1), [], [[]], {}, [{}], {"": 1}, {"x": {"y": 1}}, {"flip": True, "shift": 1}),
    *([1], [5, 5], [3, 0], [1.5], [LARGE], [LARGE] * 3, [1, 4, 4], [3, 8, 8], [2, 2], [True], [1] * 40),
    *(["airplane", "bird"], ["1", "7"], ["bird", "bird"], ["a\nb", "\0"], ["x"], ["bird", 1]),
]
# What only the data, or the memory, can refuse.
MISFITS: list[tuple[str, object]] = [
    *(("data.path", "gone"), ("data.path", "x.toml"), ("data.source", "arrays"), ("data.source", "cifar10")),
    *(
        ("data.classes", ["bird", "cat"]),
        ("data.augment.shift", 8),
        ("data.whiten", 193),
        ("model.hidden", [LARGE] * 2),
    ),
]
# In the range, but of a size that takes long or fills a disk.
TOO_MUCH = {"data.train_size": 200, "data.test_size": 200, "train.threads": 2}
TEXTS = [
    *("", "=", "seed", "seed=", "=1", ".=1", "seed.=1", "seed..x=1", "seed.x=1", "a.b.c=1", "data=", "data=1"),
    *("seed=1 # one", "seed = 2", " seed=2", "seed=1\r", "seed=1\nseed=2", "'seed'=1", '"seed"=1', "train.epochs=1=2"),
    *("data={}", "model={}", "optimizer={}", "train={}", "data.augment={}", "data.augment.flip=true", "data.x.y=1"),
    *("data.augment=[", "seed=1979-05-27", "seed=0x1f", "seed=1_0", "seed=+1", "seed=1e3", "model.hidden=[1,]"),
    *("seed=" + "9" * 5000, "seed=0x" + "f" * 5000, "optimizer.lr=" + "9" * 5000, "model.hidden=" + "[" * 5000),
    *("model.hidden=" + "[" * 300 + "]" * 300, "x" * 5000 + "=1", ".".join("abc" * 500) + "=1", "\udcff=1"),
    *("data.path=\udcff", "data.classes=['\udcff','a']", "data.path='''", "model.kind='logistic", "a\u2028b=1"),
]


# --- what is mutated --------------------------------------------------------------------------------------------


def small(name: str) -> Tree:
    """A shipped configuration, on few small images, with few units and steps."""
    tree = tomllib.loads(list_presets()[name].read_text(encoding="utf-8"))
    if tree["data"]["source"] != "digits":
        tree["data"] |= {"source": "images", "path": "pets"}
    tree["train"] |= {"epochs": 1, "batch_size": 600}
    if "hidden" in tree["model"]:
        tree["model"]["hidden"] = [6, 5]
    if "whiten" in tree["data"]:
        tree["data"]["whiten"] = 4
    return tree


def put(tree: Tree, key: str, value: object) -> None:
    """Sets a dotted key where there is a section for it."""
    *sections, name = key.split(".")
    inner: Any = tree
    for section in sections:
        inner = inner.setdefault(section, {}) if isinstance(inner, dict) else None
    if isinstance(inner, dict):
        inner[name] = value


def take(tree: Tree, key: str) -> object:
    """Takes a dotted key out, and gives its value."""
    *sections, name = key.split(".")
    inner: Any = tree
    for section in sections:
        inner = inner.get(section) if isinstance(inner, dict) else None
    return inner.pop(name, None) if isinstance(inner, dict) else None


def is_too_much(key: str, value: object) -> bool:
    """Whether a setting would be accepted and then keep the machine busy."""
    if isinstance(value, dict):
        return any(is_too_much(f"{key}.{name}", inner) for name, inner in value.items())
    return key in TOO_MUCH and isinstance(value, int) and TOO_MUCH[key] < value <= LARGE


VALUES = st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.sampled_from(OTHERS)
SETTINGS = st.tuples(st.sampled_from(KEYS), VALUES).filter(lambda pair: not is_too_much(*pair))
MISSPELT = st.sampled_from(KEYS).flatmap(
    lambda key: st.integers(0, len(key) - 1).map(lambda place: key[:place] + key[place + 1 :])
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, list[str]]:
    """The text of a configuration after one to three changes, and what is set on top of it."""
    tree = copy.deepcopy(small(draw(st.sampled_from(sorted(list_presets())))))
    changes: list[str] = []
    for kind in draw(
        st.lists(st.sampled_from(["drop", "set", "misspell", "move", "misfit", "flag", "text"]), max_size=3)
    ):
        if kind == "drop":
            take(tree, draw(st.sampled_from(KEYS)))
        elif kind == "set":
            put(tree, *draw(SETTINGS))
        elif kind == "misspell":
            put(tree, draw(MISSPELT | st.sampled_from(["", "a\nb", "x.\0", "data.x\u2028y"])), draw(VALUES))
        elif kind == "move":
            key, section = draw(st.sampled_from(KEYS)), draw(st.sampled_from(["data", "model", "train", "new"]))
            put(tree, f"{section}.{key.split('.')[-1]}", take(tree, key) or 1)
        elif kind == "misfit":
            put(tree, *draw(st.sampled_from(MISFITS)))
        elif kind == "flag":
            key, value = draw(SETTINGS)
            changes.append(f"{key}={written(value)}")
        else:
            changes.append(draw(st.sampled_from(TEXTS)))
    return broken(draw, tomli_w.dumps(tree)), changes


def written(value: object) -> str:
    """A value as TOML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {written(inner)}' for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def broken(draw: st.DrawFn, text: str) -> str:
    """Now and then a text that a slip of the hand went through."""
    place = draw(st.integers(0, len(text)))
    match draw(st.sampled_from(["whole"] * 6 + ["cut", "less", "more", "twice"])):
        case "cut":
            return text[:place]
        case "less":
            return text[:place] + text[place + 1 :]
        case "more":
            return text[:place] + draw(st.sampled_from(list("\"'[]{}=.#,\n\r\0- x\u2028"))) + text[place:]
        case "twice":
            return text + text[place:]
        case _:
            return text


# --- what comes of it -------------------------------------------------------------------------------------------


def few_steps(made: Experiment, run: Run, **arguments: Any) -> Iterator[EpochRecord | None]:
    """`run_experiment` of no more than two epochs."""
    algorithm = made.training.algorithm
    made.training.algorithm = dataclasses.replace(algorithm, epochs=min(2, algorithm.epochs))
    return runner.run_experiment(made, run, **arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with images and arrays, in place of the sources that need a download."""
    here = tmp_path_factory.mktemp("mutations")
    draws = np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "test"), CLASSES, range(12)):
        file = here / "pets" / split / name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(file)
    images, labels = draws.integers(256, size=(20, 4, 4), dtype=np.uint8), np.arange(20) % 3
    np.savez(here / "pets.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("FCNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # nobody listens there
        patch.setattr(train, "run_experiment", few_steps)
        yield here
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def leaves(arguments: list[str]) -> tuple[object, str]:
    """The exit code of a training and what it says on standard error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["train", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as leaving,
    ):
        cli.run_command(train.main)
    return leaving.value.code, err.getvalue()


def refusal_is_clear(code: object, err: str) -> bool:
    """Whether a command was refused, in lines of which each says what must be."""
    lines = err.split("\n")
    return (
        code == 2
        and lines.pop() == ""
        and lines == err.splitlines()
        and all("must " in line or "is not a known key" in line or "expected " in line for line in lines)
    )


@settings(max_examples=settings().max_examples * 5 // 2, suppress_health_check=[HealthCheck.too_slow])
@given(mutation=mutated())
def test_a_mutated_configuration_trains_or_is_refused_in_a_line_a_mistake(
    mutation: tuple[str, list[str]], place: Path
) -> None:
    text, changes = mutation
    Path("x.toml").write_text(text, encoding="utf-8", newline="")
    flags = [part for change in changes for part in ("--set", change)]
    code, err = leaves(["--config", "x.toml", *flags])
    if code == 0:
        assert err == ""
        assert (place / "runs/x/summary.json").is_file()
        shutil.rmtree("runs")
    else:
        assert refusal_is_clear(code, err), err
        assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("data = [", ["seed"]),
        ("seed = 0x" + "f" * 5000, ["model.hidden=" + "[" * 5000]),
        ('[data]\nsource = "images"\npath = "\\u0000"\n"a\\nb" = 1\n', ["data.path=\udcff"]),
    ],
)
def test_a_process_of_its_own_refuses_them_as_well(text: str, changes: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text, encoding="utf-8")
    flags = [part for change in changes for part in ("--set", change)]
    command = [sys.executable, "-m", "fcnet.train", "--config", "x.toml", *flags]
    process = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=tmp_path)
    assert refusal_is_clear(process.returncode, process.stderr), process.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.toml"]
