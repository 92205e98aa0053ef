"""What every command does around its work: help, logging, and errors that a user can read."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable

from data_prep.errors import UserError


def quiet_libraries() -> None:
    """Leaves out the libraries' notices, unless they warn of something that a user can mend."""
    for chatty in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
        logging.getLogger(chatty).propagate = False
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Notices between libraries, about calls that this project does not make itself or must make for older releases.
    libraries = "lightning|torch|faiss|webdataset|peft|transformers"
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=libraries)


def run_command(main: Callable[[list[str]], None], help_text: str) -> int:
    """Runs a command's main on the command line.

    Args:
        main: Takes the arguments after the program's name.
        help_text: Printed for ``--help``.

    Returns:
        int: Exit status: 0, or 2 after a ``UserError``, whose text goes to standard error.
    """
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(help_text.strip())
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    # One line a stage from this project; the libraries' notices only when they warn.
    for package in ("data_prep", "rar_train", "eval", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    quiet_libraries()
    try:
        main(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
