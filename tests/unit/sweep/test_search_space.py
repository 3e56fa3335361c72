"""What a sweep tries is read as TOML, and refused as training would refuse it."""

from __future__ import annotations

import itertools
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.config.toml import load_config
from fcnet.runtime.errors import UserError
from fcnet.sweep.search_space import MAX_TRIALS, Choices, Range, format_toml, parse_axis, parse_space

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "mine.toml"
    made.write_text("[optimizer]\nlr = 1e-3\n")
    return made


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
)


@given(VALUES)
def test_a_value_is_written_as_toml_reads_it(value: Any) -> None:
    written = format_toml(value)
    assert tomllib.loads(f"value = {written}")["value"] == value
    assert "\n" not in written


def test_a_grid_is_every_combination_of_the_lists(file: Path) -> None:
    space = parse_space(file, ["seed=7"], ["optimizer.lr=[1e-4, 1e-2]", "model.hidden=[[8], [8, 4], []]"], search=False)
    expected = set(itertools.product((1e-4, 1e-2), ((8,), (8, 4), ())))
    assert {(config.optimizer.lr, config.model.hidden) for config in space.checked_configs} == expected
    assert space.num_trials() == len(space.checked_configs) == 6
    assert all(config.seed == 7 for config in space.checked_configs)


def test_a_runs_configuration_is_the_one_that_the_same_settings_give_train(file: Path) -> None:
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
def test_a_range_is_logarithmic_from_a_factor_of_ten_or_as_it_says(
    text: str, low: float, high: float, log: bool | None
) -> None:
    if log is None:
        with pytest.raises(UserError):
            parse_axis(f"optimizer.lr={text}", "--search")
    else:
        assert parse_axis(f"optimizer.lr={text}", "--search") == Range("optimizer.lr", low, high, log)


def test_a_range_is_of_whole_numbers_where_the_setting_is_one(file: Path) -> None:
    wanted = ["train.batch_size=16..64", "optimizer.weight_decay=0..1", "model.dropout=0.0..0.5"]
    axes = parse_space(file, [], wanted, search=True).axes
    assert [axis.integer for axis in axes if isinstance(axis, Range)] == [True, False, False]


def test_a_list_is_a_choice_in_a_search_as_well() -> None:
    assert parse_axis("train.batch_size=[16, 'all']", "--search") == Choices("train.batch_size", (16, "all"))


def test_a_trial_may_be_right_where_neither_of_its_settings_would_be_alone(file: Path) -> None:
    wanted = ["optimizer.name=['lbfgs']", "train.batch_size=['all']"]
    assert parse_space(file, [], wanted, search=False).num_trials() == 1


