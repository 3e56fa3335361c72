"""Tests of fcnet.train: its arguments. Training itself is tested in tests/workflow."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from fcnet import train
from fcnet.config.presets import list_presets
from fcnet.experiment.run_folder import Run
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "--resume needs a run folder: python -m fcnet.train --resume runs/NAME"),
        (["--config", "digits", "--find-lr", "--resume"], "--find-lr must be given without --resume"),
        (
            ["--resume", "--out", "run", "--set", "seed=1"],
            "--set seed=1: a run that continues takes another data.path or train.epochs, nothing else",
        ),
        (["--resume", "--out", "missing"], "--resume needs a run folder, got missing: no such folder"),
    ],
)
def test_arguments_that_contradict_each_other_are_an_error(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        train.main(arguments)
    assert str(error.value) == message


def test_presets_are_listed_with_their_summaries(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(list_presets())
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


def test_the_whole_configuration_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--config", "digits", "--set", "train.epochs=3", "--print-config"]) == 0
    config = tomllib.loads(capsys.readouterr().out)
    assert (config["train"]["epochs"], config["data"]["source"]) == (3, "digits")
    assert "diagnostics_every" in config["train"]


def test_only_the_first_rank_reads_the_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another rank may be on a machine that does not see the folder."""
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    experiment: Any = None
    assert train._finish(Run(tmp_path / "elsewhere"), experiment) == 0
    assert capsys.readouterr() == ("", "")
