"""``fcnet COMMAND`` and ``python -m fcnet COMMAND``: every command under one name. Nothing here imports torch."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from fcnet.runtime import output
from fcnet.runtime.startup import LAUNCHERS, announce, start_command

COMMANDS = {
    "train": ("fcnet.train", "train the network that a configuration describes"),
    "watch": ("fcnet.watch", "show the learning curves of a run while it trains"),
    "evaluate": ("fcnet.evaluate", "evaluate a trained model on test images"),
    "predict": ("fcnet.predict", "predict the classes of images"),
    "report": ("fcnet.report.__main__", "write an HTML report of runs"),
    "figures": ("fcnet.figures.__main__", "draw the lecture's figures, or augmented images"),
    "embed": ("fcnet.embed.__main__", "compute features of images with a frozen network"),
    "probe": ("fcnet.probe.__main__", "fit logistic regressions to features, and choose the penalty"),
    "export": ("fcnet.export.__main__", "export a trained model, with a model card"),
    "sweep": ("fcnet.sweep.__main__", "train with many settings, and rank them"),
    "cache": ("fcnet.cache", "list or remove cached images"),
}
"""Module and description of each command."""

_HELP = """\
usage: {program} COMMAND [ARGUMENT …]
       {program} COMMAND --help

Logistic regression and dense neural networks on images.

commands:
{commands}

options:
  -h, --help  show this help message and exit
  --version   show the version and exit

examples:
  {program} train digits
  {program} evaluate runs/digits

{documentation}"""


def main() -> NoReturn:
    """Runs the command that the first argument names; without arguments it shows the help."""
    start_command()
    program = LAUNCHERS[Path(sys.argv[0]).name == "__main__.py"]
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        announce(f"{program} {name}")
        module = import_module(COMMANDS[name][0])
        sys.argv = [f"{program} {name}", *arguments]
        import_module("fcnet.cli").run_command(module.main)
    with output.protect_streams():
        if name in {"--help", "-h", "help"}:
            lines = help_text(program).split("\n")
        elif name in {"--version", "-V", "version"}:
            from fcnet.arguments import describe_version

            lines = [describe_version()]
        else:
            raise SystemExit(output.write_error(describe_unknown(name, program)))
        for line in lines:
            output.print_result(line)
    raise SystemExit(0)


def help_text(program: str) -> str:
    """Returns the help, with a line for each command.

    Args:
        program: ``fcnet`` or ``python -m fcnet``.
    """
    from fcnet.arguments import DOCUMENTATION

    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {description}" for name, (_, description) in COMMANDS.items())
    return _HELP.format(program=program, commands=commands, documentation=DOCUMENTATION)


def describe_unknown(name: str, program: str) -> str:
    """Returns the error for a first argument that is no command.

    Args:
        name: the argument.
        program: ``fcnet`` or ``python -m fcnet``.

    Example:
        >>> describe_unknown("trian", "fcnet")
        'unknown command trian; write fcnet train (fcnet --help lists all commands)'
    """
    hint = f"{program} --help lists all commands"
    if name.startswith("-"):
        return f"unknown flag {name}; flags follow the command: {program} train {name} … ({hint})"
    synonyms = {
        "fit": "train",
        "test": "evaluate",
        "eval": "evaluate",
        "plot": "figures",
        "infer": "predict",
        "monitor": "watch",
    }
    close = difflib.get_close_matches(name.lower(), COMMANDS, n=1)
    nearest = synonyms.get(name.lower(), close[0] if close else None)
    if nearest is None:
        return f"unknown command {name}; {hint}"
    return f"unknown command {name}; write {program} {nearest} ({hint})"


if __name__ == "__main__":
    main()
