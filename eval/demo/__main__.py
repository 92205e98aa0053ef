"""``python -m eval.demo --ckpt RUN [--classes FOLDER] [--host ADDRESS] [--port N] [--most-mb N] [key.sub=value …]``

    python -m eval.demo --ckpt runs/ranker_lora
    python -m eval.demo --ckpt runs/mine --classes photographs ranker.mode=letters

Serves a page on this machine, by default at http://127.0.0.1:7860: drop an image to see the candidates that the
retriever finds, with similar images, and how the ranker sorts them; add a class with a name and a few images, and
remove it again. The memory grows, nothing is trained. RUN is a run's folder or one of its checkpoints. FOLDER has a
folder of images per class, or is a memory of data_prep.memory, which is not changed; without it the classes are those
of the run's own test split. Settings change the recipe saved in the run, such as eval.k=10. Added classes and uploaded
images are deleted when the command ends (Ctrl-C).
Needs gradio: pip install 'rar-train[page]'
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.core.command import run_command


def main(arguments: list[str]) -> None:
    """Reads the command line and serves the page until Ctrl-C."""
    from eval.demo.page import serve

    parser = argparse.ArgumentParser(prog="python -m eval.demo")
    parser.add_argument("--ckpt", required=True, type=Path)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--most-mb", type=float, default=10)
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args(arguments)
    serve(args.ckpt, args.classes, args.settings, args.host, args.port, args.most_mb)


def console() -> None:
    """Runs the command as a console script."""
    sys.exit(run_command(main, __doc__))


if __name__ == "__main__":
    console()
