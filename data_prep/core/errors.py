"""The exceptions that a command prints without a traceback."""


class UserError(Exception):
    """An error that the user can fix: the message says what was wrong, where, and what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a message that says what has been saved and how to continue."""
