"""``python -m data_prep.keys [WORD]``: lists the settings of recipes with type, default and meaning.

    python -m data_prep.keys
    python -m data_prep.keys ranker.lora
    python -m data_prep.keys duplicate
    python -m data_prep.keys --markdown

WORD is a section, a key, or any word: settings are listed whose key or meaning has it. What other trainers call a
setting finds it too, such as learning_rate. A setting is given as key=value on the command line, or in a recipe's YAML.
--markdown prints the page docs/settings.md.
"""

from __future__ import annotations

import shutil
import sys
from textwrap import fill

from data_prep.arguments.completion import complete_section
from data_prep.arguments.parser import CommandParser
from data_prep.arguments.reference import Setting, find_settings, list_settings
from data_prep.core.command import run_command
from data_prep.core.errors import UserError
from data_prep.settings.hints import suggest_key
from data_prep.settings.values import known_keys


def _print_setting(setting: Setting, width: int) -> None:
    print(f"{setting.key}={setting.default}  ({setting.kind})")
    print(fill(setting.text.replace("``", ""), width, initial_indent="    ", subsequent_indent="    "))


def print_settings(word: str) -> None:
    """Prints the settings that a word finds.

    Raises:
        UserError: It finds none.
    """
    found = find_settings(word)
    if not found:
        suggestion = suggest_key(word, known_keys())
        if suggestion is None:
            raise UserError(f"{word}: no setting has it; python -m data_prep.keys lists all")
        key, remark = suggestion
        print(f"No setting has {word}; this one may be meant" + (f" ({remark})" if remark else "") + ":\n")
        found = find_settings(key)
    width = min(shutil.get_terminal_size().columns, 100)
    for setting in found:
        _print_setting(setting, width)


def _escape(text: str) -> str:
    """Returns text for a cell of a table."""
    return text.replace("``", "`").replace("|", "\\|")


def settings_page() -> str:
    """Returns the page of all settings, in Markdown."""
    lines = [
        "# Settings",
        "",
        "All settings of a recipe, made from the code by `python -m data_prep.keys --markdown`. On the command line",
        "each is `key=value`, and a recipe's YAML nests them by section; [commands.md](commands.md#settings) says how",
        "values are written. `python -m data_prep.keys WORD` finds them in a terminal.",
        "",
        "## The run",
    ]
    header = ["", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    lines += header
    for setting in list_settings():
        if setting.is_section:
            level = "#" * (setting.key.count(".") + 2)
            lines += ["", f"{level} `{setting.key}`", "", _escape(setting.text), *header]
        else:
            default = setting.default if setting.default.startswith("(") else f"`{setting.default}`"
            lines.append(f"| `{setting.key}` | {setting.kind} | {default} | {_escape(setting.text)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Reads the command line and prints the settings."""
    parser = CommandParser("data_prep.keys")
    parser.add_argument("word", nargs="?", default="").completer = complete_section  # type: ignore[attr-defined]
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args(arguments)
    if args.markdown:
        print(settings_page(), end="")
    else:
        print_settings(args.word)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
