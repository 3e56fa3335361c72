"""The configurations that come with the package: found by name, each with what it is for."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path

from fcnet.runtime.errors import UserError


def list_presets() -> dict[str, Path]:
    """The shipped configurations by name, in order.

    An installed package holds them; a checkout has them beside it.

    Example:
        >>> list_presets()["digits"].name
        'digits.toml'
    """
    package = Path(str(resources.files("fcnet")))
    folder = next((folder for folder in (package, package.parent) if (folder / "configs").is_dir()), package)
    return {file.stem: file for file in sorted((folder / "configs").glob("*.toml"))}


def preset_summary(file: Path) -> str:
    """The first sentence of a configuration's opening comment.

    Args:
        file: a configuration file in UTF-8.

    Example:
        >>> preset_summary(list_presets()["digits"]).split(" with")[0]
        'Trains a network'
    """
    opening = re.match(r"(?:#.*\n?)*", file.read_text(encoding="utf-8"))
    comment = " ".join(line.lstrip("# ") for line in opening[0].splitlines()) if opening else ""
    return re.split(r"(?<=\.) (?=[A-Z])", comment, maxsplit=1)[0]


def find_config(name: str, flag: str = "--config") -> Path:
    """The configuration file that a flag names: a path that is there, else a shipped configuration.

    Args:
        name: a path, or the name of a shipped configuration.
        flag: what errors call it.

    Raises:
        UserError: it is neither; the nearest name is said, and all there are.

    Example:
        >>> find_config("digits") == list_presets()["digits"]
        True
    """
    known = list_presets()
    if Path(name).exists():
        return Path(name)
    if name in known:
        return known[name]
    close = difflib.get_close_matches(Path(name).stem, known, n=1)
    nearest = f"; the nearest is {close[0]}" if close else ""
    raise UserError(f"{flag} must be a file or one of {', '.join(known)}, got {name}{nearest}")
