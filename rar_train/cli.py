"""``rar COMMAND …``: every command of the project under one name.

    rar fit recipe=ranker_lora
    rar eval --ckpt runs/ranker_lora
    rar COMMAND --help

A console script finds the packages wherever it is called, also in a folder with an ``eval/`` of its own, which would
hide ours from ``python -m eval.run``. ``rar completion SHELL`` prints the script that completes its command line.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shlex
import sys
import tomllib
from difflib import get_close_matches

from data_prep.core.command import SUBCOMMANDS, run_command, set_called_by_script
from data_prep.core.errors import UserError
from data_prep.core.paths import PYPROJECT

SHELLS = {
    "bash": "add  source <(rar completion bash)  to ~/.bashrc",
    "zsh": "add  source <(rar completion zsh)  to ~/.zshrc, after compinit",
    "fish": "add  rar completion fish | source  to ~/.config/fish/config.fish",
}


def version() -> str:
    """Returns the project's version: a checkout's own, or the installed one."""
    if PYPROJECT.is_file():
        return str(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["version"])
    return importlib.metadata.version("rar-train")


def help_text() -> str:
    """Returns what ``rar --help`` prints."""
    width = max(map(len, SUBCOMMANDS)) + 2
    commands = "\n".join(f"  {name:{width}}{summary}" for name, (_, summary) in SUBCOMMANDS.items())
    return f"""rar COMMAND [ARGUMENTS]
Retrieve-and-rank visual recognition: CLIP retrieves, a LoRA-tuned MLLM ranks.

{commands}
  {"completion":{width}}prints the completion script of bash, zsh or fish

  rar COMMAND --help    how to call a command, with examples
  rar recipes           what can be trained; rar fit recipe=NAME [key=value ...]
  rar keys [WORD]       what can be set
  rar --version         {version()}

First: rar doctor; then rar fit recipe=ranker_lora; then rar eval --ckpt RUN."""


def _complete_shell(arguments: list[str]) -> None:
    """Prints the completion script of a shell."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        remedies = "; ".join(f"{shell}: {remedy}" for shell, remedy in SHELLS.items())
        raise UserError(f"give the shell: rar completion {'|'.join(SHELLS)} ({remedies})")
    import argcomplete

    print(argcomplete.shellcode(["rar"], shell=arguments[0]))


_COMPLETION_HELP = "rar completion bash|zsh|fish: prints the completion script.\n\n" + "\n".join(
    f"  {shell:6}{remedy}" for shell, remedy in SHELLS.items()
)


def _print_commands() -> None:
    """Completes the subcommand, or the argument of ``rar completion``; exits."""
    import argparse

    import argcomplete

    parser = argparse.ArgumentParser(prog="rar", add_help=False)
    for option in ("--help", "--version"):
        parser.add_argument(option, action="store_true")
    commands = parser.add_subparsers()
    for name, (_, summary) in SUBCOMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    commands.add_parser("completion", help="prints the completion script", add_help=False).add_argument(
        "shell", choices=tuple(SHELLS)
    )
    argcomplete.autocomplete(parser, always_complete_options=False)


def _subcommand_to_complete() -> str | None:
    """Returns the subcommand before the cursor; None where the cursor is still on it."""
    typed = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    try:
        words = shlex.split(typed)
    except ValueError:  # an open quote
        words = typed.split()
    is_complete = len(words) > 2 or (len(words) == 2 and typed[-1:].isspace())
    return words[1] if is_complete and words[1] in SUBCOMMANDS else None


def _run(name: str, arguments: list[str]) -> int:
    """Runs a subcommand in this process."""
    module, _ = SUBCOMMANDS[name]
    spec = importlib.util.find_spec(module)
    is_room = spec is not None and spec.submodule_search_locations is not None
    program = importlib.import_module(f"{module}.__main__" if is_room else module)
    return run_command(program.main, program.__doc__, arguments)


def dispatch(arguments: list[str]) -> int:
    """Runs ``rar`` on the arguments after its name.

    Returns:
        int: The exit status, as of ``run_command``.
    """
    set_called_by_script()
    if "_ARGCOMPLETE" in os.environ:
        name = _subcommand_to_complete()
        if name is None:
            _print_commands()
        return _run(name or "", [])
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("--version", "-V"):
        print(f"rar-train {version()}")
        return 0
    if name in SUBCOMMANDS:
        return _run(name, rest)
    if name == "completion":
        return run_command(_complete_shell, _COMPLETION_HELP, rest)
    return run_command(_refuse, help_text(), [name])


def _refuse(arguments: list[str]) -> None:
    (name,) = arguments
    by_module = {module: command for command, (module, _) in SUBCOMMANDS.items()}
    close = get_close_matches(name, [*SUBCOMMANDS, "completion"], 1, 0.5)
    meant = _OTHER_NAMES.get(name) or by_module.get(name) or (close[0] if close else None)
    raise UserError(f"{name}: no such command" + (f"; did you mean rar {meant}?" if meant else "; see rar --help"))


_OTHER_NAMES = {
    "train": "fit", "tune": "fit", "finetune": "fit", "evaluate": "eval", "test": "eval", "validate": "eval",
    "label": "predict", "infer": "predict", "inference": "predict", "classify": "predict", "recognise": "predict",
    "recognize": "predict", "detection": "detect", "server": "serve", "app": "demo", "ui": "demo", "build": "data",
    "check": "doctor", "info": "doctor", "env": "doctor", "settings": "keys", "config": "keys", "list": "recipes",
    "merge": "export", "help": "--help", "version": "--version",
}  # fmt: skip
"""What other tools, and people, call a command."""


def console() -> None:
    """Runs the console script."""
    sys.exit(dispatch(sys.argv[1:]))


if __name__ == "__main__":
    console()
