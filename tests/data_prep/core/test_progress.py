"""Progress bars of long operations are shown in a terminal and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

SLOW = """
import time
from data_prep.core.progress import progress_bar
for _ in progress_bar("drawing", range(30)):
    time.sleep(0.1)
print("done")
"""


def stderr_of_slow_loop(terminal: bool, **environment: str) -> str:
    """Runs the slow loop and returns its standard error."""
    env = {key: value for key, value in os.environ.items() if key != "CI"} | environment
    read_end, write_end = pty.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(write_end, (24, 80))
    subprocess.run([sys.executable, "-c", SLOW], env=env, stderr=write_end, stdout=subprocess.DEVNULL, check=True)
    os.set_blocking(read_end, False)
    try:
        return os.read(read_end, 100_000).decode()
    except BlockingIOError:
        return ""


@pytest.mark.parametrize(("terminal", "environment"), [(True, {}), (True, {"CI": "true"}), (False, {})])
def test_a_progress_bar_is_shown_only_in_an_interactive_terminal(terminal: bool, environment: dict):
    output = stderr_of_slow_loop(terminal, **environment)
    assert ("drawing" in output and "%" in output) if terminal and not environment else output == ""
