"""Tests of fcnet.cache: its list and the choice of stores to remove."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest

from fcnet import cache as command
from fcnet.data.store.cleanup import list_stores
from fcnet.runtime.errors import UserError
from tests.helpers import leave_unfinished_store, make_store

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400


@pytest.fixture
def three_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes stores last used now, 3 and 10 days ago, the last unfinished; returns their names."""
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    names = [make_store(tmp_path / "cache", size).metadata_file.parent.name for size in (30, 20)]
    leave_unfinished_store(tmp_path / "cache", tmp_path / "images")
    gc.collect()
    last = list_stores(tmp_path / "cache")[0]
    names, now = [*names, last.name], last.last_used
    for name, days in zip(names, (0, 3, 10), strict=True):
        for file in (tmp_path / "cache").glob(f"*{name}*/*"):
            os.utime(file, (now - days * DAY, now - days * DAY))
    return names


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (["--clean", "--all"], []),
        (["--clean", "--older-than", "3"], [0]),
        (["--clean", "--older-than", "4"], [0, 1]),
        (["--clean", "1"], [0, 2]),
        (["--clean", "0", "2"], [1]),
        ([], [0, 1, 2]),
    ],
)
def test_only_named_or_old_stores_are_removed(
    flags: list[str], kept: list[int], three_stores: list[str], tmp_path: Path
) -> None:
    named = [three_stores[int(flag)] if flag in "012" and flags[-2] != "--older-than" else flag for flag in flags]
    assert command.main(named) == 0
    assert [stored.name for stored in list_stores(tmp_path / "cache")] == [three_stores[index] for index in kept]


def test_the_command_lists_names_sizes_ages_and_origins(
    three_stores: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([]) == 0
    heading, *rows, last = capsys.readouterr().out.splitlines()
    assert heading.split() == ["store", "size", "images", "last", "used", "source"]
    assert [row.split()[0] for row in rows] == three_stores
    assert [row[heading.index("last") :].rstrip() for row in rows] == [
        "just now    synthetic",
        "3 days      synthetic",
        f"10 days     {tmp_path}/images (unfinished)",
    ]
    assert [row[: heading.index("last")].split()[-1] for row in rows] == ["40", "30", "2"]
    assert last.startswith("3 stores, ")
    assert last.endswith(f" in {tmp_path}/cache")


def test_stores_in_use_are_listed_and_kept(
    three_stores: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "cache", 20)
    assert command.main(["--clean", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{three_stores[1]} is in use and was not removed"
    assert lines[1].startswith("removed 2 stores, ")
    assert [stored.name for stored in list_stores(tmp_path / "cache")] == [store.metadata_file.parent.name]


def test_an_empty_cache_has_no_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "gone"))
    assert command.main([]) == 0
    assert capsys.readouterr().out == f"0 stores, 0 B in {tmp_path}/gone\n"
    assert not (tmp_path / "gone").exists()
    monkeypatch.setenv("FCNET_CACHE", __file__)
    with pytest.raises(UserError, match=r"^FCNET_CACHE must be a folder, got the file "):
        command.main([])


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (184_320_000, "184.3 MB"), (2.5e15, "2500.0 TB")]
)
def test_sizes_have_si_units(size: float, text: str) -> None:
    assert command._format_size(size) == text
