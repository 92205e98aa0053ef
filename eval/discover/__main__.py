"""``python -m eval.discover --ckpt RUN [--names FILE [--choose]] [--split val] [key.sub=value …]``

    python -m eval.discover --ckpt runs/ranker_lora discover.names_per_image=1
    python -m eval.discover --ckpt RUN --names names.txt --choose data.name=cub200 data.root=DATA

Vocabulary-free recognition: the class names are not given. The MLLM guesses names from a few unlabelled images, each
image chooses among the guesses that it retrieves, what was chosen makes the memory, and the test images are named from
it, by the retriever alone and ranked. Scores cACC, sACC, NMI and ARI (FineR's protocol), the paper's figures beside.

RUN is a run's folder or one of its checkpoints; its recipe has the data set and the models, and ``discover.…`` how
names are found (data_prep/settings/discover.py), such as data.name=cub200 data.root=DATA eval.seeds=[1,2,3,4,5].
--mode letters, likelihood, constrained or generate ranks otherwise than the recipe.

--names FILE takes others' names in place of the MLLM's guesses, as they are: a .txt file with a name a line, a .json
list, or .csv or .jsonl with the column name. With --choose unlabelled images choose among them first.
--rescore computes every figure anew from predictions.jsonl, without the models but the sentence model.

Writes names.jsonl, guesses.jsonl, predictions.jsonl and results.json into RUN/discover/DATASET-SPLIT-MODE. Killed and
called again, it goes on from the answers that are there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.core.command import run_command
from data_prep.settings.modes import MODES


def main(arguments: list[str]) -> None:
    """Reads the command line, discovers and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.discover")
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--rescore", action="store_true")
    parser.add_argument("--split", choices=("test", "val"))
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args(arguments)
    settings = list(args.settings)
    settings += [f"eval.split={args.split}"] if args.split else []
    settings += [f"ranker.mode={args.mode}"] if args.mode else []

    from eval.discover.evaluate import Naming
    from eval.discover.table import print_names

    naming = Naming.of_run(Path(args.ckpt), settings, args.names, args.choose)
    print_names(naming.rescore() if args.rescore else naming.evaluate())


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__, alone=True))
