"""Errors that the user can fix: messages of one line that name the cause and the remedy."""


class UserError(Exception):
    """An error that the user can fix; the command line prints its message without a traceback and exits with 2."""


class Diverged(UserError):
    """A value of a training or an evaluation is not finite; the last good checkpoint is kept."""
