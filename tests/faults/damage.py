"""Random damage of files, and the judgement of what a command makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.helpers import CommandResult

DAMAGE = ("flip", "cut", "zeros", "empty", "remove", "append")
Judgement = Literal["right", "refused"]


def damage_file(file: Path, draws: random.Random) -> str:
    """Damages a file at random; returns what was done to it."""
    content = bytearray(file.read_bytes())
    kind = draws.choice(DAMAGE)
    place = draws.randrange(max(1, len(content)))
    if kind == "remove":
        file.unlink()
        return kind
    if kind == "empty":
        content.clear()
    elif kind == "append":
        content += draws.randbytes(draws.randrange(1, 64))
    elif kind == "cut":
        del content[place:]
    elif kind == "flip" and content:
        content[place] ^= 1 << draws.randrange(8)
    elif kind == "zeros":
        end = min(len(content), place + draws.randrange(1, 4096))
        content[place:end] = bytes(end - place)
    file.write_bytes(content)
    return f"{kind} at {place}"


def judge(result: CommandResult, names: tuple[str, ...], *, is_right: bool) -> Judgement | None:
    """Judges a command that reads a damaged file: right, refused by lines that name the file, or None if it is wrong.

    Args:
        result: how the command ended.
        names: texts of which every line of the refusal must hold one.
        is_right: whether the command has given the answer of the undamaged files.
    """
    lines = result.err.splitlines()
    if result.code == 0 and is_right and not lines:
        return "right"
    if result.code == 2 and lines and all(any(name in line for name in names) for line in lines):
        return "refused"
    return None
