"""``python -m eval.report RUN [RUN …] [--to FILE]``: writes report pages of evaluations.

    python -m eval.report runs/ranker_lora
    python -m eval.report runs/one runs/two --to both.html

RUN is a run's folder, or the folder of one evaluation in it. For one run, report.html is written into the folder of
each evaluation, as eval.run does. For several, one page that compares them is written to FILE (default: report.html in
the current folder). A page is a single file that needs no network.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from data_prep.core.command import run_command

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Reads the command line and writes the pages."""
    from data_prep.core.files import write_text
    from eval.report.page import render_page, write_page
    from eval.report.reading import read_evaluations

    parser = argparse.ArgumentParser(prog="python -m eval.report")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, default=Path("report.html"))
    args = parser.parse_args(arguments)
    evaluations = [pair for run in args.runs for pair in read_evaluations(run)]
    if len(args.runs) == 1:
        for folder, _ in evaluations:
            log.info("wrote %s", write_page(folder))
    else:
        write_text(args.to, render_page([evaluated for _, evaluated in evaluations]))
        log.info("wrote %s", args.to)


def console() -> None:
    """Runs the command as a console script."""
    sys.exit(run_command(main, __doc__))


if __name__ == "__main__":
    console()
