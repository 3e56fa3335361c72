"""Writes a model card to ``README.md`` beside the exported files.

The card ends in a footer with its checksum. A later export replaces only an unedited card of the same model.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from fcnet.runtime.errors import UserError
from fcnet.runtime.files import sha256, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from fcnet.export.model_card import ModelCard

CARD_NAME = "README.md"
_FOOTER = re.compile(r"\n<!-- written by fcnet: (\{.*\}) -->\n\Z")


def covered_files(card: ModelCard, file: Path) -> list[str]:
    """Returns the exported files that a card describes: ``file``, and earlier exports of the same model beside it.

    Args:
        card: the card to be written.
        file: the exported file; it need not exist yet.

    Returns:
        The sorted file names.

    Raises:
        UserError: the folder has a ``README.md`` that fcnet did not write, that was edited, or that describes files of
            another model.
    """
    path = file.with_name(CARD_NAME)
    if not path.exists():
        return [file.name]
    footer = _read_footer(path)
    if footer is None:
        raise UserError(f"{path} already exists and is not an unedited model card by fcnet; export to another folder")
    others = [name for name in footer["files"] if name != file.name and file.with_name(name).is_file()]
    if others and footer["model_checksum"] != card.checksum:
        raise UserError(f"{path} describes {', '.join(others)} of another model; export to another folder")
    return sorted([*others, file.name])


def write_card(card: ModelCard, file: Path, opset: int | None = None) -> Path:
    """Writes the model card beside an exported file, atomically.

    Args:
        card: the card.
        file: the exported file.
        opset: the opset of an ONNX file.

    Returns:
        The card's path.

    Raises:
        UserError: as for `covered_files`.
    """
    names, path = covered_files(card, file), file.with_name(CARD_NAME)
    earlier = (_read_footer(path) or {}).get("opsets", {})
    opsets = {name: earlier[name] for name in names if name in earlier} | ({} if opset is None else {file.name: opset})
    text = card.to_markdown(names, opsets)
    content = {"model_checksum": card.checksum, "files": names, "opsets": opsets, "sha256": sha256(text.encode())}
    footer = json.dumps(content).replace(">", r"\u003e")  # a file name with "-->" would end the comment
    write_text(path, f"{text}\n<!-- written by fcnet: {footer} -->\n")
    return path


def _read_footer(path: Path) -> dict[str, Any] | None:
    """Reads a card's footer; returns None if there is none or if the text does not match its checksum."""
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    match = _FOOTER.search(text)
    if match is None:
        return None
    footer: dict[str, Any] = json.loads(match[1])
    return footer if footer.get("sha256") == sha256(text[: match.start()].encode()) else None
