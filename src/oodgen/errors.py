"""Errors that are for people: one line that names the thing and the mend."""


class UserError(Exception):
    """Something the user can mend. The command line prints the message alone and exits with 2."""


class Diverged(UserError):
    """Training produced a number that is not finite; the last good checkpoint stays."""
