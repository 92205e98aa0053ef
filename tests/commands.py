"""Runs the commands as a user does, in a subprocess or in this process."""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from unittest import mock

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import run_command


def command_line(module: str, *arguments: str) -> list[str]:
    """Returns the command line that a user types, with this environment's Python."""
    return [sys.executable, "-m", module, *arguments]


def environment(gpu: bool = False) -> dict[str, str]:
    """Returns a user's environment: without the test runner's variables, and a GPU only if ``gpu`` is set."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "WANDB", "COV"))}
    return variables | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"} | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})


def program_of(module: str) -> ModuleType:
    """Imports the module that ``python -m`` runs: for a package, its ``__main__``."""
    imported = importlib.import_module(module)
    return importlib.import_module(f"{module}.__main__") if hasattr(imported, "__path__") else imported


def call(
    folder: Path, module: str, *arguments: str, fails: bool = False, gpu: bool = False
) -> subprocess.CompletedProcess:
    """Runs a command in a folder; on an unexpected exit code, raises an error with its output."""
    result = subprocess.run(
        command_line(module, *arguments, *(() if fails else ("--debug",))),
        cwd=folder,
        env=environment(gpu),
        capture_output=True,
        text=True,
        timeout=600,
    )
    if (result.returncode != 0) != fails:
        raise AssertionError(f"exit {result.returncode} of {module} {arguments}\n{result.stdout}\n{result.stderr}")
    return result


def call_here(folder: Path, module: str, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess:
    """Runs a command as ``call`` does, but in this process, where its libraries are already imported."""
    program = program_of(module)
    out, err = io.StringIO(), io.StringIO()
    handler, packages = (
        logging.StreamHandler(err),
        [logging.getLogger(name) for name in ("data_prep", "rar_train", "eval")],
    )
    levels = [package.level for package in packages]
    for package in packages:
        package.addHandler(handler)
        package.setLevel(logging.INFO)
    argv = [module, *arguments, *(() if fails else ("--debug",))]
    try:
        # Otherwise later tests would run with quiet libraries and keep their memory too.
        quiet = mock.patch.multiple(
            "data_prep.core.command", quiet_libraries=mock.DEFAULT, keep_freed_memory=mock.DEFAULT
        )
        with quiet, chdir(folder), mock.patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
            code = run_command(program.main, program.__doc__)
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    finally:
        for package, level in zip(packages, levels, strict=True):
            package.removeHandler(handler)
            package.setLevel(level)
    assert (code != 0) == fails, f"exit {code} of {module} {arguments}\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


class _Parsed(Exception):
    """Leaves a command as soon as its arguments are parsed."""


def parsed(module: str, *arguments: str) -> Namespace:
    """Returns the parsed command line of a command, without running it.

    Raises:
        UserError: The command has no such option.
    """

    parse = CommandParser.parse_args

    def stop(parser: CommandParser, args: list[str]) -> None:
        raise _Parsed(parse(parser, args))

    with mock.patch.object(CommandParser, "parse_args", stop):
        try:
            program_of(module).main(list(arguments))
        except _Parsed as result:
            return result.args[0]
    raise AssertionError(f"{module} parses no options")


def shown(page: Path, replacements: dict[str, str]) -> list[list[str]]:
    """Extracts the arguments of each of our ``python -m`` commands from a page's shell blocks, the module first.

    Args:
        page: Markdown.
        replacements: Values for the placeholders that a reader replaces.
    """
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if "-m" in words and re.fullmatch(r"(data_prep|rar_train|eval)\.\w+", words[words.index("-m") + 1]):
            commands.append([replacements.get(word, word) for word in words[words.index("-m") + 1 :]])
    return commands
