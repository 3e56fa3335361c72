"""Tests of the arguments of the command probe."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcnet.linear_model.path import DEFAULT_CS
from fcnet.probe import arguments
from fcnet.probe.arguments import Settings, check_agreement, parse_flags, parse_penalties
from fcnet.runtime.errors import UserError


def test_the_default_penalties_are_those_of_logistic_path() -> None:
    assert parse_penalties(arguments.DEFAULT_CS) == DEFAULT_CS


def test_a_range_has_its_ends_and_equal_factors() -> None:
    values = parse_penalties("0.003..7:4")
    assert (values[0], values[-1]) == (0.003, 7.0)
    assert values[1] / values[0] == pytest.approx(values[3] / values[2], rel=1e-3)
    assert parse_penalties("3,1e-2,100") == (0.01, 3.0, 100.0)


MISTAKES = {
    "": "FEATURES is missing: ",
    "f --Cs 1,x": "--Cs must be LOW..HIGH:N or numbers with commas between them, got 1,x",
    "f --Cs 1..2": "--Cs must be LOW..HIGH:N with N from 2 to 10,000, got 1..2",
    "f --Cs 1..2:1": "--Cs must be LOW..HIGH:N with N from 2 to 10,000, got 1..2:1",
    "f --Cs 2..1:3": "--Cs must be LOW..HIGH:N with LOW less than HIGH, got 2..1:3",
    "f --Cs 0,1": "--Cs must be finite and greater than 0, got 0",
    "f --Cs nan": "--Cs must be finite and greater than 0, got nan",
    "f --Cs 1,10,1": "--Cs must be different numbers, got 1 twice",
    "f --folds 1": "--folds must be at least 2, got 1",
    "f --folds 3 --validation 0.1": "--validation and --folds exclude each other; leave one out",
    "f --validation 1": "--validation must be greater than 0 and less than 1, got 1.0",
    "f --validation nan": "--validation must be greater than 0 and less than 1, got nan",
    "f --shots 1,0": "--shots must be numbers of at least 1 with commas between them, got 1,0",
    "f --shots 2,2": "--shots must be different numbers, got 2,2",
    "f --repeats 3": "--repeats needs --shots, such as --shots 1,2,4,8,16",
    "f --shots 1 --repeats 0": "--repeats must be at least 1, got 0",
    "f --max-iter 0": "--max-iter must be at least 1, got 0",
    "f --tol 0": "--tol must be finite and greater than 0, got 0.0",
    "f --seed -1": "--seed must be from 0 to 2**63 - 1, got -1",
    "f --save-seconds -1": "--save-seconds must be finite and at least 0, got -1.0",
    "f --class-weight even": "--class-weight must be one of balanced, got",
    "f --fold 3": "unknown flag --fold 3; write --folds 3",
    "f g": "unexpected argument g; see ",
    "f --resume a --out b": "--resume a and --out b must name the same folder; leave one out",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_says_what_to_write(command: str) -> None:
    with pytest.raises(UserError) as error:
        parse_flags(command.split())
    assert str(error.value).startswith(MISTAKES[command])


def test_only_what_is_given_is_told() -> None:
    flags = parse_flags(["f", "--folds", "3", "--no-standardize"])
    assert (flags.features, flags.given) == (Path("f"), {"folds": 3, "standardize": False})
    assert parse_flags(["--resume", "runs/probe"]).out == Path("runs/probe")
    assert parse_flags(["f", "--save-seconds", "0"]).save_seconds == 0.0


def test_given_settings_must_agree_with_those_of_the_run() -> None:
    settings = Settings(Cs=(0.1, 1.0), folds=5)
    check_agreement(settings, {"Cs": (0.1, 1.0), "folds": 5})
    with pytest.raises(UserError) as error:
        check_agreement(settings, {"folds": 3, "Cs": (1.0, 2.0, 3.0, 4.0), "l2_normalize": True})
    assert error.value.args == (
        "--folds must be 5 as when the run began, got 3",
        "--Cs must be 0.1,1 as when the run began, got 1,2,3,… (4 values)",
        "--l2-normalize must be left out as when the run began, got given",
    )
