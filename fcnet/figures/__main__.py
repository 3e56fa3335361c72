"""``python -m fcnet.figures``: draws the lecture's figures, or samples of a configuration's data augmentation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.config.presets import find_config
from fcnet.config.toml import load_config
from fcnet.config.values import format_value
from fcnet.experiment.build import preview
from fcnet.figures.lecture import lecture_figures
from fcnet.figures.sheets import image_grid
from fcnet.figures.style import THEMES, figure_bytes, png_bytes, use_theme
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import write_bytes
from fcnet.runtime.formatting import format_percent, shorten_middle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fcnet.config.schema import Config
    from fcnet.data.batches import Batch, Batches

_NUM_SAMPLES = 7
_MIXING = {"mixup", "cutmix"}
_MAX_NAME = 14
_MIN_WEIGHT = 0.005  # less rounds to 0%


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
        files = _augmentation_grids(find_config(flags.augment, "--augment"), flags.set)
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


def _augmentation_grids(path: Path, overrides: list[str]) -> Iterator[tuple[str, bytes]]:
    """Opens the data, and returns an iterator over image grids of all augmentations together and of each alone."""
    config = load_config(path, overrides, flag="--augment")
    if not any(config.data.augment.model_dump().values()):
        raise UserError(f"data.augment must enable at least one augmentation, got none in {path}")
    return _draw_grids(config, *preview(config))


def _draw_grids(
    config: Config, row_names: Sequence[str], classes: Sequence[str], kinds: Mapping[str, Batches]
) -> Iterator[tuple[str, bytes]]:
    """Yields grids of the original images beside several samples of each, in every theme."""
    augmentations = {name: value for name, value in config.data.augment.model_dump().items() if value}
    column_names = ["original", *(f"sample {number}" for number in range(1, _NUM_SAMPLES + 1))]
    for kind, batches in kinds.items():
        shown = {name: value for name, value in augmentations.items() if kind in ("", name)}
        drawn = [*batches]
        for epoch in range(_NUM_SAMPLES):
            drawn += batches.epoch(config.seed, epoch, shuffle=False)
        captions = [_mixed_labels(batch, classes) for batch in drawn] if _MIXING.intersection(shown) else ()
        title = "Data augmentation: " + ", ".join(f"{name} = {format_value(value)}" for name, value in shown.items())
        for theme in THEMES:
            with use_theme(theme):
                grid = image_grid(
                    [batch.images for batch in drawn],
                    title=title,
                    row_names=row_names,
                    column_names=column_names,
                    captions=captions,
                )
                yield "-".join(filter(None, ["augment", kind, theme.name])) + ".png", png_bytes(grid)


def _mixed_labels(batch: Batch, classes: Sequence[str]) -> list[str]:
    """Returns the classes of each image with their weights, one line for each of at most two."""
    targets = batch.target
    if targets.ndim == 1:
        targets = torch.nn.functional.one_hot(targets, len(classes)).float()
    texts = []
    for weights in targets:
        order = weights.argsort(descending=True, stable=True)[:2].tolist()
        texts.append(
            "\n".join(
                f"{shorten_middle(classes[label], _MAX_NAME)}: {format_percent(float(weights[label]), 0)}"
                for label in order
                if weights[label] >= _MIN_WEIGHT
            )
        )
    return texts


if __name__ == "__main__":
    cli.run_command(main)
