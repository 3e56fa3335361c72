"""``python -m fcnet.figures``: draws the lecture's figures, or what a configuration does to images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fcnet import cli
from fcnet.config.presets import find_config
from fcnet.config.toml import load_config
from fcnet.config.values import format_value
from fcnet.experiment.build import preview
from fcnet.figures.lecture import lecture_figures
from fcnet.figures.sheets import image_grid
from fcnet.figures.style import THEMES, figure_bytes, use_theme
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DRAWS = 7


def main(arguments: list[str]) -> int:
    """Parses the arguments, draws and prints; returns the exit code."""
    parser = cli.Parser("figures", "Draw the lecture's figures, or the augmented images of a configuration.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder for the figures; created if missing")
    parser.add_config("--augment", use="draw augmented images instead")
    parser.add_set()
    flags = parser.parse_args(arguments)
    files: Iterable[tuple[str, bytes]]
    if flags.augment is not None:
        files = _augmentation_grids(find_config(flags.augment, "--augment"), flags.set).items()
    elif flags.set:
        raise UserError(f"--set must go with --augment CONFIG, got {flags.set[0]} alone")
    else:
        files = _lecture_files()
    flags.folder.mkdir(parents=True, exist_ok=True)
    if not os.access(flags.folder, os.W_OK):
        raise UserError(f"DIR must be a folder that can be written to, got {flags.folder}")
    for name, content in files:
        write_bytes(flags.folder / name, content)
        cli.print_status(str(flags.folder / name))
    return 0


def _lecture_files() -> Iterator[tuple[str, bytes]]:
    """Every figure in every theme and format, under ``NAME-THEME.FORMAT``; nothing is done until they are asked for."""
    for name, draw in lecture_figures().items():
        for theme in THEMES:
            with use_theme(theme):
                files = figure_bytes(draw())
            for form, content in files.items():
                yield f"{name}-{theme.name}.{form}", content


def _augmentation_grids(path: Path, overrides: list[str]) -> dict[str, bytes]:
    """A sheet of all changes together, and one for each alone: the original, then several draws."""
    config = load_config(path, overrides, flag="--augment")
    asked = {name: value for name, value in config.data.augment.model_dump().items() if value}
    if not asked:
        raise UserError(f"data.augment ({path}) must ask for something to draw, got nothing")
    classes, kinds = preview(config)
    column_names = ["original", *(f"draw {number + 1}" for number in range(_DRAWS))]
    sheets = {}
    for kind, batches in kinds.items():
        drawn = [batch.images for epoch in range(_DRAWS) for batch in batches.epoch(config.seed, epoch, shuffle=False)]
        original = [batch.images for batch in batches]
        title = ", ".join(f"{name} = {format_value(value)}" for name, value in asked.items() if kind in ("", name))
        sheets["-".join(filter(None, ["augment", kind])) + ".png"] = image_grid(
            original + drawn, title=title, row_names=classes, column_names=column_names
        )
    return sheets


if __name__ == "__main__":
    cli.run_command(main)
