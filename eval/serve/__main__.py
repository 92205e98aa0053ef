"""``python -m eval.serve --ckpt RUN [--classes WHAT] [--memory FOLDER] [--host A] [--port N] [key.sub=value …]``

    python -m eval.serve --ckpt runs/ranker_lora
    python -m eval.serve --ckpt runs/mine --classes photographs --memory memories/mine ranker.mode=letters

Serves a run's recognizer by HTTP, by default at http://127.0.0.1:8000, with its interface described at /docs:

    POST   /recognise       images, and optionally top and k; a result for each image
    GET    /classes         the classes, with their numbers of images
    POST   /classes         adds a class by name, or images to one
    DELETE /classes/NAME    removes a class
    GET    /health          whether it works
    GET    /metrics         counts and times, in Prometheus's text format

  --classes WHAT   a folder of images per class, a folder of splits or a table (their training images), a memory of
                   data_prep.memory, or a file of names; by default the classes of the run's own test split
  --memory FOLDER  where the memory of classes is kept: made from --classes at the first start, opened at later ones;
                   every change is on disk before it is answered. Without it changes are lost when the service ends
  --max-mb N       size of an image, in megabytes (10)
  --max-images N   images in a request (32)
  key.sub=value    any other setting, such as eval.k=10 trainer.accelerator=cpu

Adding and removing classes needs a token: set RAR_SERVE_TOKEN, and send it as "Authorization: Bearer TOKEN". Without
that variable the classes cannot be changed. Images of requests that come together are recognised together. Ctrl-C or
SIGTERM ends the service after the requests that it has.
Needs fastapi and uvicorn: pip install 'rar-train[serve]'
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command


def main(arguments: list[str]) -> None:
    """Reads the command line and serves until Ctrl-C or SIGTERM."""
    parser = CommandParser("eval.serve")
    parser.add_argument("--ckpt", required=True, type=Path)
    options = {
        "--classes": Path,
        "--memory": Path,
        "--host": str,
        "--port": int,
        "--max-mb": float,
        "--max-images": int,
    }
    for option, kind in options.items():
        parser.add_argument(option, type=kind, default=argparse.SUPPRESS)  # Options has the defaults
    parser.add_settings()
    args = parser.parse_args(arguments)
    announce(f"serve: {args.ckpt}")

    from eval.serve.server import Options, serve

    serve(Options(**vars(args)))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
