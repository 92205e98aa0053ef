"""Console tables that fit the terminal: fewer columns where it is narrow, and lines of pairs where it is narrower."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_WIDTH = 140
"""Width where the output is no terminal's."""
_LIGHT: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False, "pad_edge": False}
_ASCII = str.maketrans({"±": "+/-", "…": "...", "→": "->", "×": "x", "–": "-", "’": "'"})


@dataclass
class Group:
    """Rows of a table that belong together.

    Attributes:
        title: A line above them; empty for none.
        rows: Cells as text, one for each column.
    """

    title: str = ""
    rows: list[Sequence[str]] = field(default_factory=list)


def make_console() -> Console:
    """Makes a console as wide as the terminal, or as ``COLUMNS`` says."""
    return Console(width=shutil.get_terminal_size((_WIDTH, 0)).columns, markup=False, highlight=False)


def _text(console: Console, text: str, style: str = "") -> Text:
    """Returns text that the terminal can show, one without Unicode too; it is never taken for markup."""
    return Text(text.translate(_ASCII) if console.options.ascii_only else text, style)


def print_lines(lines: Iterable[str], console: Console | None = None) -> None:
    """Prints lines of text, broken between words where they are longer than the terminal is wide."""
    console = console or make_console()
    for line in lines:
        console.print(_text(console, line))


def print_table(
    title: str,
    columns: Sequence[str],
    groups: Sequence[Group],
    optional: Sequence[str] = (),
    text: Sequence[str] = (),
    shorten: bool = False,
) -> None:
    """Prints a table without breaking or cutting a cell, and without a line that is longer than the terminal is wide.

    Where all columns do not fit, the optional ones are left out one by one, and a line below the table names them.
    Where the rest does not fit either, each row is printed as its first cell and lines of pairs of column and cell.

    Args:
        title: A line above the table.
        columns: Names of the columns; the first one names the row. They are broken at line ends.
        groups: The rows.
        optional: Columns that may be left out, the least important first.
        text: Columns of words, aligned to the left; the first column is too.
        shorten: Whether deviations (``± 0.1``) may be left out, before columns are.
    """
    console = make_console()
    print_lines([title], console)
    short = [Group(group.title, [[cell.partition(" ± ")[0] for cell in row] for row in group.rows]) for group in groups]
    attempts = [(groups, 0), *((short if shorten else groups, count) for count in range(len(optional) + 1))]
    for shown, count in attempts:
        left_out = set(optional[:count])
        table = _make_table(console, columns, shown, [name for name in columns if name not in left_out], text)
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
            console.print(table)
            named = [name.replace("\n", "_") for name in columns if name in left_out]
            named = ["deviations over seeds"] * (shown is short and short != groups) + named
            if named:
                print_lines([f"({', '.join(named)}: in a wider terminal)"], console)
            return
    for group in groups:
        if group.title:
            console.print(_text(console, group.title, "bold"))
        for row in group.rows:
            _print_pairs(console, columns, row)


def _make_table(
    console: Console, columns: Sequence[str], groups: Sequence[Group], shown: Sequence[str], text: Sequence[str]
) -> Table:
    table = Table(**_LIGHT)
    indices = [columns.index(name) for name in shown]
    for index, name in enumerate(shown):
        is_text = index == 0 or name in text
        table.add_column(_text(console, name), justify="left" if is_text else "right", no_wrap=True)
    for group in groups:
        table.add_section()
        if group.title:
            table.add_row(_text(console, group.title, "bold"))
        for row in group.rows:
            table.add_row(*(_text(console, row[index]) for index in indices))
    return table


def _print_pairs(console: Console, columns: Sequence[str], row: Sequence[str]) -> None:
    """Prints a row as its first cell, and below it as many pairs of column and cell as fit a line."""
    console.print(_text(console, row[0]))
    line = ""
    for name, cell in zip(columns[1:], row[1:], strict=True):
        if not cell:
            continue
        pair = " ".join([*name.split("\n"), cell])
        if line and len(line) + 3 + len(pair) > console.width:
            console.print(_text(console, line))
            line = ""
        line = f"{line}   {pair}" if line else f"  {pair}"
    if line:
        console.print(_text(console, line))
