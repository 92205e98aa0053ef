"""``python -m eval.report RUN [RUN …] [--to FILE]``: writes report pages of evaluations.

    python -m eval.report runs/ranker_lora
    python -m eval.report runs/one runs/two --to both.html

RUN is a run's folder, or the folder of one evaluation in it. For one run, report.html, predictions.csv and classes.csv
are written into the folder of each evaluation, as eval.run does, and RUN/eval/index.html; a table on the console lists
the evaluations. For several, one page that compares them is written to FILE (default: report.html in the current
folder). A page is a single file that needs no network.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Reads the command line and writes the pages."""
    parser = CommandParser("eval.report")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, default=Path("report.html"))
    args = parser.parse_args(arguments)
    announce(f"report: {', '.join(map(str, args.runs))}")

    from data_prep.core.files import write_text
    from eval.report.index import print_index, write_index
    from eval.report.page import render_page, write_pages
    from eval.report.reading import read_evaluations

    evaluations = [pair for run in args.runs for pair in read_evaluations(run)]
    if len(args.runs) == 1:
        for folder, evaluated in evaluations:
            page, *sheets = write_pages(folder, evaluated)
            log.info("wrote %s, %s", page, ", ".join(path.name for path in sheets))
        if (args.runs[0] / "eval").is_dir():
            log.info("wrote %s", write_index(args.runs[0]))
            print_index(args.runs[0])
    else:
        write_text(args.to, render_page([evaluated for _, evaluated in evaluations]))
        log.info("wrote %s", args.to)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
