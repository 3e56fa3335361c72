"""The one exception that means: the user can mend this."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's, or of their data; never a bug of ours.

    The message is what a command prints, so it is whole sentences on one line a mistake:
    what was expected, what came, and where.
    """

    __module__ = "fcnet"  # a traceback shows the public name


class NonFiniteError(UserError):
    """A training has met NaN or inf and stopped.

    Args:
        message: the step, where it was first, and what to try.
        step: the step it appeared in, from 1.
        layer: the layer, from 1, or the name of a module that is not fcnet's; None where it is
            none's: the images, the loss.
    """

    __module__ = "fcnet"

    def __init__(self, message: str, *, step: int, layer: int | str | None) -> None:
        super().__init__(message)
        self.step, self.layer = step, layer
