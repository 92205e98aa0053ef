"""``python -m data_prep.import_examples --format FORMAT FILE --images ROOT --to FOLDER``: reads others' ranking sets.

    python -m data_prep.import_examples --format rar rar.json --images images --to shards
    python -m rar_train.fit recipe=ranker_lora mining.shards=shards

Formats: rar (RAR's native JSON), swift_reranker and swift_grpo (ms-swift), trl_grpo and trl_dpo (TRL), and
sentence_transformers (a list of documents and labels for each image). Train on the result with mining.shards=FOLDER.
The candidates keep the order of the file where it has one, else they are shuffled. A GRPO record needs its candidates
in a column of that name. Records that cannot be read are counted by reason; the first of each kind is logged.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command

FORMATS = ("rar", "swift_reranker", "swift_grpo", "trl_grpo", "trl_dpo", "sentence_transformers")


def main(arguments: list[str]) -> None:
    """Parses the command line and imports the file."""
    parser = CommandParser("data_prep.import_examples")
    parser.add_argument("file", type=Path)
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--to", required=True, type=Path)
    args = parser.parse_args(arguments)
    announce(f"import-data: {args.file} into {args.to}")

    from data_prep.export.importing import import_examples

    import_examples(args.format, args.file, args.images, args.to)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
