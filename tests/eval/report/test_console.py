"""Console tables at any width, and on terminals without Unicode."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report.console import Group, print_table
from tests.commands import environment

words = st.text("abcä±%_-[/]", min_size=1, max_size=12)


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.tuples(
            st.lists(words, min_size=n, max_size=n, unique=True),
            st.lists(st.lists(words, min_size=n, max_size=n), min_size=1, max_size=4),
        )
    ),
    st.integers(30, 120),
    st.integers(0, 3),
)
def test_no_cell_is_broken_or_lost_without_saying(capsys_of, table, width, num_optional):
    columns, rows = table
    optional = columns[1:][:num_optional]
    printed = capsys_of(width, lambda: print_table("title", columns, [Group("", rows)], optional))
    assert max(map(len, printed.splitlines())) <= width
    notes = printed.partition("(")[2]
    kept = [index for index, name in enumerate(columns) if name not in optional or name not in notes]
    for row in rows:
        assert all(row[index] in printed for index in kept)


@pytest.fixture(scope="module")
def capsys_of():
    """Runs a function with a terminal of a width, and returns what it printed."""
    import io
    from contextlib import redirect_stdout
    from unittest import mock

    def run(width: int, function) -> str:
        out = io.StringIO()
        with mock.patch.dict(os.environ, {"COLUMNS": str(width)}), redirect_stdout(out):
            function()
        return out.getvalue()

    return run


def test_a_terminal_without_unicode_shows_ascii_alone():
    code = (
        "from data_prep.core.command import escape_unencodable_output as escape; escape();"
        "from eval.report.console import Group, print_table;"
        "print_table('top-1', ('method', 'top-1 %'), [Group('4 shots', [('rar', '87.5 ± 17.7')])])"
    )
    variables = environment() | {"PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, check=True)
    text = done.stdout.decode("ascii")
    assert "87.5 +/- 17.7" in text and "\\x" not in text and "\\u" not in text