def refusal(file: Path, *wanted: str, search: bool = False, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        parse_space(file, overrides, wanted, search=search)
    return str(caught.value)


@pytest.mark.parametrize(
    "wrong", ["optimizer.lr=-1", "train.epoch=3", "model.hidden=8", "train.epochs=1.5", "model.kind=3"]
)
def test_a_wrong_value_is_refused_in_the_line_that_train_gives(file: Path, wrong: str) -> None:
    with pytest.raises(UserError) as trains:
        load_config(file, [wrong])
    key, _, value = wrong.partition("=")
    assert refusal(file, f"{key}=[{value}]") == str(trains.value).replace("--set", "--grid")


def test_a_wrong_end_of_a_range_is_refused_in_the_same_line(file: Path) -> None:
    line = "model.dropout (--search model.dropout=1.5) must be less than 1.0, got 1.5"
    assert refusal(file, "model.dropout=0.5..1.5", search=True) == line


def test_all_mistakes_come_at_once_each_of_them_once(file: Path) -> None:
    lines = refusal(
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
    ("wanted", "line"),
    [
        ("optimizer.lr", "--grid must be section.key=[…], got optimizer.lr"),
        ("=[1]", "--grid must be section.key=[…], got =[1]"),
        ("optimizer.lr=1e-3", "--grid optimizer.lr must be a TOML list of one or more values, got 1e-3"),
        ("optimizer.lr=[]", "--grid optimizer.lr must be a TOML list of one or more values, got []"),
        ("optimizer.lr=", "--grid optimizer.lr must be a TOML list of one or more values, got nothing"),
        ("optimizer.lr=1e-4..1e-2", "--grid optimizer.lr must be a TOML list of one or more values, got 1e-4..1e-2"),
        ("model.activation=[relu]", "--grid model.activation must be a TOML list of one or more values, got [relu]"),
        ("optimizer.lr=[1e-3, 0.001]", "--grid optimizer.lr must be values that all differ, got 0.001 twice"),
        ("seed=[0, 1]", "--grid must not name seed: --seeds N trains each trial with N seeds"),
        (
            "data.validation=[0.1, 0.2]",
            ("--grid data.validation must be among data.augment, data.balance, data.whiten: "
            "all trials are compared on the same images"),
        ),
    ],
)  # fmt: skip
def test_what_is_no_grid_is_refused_in_one_line(file: Path, wanted: str, line: str) -> None:
    assert refusal(file, wanted) == line


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        (
            "optimizer.lr=1e-2..1e-4",
            "--search optimizer.lr=1e-2..1e-4 must be from one number to a greater one, got 1e-2..1e-4",
        ),
        ("optimizer.lr=1..1", "--search optimizer.lr=1..1 must be from one number to a greater one, got 1..1"),
        ("optimizer.lr=a..b", "--search optimizer.lr=a..b must be from one number to a greater one, got a..b"),
        ("optimizer.lr=1..inf", "--search optimizer.lr=1..inf must be from one number to a greater one, got 1..inf"),
        ("model.dropout=0..0.5:log", "--search model.dropout=0..0.5:log must begin above 0 to be logarithmic, got 0"),
        (
            "optimizer.lr=1e-3",
            (
                "--search optimizer.lr must be a TOML list of one or more values, LOW..HIGH, LOW..HIGH:log or "
                "LOW..HIGH:linear, got 1e-3"
            ),
        ),
    ],
)
def test_what_is_no_range_is_refused_in_one_line(file: Path, wanted: str, line: str) -> None:
    assert refusal(file, wanted, search=True) == line


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize(
    "wanted", ["a\nb=[1]", f"optimizer.lr=[0x{'f' * 5000}]", f"optimizer.lr=1..0x{'f' * 5000}", "a=\0"]
)
def test_whatever_is_wanted_a_refusal_is_one_line(file: Path, wanted: str, search: bool) -> None:
    assert len(refusal(file, wanted, search=search).splitlines()) == 1


def test_a_setting_that_is_tried_twice_or_as_a_part_of_another_is_refused(file: Path) -> None:
    assert refusal(file, "optimizer.lr=[1]", "optimizer.lr=[2]") == (
        "--grid optimizer.lr must be given once, got optimizer.lr as well"
    )
    assert refusal(file, "data.augment=[{}]", "data.augment.shift=[1]") == (
        "--grid data.augment.shift must be given once, got data.augment as well"
    )


def test_a_grid_of_too_many_trials_is_refused_and_a_search_of_as_many_is_not(file: Path) -> None:
    many = ",".join(map(str, range(1, 35)))
    wanted = [f"train.epochs=[{many}]", f"train.batch_size=[{many}]"]
    assert refusal(file, *wanted) == (
        "--grid must make at most 1,000 trials, got 1,156; --search with --trials N tries N of them"
    )
    assert MAX_TRIALS == 1000
    tried = parse_space(file, [], wanted, search=True).checked_configs
    assert (
        {config.train.epochs for config in tried} == {config.train.batch_size for config in tried} == set(range(1, 35))
    )


def test_the_most_epochs_are_those_of_the_longest_trial(file: Path) -> None:
    assert parse_space(file, [], ["train.epochs=[3, 9, 4]"], search=False).num_epochs == 9
    assert parse_space(file, [], ["train.epochs=2..7"], search=True).num_epochs == 7
