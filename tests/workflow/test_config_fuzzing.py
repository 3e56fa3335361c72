"""A configuration changed at random either trains, or is refused with one line an error and without a run folder."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import tomllib
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.datasets import CIFAR10

from fcnet import train
from fcnet.config.presets import list_presets
from fcnet.config.schema import Config
from fcnet.experiment import runner
from tests.helpers import preserve_process_state, run_command, set_flags, write_pets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fcnet.experiment.build import Experiment
    from fcnet.experiment.run_folder import Run
    from fcnet.training.records import EpochRecord
    from tests.processes import WarmServer

    Tree = dict[str, Any]

LARGE = 2**31 - 1
CLASSES = ("airplane", "automobile", "bird")


def dotted_keys(tree: Tree, prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys of all sections and of their values."""
    for name, value in tree.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from dotted_keys(value, f"{prefix}{name}.")


KEYS = list(dotted_keys(Config().model_dump()))
NUMBERS: list[object] = [
    *(0, 1, 2, -1, 7, LARGE, LARGE + 1, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**400),
    *(0.0, -0.0, 0.5, 0.999999, 1 - 2**-53, 1.0, 3.0, -1.5, 5e-324, 1e-45, 1e-300),
    *(3e38, 1e39, 1e308, -1e308, float("inf"), float("-inf"), float("nan")),
]
WORDS: list[object] = [
    *("", " ", "x", "é", "a\nb", "a\u2028b", "\0", "\x1b[2J", "n" * 5000, "a|b|c", "{x}", "%s", "~nobody/x", "~"),
    *("pets", "pets.npz", "/", ".", "x.toml", "pets/train", "0", "cat", *CLASSES),
    *(
        "digits",
        "cifar10",
        "images",
        "arrays",
        "features",
        "synthetic",
        "mlp",
        "logistic",
        "sigmoid",
        "gelu",
        "relu",
        "identity",
    ),
    *("leaky_relu", "elu", "none", "batch", "layer", "sgd", "adamw", "constant", "cosine", "linear", "float32"),
    *("bfloat16", "cross_entropy", "adam", "muon", "lbfgs", "one_cycle", "steps", "all", "he", "glorot", "lecun"),
    *("weights", "sampling", "cifar100", "auto"),
]
OTHERS: list[object] = [
    *(True, False, date(2026, 1, 1), [], [[]], {}, [{}], {"": 1}, {"x": {"y": 1}}, {"flip": True, "shift": 1}),
    *([1], [5, 5], [3, 0], [1.5], [LARGE], [LARGE] * 3, [1, 4, 4], [3, 8, 8], [2, 2], [True], [1] * 40),
    *(["airplane", "bird"], ["1", "7"], ["bird", "bird"], ["a\nb", "\0"], ["x"], ["bird", 1]),
]
# Valid values that do not fit the data or the memory.
UNFIT_SETTINGS: list[tuple[str, object]] = [
    *(("data.path", "gone"), ("data.path", "x.toml"), ("data.source", "arrays"), ("data.source", "cifar10")),
    *(
        ("data.classes", ["bird", "cat"]),
        ("data.augment.shift", 8),
        ("data.whiten", 193),
        ("model.hidden", [LARGE] * 2),
    ),
]
# Valid values that take too long or fill a disk.
UPPER_BOUNDS = {"data.train_size": 200, "data.test_size": 200, "train.threads": 2}
TEXTS = [
    *("", "=", "seed", "seed=", "=1", ".=1", "seed.=1", "seed..x=1", "seed.x=1", "a.b.c=1", "data=", "data=1"),
    *("seed=1 # one", "seed = 2", " seed=2", "seed=1\r", "seed=1\nseed=2", "'seed'=1", '"seed"=1', "train.epochs=1=2"),
    *("data={}", "model={}", "optimizer={}", "train={}", "data.augment={}", "data.augment.flip=true", "data.x.y=1"),
    *("data.augment=[", "seed=1979-05-27", "seed=0x1f", "seed=1_0", "seed=+1", "seed=1e3", "model.hidden=[1,]"),
    *("seed=" + "9" * 5000, "seed=0x" + "f" * 5000, "optimizer.lr=" + "9" * 5000, "model.hidden=" + "[" * 5000),
    *("model.hidden=" + "[" * 300 + "]" * 300, "x" * 5000 + "=1", ".".join("abc" * 500) + "=1", "\udcff=1"),
    *("data.path=\udcff", "data.classes=['\udcff','a']", "data.path='''", "model.kind='logistic", "a\u2028b=1"),
]


# --- random changes ---------------------------------------------------------------------------------------------


def small_preset(name: str) -> Tree:
    """Returns a preset reduced to few small images, units and steps."""
    tree = tomllib.loads(list_presets()[name].read_text(encoding="utf-8"))
    if tree["data"]["source"] != "digits":
        tree["data"] |= {"source": "images", "path": "pets"}
    tree["train"] |= {"epochs": 1, "batch_size": 600}
    if "hidden" in tree["model"]:
        tree["model"]["hidden"] = [6, 5]
    if "whiten" in tree["data"]:
        tree["data"]["whiten"] = 4
    return tree


def set_key(tree: Tree, key: str, value: object) -> None:
    """Sets a dotted key, unless a value stands in place of its section."""
    *sections, name = key.split(".")
    inner: Any = tree
    for section in sections:
        inner = inner.setdefault(section, {}) if isinstance(inner, dict) else None
    if isinstance(inner, dict):
        inner[name] = value


