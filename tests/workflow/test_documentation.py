"""Every command and every program in the README and in docs/ runs and prints what the page promises."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import http.server
import io
import itertools
import json
import pickle
import re
import shlex
import shutil
import tarfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from fcnet import cache, evaluate, predict, train, watch
from fcnet.config.presets import list_presets
from fcnet.config.toml import dump_config, load_config
from fcnet.embed import __main__ as embed
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import run_experiment
from fcnet.export import __main__ as export
from fcnet.figures import __main__ as figures
from fcnet.probe import __main__ as probe
from fcnet.report import __main__ as report
from fcnet.sweep import __main__ as sweep
from tests.helpers import command_output, image_bytes, write_image, write_image_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
    "train": train.main,
    "sweep": sweep.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
    "report": report.main,
    "watch": watch.main,
    "figures": figures.main,
    "cache": cache.main,
    "export": export.main,
    "embed": embed.main,
    "probe": probe.main,
}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Commands that no test can run, and why.
SKIPPED = {
    "python3 -m venv .venv": "makes an environment; CI runs it",
    ".venv/bin/python -m pip install --quiet -e .": "needs the package index; CI runs it",
    ".venv/bin/python -m pip install --quiet -e '.[test]'": "needs the package index; CI runs it",
    ".venv/bin/python -m pytest -q -n auto": "runs this very suite",
}
RESULT = (
    r"test accuracy \d+\.\d\d% \(95% interval \d+\.\d\d% to \d+\.\d\d%\) on [\d,]+ images after \d+\.\d s of training"
)
PREDICTION = r"digit\.png: \d \(\d+\.\d%\)"
EVALUATION = [
    r"accuracy .*, 360 images",
    r"class +images +precision +recall +F1",
    r"truth +prediction",
    r"most confident mistakes, \d+ of \d+",
    r"index +truth +prediction +probability",
    r"evaluation-mistakes\.csv",
    r"evaluation\.json",
]
CORRUPTIONS = [
    *EVALUATION,
    r"accuracy at +1 +2 +3 +4 +5 +mean",
    *(rf"{kind}( +\d+\.\d%){{6}}" for kind in ("noise", "blur", "brightness", "contrast", "translate", "rotation")),
    r"all +\d+\.\d%",
    r"clean +\d+\.\d%",
    r"corruptions\.json",
    r"corruptions-light\.svg",
]


# --- stand-ins for the reader's files ---------------------------------------------------------------------------


def draw_image(file: str, shape: tuple[int, ...] = (8, 8)) -> None:
    write_image(file, np.random.default_rng(len(file)).integers(256, size=shape, dtype=np.uint8))


def image_folder(folder: str) -> None:
    draws = np.random.default_rng(0)
    write_image_folder(
        folder,
        ("cat", "dog", "eel"),
        {"train": 10, "test": 10},
        lambda *_: draws.integers(256, size=(6, 6, 3), dtype=np.uint8),
    )


def feature_file(file: str) -> None:
    """Writes labelled features of three classes, and ``new.npy`` without labels."""
    draws = np.random.default_rng(0)
    Path(file).parent.mkdir(exist_ok=True)
    x, y = draws.standard_normal((60, 5), dtype=np.float32), np.arange(60) % 3
    np.savez(file, x_train=x[:45], y_train=y[:45], x_test=x[45:], y_test=y[45:])
    np.save("new.npy", x[45:])


def image_archive() -> None:
    image_folder("packed")
    Path("my").mkdir(exist_ok=True)
    with tarfile.open("my/all.tar.xz", "w:xz") as archive:
        archive.add("packed", ".")


def jpeg_archive() -> None:
    """Writes two training images and a test image of each of ten classes, as JPEG files of CIFAR-10's size."""
    draws = np.random.default_rng(0)
    with tarfile.open("my/cifar10-jpeg.tar.xz", "w:xz") as archive:
        for label, name in itertools.product(range(10), ("train/0", "train/1", "test/0")):
            split, number = name.split("/")
            pixels = Image.fromarray(draws.integers(256, size=(32, 32, 3), dtype=np.uint8))
            content = image_bytes(pixels, "JPEG")
            info = tarfile.TarInfo(f"{split}/class{label}/{number}.jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def digit() -> None:
    draw_image("digit.png")
    draw_image("IMAGE.png")


def digits() -> None:
    draw_image("images/a.png")
    draw_image("images/b/c.png")


def configs_of_the_clone() -> None:
    Path("configs").mkdir()
    for file in list_presets().values():
        shutil.copy(file, "configs")


def killed_run() -> None:
    """Leaves ``runs/digits`` as a process killed in its second epoch does."""
    shutil.rmtree("runs/digits")
    settings = load_config(list_presets()["digits"], ["train.epochs=2"])
    run = Run.create(None, "digits", dump_config(settings))
    for _ in itertools.islice(run_experiment(build(settings, torch.device("cpu")), run, save_seconds=0.0), 25):
        pass
    assert not run.finished


def tiny_cifar10() -> None:
    """Writes a small archive in CIFAR-10's format to download, and its unpacked files in ``my/data``."""
    draws = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files = {"batches.meta": pickle.dumps({"label_names": classes}, protocol=2)}
    for name in names:
        rows = {"labels": [*range(10)], "data": draws.integers(256, size=(10, 3072), dtype=np.uint8)}
        files[name] = pickle.dumps(rows, protocol=2)
    for name, content in files.items():
        file = Path("my/data/cifar-10-batches-py") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with tarfile.open("cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add("my/data/cifar-10-batches-py", "cifar-10-batches-py")
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    CIFAR10.tgz_md5 = hashlib.md5(Path("cifar-10-python.tar.gz").read_bytes()).hexdigest()
    CIFAR10.train_list = [[name, sums[name]] for name in names[:5]]
    CIFAR10.test_list = [[name, sums[name]] for name in names[5:]]
    CIFAR10.meta = CIFAR10.meta | {"md5": sums["batches.meta"]}


# --- what the pages promise -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """The output that a page promises for a command or a program.

    Attributes:
        output: patterns of lines, in order.
        before: makes the files that the page assumes.
        smaller: flags that make the command quick.
    """

    output: list[str]
    before: Callable[[], object] = lambda: None
    smaller: str = ""


FEW = "--set train.epochs=2"
LOOSE = "--tol 1e-3"
EXPECTED: dict[str, dict[str, Shown]] = {
    "README.md": {
        ".venv/bin/python -m fcnet.train --config configs/digits.toml": Shown(
            [r"1,294 training, .*; runs/digits", r"epoch 1/2 · .*", r"epoch 2/2 · .*", RESULT],
            configs_of_the_clone,
            FEW,
        ),
        "python -m fcnet.watch runs/digits": Shown(
            [r"runs/digits is finished .*", r"report: runs/digits/report\.html"]
        ),
        "python -m fcnet.evaluate runs/digits": Shown(EVALUATION),
        "python -m fcnet.predict runs/digits IMAGE.png": Shown([r"IMAGE\.png: \d \(\d+\.\d%\)"], digit),
        "python -m fcnet.train --resume --out runs/digits": Shown([r"epoch 2/2 · .*", RESULT], killed_run),
        "python -m fcnet.train --config images --set data.path=/my/all.tar.xz --set 'model.hidden=[2048,512]'": Shown(
            [r".* in 3 classes; layers 108-2048-512-3, .*; runs/images", RESULT], image_archive, FEW
        ),
        "python -m fcnet.embed /my/images --backbone torchvision:resnet18 --out features": Shown(
            [r"features: train 30 × 512, test 30 × 512 features in .*"],
            lambda: image_folder("my/images"),
            "--weights random --size 32",
        ),
        "python -m fcnet.train --config features --set data.path=features": Shown(
            [r".* in 3 classes; layers 512-3, .*; runs/features", RESULT], smaller=FEW
        ),
        "python -m fcnet.probe features": Shown([r"test accuracy .* on 30 examples; .*"], smaller=LOOSE),
        "python -m fcnet.train --list": Shown([rf"{name} +Trains .*\." for name in sorted(list_presets())]),
        "python -m fcnet.train --config cifar10_mlp": Shown(
            [r".* layers 3072-2048-512-10, .*; runs/cifar10_mlp", RESULT], tiny_cifar10, f"{FEW} --set data.whiten=0"
        ),
        "program 1": Shown(
            [r"\d\.\d+ 0\.\d+", r"tensor\(\[\d(, \d){4}\]\)", r"tensor\(2\.06\d*e-09\)", r"\[Prediction"]
        ),
        "python -m fcnet.train --config cifar10_mlp --set data.source=images "
        "--set data.path=/my/cifar10-jpeg.tar.xz": Shown(
            [r".* in 10 classes; layers 3072-2048-512-10, .*; runs/cifar10_mlp-2", RESULT],
            jpeg_archive,
            f"{FEW} --set data.whiten=0",
        ),
    },
    "installation.md": {
        "python -m fcnet train digits --set train.epochs=2 --out runs/check": Shown([r"epoch 2/2 · .*", RESULT]),
    },
    "tour.md": {
        "fcnet train digits": Shown([r".*; runs/digits", RESULT, r"report: runs/digits/report\.html; .*"], digit, FEW),
        "fcnet evaluate runs/digits": Shown(EVALUATION),
        "fcnet train digits --set 'model.hidden=[32]' --set train.epochs=10 --out runs/narrow": Shown(
            [r".* layers 64-32-10, .*; runs/narrow", RESULT], smaller=FEW
        ),
        "fcnet report runs/digits runs/narrow --out comparison.html": Shown([r"written to comparison\.html"]),
        "fcnet predict runs/digits digit.png": Shown([PREDICTION]),
        "fcnet train images --set data.path=/my/images": Shown(
            [r".* in 3 classes; .*; runs/images", RESULT], lambda: image_folder("my/images"), FEW
        ),
        "program 1": Shown([r"total +203,530", r"\d\.\d+", r"\d \d+\.\d%"]),
    },
    "probing.md": {
        "python -m fcnet.embed /my/images --backbone torchvision:resnet18 --out features": Shown(
            [r"features: train 30 × 512, test 30 × 512 features in .*"],
            lambda: image_folder("my/images"),
            "--weights random --size 32",
        ),
        "program 1": Shown([r"\(30, 512\) float32 \(30,\)"]),
        "python -m fcnet.probe features": Shown(
            [r"all penalties: 45 penalties on 27 examples, .*", r"test accuracy .* on 30 examples; .*"], smaller=LOOSE
        ),
        "python -m fcnet.probe features.npz --folds 5 --Cs 1e-3..1e3:13 --shots 1,4 --repeats 3 "
        "--out runs/folds": Shown(
            [
                r"fold 5/5: 13 penalties on 36 examples, .*",
                r"4 shots, draw 3/3: .*",
                r"test accuracy .* on 15 examples; .*",
            ],
            lambda: feature_file("features.npz"),
            LOOSE,
        ),
        "python -m fcnet.predict runs/folds new.npy": Shown([r"new\.npy\[0\]: [012] \(\d+\.\d%\)"]),
        "program 2": Shown([r"C = \S+: \d+\.\d% on test images", r"at most [1-9]e-\d\d above the minimum"]),
        "program 3": Shown(["236 TFLOP and 0.93 TB", r"118 s on a server, 4\.7 s on a GPU"]),
    },
    "guide.md": {
        "python -m fcnet.train --list": Shown([rf"{name} +Trains .*\." for name in sorted(list_presets())]),
        "python -m fcnet.train --config digits": Shown([r".*; runs/digits", RESULT], digit, FEW),
        "python -m fcnet.evaluate runs/digits": Shown(EVALUATION),
        "python -m fcnet.predict runs/digits digit.png": Shown([PREDICTION]),
        "python -m fcnet.predict runs/digits digit.png --json": Shown([r'"path": "digit.png"']),
        "python -m fcnet.predict runs/digits images --csv --top 3": Shown(
            ["path,class,probability,class_2,probability_2,class_3,probability_3", r"images/a\.png,\d,0\.\d+,\d,.*"],
            digits,
        ),
        "python -m fcnet.evaluate runs/digits --verify": Shown(
            [r"predictions: equal, 360 images", r"summary: equal, 15 scores"]
        ),
        "python -m fcnet.evaluate runs/digits --corruptions": Shown(CORRUPTIONS),
        "python -m fcnet.train --resume --out runs/digits": Shown([f"runs/digits is finished: {RESULT}"]),
        "python -m fcnet.watch runs/digits": Shown(
            [r"runs/digits is finished after 2 epochs, test accuracy .*", r"report: runs/digits/report\.html"]
        ),
        "python -m fcnet.train --config digits --print-config": Shown([r"seed = 0", r"\[data\]", r"\[train\]"]),
        "python -m fcnet.train --config digits --set 'model.hidden=[256,128]' --out runs/narrow": Shown(
            [r".* layers 64-256-128-10, .*; runs/narrow", RESULT], smaller=FEW
        ),
        "python -m fcnet.train --config mine.toml": Shown([r".* layers 64-64-10, .*; runs/mine", RESULT], smaller=FEW),
        "python -m fcnet.train --config digits --find-lr": Shown(
            [r"tried \d+ learning rates from 1e-06 .*: --set optimizer\.lr=.* \(now 0\.01\); plot: runs/digits-lr/.*"]
        ),
        "python -m fcnet.train digits --set train.calibrate=true --out runs/calibrated": Shown(
            [
                r".*; runs/calibrated",
                RESULT,
                r"temperature 0\.\d+: test calibration error \d+\.\d\d% before, \d+\.\d\d% after",
            ],
            smaller=FEW,
        ),
        "program 1": Shown([r"[1-9]\d*\.\d+ \d\.\d+ 0\.\d+"]),
        "python -m fcnet.train --config mine.toml --set optimizer.schedule=constant --out runs/longer": Shown(
            [r".*; runs/longer", RESULT], smaller="--set train.epochs=1"
        ),
        "python -m fcnet.train --resume --out runs/longer --set train.epochs=40": Shown(
            [r"note: the run continues to epoch 2, .*", r"epoch 2/2 · .*", RESULT], smaller=FEW
        ),
        "python -m fcnet.train --config mine.toml --set \"data.classes=['3','5','8']\" --set model.init_from=runs/mine "
        "--out runs/three": Shown(
            [r"starts from the weights of .*/runs/mine; last layer new, .*", RESULT], smaller=FEW
        ),
        "python -m fcnet.report runs/digits runs/narrow": Shown([r"written to report\.html"]),
        "python -m fcnet.sweep digits --grid 'optimizer.lr=[1e-3,1e-2]' --grid 'model.hidden=[[64],[256,128]]' "
        "--seeds 2": Shown(
            [r"4 trials with 2 seeds each, .*; sweeps/digits", r"written to sweeps/digits: .*"],
            smaller="--set train.epochs=1",
        ),
        "python -m fcnet.sweep digits --search optimizer.lr=1e-4..1e-1 --search 'model.dropout=0..0.5' --trials 12 "
        "--prune median --out sweeps/search": Shown(
            [r"7 trials with 1 seed each, .*; sweeps/search", r"written to sweeps/search: .*"],
            smaller="--set train.epochs=2 --set model.hidden=[8] --trials 7",
        ),
        "python -m fcnet.train --config images --set data.path=/my/images": Shown(
            [r".* in 3 classes; .*; runs/images", RESULT], lambda: image_folder("my/images"), FEW
        ),
        "python -m fcnet.train --config images --set data.path=/my/images --set \"data.classes=['cat','dog']\"": Shown(
            [r".* in 2 classes; layers 108-1024-512-1, .*; runs/images-2", RESULT], smaller=FEW
        ),
        "python -m fcnet.evaluate runs/images-2 --data /my/images": Shown(
            [r"accuracy .*, 20 images", "classes: .*", "pixels: .*", "accuracy: .*"]
        ),
        "python -m fcnet.figures sheets --augment images --set data.path=/my/images "
        "--set 'data.augment={rotate=15,mixup=0.2}'": Shown(
            [rf"sheets/augment{kind}-{theme}\.png" for kind in ("", "-rotate", "-mixup") for theme in ("light", "dark")]
        ),
        "python -m fcnet.train --config images --set data.path=/my/images --set data.balance=weights "
        "--out runs/balanced": Shown([r".* in 3 classes; .*; runs/balanced", RESULT], smaller=FEW),
        "program 2": Shown([]),
        "python -m fcnet.train --config images --set data.source=arrays --set data.path=my.npz": Shown(
            [r"450 training, 50 validation and 100 test images in 3 classes; layers 144-.*", RESULT], smaller=FEW
        ),
        "python -m fcnet.train --config features --set data.path=embeddings.npz": Shown(
            [r".* in 3 classes; layers 5-3, .*; runs/features", RESULT], lambda: feature_file("embeddings.npz"), FEW
        ),
        "python -m fcnet.predict runs/features new.npy --csv": Shown(
            [r"path,class,probability", r"new\.npy\[0\],\d,0\..*"]
        ),
        "python -m fcnet.train --config cifar10_mlp --set data.path=/my/data": Shown(
            [r".* layers 3072-2048-512-10, .*; runs/cifar10_mlp", RESULT],
            tiny_cifar10,
            f"{FEW} --set data.whiten=0",
        ),
        "program 3": Shown([rf"{epoch}: \d\.\d\d\d \d+\.\d%" for epoch in range(1, 4)]),
        "program 4": Shown([*(rf"{epoch} [01]\.\d+" for epoch in range(1, 6)), r"[01]\.\d+"]),
        "program 5": Shown([r"2\.06\d*e-09", r"tensor\(\[\[-2\.06\d*e-09, +2\.06\d*e-09\]\]\)", r"1\.0\d*"]),
        "program 6": Shown([r"\(5, 32\) \(5, 32\)", r"\(5, 16\) \(5, 16\)", r"\(5, 10\) \(5, 10\)"]),
        "program 7": Shown(
            [
                r"0 32 0\.\d+ 0\.\d{4} \d+\.\d",
                r"2 32 0\.[5-9]\d* 0\.\d{4} \d+\.\d",
                r"4 10 None \d\.\d{4} \d\.\d",
                r"layer 2: \d\d% of the units are dead; try leaky_relu or a smaller learning rate",
            ]
        ),
        "python -m fcnet.figures figures": Shown([r"figures/sigmoid-light\.svg", r"figures/descent-dark\.png"]),
        "program 8": Shown([r"\d 0\.\d+|\d 1\.0"]),
        "python -m fcnet.export runs/digits digits.pt2": Shown([r"digits\.pt2: uint8 pixels .*; card: README\.md"]),
        "program 9": Shown([r"\(3, 10\)"]),
        "python -m fcnet.train --config digits --tensorboard": Shown([r".*; runs/digits-2", RESULT], smaller=FEW),
        "program 10": Shown([r"0\.9\d+", r"0\.9\d+"]),
    },
    "estimators.md": {
        "program 1": Shown([r"0\.9\d+", r"0\.\d+ \d+", "True"]),
    },
    "learning.md": {
        "program 1": Shown([r"20 0\.\d{3}", r"0\.\d{3}", r"0\.\d{3} \(0\.\d{3}, 0\.\d{3}\)"]),
        "python -m fcnet.train --config digits --set \"data.classes=['3','8']\" --set train.loss=hinge": Shown(
            [
                r".* in 2 classes; .*; runs/digits",
                "note: the hinge loss does not yield probabilities.*",
                RESULT,
            ],
            smaller=FEW,
        ),
        "program 2": Shown(
            [
                r"-1\.0 0\.0 1\.0",
                r"normal_cdf 2\.87e-07 5\.00e-01 1\.00e\+00",
                r"sigmoid 6\.69e-03 5\.00e-01 9\.93e-01",
                r"cauchy_cdf 6\.28e-02 5\.00e-01 9\.37e-01",
            ]
        ),
        "program 3": Shown([r"0\.36", r"0\.340\d* 0\.340\d* 0\.340\d*", r"0\.2: 1\.61", r"0\.0001: 9\.21"]),
    },
    "outlook.md": {
        "program 1": Shown(
            [
                r"3,287,703,889 parameters, 5\.39e\+13 operations and 1\.08e\+11 bytes a step",
                r"3\.1 h on one GPU",
                r"0\.17 h on 64",
            ]
        ),
    },
}


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """Yields what a page has its reader do, in order: ("command", line), ("program", text) or ("file", text)."""
    for kind, text in FENCED.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            yield "program", text
        elif kind == "toml":
            yield "file", text
        elif kind in ("", "bash"):
            for line in text.splitlines():
                command = line.split("  #")[0].strip()
                yield from (("command", part) for part in command.split(" && ") if kind or "python -m fcnet" in part)


def labelled(page: Path) -> Iterator[tuple[str, str, str]]:
    """Yields the kind of each step, its key in `EXPECTED`, and its text."""
    programs = itertools.count(1)
    for kind, text in steps(page):
        yield kind, f"program {next(programs)}" if kind == "program" else text, text


def test_every_step_of_every_page_is_run_or_skipped_for_a_reason() -> None:
    found = {page.name: [name for kind, name, _ in labelled(page) if kind != "file"] for page in PAGES}
    run = {page: [name for name in names if name not in SKIPPED] for page, names in found.items()}
    assert {page: names for page, names in run.items() if names} == {
        page: list(shown) for page, shown in EXPECTED.items()
    }
    assert set(SKIPPED) == {name for names in found.values() for name in names} & set(SKIPPED)


# --- running them -----------------------------------------------------------------------------------------------


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without logging."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Drops the message."""


@pytest.fixture
def served_folder(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder that a local server offers in place of CIFAR-10's site."""
    for name in ("tgz_md5", "train_list", "test_list", "meta"):
        monkeypatch.setattr(CIFAR10, name, getattr(CIFAR10, name))
    handler = functools.partial(SilentHandler, directory=working_folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{site.server_port}/cifar-10-python.tar.gz")
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield working_folder
        site.shutdown()
        thread.join()


def run_line(line: str, smaller: str) -> str:
    """Returns the output of a command line, which must succeed."""
    words = shlex.split(line.replace("/my/", "my/"))
    if words[0] != "fcnet":
        assert (Path(words[0]).name, words[1]) == ("python", "-m")
        words = words[2:] if words[2] == "fcnet" else ["fcnet", words[2].removeprefix("fcnet."), *words[3:]]
    name, *arguments = words[1:]
    return command_output(COMMANDS[name], *arguments, *smaller.split())


def program_output(text: str) -> str:
    """Returns the output of a program and the values of its expressions, as Python's prompt shows them."""
    names: dict[str, Any] = {}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Expr):
                value = eval(compile(ast.Expression(statement.value), "page", "eval"), names)  # noqa: S307 - our own page
                out.write("" if value is None else f"{value!r}\n")
            else:
                exec(compile(ast.Module([statement], []), "page", "exec"), names)  # noqa: S102 - our own page
    return out.getvalue()


@pytest.mark.usefixtures("served_folder")
@pytest.mark.parametrize("page", [page for page in PAGES if page.name in EXPECTED], ids=lambda page: page.name)
def test_a_page_keeps_its_promises(page: Path) -> None:
    for kind, name, text in labelled(page):
        if kind == "file":
            Path("mine.toml").write_text(text, encoding="utf-8")
        elif name not in SKIPPED:
            shown = EXPECTED[page.name][name]
            shown.before()
            output = program_output(text) if kind == "program" else run_line(text, shown.smaller)
            assert re.search(".*\n(?:.*\n)*?.*".join(shown.output), output), f"{name} printed:\n{output}"


def test_every_picture_has_an_alternative_text_and_a_caption_and_is_shown() -> None:
    shown = set()
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            for text, name in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", line):
                assert text, f"{name} on {page.name} has no alternative text"
                assert (page.parent / name).is_file()
                shown.add(Path(name).name)
                if page.name != "README.md":
                    assert re.match(r"\*[A-Z]", lines[number + 2]), f"{name} on {page.name} has no caption"
    assert shown == {file.name for file in (ROOT / "docs" / "pictures").iterdir()}


def test_the_readme_shows_the_format_of_a_result() -> None:
    assert re.search(rf"^    {RESULT}$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_guide_lists_the_files_of_a_run(served_folder: Path) -> None:
    table = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8").split("| file | what |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`([\w./]+)`", row.split("|")[1])}
    run_line("python -m fcnet.train --config digits", FEW)
    assert named == {entry.name for entry in (served_folder / "runs/digits").iterdir()} | {"checkpoints/"}
    record = json.loads((served_folder / "runs/digits/metrics.jsonl").read_text().splitlines()[0])
    assert {"train_loss", "train_accuracy", "validation_loss", "lr", "seconds"} < set(record)
