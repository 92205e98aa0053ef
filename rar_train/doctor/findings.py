"""Findings of the doctor's checks, and their table."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_prep.core.errors import UserError

STATUSES = {"ok": "green", "warning": "yellow", "failure": "red", "not checked": "cyan"}


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        about: Subject of the check, in a word or two.
        status: One of ``STATUSES``; ``not checked`` where the check could not run.
        found: The result.
        advice: What to do; empty where there is nothing to do.
    """

    about: str
    status: str
    found: str
    advice: str = ""


def run_check(about: str, check: Callable[..., list[Finding]], *args) -> list[Finding]:
    """Runs a check: a UserError becomes a failure, and any other exception the status ``not checked``."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the finding replaces the libraries' log lines
    try:
        return check(*args)
    except UserError as error:
        return [Finding(about, "failure", str(error))]
    except Exception as error:
        message = str(error).splitlines()[0] if str(error) else ""
        return [Finding(about, "not checked", f"the check itself failed ({type(error).__name__}: {message})")]
    finally:
        logging.disable(level)


def print_findings(findings: list[Finding]) -> None:
    """Prints a line for each finding, and counts by status."""
    table = Table(expand=False, pad_edge=False, box=None, header_style="bold")
    for column in ("check", "status", "found, and what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        colour = STATUSES[finding.status]
        status = f"[{colour}]{finding.status}[/{colour}]"
        text = escape(finding.found) + f"\n[bold]{escape(finding.advice)}[/bold]" * bool(finding.advice)
        table.add_row(escape(finding.about), status, text)
    console = Console(highlight=False)
    console.print(table)
    counts = Counter(finding.status for finding in findings)
    console.print(", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status]))
