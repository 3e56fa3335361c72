"""Arguments of the commands: shared flags, and one line for a mistake that says what to type instead.

Nothing here imports torch.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
import shlex
import textwrap
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fcnet.runtime.errors import UserError
from fcnet.runtime.startup import command_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GPU_STATUS = "not yet run on a GPU"
"""What has been tried on a GPU. ``--version``, the documentation and the changelog say it."""
DOCUMENTATION = "documentation: docs/guide.md in the source, or python -m pydoc fcnet"
_HelpFormatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)

# Flags of other programs, without hyphens and underscores, for a flag here. {} stands for the given value.
_FLAG_SYNONYMS = {
    "--device cuda": "cuda gpu usecuda usegpu",
    "--device cpu": "cpu nocuda nogpu",
    "--out": "output outdir outputdir savedir logdir workdir rundir dir folder",
    "--resume": "continue restart checkpoint ckpt",
    "--config": "cfg conf configfile preset",
    "--list": "presets listpresets",
    "--find-lr": "lrfind lrfinder autolr",
}
_MEANT_BY = {name: flag for flag, names in _FLAG_SYNONYMS.items() for name in names.split()}


def describe_version() -> str:
    """Returns what ``--version`` prints: the version, and what has been tried on a GPU.

    Example:
        >>> describe_version().endswith(f" ({GPU_STATUS})")
        True
    """
    return f"fcnet {version('fcnet')} ({GPU_STATUS})"


class Parser(argparse.ArgumentParser):
    """An argument parser with the flags that commands share; its errors are one line.

    Args:
        command: name of the command, as in ``fcnet NAME`` and ``python -m fcnet.NAME``.
        description: one sentence for ``--help``.
        examples: arguments of two calls, which ``--help`` shows.
    """

    def __init__(self, command: str, description: str, examples: Sequence[str] = ()) -> None:
        prog = command_line(command)
        lines = ["examples:", *(f"  {prog} {example}" for example in examples), "", DOCUMENTATION]
        super().__init__(
            prog=prog,
            description=textwrap.fill(description, 78),
            epilog="\n".join(lines),
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self.add_argument("--version", action="version", version=describe_version(), help="show the version and exit")

    def add_run(self, *, several: bool = False) -> None:
        """Adds the argument RUN: ``run``, a path, or ``runs``, a list of one or more."""
        if several:
            self.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder; several are compared")
        else:
            self.add_argument("run", type=Path, metavar="RUN", help="run folder")

    def add_config(self, name: str = "--config", *, use: str = "") -> None:
        """Adds an argument for a configuration, which `fcnet.config.presets.find_config` takes.

        Args:
            name: a flag such as ``--config``, or ``config`` for a positional argument.
            use: what the command does with the configuration, if that is not plain.
        """
        description = "TOML file or name of a preset"
        self.add_argument(name, metavar="CONFIG", help=f"{use}: {description}" if use else description)

    def add_set(self) -> None:
        """Adds ``--set``: ``set``, a list of overrides."""
        self.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting; may be repeated"
        )

    def add_out(self, description: str, metavar: str = "DIR") -> None:
        """Adds ``--out``: ``out``, a path or None. The description states the default."""
        self.add_argument("--out", type=Path, metavar=metavar, help=description)

    def add_resume(self, description: str) -> None:
        """Adds ``--resume``, which `run_folder_of` reads: ``resume``, None, or the name of the run folder or ``""``."""
        self.add_argument("--resume", nargs="?", const="", metavar="RUN", help=description)

    def add_device(self) -> None:
        """Adds ``--device``, which `fcnet.cli.choose_device` takes."""
        self.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parses the arguments; positional ones may stand between flags.

        Raises:
            UserError: they have a mistake; the message says what to type.
        """
        self._check_flags(arguments)
        if "--set" in self._option_string_actions:
            _check_set(arguments)
        flags, rest = self.parse_known_intermixed_args(arguments)
        if rest:
            remedy = self._suggest_word(rest[0])
            raise UserError(
                f"unexpected argument {rest[0]}; {f'write {remedy}' if remedy else f'see {self.prog} --help'}"
            )
        return flags

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError` for a message of `argparse`, in other words where that knows no remedy."""
        raise UserError(_reword(message, self) or f"{message}; see {self.prog} --help")

    def _check_flags(self, arguments: list[str]) -> None:
        for flag, value in _iter_flags(arguments):
            if flag not in self._option_string_actions:
                given = flag if value is None else f"{flag} {value}"
                remedy = self._suggest_flag(flag, value)
                raise UserError(f"unknown flag {given}; {f'write {remedy}' if remedy else f'see {self.prog} --help'}")

    def _suggest_flag(self, flag: str, value: str | None) -> str | None:
        """Returns what to type in place of an unknown flag, or None."""
        name = flag.lstrip("-").replace("_", "-")
        known = [option for option in self._option_string_actions if option.startswith("--")]
        meant = _MEANT_BY.get(name.replace("-", ""), f"--{name}")
        if meant.partition(" ")[0] in known:
            return _with_value(
                meant, value, takes_value=self._option_string_actions[meant.partition(" ")[0]].nargs != 0
            )
        if "--set" in known:
            from fcnet.config.suggestions import suggest_override  # pydantic takes its time to import

            if override := suggest_override(name.replace("-", "_"), value):
                return override
        names = [option[2:] for option in known]
        close = [known_name for known_name in names if known_name.startswith(name)]
        close = close or difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        if not close:
            return None
        return _with_value(f"--{close[0]}", value, takes_value=self._option_string_actions[f"--{close[0]}"].nargs != 0)

    def _suggest_word(self, word: str) -> str | None:
        """Returns what to type in place of an unexpected word, such as ``KEY=VALUE`` without ``--set``, or None."""
        if f"--{word}" in self._option_string_actions:
            return f"--{word}"
        key, equals, value = word.partition("=")
        if not equals or "--set" not in self._option_string_actions:
            return None
        from fcnet.config.suggestions import suggest_override

        return suggest_override(key, value)


def _iter_flags(arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yields each flag with its value: what follows ``=``, or the next word if that is no flag."""
    for word, following in itertools.pairwise([*arguments, "-"]):
        if word == "--":
            return
        if re.match(r"--?[A-Za-z]", word):
            flag, equals, value = word.partition("=")
            yield flag, value if equals else None if following.startswith("-") else following


def _with_value(flag: str, value: str | None, *, takes_value: bool) -> str:
    if flag == "--device cuda" and value is not None and value.isdecimal():
        return f"--device cuda:{value}"
    if " " in flag or not takes_value:
        return flag
    return f"{flag} {shlex.quote(value)}" if value is not None else flag


def _check_set(arguments: list[str]) -> None:
    """Refuses a ``--set`` whose parts stand apart.

    Raises:
        UserError: the shell has split it at spaces, or it has a space in place of ``=``.
    """
    for position, word in enumerate(arguments):
        if word != "--set" or position + 1 == len(arguments):
            continue
        override, following = arguments[position + 1], []
        for part in arguments[position + 2 :]:
            if re.match(r"--[a-z]", part):
                break
            following.append(part)
        joined = _join_override(override, following)
        if joined is not None:
            raise UserError(f"--set takes one word KEY=VALUE, got {joined[0]}; write --set {shlex.quote(joined[1])}")


def _join_override(override: str, following: list[str]) -> tuple[str, str] | None:
    """Returns an override that stands in several words as it was typed and as one word, or None for a whole one."""
    key, equals, value = override.partition("=")
    if not following or not key:
        return None
    if not equals:
        words = following[: 2 if following[0] == "=" else 1]
        return " ".join([override, *words]), f"{key}={''.join(words).removeprefix('=')}"
    if not value:
        return f"{override} {following[0]}", f"{override}{following[0]}"
    words = [override]
    while following and _is_open(" ".join(words)):
        words.append(following.pop(0))
    return (" ".join(words), " ".join(words)) if len(words) > 1 else None


def _is_open(text: str) -> bool:
    return any(text.count(opening) > text.count(closing) for opening, closing in ("[]", "{}"))


def _reword(message: str, parser: Parser) -> str | None:
    """Returns a message of argparse with what to type, or None if it is not a known one."""
    kinds = {"int": "an integer", "float": "a number"}
    if found := re.fullmatch(r"argument (\S+): invalid (int|float) value: (.*)", message):
        return f"{found[1]} must be {kinds[found[2]]}, got {found[3]}"
    if found := re.fullmatch(r"argument (\S+): invalid choice: (.*?) \(choose from (.*)\)", message):
        choices = found[3].replace("'", "")
        return f"{found[1]} must be one of {choices}, got {found[2]}"
    if found := re.fullmatch(r"argument (\S+): expected (?:one|at least one) argument", message):
        return f"{found[1]} needs a value: {found[1]} {parser._option_string_actions[found[1]].metavar}"
    if found := re.fullmatch(r"argument (\S+): not allowed with argument (\S+)", message):
        return f"{found[1]} and {found[2]} exclude each other; leave one out"
    if found := re.fullmatch(r"argument (\S+): ignored explicit argument (.*)", message):
        return f"{found[1]} takes no value, got {found[2]}"
    if found := re.fullmatch(r"the following arguments are required: (.*)", message):
        positional = " ".join(str(action.metavar) for action in parser._get_positional_actions())
        verb = "are" if "," in found[1] else "is"
        return f"{found[1].replace(', ', ' and ')} {verb} missing: {parser.prog} {positional}"
    return None


def run_folder_of(flags: argparse.Namespace) -> tuple[Path | None, str]:
    """Returns the run folder that ``--resume`` or ``--out`` names, or None, and the argument that names it.

    Raises:
        UserError: they name different folders.
    """
    if not flags.resume:
        return flags.out, "--out"
    if flags.out not in (None, Path(flags.resume)):
        raise UserError(f"--resume {flags.resume} and --out {flags.out} must name the same folder; leave one out")
    return Path(flags.resume), "--resume"
