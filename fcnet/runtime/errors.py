"""Errors that the user can fix."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the arguments, the configuration or the data, never a bug of fcnet.

    Commands print one line for each mistake. Each line names the value, the rule and the place.

    Args:
        *lines: message for each mistake.

    Example:
        >>> print(UserError("lr must be finite, got nan", "seed must be at least 0, got -1"))
        lr must be finite, got nan
        seed must be at least 0, got -1
    """

    __module__ = "fcnet"  # a traceback shows the public name

    def __str__(self) -> str:
        """Returns the lines as one text."""
        return "\n".join(map(str, self.args))


def first_line(error: BaseException) -> str:
    r"""Returns the first line of an error's text, or the name of its type if it has no text.

    Example:
        >>> first_line(RuntimeError("a size differs\nat convolution")), first_line(EOFError())
        ('a size differs', 'EOFError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class NonFiniteError(UserError):
    """Training met NaN or infinity and stopped.

    Args:
        message: the step, the first place where it appeared, and what to try.
        step: step in which it appeared, from 1.
        layer: layer, from 1, or the name of a module from outside fcnet; None if it is in no layer but in the
            images or the loss.
    """

    __module__ = "fcnet"

    def __init__(self, message: str, *, step: int, layer: int | str | None) -> None:
        super().__init__(message)
        self.step, self.layer = step, layer
