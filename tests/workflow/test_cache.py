"""The command cache: runs share a store, the command lists it, and a removed store is decoded again."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import pytest

from fcnet import cache, train
from tests.helpers import command_output, run_command, run_python

pytestmark = pytest.mark.usefixtures("pets")
SHORT = ("--config", "pets.toml", "--set", "train.epochs=1")
SECONDS_PER_DAY = 86_400


def train_once(*flags: str) -> str:
    """Trains one epoch and closes the run's store."""
    out = command_output(train.main, *SHORT, *flags)
    gc.collect()
    return out


def listed_names() -> list[str]:
    """Returns the names that the command lists, in its order."""
    _, *rows, _ = command_output(cache.main).splitlines()
    return [row.split()[0] for row in rows]


def test_runs_share_a_store_and_a_removed_store_is_decoded_again() -> None:
    assert "decoded 102 images" in train_once()
    assert "decoded" not in train_once()
    (name,) = listed_names()
    assert (Path(os.environ["FCNET_CACHE"]) / name).is_dir()
    assert "removed 1 store" in command_output(cache.main, "--clean", name)
    assert not (Path(os.environ["FCNET_CACHE"]) / name).exists()
    assert "decoded 102 images" in train_once()
    assert listed_names() == [name]


def test_the_list_shows_the_size_the_number_of_images_and_the_source() -> None:
    train_once()
    _, row, total = command_output(cache.main).splitlines()
    assert " 102 " in row
    assert str(Path("pets").absolute()) in row
    files = [file for file in (Path(os.environ["FCNET_CACHE"]) / row.split()[0]).iterdir() if file.is_file()]
    assert f"1 store, {sum(file.stat().st_size for file in files) / 1000:.1f} kB" in total


def test_only_stores_older_than_the_given_days_are_removed() -> None:
    train_once()
    (old,) = listed_names()
    train_once("--set", "data.size=[4,4]")
    (new,) = set(listed_names()) - {old}
    three_days_ago = time.time() - 3 * SECONDS_PER_DAY
    for file in (Path(os.environ["FCNET_CACHE"]) / old).iterdir():
        os.utime(file, (three_days_ago, three_days_ago))
    assert listed_names() == [new, old]
    assert "removed 0 stores" in command_output(cache.main, "--clean", "--older-than", "4")
    assert "removed 1 store" in command_output(cache.main, "--clean", "--older-than", "2")
    assert listed_names() == [new]
    assert "removed 1 store" in command_output(cache.main, "--clean", "--all")
    assert command_output(cache.main).startswith("0 stores, 0 B in ")


def test_an_unknown_name_is_refused_and_removes_nothing() -> None:
    train_once()
    names = listed_names()
    code, out, err = run_command(cache.main, "--clean", names[0], "gone")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "gone" in err
    assert listed_names() == names


def test_the_command_runs_as_a_module() -> None:
    train_once()
    process = run_python("-W", "error", "-m", "fcnet.cache")
    assert (process.returncode, process.stderr) == (0, "")
    assert [line.split()[0] for line in process.stdout.splitlines()[1:-1]] == listed_names()
