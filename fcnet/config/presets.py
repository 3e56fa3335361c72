"""Presets: the configurations that come with the package, found by name."""

from __future__ import annotations

import difflib
import re
import shlex
from importlib import resources
from pathlib import Path

from fcnet.runtime.errors import UserError


def list_presets() -> dict[str, Path]:
    """Returns the file of each preset by name, sorted.

    Example:
        >>> list_presets()["digits"].name
        'digits.toml'
    """
    # The folder lies in an installed package, but beside the package in a checkout.
    package = Path(str(resources.files("fcnet")))
    folder = next((folder for folder in (package, package.parent) if (folder / "configs").is_dir()), package)
    return {file.stem: file for file in sorted((folder / "configs").glob("*.toml"))}


def config_name(file: Path) -> str:
    """Returns what to call a configuration file: ``preset NAME``, or its path.

    Example:
        >>> config_name(list_presets()["digits"]), config_name(Path("my/digits.toml"))
        ('preset digits', 'my/digits.toml')
    """
    return f"preset {file.stem}" if file == list_presets().get(file.stem) else str(file)


def preset_summary(file: Path) -> str:
    """Returns the first sentence of a configuration's opening comment, or an empty string.

    Args:
        file: configuration file in UTF-8.

    Example:
        >>> preset_summary(list_presets()["digits"]).split(" on")[0]
        'Trains two hidden layers'
    """
    opening = re.match(r"(?:#.*\n?)*", file.read_text(encoding="utf-8"))
    comment = " ".join(line.lstrip("# ") for line in opening[0].splitlines()) if opening else ""
    return re.split(r"(?<=\.) (?=[A-Z])", comment, maxsplit=1)[0]


def find_config(name: str, flag: str = "--config") -> Path:
    """Returns the configuration file that an argument names: an existing file, or else a preset.

    A folder does not hide a preset: ``--config images`` works beside a folder called images.

    Args:
        name: path of a file, or name of a preset.
        flag: name of the argument, for the error.

    Raises:
        UserError: it is neither; the message lists the presets and suggests the nearest name.

    Example:
        >>> find_config("digits") == list_presets()["digits"]
        True
    """
    presets = list_presets()
    if name in presets and not Path(name).is_file():
        return presets[name]
    if Path(name).is_dir():
        raise UserError(f"{flag} must be a file or a preset, got the folder {name}{_describe_folder(name)}")
    if Path(name).exists():
        return Path(name)
    close = difflib.get_close_matches(Path(name).stem, presets, n=1)
    nearest = f"; the nearest is {close[0]}" if close else ""
    raise UserError(f"{flag} must be a file or one of {', '.join(presets)}, got {name}{nearest}")


def _describe_folder(name: str) -> str:
    """Returns what to write in place of a folder: of a run, or of images."""
    if (Path(name) / "config.toml").is_file():
        return f" of a run; write {name}/config.toml to train the same again, or --resume {name} to continue it"
    return f"; for images in it, take the preset images with --set {shlex.quote(f'data.path={name}')}"
