"""``python -m eval.demo --ckpt RUN [--classes WHAT] [--keep FOLDER] [--host A] [--port N] [--most-mb N] [key=value]``

    python -m eval.demo --ckpt runs/ranker_lora
    python -m eval.demo --ckpt runs/mine --classes photographs ranker.mode=letters

Serves a page on this machine, by default at http://127.0.0.1:7860: drop an image to see the candidates that the
retriever finds, with similar images, and how the ranker sorts them; add a class with a name and a few images, and
remove it again. The memory grows, nothing is trained. RUN is a run's folder or one of its checkpoints. WHAT is a
folder of images per class, a folder of splits or a table (their training images), a memory of data_prep.memory, which
is not changed, or a file of names; without it the classes are those of the run's own test split. Settings change the
recipe saved in the run, such as eval.k=10.

With --keep FOLDER the memory is kept there, made from --classes at the first start and opened at later ones; every
change is on disk before the page shows it, with images as vectors alone. The folder is one of data_prep.memory's, and
eval.serve --memory and Recognizer.load open it too. Without it added classes are deleted when the command ends
(Ctrl-C); uploaded images always are.
Needs gradio: pip install 'rar-train[page]'
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command


def main(arguments: list[str]) -> None:
    """Reads the command line and serves the page until Ctrl-C."""
    parser = CommandParser("eval.demo")
    parser.add_argument("--ckpt", required=True, type=Path)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--most-mb", type=float, default=10)
    parser.add_settings()
    args = parser.parse_args(arguments)
    announce(f"demo: {args.ckpt}")

    from eval.demo.page import Options, serve

    serve(Options(**vars(args)))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
