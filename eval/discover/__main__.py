"""``python -m eval.discover --ckpt RUN [--names FILE [--choose]] [--split val] [key.sub=value …]``

    python -m eval.discover --ckpt runs/ranker_lora discover.names_per_image=1
    python -m eval.discover --ckpt RUN --names names.txt --choose data.name=cub200 data.root=DATA

Vocabulary-free recognition: the class names are not given. The MLLM guesses names from a few unlabelled images, each
image votes for one of the guesses that it retrieves, the names voted for form the memory, and the test images are
named from it, by the retriever only and ranked. Reports cACC, sACC, NMI and ARI (FineR's protocol), with the paper's.

RUN is a run's folder or one of its checkpoints; its recipe sets the data set and the models, and ``discover.…`` how
names are found (data_prep/settings/discover.py), such as data.name=cub200 data.root=DATA eval.seeds=[1,2,3,4,5].
--mode letters, likelihood, yes_no, constrained or generate overrides the recipe's ranking mode.

--names FILE uses names from elsewhere in place of the MLLM's guesses, unchanged: a .txt file with a name per line, a
.json list, .csv or .jsonl with the column name, or the files of FineR, E-FineR and FiNDR. With --choose, unlabelled
images vote among them first. --name NAME names the folder of the results.
--rescore recomputes all metrics from predictions.jsonl; of the models, it needs the sentence model only.

Writes names.jsonl, guesses.jsonl, predictions.jsonl and results.json into RUN/discover/DATASET-SPLIT-MODE; settings
that differ from the run's own are added to the name, so that results of other settings or models are kept. Started by
torchrun or srun, all processes rank. If killed and started again, it continues from the stored replies.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command
from data_prep.distributed.launch import run_on_first
from data_prep.settings.modes import MODES


def main(arguments: list[str]) -> None:
    """Reads the command line, runs the evaluation and prints the table."""
    parser = CommandParser("eval.discover")
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--name")
    parser.add_argument("--rescore", action="store_true")
    parser.add_argument("--split", choices=("test", "val"))
    parser.add_argument("--mode", choices=MODES)
    parser.add_settings()
    args = parser.parse_args(arguments)
    announce(f"discover: {args.ckpt}")
    settings = list(args.settings)
    settings += [f"eval.split={args.split}"] if args.split else []
    settings += [f"ranker.mode={args.mode}"] if args.mode else []

    from eval.discover.evaluate import Discovery
    from eval.discover.table import print_results

    discovery = Discovery.from_run(Path(args.ckpt), settings, args.names, args.choose, args.name)
    if args.rescore:
        run_on_first(lambda: print_results(discovery.rescore()))
    else:
        run_on_first(lambda: print_results(discovery.evaluate()), Path(discovery.recipe.cache))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
