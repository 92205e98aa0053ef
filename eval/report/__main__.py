"""``python -m eval.report RUN [RUN …] [--to FILE]``: evaluations as a page.

    python -m eval.report runs/ranker_lora
    python -m eval.report runs/one runs/two --to both.html

RUN is a run's folder, or the folder of one evaluation in it. Of one run it writes report.html into
the folder of each evaluation, as eval.run does. Of several it writes one page that has them beside
each other, to FILE (report.html here, unless said otherwise). A page is one file that needs no
network.
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
    found = [pair for run in args.runs for pair in read_evaluations(run)]
    if len(args.runs) == 1:
        for folder, _ in found:
            log.info("wrote %s", write_page(folder))
    else:
        write_text(args.to, render_page([evaluated for _, evaluated in found]))
        log.info("wrote %s", args.to)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
