"""``python -m rar_train.export --ckpt RUN --merge [--to FOLDER] [--dtype bfloat16] [key.sub=value …]``

    python -m rar_train.export --ckpt runs/ranker_lora --merge --dtype bfloat16
    python -m rar_train.export --ckpt runs/ranker_lora --to adapter

Merges an adapter into its base and writes a plain transformers model with its processor, which
AutoModelForImageTextToText and AutoProcessor load without this project (except for the embedded
nano-mllm, whose convolutional tower is defined by this project). RUN is a run's folder or
one of its checkpoints. Merging is done in float32 on the CPU; where the merged model's logits
differ from those of base and adapter by more than a tolerance, nothing is written. FOLDER defaults
to RUN/merged. Without --merge, only the adapter, in peft's format and with a model card, is copied.
Settings change the recipe saved in the run, such as ranker.model=FOLDER where the base was moved.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command
from data_prep.core.errors import UserError
from data_prep.settings.loading import load_saved_recipe
from rar_train.engine.run_folder import find_adapter


def main(arguments: list[str]) -> None:
    """Reads the command line and exports."""
    parser = CommandParser("rar_train.export")
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--to")
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_settings()
    args = parser.parse_args(arguments)
    announce(f"export: {args.ckpt}")
    adapter, run = find_adapter(Path(args.ckpt))
    recipe = load_saved_recipe(run / "recipe.yaml", args.settings)
    to = Path(args.to) if args.to else run / ("merged" if args.merge else "exported")
    if to.exists() and any(to.iterdir()) and not (to / "README.md").exists():
        raise UserError(f"--to {to}: holds files that no export wrote; choose another folder")

    from rar_train.export.merging import write_adapter, write_merged

    if args.merge:
        write_merged(recipe, adapter, run, to, args.dtype)
    else:
        write_adapter(recipe, adapter, run, to)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
