"""Runs a command's main function with help, logging, readable errors and exit statuses."""

from __future__ import annotations

import io
import logging
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable

from data_prep.core.errors import Interrupted, UserError
from data_prep.core.os_errors import describe_error
from data_prep.core.progress import is_interactive
from data_prep.core.ranks import disable_lightning_slurm


def quiet_libraries() -> None:
    """Shows this project's log lines, one per stage, and only warnings of the libraries."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for package in ("data_prep", "rar_train", "eval", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    for chatty in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
        logging.getLogger(chatty).propagate = False
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns about renames in newer releases
    if not is_interactive():
        os.environ.setdefault("TQDM_DISABLE", "1")  # for the libraries' own bars, such as those of transformers
    # Warnings about calls that only other libraries make, or that this project must make to support older releases.
    libraries = "lightning|torch|faiss|webdataset|peft|transformers"
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=libraries)


def escape_unencodable_output() -> None:
    """Prints characters that the output cannot encode as escapes, for ASCII terminals and undecodable file names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_arguments() -> None:
    """Checks that every command line argument is decodable text.

    Raises:
        UserError: An argument is not.
    """
    encoding = sys.getfilesystemencoding()
    remedy = "rename it, or link to it by another name" if encoding == "utf-8" else "set PYTHONUTF8=1"
    for argument in sys.argv[1:]:
        if any("\ud800" <= character <= "\udfff" for character in argument):  # Python decodes bad bytes to surrogates
            raise UserError(
                f"{argument.encode('utf-8', 'backslashreplace').decode()}: not {encoding.upper()}; {remedy}"
            )


def flush_output() -> None:
    """Flushes standard output; the rest is discarded if the reader has closed the pipe."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would report it again at exit
        if not isinstance(error, BrokenPipeError):
            raise


def _is_reader_gone() -> bool:
    """Tells whether standard output is a pipe whose other end was closed, as ``head`` does."""
    if not hasattr(select, "poll"):  # Windows, where only standard output is written to
        return True
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run_command(main: Callable[[list[str]], None], help_text: str) -> int:
    """Runs a command's main function on the command line arguments.

    Args:
        main: Takes the arguments after the program name.
        help_text: Printed for ``--help``.

    Returns:
        int: Exit status: 0 on success; 2 after a ``UserError`` or an error of the operating system that a user can fix
        (a full disk, a file in place of a folder), 1 after any other error, 130 after Ctrl-C or SIGTERM. The error is
        printed to standard error in one line; with ``--debug`` the traceback is shown instead.
    """
    escape_unencodable_output()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Lightning's own handler would finish predicting first
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if {"-h", "--help"} & set(arguments):
        print(help_text.strip())
        return 0
    quiet_libraries()
    disable_lightning_slurm()
    if "--debug" in sys.argv[1:]:
        main(arguments)
        return 0
    try:
        check_arguments()
        main(arguments)
        flush_output()
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns KeyboardInterrupt into SystemExit.
        if not isinstance(stop, KeyboardInterrupt) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        default = "interrupted; the same command resumes from what is done"
        print(f"\n{stop if isinstance(stop, Interrupted) else default}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_reader_gone():
            return 1
        message = describe_error(error)
        if message is not None:
            print(f"error: {message}", file=sys.stderr)
            return 2
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        print(f"unexpected error: {message}\nRun it again with --debug to see the traceback.", file=sys.stderr)
        return 1
    return 0
