"""``python -m eval.predict --ckpt RUN INPUT … [--classes WHAT] [--to FILE] [--top N] [--page] [key.sub=value …]``

    python -m eval.predict --ckpt runs/ranker_lora photographs
    python -m eval.predict --ckpt RUN shards/*.tar --classes names.txt --to labels.parquet --page trainer.devices=8

Labels any number of images with a tuned run: a line per image with the best class, its probability, the candidates,
whether the class is known, and whether the ranker was run. RUN is a run's folder or one of its checkpoints.

  INPUT            image files; folders, with everything below them; .txt files with a path per line; WebDataset shards
                   (.tar); parquet files with image bytes or paths; COCO-style annotation files (.json), whose boxes are
                   labelled
  --classes WHAT   a folder with a folder of images per class, a folder of splits or a table (their training images), a
                   memory of data_prep.memory, or a file of names (.txt with a name per line, .json, .csv or .jsonl); by
                   default the classes of the run's own test split
  --to FILE        .jsonl, .csv or .parquet; by default predictions.jsonl
  --top N          candidates per line; by default eval.k, or 5 where that is auto
  --images FOLDER  folder that image names in annotation files are relative to; by default the file's own folder
  --page           also write the most uncertain labels with their images as a page, FILE with .html
  key.sub=value    any other setting, such as eval.k=10 trainer.devices=2

An image that can't be read gets a line with the reason. Killed and called again, the command continues; what is done so
far is in FILE.parts. Processes of torchrun or srun share the images, and so do machines on which it is called with
NODE_RANK and trainer.num_nodes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command
from data_prep.core.errors import UserError


def main(arguments: list[str]) -> None:
    """Reads the command line, labels the images and prints the summary."""
    parser = CommandParser("eval.predict")
    parser.add_argument("--ckpt", required=True, type=Path)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--to", type=Path, default=Path("predictions.jsonl"))
    parser.add_argument("--top", type=int)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--page", action="store_true")
    parser.add_settings("words", checked=False)
    args = parser.parse_args(arguments)
    announce(f"predict: {args.ckpt} labels into {args.to}")

    from data_prep.memory.commands import is_path
    from eval.predict.label import Request, label_images
    from eval.predict.summary import print_summary

    inputs = [Path(word) for word in args.words if is_path(word)]
    settings = [word for word in args.words if not is_path(word)]
    if not inputs:
        raise UserError("nothing to label; give images, folders, shards, or a file of paths")
    request = Request(args.ckpt, inputs, args.to, args.classes, args.images, args.top, args.page, settings)
    summary = label_images(request)
    if summary is not None:
        print_summary(summary)
        page = f" and {args.to.with_suffix('.html')}" if args.page else ""
        print(f"wrote {args.to}{page}")


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
