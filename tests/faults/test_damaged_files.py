"""Damage to files of runs, stores and sweeps: each command answers right, or with one line that names the file."""

from __future__ import annotations

import collections
import itertools
import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fcnet
from fcnet import evaluate, predict, train
from fcnet.config.toml import load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.run_identity import settings
from fcnet.experiment.runner import run_experiment
from fcnet.report import __main__ as report
from fcnet.sweep import __main__ as sweep
from tests.faults.damage import damage_file, judge
from tests.faults.rounds import repeated
from tests.helpers import model_files, read_summary, run_command, run_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.helpers import CommandResult

CONFIG = """
[data]
source = "images"
path = "images"
validation = 0.2
[model]
hidden = [6]
normalization = "batch"
[train]
ema_decay = 0.9
epochs = 2
batch_size = 8
threads = 1
save_seconds = 0
"""
IMAGES = "images/test/a"
NOTE = re.compile(r"^.*(?:stored predictions|test images) unavailable: .*$\n", re.MULTILINE)
"""The line of a report for a part that it cannot show."""
LISTED = " The file mistakes.csv in the run folder lists all of them."
"""What a report says if the file is there."""
NO_RUN = ("must be a run folder, got run", "--resume needs a run folder, got run")
"""What is said of a run without its config.toml."""
Answer = tuple["CommandResult", Any]


# --- the commands that read: how each ends, and all that it answers -------------------------------------------------


def evaluates(run: Path) -> Answer:
    result = run_command(evaluate.main, run)
    return result, (result.out, (run / "evaluation.json").read_bytes()) if result.code == 0 else None


def predicts(run: Path) -> Answer:
    result = run_command(predict.main, run, IMAGES, "--json", "--probabilities")
    return result, result.out


def reports(run: Path) -> Answer:
    result = run_command(report.main, run)
    text = (run / "report.html").read_text().replace(LISTED, "") if result.code == 0 else None
    return result, text


def loads(run: Path) -> Answer:
    answers = []

    def main(_: list[str]) -> int:
        classifier = fcnet.load(run)
        pixels = torch.arange(20, dtype=torch.uint8).view(1, 1, 4, 5)
        answers.append((classifier.classes, classifier.predict_proba(pixels).tolist()))
        return 0

    return run_command(main), answers


def resumes(run: Path) -> Answer:
    result = run_command(train.main, "--resume", "--out", run)
    if result.code:
        return result, None
    answer = run_result(run)
    del answer["files"]["config.toml"]  # settings without effect may be changed until the run is finished
    return result, (answer, settings(Run(run).load_config()))


def checks(run: Path) -> Answer:
    """Resumes a finished run, which changes nothing. The report does without the predictions, and so does this."""
    result = run_command(train.main, "--resume", "--out", run)
    return result, (result.out, model_files(run), read_summary(run)) if result.code == 0 else None


def trains(_: Path) -> Answer:
    result = run_command(train.main, "--config", "made.toml", "--out", "new")
    answer = run_result("new") if result.code == 0 else None
    shutil.rmtree("new", ignore_errors=True)
    return result, answer


def sweeps(folder: Path) -> Answer:
    result = run_command(sweep.main, "made.toml", "--grid", "optimizer.lr=[1e-3, 1e-2]", "--out", folder)
    if result.code:
        return result, None
    files = {name: (folder / f"sweep.{name}").read_text() for name in ("json", "csv", "html")}
    # A sweep whose database is gone reads its runs again, and says so first.
    return result, (result.out[result.out.index("rank  trial") :], files)


# --- the folders ----------------------------------------------------------------------------------------------------


def leave_run(folder: str, steps: int | None = None) -> None:
    """Makes a run that is killed after some steps, or that ends."""
    config = load_config(Path("made.toml"))
    run = Run.create(Path(folder), "made", (Path("made.toml")).read_text())
    for _ in itertools.islice(run_experiment(build(config, torch.device("cpu")), run, save_seconds=0.0), steps):
        pass


@pytest.fixture
def here(image_folder: Path, without_reports: None) -> Path:
    Path("made.toml").write_text(CONFIG)
    return image_folder


