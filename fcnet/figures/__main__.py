"""``python -m fcnet.figures``: draws the lecture's figures, or samples of a configuration's data augmentation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fcnet import cli
from fcnet.arguments import Parser
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

_NUM_SAMPLES = 7


def main(arguments: list[str]) -> int:
    """Parses the flags, draws the figures and returns the exit code."""
    parser = Parser(
        "figures",
        "Draw the lecture's figures, or samples of a configuration's data augmentation.",
        ["figures", "samples --augment digits --set data.augment.rotate=15"],
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="output folder; created if it does not exist")
    parser.add_config("--augment", use="draw augmented training images instead")
    parser.add_set()
    flags = parser.parse(arguments)
    files: Iterable[tuple[str, bytes]]
    if flags.augment is not None:
        files = _augmentation_grids(find_config(flags.augment, "--augment"), flags.set).items()
    elif flags.set:
        raise UserError(f"--set needs --augment CONFIG, got --set {flags.set[0]} alone")
    else:
        files = _lecture_files()
    if flags.folder.is_file():
        raise UserError(f"DIR must be a folder, got the file {flags.folder}")
    flags.folder.mkdir(parents=True, exist_ok=True)
    if not os.access(flags.folder, os.W_OK):
        raise UserError(f"DIR must be a writable folder, got {flags.folder}")
    for name, content in files:
        write_bytes(flags.folder / name, content)
        cli.print_status(str(flags.folder / name))
    return 0


def _lecture_files() -> Iterator[tuple[str, bytes]]:
    """Yields every figure in every theme and format, under the name ``NAME-THEME.FORMAT``; computes nothing before."""
    for name, draw in lecture_figures().items():
        for theme in THEMES:
            with use_theme(theme):
                files = figure_bytes(draw())
            for suffix, content in files.items():
                yield f"{name}-{theme.name}.{suffix}", content


def _augmentation_grids(path: Path, overrides: list[str]) -> dict[str, bytes]:
    """Draws an image grid of all augmentations together and one of each: the original, then several samples."""
    config = load_config(path, overrides, flag="--augment")
    augmentations = {name: value for name, value in config.data.augment.model_dump().items() if value}
    if not augmentations:
        raise UserError(f"data.augment must enable at least one augmentation, got none in {path}")
    classes, kinds = preview(config)
    column_names = ["original", *(f"sample {number}" for number in range(1, _NUM_SAMPLES + 1))]
    grids = {}
    for kind, batches in kinds.items():
        originals = [batch.images for batch in batches]
        samples = [
            batch.images for epoch in range(_NUM_SAMPLES) for batch in batches.epoch(config.seed, epoch, shuffle=False)
        ]
        title = ", ".join(
            f"{name} = {format_value(value)}" for name, value in augmentations.items() if kind in ("", name)
        )
        grids["-".join(filter(None, ["augment", kind])) + ".png"] = image_grid(
            originals + samples, title=title, row_names=classes, column_names=column_names
        )
    return grids


if __name__ == "__main__":
    cli.run_command(main)
