"""The file a model card is kept in, ``README.md`` beside what was exported.

It ends in a footer, by which a later export knows it again. A card that somebody has changed is theirs.
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
    """What a card beside a file is about: the file, and what is there of the same network already.

    Args:
        card: the card that is to be written.
        file: an exported file, which need not be there yet.

    Returns:
        The names of the files, in order.

    Raises:
        UserError: a card lies there that is not to be overwritten: somebody else's, a changed one, or one that is
            also about files of another network.
    """
    path = file.with_name(CARD_NAME)
    if not path.exists():
        return [file.name]
    footer = _read_footer(path)
    if footer is None:
        raise UserError(f"{path} must be a model card as fcnet wrote it, got another file; export into another folder")
    others = [name for name in footer["files"] if name != file.name and file.with_name(name).is_file()]
    if others and footer["network"] != card.checksum:
        raise UserError(
            f"{path} must be about this network alone, got {', '.join(others)} of another; export into another folder"
        )
    return sorted([*others, file.name])


def write_card(card: ModelCard, file: Path) -> Path:
    """Writes the card beside an exported file, whole or not at all.

    Returns:
        Its path.

    Raises:
        UserError: as `covered_files` does.
    """
    names = covered_files(card, file)
    text = card.to_markdown(names)
    footer = json.dumps({"network": card.checksum, "files": names, "sha256": sha256(text.encode())})
    footer = footer.replace(">", r"\u003e")  # what would end the comment
    path = file.with_name(CARD_NAME)
    write_text(path, f"{text}\n<!-- written by fcnet: {footer} -->\n")
    return path


def _read_footer(path: Path) -> dict[str, Any] | None:
    """What a card's footer says; None where there is none, or where it is not of this text."""
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    found = _FOOTER.search(text)
    if found is None:
        return None
    footer: dict[str, Any] = json.loads(found[1])
    return footer if footer.get("sha256") == sha256(text[: found.start()].encode()) else None
