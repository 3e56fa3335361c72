"""The one exception that means: the user can mend this."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's, or of their data; never a bug of ours.

    The message is what a command prints, so it is whole sentences on one line a mistake:
    what was expected, what came, and where.
    """