def pop_key(tree: Tree, key: str) -> object:
    """Removes a dotted key and returns its value."""
    *sections, name = key.split(".")
    inner: Any = tree
    for section in sections:
        inner = inner.get(section) if isinstance(inner, dict) else None
    return inner.pop(name, None) if isinstance(inner, dict) else None


def is_too_large(key: str, value: object) -> bool:
    """Whether a setting is valid but would take too long."""
    if isinstance(value, dict):
        return any(is_too_large(f"{key}.{name}", inner) for name, inner in value.items())
    return key in UPPER_BOUNDS and isinstance(value, int) and UPPER_BOUNDS[key] < value <= LARGE


VALUES = st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.sampled_from(OTHERS)
SETTINGS = st.tuples(st.sampled_from(KEYS), VALUES).filter(lambda pair: not is_too_large(*pair))
MISSPELT = st.sampled_from(KEYS).flatmap(
    lambda key: st.integers(0, len(key) - 1).map(lambda index: key[:index] + key[index + 1 :])
)


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draws the text of a configuration after up to three changes, and changes for ``--set``."""
    tree = copy.deepcopy(small_preset(draw(st.sampled_from(sorted(list_presets())))))
    changes: list[str] = []
    for kind in draw(
        st.lists(st.sampled_from(["drop", "set", "misspell", "move", "unfit", "flag", "text"]), max_size=3)
    ):
        if kind == "drop":
            pop_key(tree, draw(st.sampled_from(KEYS)))
        elif kind == "set":
            set_key(tree, *draw(SETTINGS))
        elif kind == "misspell":
            set_key(tree, draw(MISSPELT | st.sampled_from(["", "a\nb", "x.\0", "data.x\u2028y"])), draw(VALUES))
        elif kind == "move":
            key, section = draw(st.sampled_from(KEYS)), draw(st.sampled_from(["data", "model", "train", "new"]))
            set_key(tree, f"{section}.{key.split('.')[-1]}", pop_key(tree, key) or 1)
        elif kind == "unfit":
            set_key(tree, *draw(st.sampled_from(UNFIT_SETTINGS)))
        elif kind == "flag":
            key, value = draw(SETTINGS)
            changes.append(f"{key}={to_toml(value)}")
        else:
            changes.append(draw(st.sampled_from(TEXTS)))
    return mutate_text(draw, tomli_w.dumps(tree)), changes


def to_toml(value: object) -> str:
    """Returns a value as TOML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {to_toml(inner)}' for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def mutate_text(draw: st.DrawFn, text: str) -> str:
    """Draws a text, in four of ten cases with a typing error."""
    index = draw(st.integers(0, len(text)))
    match draw(st.sampled_from(["whole"] * 6 + ["cut", "less", "more", "twice"])):
        case "cut":
            return text[:index]
        case "less":
            return text[:index] + text[index + 1 :]
        case "more":
            return text[:index] + draw(st.sampled_from(list("\"'[]{}=.#,\n\r\0- x\u2028"))) + text[index:]
        case "twice":
            return text + text[index:]
        case _:
            return text


# --- their outcome ----------------------------------------------------------------------------------------------


def run_two_epochs(experiment: Experiment, run: Run, **arguments: Any) -> Iterator[EpochRecord | None]:
    """Runs an experiment for at most two epochs."""
    algorithm = experiment.training.algorithm
    experiment.training.algorithm = dataclasses.replace(algorithm, epochs=min(2, algorithm.epochs))
    return runner.run_experiment(experiment, run, **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with images and arrays, where a download fails at once."""
    folder = tmp_path_factory.mktemp("fuzzing")
    write_pets(folder, CLASSES)
    with pytest.MonkeyPatch.context() as patch, preserve_process_state():
        patch.chdir(folder)
        patch.setenv("FCNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # a closed port
        patch.setattr(train, "run_experiment", run_two_epochs)
        yield folder


RULES = (
    " more errors",
    "must ",
    "is not a known key",
    "expected ",
    ": no such file",
    "cannot write ",
    "need at least one",
    "out of memory",
)


def is_clear_refusal(code: object, err: str) -> bool:
    """Whether a command ended with code 2 and one line an error, each with its rule."""
    lines = err.split("\n")
    return (
        code == 2
        and lines.pop() == ""
        and lines == err.splitlines()
        and all(any(rule in line for rule in RULES) for line in lines)
    )


@settings(max_examples=settings().max_examples * 5 // 2, suppress_health_check=[HealthCheck.too_slow])
@given(mutation=mutations())
def test_a_mutated_configuration_trains_or_is_refused_with_a_line_an_error(
    mutation: tuple[str, list[str]], folder: Path
) -> None:
    text, changes = mutation
    Path("x.toml").write_text(text, encoding="utf-8", newline="")
    code, _, err = run_command(train.main, "--config", "x.toml", *set_flags(*changes))
    if code == 0:
        assert err == ""
        assert (folder / "runs/x/summary.json").is_file()
        shutil.rmtree("runs")
    else:
        assert is_clear_refusal(code, err), err
        assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("data = [", ["seed"]),
        ("seed = 0x" + "f" * 5000, ["model.hidden=" + "[" * 5000]),
        ('[data]\nsource = "images"\npath = "\\u0000"\n"a\\nb" = 1\n', ["data.path=\udcff"]),
    ],
)
def test_a_process_refuses_them_too(text: str, changes: list[str], tmp_path: Path, warm: WarmServer) -> None:
    (tmp_path / "x.toml").write_text(text, encoding="utf-8")
    ended = warm.command("train", "--config", "x.toml", *set_flags(*changes), cwd=tmp_path).wait()
    assert is_clear_refusal(ended.code, ended.err), ended.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.toml"]
