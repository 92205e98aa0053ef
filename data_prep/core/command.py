"""What every command does around its work: help, logging, and errors that a user can read."""

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
from data_prep.core.ranks import is_first_process, leave_slurm_alone


def quiet_libraries() -> None:
    """Logs this project's lines, one a stage, and the libraries' notices only where they warn."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for package in ("data_prep", "rar_train", "eval", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    for chatty in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
        logging.getLogger(chatty).propagate = False
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of what newer releases will call otherwise
    if not is_interactive():
        os.environ.setdefault("TQDM_DISABLE", "1")  # of the libraries' own bars, such as transformers'
    # Notices between libraries, about calls that this project does not make itself or must make for older releases.
    libraries = "lightning|torch|faiss|webdataset|peft|transformers"
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=libraries)


def take_all_letters() -> None:
    """Lets output that takes ASCII alone, or names of files in another encoding, show letters as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_arguments() -> None:
    """Checks that the command line is text.

    Raises:
        UserError: A word of it is not.
    """
    encoding = sys.getfilesystemencoding()
    remedy = "rename it, or link to it by another name" if encoding == "utf-8" else "set PYTHONUTF8=1"
    for argument in sys.argv[1:]:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):  # how Python keeps bytes that it can't decode
            raise UserError(
                f"{argument.encode('utf-8', 'backslashreplace').decode()}: not {encoding.upper()}; {remedy}"
            )


def flush_output() -> None:
    """Writes out what was printed; it is dropped where nobody reads on."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain again at its end
        if not isinstance(error, BrokenPipeError):
            raise


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose other end was closed, as ``head`` does."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run_command(main: Callable[[list[str]], None], help_text: str, alone: bool = False) -> int:
    """Runs a command's main on the command line.

    Args:
        main: Takes the arguments after the program's name.
        help_text: Printed for ``--help``.
        alone: It starts its own processes; where torchrun or srun have started it several times, the first one works.

    Returns:
        int: Exit status: 0; 2 after a ``UserError`` and after an error of the operating system that a user can do
        something about (a full disk, a file in place of a folder), 1 after any other, 130 after Ctrl-C or SIGTERM. What
        it was goes to standard error in a line; with ``--debug`` the traceback comes instead.
    """
    take_all_letters()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Lightning alone would go on to the end of predicting
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if {"-h", "--help"} & set(arguments):
        print(help_text.strip())
        return 0
    if alone and not is_first_process():
        print("started several times by a launcher: the first process does the work, this one ends", file=sys.stderr)
        return 0
    quiet_libraries()
    leave_slurm_alone()
    if "--debug" in sys.argv[1:]:
        main(arguments)
        return 0
    try:
        check_arguments()
        main(arguments)
        flush_output()
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns the first into the second.
        if not isinstance(stop, KeyboardInterrupt) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        said = str(stop) if isinstance(stop, Interrupted) else "interrupted; the same command goes on from what is done"
        print(f"\n{said}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        words = describe_error(error)
        if words is not None:
            print(f"error: {words}", file=sys.stderr)
            return 2
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        print(f"unexpected error: {said}\nRun it again with --debug to see where.", file=sys.stderr)
        return 1
    return 0
