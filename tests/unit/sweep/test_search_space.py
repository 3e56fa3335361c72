"""Tests of fcnet.sweep.search_space."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from fcnet.config.toml import load_config
from fcnet.runtime.errors import UserError
from fcnet.sweep.search_space import MAX_TRIALS, Choices, Range, parse_axis, parse_space

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text("[optimizer]\nlr = 1e-3\n")
    return path


def test_a_grid_is_every_combination_of_the_lists(file: Path) -> None:
    space = parse_space(file, ["seed=7"], ["optimizer.lr=[1e-4, 1e-2]", "model.hidden=[[8], [8, 4], []]"], search=False)
    expected = set(itertools.product((1e-4, 1e-2), ((8,), (8, 4), ())))
    assert {(config.optimizer.lr, config.model.hidden) for config in space.checked_configs} == expected
    assert space.num_trials() == len(space.checked_configs) == 6
    assert all(config.seed == 7 for config in space.checked_configs)


def test_a_run_has_the_configuration_that_train_makes_of_the_same_settings(file: Path) -> None:
    space = parse_space(
        file, ["train.epochs=2"], ["model.hidden=[[8], [4]]", "optimizer.lr=[1e-5, 1e-2]"], search=False
    )
    config = space.config({"model.hidden": [4], "optimizer.lr": 1e-5}, seed=3)
    assert config == load_config(file, ["train.epochs=2", "model.hidden=[4]", "optimizer.lr=1e-5", "seed=3"])


@pytest.mark.parametrize(
    ("text", "low", "high", "log"),
    [
        ("1e-4..1e-2", 1e-4, 1e-2, True),
        ("1e-4..1e-3", 1e-4, 1e-3, True),
        ("1e-4..9.99e-4", 1e-4, 9.99e-4, False),
        ("0..1", 0, 1, False),
        ("0.0..100.0", 0.0, 100.0, False),
        ("-5..5", -5, 5, False),
        ("1..100:linear", 1, 100, False),
        ("1..2:log", 1, 2, True),
        (" 1 .. 2 : log ", 1, 2, True),
        ("1.5..2.5", 1.5, 2.5, False),
        ("1...5:linear", 1, 0.5, None),
    ],
)
def test_a_range_is_logarithmic_from_a_ratio_of_ten_unless_the_scale_is_given(
    text: str, low: float, high: float, log: bool | None
) -> None:
    if log is None:
        with pytest.raises(UserError):
            parse_axis(f"optimizer.lr={text}", "--search")
    else:
        assert parse_axis(f"optimizer.lr={text}", "--search") == Range("optimizer.lr", low, high, log)


def test_a_range_has_integers_if_the_setting_has(file: Path) -> None:
    texts = ["train.batch_size=16..64", "optimizer.weight_decay=0..1", "model.dropout=0.0..0.5"]
    axes = parse_space(file, [], texts, search=True).axes
    assert [axis.integer for axis in axes if isinstance(axis, Range)] == [True, False, False]


def test_a_search_accepts_lists() -> None:
    assert parse_axis("train.batch_size=[16, 'all']", "--search") == Choices("train.batch_size", (16, "all"))


def test_settings_that_are_valid_only_together_are_accepted(file: Path) -> None:
    axes = ["optimizer.name=['lbfgs']", "train.batch_size=['all']"]
    assert parse_space(file, [], axes, search=False).num_trials() == 1


def parse_error(file: Path, *axes: str, search: bool = False, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        parse_space(file, overrides, axes, search=search)
    return str(caught.value)


@pytest.mark.parametrize(
    "wrong", ["optimizer.lr=-1", "train.epoch=3", "model.hidden=8", "train.epochs=1.5", "model.kind=3"]
)
def test_a_wrong_value_has_the_error_message_of_train(file: Path, wrong: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(file, [wrong])
    key, _, value = wrong.partition("=")
    fault, write, _ = str(error.value).partition("; write ")
    ours, ours_write, form = parse_error(file, f"{key}=[{value}]").partition("; write ")
    assert (ours, ours_write) == (fault.replace("--set", "--grid"), write)
    assert form in ("", "[8]")  # one of the values, not the whole flag


def test_a_wrong_end_of_a_range_has_the_same_error_message(file: Path) -> None:
    line = "model.dropout (--search model.dropout=1.5) must be less than 1.0, got 1.5"
    assert parse_error(file, "model.dropout=0.5..1.5", search=True) == line


def test_all_errors_are_reported_together_without_duplicates(file: Path) -> None:
    lines = parse_error(
        file, "optimizer.lr=[1e-3, -1, -2]", "train.epochs=[0, 1]", "model.kinds=['mlp', 'logistic']"
    ).split("\n")
    assert sorted(lines) == [
        'model.kinds (--grid model.kinds="logistic") is not a known key; the nearest is model.kind',
        'model.kinds (--grid model.kinds="mlp") is not a known key; the nearest is model.kind',
        "optimizer.lr (--grid optimizer.lr=-1) must be greater than 0.0, got -1",
        "optimizer.lr (--grid optimizer.lr=-2) must be greater than 0.0, got -2",
        "train.epochs (--grid train.epochs=0) must be at least 1, got 0",
    ]


@pytest.mark.parametrize(
    ("axes", "line"),
    [
        ("optimizer.lr", "--grid must be section.key=[…], got optimizer.lr"),
        ("=[1]", "--grid must be section.key=[…], got =[1]"),
        ("optimizer.lr=1e-3", "--grid optimizer.lr must be a TOML list of one or more values, got 1e-3"),
        ("optimizer.lr=[]", "--grid optimizer.lr must be a TOML list of one or more values, got []"),
        ("optimizer.lr=", "--grid optimizer.lr must be a TOML list of one or more values, got nothing"),
        ("optimizer.lr=1e-4..1e-2", "--grid optimizer.lr must be a TOML list of one or more values, got 1e-4..1e-2"),
        ("model.activation=[relu]", "--grid model.activation must be a TOML list of one or more values, got [relu]"),
        ("optimizer.lr=[1e-3, 0.001]", "--grid optimizer.lr must be different values, got 0.001 twice"),
        ("seed=[0, 1]", "--grid must not vary seed: use --seeds N to train each trial with N seeds"),
        (
            "train.select=['validation_loss']",
            "--grid must not vary train.select: all trials are ranked by one figure; use --set train.select",
        ),
        (
            "data.validation=[0.1, 0.2]",
            ("--grid must not vary data.validation: all trials are compared on the same images; "
            "of data only augment, balance and whiten may vary"),
        ),
    ],
)  # fmt: skip
def test_an_invalid_grid_is_reported_in_one_line(file: Path, axes: str, line: str) -> None:
    assert parse_error(file, axes) == line


@pytest.mark.parametrize(
    ("axes", "line"),
    [
        (
            "optimizer.lr=1e-2..1e-4",
            "--search optimizer.lr=1e-2..1e-4 must go from one number to a larger one, got 1e-2..1e-4",
        ),
        ("optimizer.lr=1..1", "--search optimizer.lr=1..1 must go from one number to a larger one, got 1..1"),
        ("optimizer.lr=a..b", "--search optimizer.lr=a..b must go from one number to a larger one, got a..b"),
        ("optimizer.lr=1..inf", "--search optimizer.lr=1..inf must go from one number to a larger one, got 1..inf"),
        ("model.dropout=0..0.5:log", "--search model.dropout=0..0.5:log must start above 0 to be logarithmic, got 0"),
        (
            "optimizer.lr=1e-3",
            (
                "--search optimizer.lr must be a TOML list of one or more values, LOW..HIGH, LOW..HIGH:log or "
                "LOW..HIGH:linear, got 1e-3"
            ),
        ),
    ],
)
def test_an_invalid_range_is_reported_in_one_line(file: Path, axes: str, line: str) -> None:
    assert parse_error(file, axes, search=True) == line


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize(
    "axes", ["a\nb=[1]", f"optimizer.lr=[0x{'f' * 5000}]", f"optimizer.lr=1..0x{'f' * 5000}", "a=\0"]
)
def test_every_error_is_one_line(file: Path, axes: str, search: bool) -> None:
    assert len(parse_error(file, axes, search=search).splitlines()) == 1


def test_a_setting_may_not_be_varied_twice_or_within_another(file: Path) -> None:
    assert parse_error(file, "optimizer.lr=[1]", "optimizer.lr=[2]") == (
        "--grid optimizer.lr must be given once, got optimizer.lr as well"
    )
    assert parse_error(file, "data.augment=[{}]", "data.augment.shift=[1]") == (
        "--grid data.augment.shift must be given once, got data.augment as well"
    )


def test_only_a_grid_has_a_limit_of_trials(file: Path) -> None:
    many = ",".join(map(str, range(1, 35)))
    axes = [f"train.epochs=[{many}]", f"train.batch_size=[{many}]"]
    assert parse_error(file, *axes) == (
        "--grid must give at most 1,000 trials, got 1,156; --search with --trials N tries N of them"
    )
    assert MAX_TRIALS == 1000
    configs = parse_space(file, [], axes, search=True).checked_configs
    assert (
        {config.train.epochs for config in configs}
        == {config.train.batch_size for config in configs}
        == set(range(1, 35))
    )


def test_the_number_of_epochs_is_that_of_the_longest_trial(file: Path) -> None:
    assert parse_space(file, [], ["train.epochs=[3, 9, 4]"], search=False).num_epochs == 9
    assert parse_space(file, [], ["train.epochs=2..7"], search=True).num_epochs == 7
