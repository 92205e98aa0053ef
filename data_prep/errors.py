"""The one exception for what a user can mend: a command prints its text without a traceback."""


class UserError(Exception):
    """Bad input or a bad setting. The message says what was wrong, where, and what to do."""
