"""A bar for what takes long is shown at a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

SLOW = """
import time
from data_prep.core.progress import bar
for _ in bar("drawing", range(30)):
    time.sleep(0.1)
print("drawn")
"""


def shown(terminal: bool, **environment: str) -> str:
    """What the slow loop leaves on standard error."""
    kept = {key: value for key, value in os.environ.items() if key != "CI"} | environment
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", SLOW], env=kept, stderr=theirs, stdout=subprocess.DEVNULL, check=True)
    os.set_blocking(ours, False)
    try:
        return os.read(ours, 100_000).decode()
    except BlockingIOError:
        return ""


@pytest.mark.parametrize(("terminal", "environment"), [(True, {}), (True, {"CI": "true"}), (False, {})])
def test_a_bar_is_for_who_looks(terminal: bool, environment: dict):
    said = shown(terminal, **environment)
    assert ("drawing" in said and "%" in said) if terminal and not environment else said == ""
