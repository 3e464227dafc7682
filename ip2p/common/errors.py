"""Errors whose sentence is meant for users."""


class UserError(RuntimeError):
    """What went wrong outside of this package, in a sentence that says what to do: the command line shows it
    alone. What the caller got wrong is a ValueError."""