def damage_in_rounds(
    folder: Path,
    seeds: Iterable[int],
    readers: Mapping[Callable[[Path], Answer], Path],
    also: tuple[str, ...] = (),
) -> tuple[collections.Counter[str], list[str]]:
    """Damages one file of a folder in each round, and lets one command read it.

    Args:
        folder: the folder, with its files whole.
        seeds: a number for each round, which determines it.
        readers: the commands, and the folder that each is given.
        also: texts of which a refusal may hold one in place of the file's name.

    Returns:
        How many answers were right and how many were refused, and a line for each that was neither.
    """
    whole = folder.with_name(f"{folder.name}.whole")
    shutil.copytree(folder, whole)
    files = sorted(file for file in whole.rglob("*") if file.is_file() and file.suffix not in {".lock", ".holder"})

    def restore() -> None:
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)

    right = {}
    for read, path in readers.items():
        restore()
        result, right[read] = read(path)
        assert (result.code, result.err) == (0, "")
    counts, failures = collections.Counter[str](right=0, refused=0), list[str]()
    for seed in seeds:
        draws = random.Random(seed)
        restore()
        file, read = draws.choice(files).relative_to(whole), draws.choice(list(readers))
        damage = damage_file(folder / file, draws)
        what = f"round {seed}: {read.__name__}, {file}, {damage}"
        try:
            result, answer = read(readers[read])
        except Exception as error:  # noqa: BLE001 - any error is a failure of this round
            failures.append(f"{what}: {error!r}")
            continue
        names = (file.name, *also)
        is_right = is_same(answer, right[read], file.name)
        judgement = judge(result, names, is_right=is_right)
        counts[judgement or "wrong"] += 1
        if judgement is None:
            failures.append(f"{what}: code {result.code}, {'right' if is_right else 'other'} answer, {result.err!r}")
    return counts, failures


def is_same(answer: Any, right: Any, name: str) -> bool:
    """Returns whether an answer is the right one. A page may lack a part and name its file."""
    if isinstance(answer, str) and answer != right and (notes := NOTE.findall(answer)):
        return all(name in note or "test images" in note for note in notes)
    return bool(answer == right)


# --- the tests ------------------------------------------------------------------------------------------------------


@repeated(24, 4500)
def test_a_finished_run_is_right_or_refused(count: int, here: Path, figures: Callable[..., None]) -> None:
    leave_run("run")
    readers: dict[Callable[[Path], Answer], Path]
    readers = dict.fromkeys((evaluates, predicts, reports, loads, checks), Path("run"))
    counts, failures = damage_in_rounds(Path("run"), range(count), readers, also=NO_RUN)
    figures("damaged finished runs", damages=count, **counts, tracebacks=len(failures) - counts["wrong"])
    assert failures == []


@repeated(8, 1500)
def test_an_unfinished_run_is_resumed_right_or_refused(count: int, here: Path, figures: Callable[..., None]) -> None:
    leave_run("run", steps=6)
    counts, failures = damage_in_rounds(
        Path("run"), range(count), dict.fromkeys((resumes, reports), Path("run")), also=NO_RUN
    )
    figures("damaged unfinished runs", damages=count, **counts, tracebacks=len(failures) - counts["wrong"])
    assert failures == []


@repeated(8, 2000)
def test_a_damaged_store_is_built_again_or_not_used(
    count: int, here: Path, tmp_path: Path, figures: Callable[..., None]
) -> None:
    leave_run("run")
    readers: dict[Callable[[Path], Answer], Path] = {trains: Path(), evaluates: Path("run")}
    unused = "not in the cache ("
    counts, failures = damage_in_rounds(tmp_path / "cache", range(count), readers, also=(unused,))
    figures("damaged stores", damages=count, **counts, tracebacks=len(failures) - counts["wrong"])
    assert failures == []


@repeated(8, 2000)
def test_a_sweep_is_right_or_refused(count: int, here: Path, figures: Callable[..., None]) -> None:
    assert sweeps(Path("sweep"))[0].err == ""
    database = ("database of the sweep", "as in the sweep in sweep")
    counts, failures = damage_in_rounds(Path("sweep"), range(count), {sweeps: Path("sweep")}, also=database)
    figures("damaged sweeps", damages=count, **counts, tracebacks=len(failures) - counts["wrong"])
    assert failures == []
