"""Parses a command's options and settings, with hints for wrong ones and shell completion."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from data_prep.core.command import as_called
from data_prep.core.errors import UserError
from data_prep.settings.hints import suggest_key, value_hint
from data_prep.settings.loading import check_settings
from data_prep.settings.values import known_keys

# What other commands, and people, call an option.
_OPTIONS = {
    "--ckpt": ("--checkpoint", "--run", "--ckpt-path", "--adapter", "--model", "--run-dir", "--path"),
    "--to": ("--output", "--out", "-o", "--save", "--output-dir"),
    "--out": ("--output", "--to", "-o", "--output-dir"),
    "--split": ("--subset", "--part"),
    "--part": ("--split", "--subset"),
}


class CommandParser(argparse.ArgumentParser):
    """Parses the options of a command and, in any order among them, its ``key=value`` settings.

    Args:
        module: What ``python -m`` runs, such as ``eval.run``.
    """

    def __init__(self, module: str):
        super().__init__(prog=as_called(f"python -m {module}"), add_help=False, allow_abbrev=False)
        self.option_names: list[str] = []
        self.takes_settings = False
        self.checks_settings = False

    def add_argument(self, *names: Any, **keywords: Any) -> argparse.Action:
        """Adds an option or a positional argument."""
        action = super().add_argument(*names, **keywords)
        self.option_names += action.option_strings
        return action

    def add_settings(self, name: str = "settings", checked: bool = True) -> None:
        """Adds the settings, as the positional argument ``name``.

        Args:
            name: The attribute of the parsed arguments.
            checked: Whether keys and values are checked at once, before the command loads anything.
        """
        from data_prep.arguments.completion import complete_setting

        self.takes_settings, self.checks_settings = True, checked
        self.add_argument(name, nargs="*").completer = complete_setting  # type: ignore[attr-defined]

    def parse_args(self, arguments: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Parses the command line; under a shell's completion, prints the candidates and exits instead.

        Raises:
            UserError: An option, a key or a value is wrong; the message says what to write.
        """
        if "_ARGCOMPLETE" in os.environ:
            from data_prep.arguments.completion import print_candidates

            print_candidates(self)
        self._check_options(arguments)
        args = super().parse_intermixed_args(arguments, namespace)
        if self.checks_settings:
            check_settings(args.settings)
        return args

    def error(self, message: str) -> NoReturn:
        """Raises a ``UserError``, which the command prints in one line."""
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        hint = value_hint(choice[1], [name.strip("' ") for name in choice[2].split(",")]) if choice else ""
        raise UserError(f"{message}{hint or f'; see {self.prog} --help'}")

    def _check_options(self, arguments: Sequence[str]) -> None:
        for index, argument in enumerate(arguments):
            if argument == "--":
                return
            option, equals, value = argument.partition("=")
            if not option.startswith("-") or option in self.option_names or option[1:2].isdigit() or option == "-":
                continue
            following = arguments[index + 1 : index + 2]
            if not equals and following and not following[0].startswith("-") and "=" not in following[0]:
                value = following[0]
            raise UserError(f"{option}: {self._hint(option, value)}")

    def _hint(self, option: str, value: str) -> str:
        """Says what to write in place of an option that the command does not have."""
        known = known_keys()
        suggestion = suggest_key(option, known) if self.takes_settings else None
        is_key = option.strip("-") in known
        synonyms = [name for name in self.option_names if option.replace("_", "-") in _OPTIONS.get(name, ())]
        close = difflib.get_close_matches(option, self.option_names, 1, 0.75)
        if (synonyms or close) and not is_key:
            return f"unknown option; did you mean {(synonyms or close)[0]}?"
        if suggestion is None:
            return f"unknown option; see {self.prog} --help"
        key, remark = suggestion
        written = f"{key}={value or 'VALUE'}"
        return f"not an option; settings are written key=value: {written}" + (f" ({remark})" if remark else "")
