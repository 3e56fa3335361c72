"""Tests of fcnet.arguments."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from fcnet.__main__ import COMMANDS
from fcnet.arguments import DOCUMENTATION, GPU_STATUS, Parser
from fcnet.runtime.errors import UserError
from tests.helpers import command_output

ROOT = Path(__file__).parents[2]
GPU_PAGES = ("README.md", "CHANGELOG.md", "docs/exactness.md", "docs/guide.md", "docs/installation.md")


def make_parser(*, settings: bool = False) -> Parser:
    parser = Parser("train", "Train.")
    parser.add_argument("images", nargs="*")
    parser.add_config()
    parser.add_device()
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--quick", action="store_true")
    if settings:
        parser.add_set()
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "unknown flag --nope; see python -m fcnet.train --help"),
        (["--nope", "3"], "unknown flag --nope 3; see python -m fcnet.train --help"),
        (["--conf", "x"], "unknown flag --conf x; write --config x"),
        (["--quik"], "unknown flag --quik; write --quick"),
        (["--quick=3"], "--quick takes no value, got '3'"),
        (["--config"], "--config needs a value: --config CONFIG"),
        (["--steps", "many"], "--steps must be an integer, got 'many'"),
        (["--epochs", "5"], "unknown flag --epochs 5; see python -m fcnet.train --help"),
    ],
)
def test_a_wrong_flag_is_a_user_error(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as error:
        make_parser().parse(arguments)
    assert str(error.value) == message
    assert capsys.readouterr() == ("", "")


def test_a_setting_given_as_a_flag_shows_set_where_the_command_has_it() -> None:
    with pytest.raises(UserError, match=r"^unknown flag --epochs 5; write --set train.epochs=5$"):
        make_parser(settings=True).parse(["--epochs", "5"])


def test_positional_arguments_may_stand_between_flags_and_after_two_hyphens() -> None:
    flags = make_parser(settings=True).parse(["a", "--steps", "3", "--set", "seed=1", "b", "--", "-c.png", "--d"])
    assert (flags.images, flags.steps, flags.set) == (["a", "b", "-c.png", "--d"], 3, ["seed=1"])
    assert make_parser().parse(["--steps", "-3"]).steps == -3


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns_and_ends_with_two_examples_and_the_documentation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    *_, empty, title, first, second, blank, last = command_output(
        import_module(COMMANDS[name][0]).main, "--help"
    ).splitlines()
    assert (empty, title, blank, last) == ("", "examples:", "", DOCUMENTATION)
    assert all(example.startswith(f"  python -m fcnet.{name}") for example in (first, second))
    text = command_output(import_module(COMMANDS[name][0]).main, "--help")
    assert [line for line in text.splitlines() if len(line) > 80] == []


def test_messages_name_the_command_as_it_was_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for called, name in (("fcnet train", "fcnet train"), (str(tmp_path / "train.py"), "python -m fcnet.train")):
        monkeypatch.setattr(sys, "argv", [called])
        assert make_parser().prog == name


@pytest.mark.parametrize("page", GPU_PAGES)
def test_a_page_on_gpus_says_what_version_says_of_them(page: str) -> None:
    if not (ROOT / page).is_file():
        pytest.skip("no documentation beside the tests")
    assert GPU_STATUS in " ".join((ROOT / page).read_text(encoding="utf-8").split())
