"""The exceptions that a command prints without a traceback."""


class UserError(Exception):
    """What a user can mend: says what was wrong, where, and what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, in words that say what stands and how to go on."""
